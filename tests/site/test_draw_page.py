"""The page "Draw a digit": what the browser computes is what torch computes; by mouse, touch and keyboard."""

import base64
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mnist_lib import augmentation, data, experiments, records, training
from mnist_lib.blocks import Residual
from mnist_lib.results import architecture
from mnist_lib.results.page import of_notebook
from mnist_lib.site import draw_page, extension
from support import ROOT, networks

NAMES = draw_page.offered()
UPRIGHT = [name for name in NAMES if of_notebook(name).preparation == "deskew"]
SCRIPTS = ("draw_a_digit.js", "draw_a_digit.css")
HEAVY = {"iteration_01_setup", *(f"frontier_{name}" for name in ("accuracy", "resolution", "time"))}
"""Whose weights wait for the reader's first stroke."""
LARGEST_PAGE = 900_000  # bytes, all that the page loads when it opens; the theme has 600,000 more


# -- what is exported


def read(script: Path) -> dict:
    return json.loads(script.read_text("utf-8").removeprefix("window.drawADigitData = ").removesuffix(";\n"))


def write_page(folder: Path, published: Path) -> Path:
    """The page as the book has it, without the theme."""
    for name in SCRIPTS:
        (folder / "_static").mkdir(exist_ok=True)
        shutil.copy(ROOT / "book" / "static_files" / name, folder / "_static")
    draw_page.export(NAMES, published, folder / "_static" / "networks")
    source = (ROOT / "book" / "draw_a_digit.md").read_text("utf-8")
    (content,) = re.findall(r"```\{raw\} html\n(.*?)```", source, flags=re.DOTALL)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page = folder / "book" / "draw_a_digit.html"
    page.parent.mkdir()
    page.write_text(f"{head}<title>Draw a digit</title><body><main><h1>Draw a digit</h1>{content}</main>", "utf-8")
    return page


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_page(tmp_path_factory.mktemp("draw"), experiments.published_records())


def test_the_scripts_hold_the_published_weights(written):
    exported = read(written.parents[1] / "_static" / "networks" / "networks.js")
    assert [network["name"] for network in exported["networks"]] == NAMES
    assert exported["missing"] == []
    for network in exported["networks"]:
        script = (written.parents[1] / "_static" / "networks" / f"{network['name']}.js").read_text("utf-8")
        assert len(script) == network["bytes"]
        numbers = np.frombuffer(base64.b64decode(script.split('"')[-2]), "<f4")
        path = records.record_path(experiments.published_records() / network["name"], draw_page.SEED)
        weights = {key: value for key, value in records.read_weights(path).items() if value.is_floating_point()}
        assert len(numbers) == sum(value.numel() for value in weights.values())
        names = called(networks()[network["name"]]())
        for number, layer in enumerate(network["layers"]):
            for key, (start, length) in layer["tensors"].items():
                exact = weights.pop(f"{names[number]}.{key}").flatten().numpy()
                np.testing.assert_array_equal(numbers[start : start + length], exact)
        assert not weights


def called(network: nn.Module) -> list[str]:
    """The names of the modules that put something out, in the order of their outputs: a residual sum comes last.

    A module that stands in several places has a name for each.
    """
    names, modules = {}, []
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    hooks = [each.register_forward_hook(lambda module, *_: modules.append(module)) for each in [*names][1:]]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return [names[module].pop(0) for module in modules]


def test_when_it_opens_little_is_loaded(browser, written):
    """The drawing that it opens with is read by all networks but the heavy ones, which a stroke of the reader loads."""
    for page in opened(browser, written):
        said(page, len(NAMES) - len(HEAVY))
        assert set(NAMES) - set(page.evaluate("Object.keys(drawADigitData.weights)")) == HEAVY
        fetched = page.evaluate("[...document.querySelectorAll('script[src], link[href]')].map(e => e.src || e.href)")
        files = [Path(address.removeprefix("file://")) for address in fetched] + [written]
        assert sum(file.stat().st_size for file in files) < LARGEST_PAGE
        waiting = "1 setup, frontier accuracy, frontier resolution, frontier time, 2.6 MB,"
        assert f"{waiting} are loaded with your first stroke" in page.locator(".note").inner_text()
        page.get_by_role("radio", name="1 setup").check()
        page.locator(".inside", has_text="431,080 parameters").wait_for()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_of_its_receptive_field_changes_a_unit(name):
    torch.manual_seed(0)
    network = networks()[name]().eval()
    layers, _ = draw_page.describe(network)
    image = torch.rand(1, 1, 28, 28)

    found: list[torch.Tensor] = []
    for module in [*network.modules()][1:]:  # a residual sum puts out its own result after its layers have
        module.register_forward_hook(lambda module, inputs, output: found.append(output[0]))

    def outputs(signal: torch.Tensor) -> list[torch.Tensor]:
        found.clear()
        network(signal)
        return [*found]

    with torch.no_grad():
        before = outputs(image)
        for number, layer in enumerate(layers):
            if len(layer["shape"]) != 3:
                continue
            last = layer["shape"][1] - 1
            for row, column in {(0, 0), (0, last), (last // 2, last // 3), (last, last)}:
                top, left = (layer["start"] + n * layer["jump"] for n in (row, column))
                seen = torch.zeros(28, 28, dtype=torch.bool)
                seen[max(top, 0) : top + layer["field"], max(left, 0) : left + layer["field"]] = True
                for part, same in ((~seen, True), (seen, False)):
                    after = outputs(torch.where(part, torch.rand(28, 28), image))[number][:, row, column]
                    assert torch.allclose(after, before[number][:, row, column], atol=1e-6) == same


@pytest.mark.needs_mnist
def test_pixels_are_normalised_as_in_training():
    train, _ = data.load("mnist")
    assert training.mean_and_std(train.images) == (draw_page.MNIST_MEAN, draw_page.MNIST_STD)


def test_other_data_are_normalised_by_their_own_numbers():
    recipe = SimpleNamespace(dataset="digits", evaluate_on="test")
    assert draw_page.pixel_mean_and_std(recipe) == training.mean_and_std(data.load("digits")[0].images)


def shifted() -> nn.Sequential:
    class Shifted(nn.Sequential):
        def forward(self, images):
            return super().forward(images) + 1

    return Shifted(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("outer", [nn.Sequential, Residual])
def test_chains_and_residual_sums_may_be_nested(outer):
    """A sum adds what went into its block: layer 1 into the inner one; the image, or layer 1, into the outer one."""
    inner = Residual(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())
    network = nn.Sequential(nn.ReLU(), outer(nn.BatchNorm2d(1), inner, nn.Sequential(nn.ReLU())))
    layers, numbers = draw_page.describe(network.eval())
    sums = {number: layer["of"] for number, layer in enumerate(layers, 1) if layer["kind"] == "Sum"}
    assert sums == {5: 2} | ({7: 1} if outer is Residual else {})
    assert len(numbers) == 4 + 10
    assert draw_page.describe(nn.Sequential(Residual(nn.ReLU())))[0][-1]["of"] == 0  # the image


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.LPPool2d(2, 2)), "the page cannot compute this layer"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1)), "2×2 average pool, padding 1: the page cannot"),
        (nn.Sequential(nn.AvgPool2d((2, 4))), "2×4 average pool: the page cannot"),
        (nn.Sequential(nn.AvgPool2d(3, ceil_mode=True)), "average pool, rounded up: the page cannot"),
        (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "average pool: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2)), "dilation 2: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, groups=2, dilation=2)), "groups 2: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 1, (3, 5))), "3×5 convolution, 1 → 1: the page cannot"),
        (nn.Sequential(nn.MaxPool2d(2, padding=1)), "padding 1: the page cannot"),
        (nn.Sequential(nn.MaxPool2d(3, ceil_mode=True)), "max-pool, rounded up: the page cannot"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), "dilation 2: the page cannot"),
        (nn.Sequential(nn.BatchNorm2d(1, affine=False)), "batch normalisation: the page cannot"),
        (nn.Sequential(nn.GELU()), "GELU: the page cannot"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))), "a chain of layers"),
        (nn.Conv2d(1, 1, 3), "a chain of layers"),
        (shifted(), "Shifted: the page needs a chain of layers"),
        (nn.Sequential(shifted()), "Shifted: the page needs a chain of layers"),
        (nn.Sequential(Residual(nn.Conv2d(1, 8, 1))), "addition of maps of other sizes: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 8, 1), Residual(nn.Conv2d(8, 1, 1))), "addition of maps of other sizes"),
        (nn.Sequential(Residual(nn.ReLU(inplace=True))), "Residual: .* in place"),
    ],
)
def test_what_the_page_cannot_compute_is_refused(network, words):
    with pytest.raises(ValueError, match=words):
        draw_page.describe(network)


def test_a_network_that_the_page_cannot_compute_is_left_out(monkeypatch, tmp_path):
    networks = {"plain": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "other": nn.Sequential(nn.GELU())}

    def experiment(name):
        recipe = SimpleNamespace(preparation="none")
        return SimpleNamespace(network=lambda: networks[name], differences=lambda record: [], recipe=recipe)

    record = SimpleNamespace(seed=0, parameter_count=7850, test_accuracy=[90.0])
    stubs = {
        "page": SimpleNamespace(of_notebook=str, unchecked=experiment),
        "records": SimpleNamespace(
            record_path=lambda folder, seed: tmp_path,
            read_weights=lambda path: networks["plain"].state_dict(),
        ),
        "catalogue": SimpleNamespace(record=lambda path: record),
        "comparison": SimpleNamespace(label=str.upper),
        "pixel_mean_and_std": lambda recipe: (0.0, 1.0),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(draw_page, name, stub)
    monkeypatch.setattr(networks["other"], "load_state_dict", lambda weights: None)
    assert draw_page.export(["plain", "other"], tmp_path, tmp_path) == ["other"]
    exported = read(tmp_path / "networks.js")
    assert [network["name"] for network in exported["networks"]] == ["plain"]
    assert (exported["missing"], exported["tooMuch"]) == ([], ["OTHER"])
    assert (tmp_path / "plain.js").exists() and not (tmp_path / "other.js").exists()


def test_the_book_writes_the_scripts_where_the_page_looks_for_them(tmp_path):
    """A rehearsal has no records: its page lists all networks as left out."""
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), srcdir=tmp_path / "source", outdir=tmp_path / "html")
    extension.write_networks(app, None)
    exported = read(tmp_path / "html" / "_static" / "networks" / "networks.js")
    assert exported["networks"] == []
    assert len(exported["missing"]) == len(NAMES)


# -- what a browser does with it


@pytest.fixture
def page(browser, written):
    yield from opened(browser, written)


def opened(browser, file: Path):
    """The page on a phone that has a mouse and a keyboard, too; nothing may be fetched but the book's own files."""
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page, problems = context.new_page(), []
    folder = file.parents[1].as_uri()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(folder) else problems.append(sent.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not problems


def field(page):
    return page.get_by_label("Field to draw a digit in")


SAID = """
count => {
  const said = document.querySelector(".verdict").textContent, cells = document.querySelectorAll(".answers .digit");
  const named = [...said.matchAll(/ say (\\d)/g)].map(match => match[1]).sort();
  const answers = [...cells].map(cell => cell.textContent).filter(text => text !== "–");
  return answers.length === count && named.join() === [...new Set(answers)].sort().join() && said;
}
"""


def said(page, count: int) -> str:
    """What is said, once so many networks have answered and it names the digits that the table has, and no others."""
    return page.wait_for_function(SAID, arg=count).json_value()


def wait_for_answer(page) -> str:
    assert page.locator(".answers .digit").count() == len(NAMES)
    return said(page, len(NAMES))


def test_a_digit_is_there_when_the_page_opens(page):
    """And inside the last iteration, its first layer, where a unit shows what it sees; nobody drew anything yet."""
    assert said(page, len(NAMES) - len(HEAVY)).startswith(f"All {len(NAMES) - len(HEAVY)} networks say 3")
    assert "Network 10 one cycle" in page.locator(".chosen").inner_text()
    assert page.locator(".layers > :visible").count() == 1
    assert "Layer 1, map 1, row 14, column 14:" in page.locator(".unit").inner_text()
    assert page.locator(".seen rect.shown").count() == page.locator(".columns rect.shown").count() == 1
    box = field(page).bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 20)
    wait_for_answer(page)
    rows, columns = np.nonzero(drawn(page))
    assert max(rows.max(), columns.max()) < 50, "the first stroke takes its place"


def test_step_by_step_through_a_network(page):
    """By button, by arrow keys, and all at once; the last step shows each logit beside its probability."""
    said(page, len(NAMES) - len(HEAVY))
    layers = len(architecture.layers(networks()["iteration_10_one_cycle"]()))
    shown = page.locator(".layers > :visible")
    following = page.get_by_role("button", name="Next")
    following.tap()
    assert page.locator(".step").inner_text() == f"Step 2 of {layers + 1}" and "Layer 2" in shown.inner_text()
    page.wait_for_function("document.querySelector('.spoken').textContent.startsWith('Step 2 of')")
    following.focus()
    for key, words in (("ArrowRight", "Layer 3: batch"), ("ArrowLeft", "Layer 2:"), ("Home", "The image: 28 × 28")):
        page.keyboard.press(key)
        assert words in shown.inner_text() and shown.count() == 1
    page.get_by_role("button", name="Back").tap()  # there is nothing before the image
    assert page.locator(".step").inner_text().startswith("Step 0")
    following.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")  # nor after the probabilities
    assert "Softmax" in shown.inner_text()
    cells = page.locator(".digits tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(c => c.innerText))"
    )
    logits = torch.tensor([float(logit.replace("−", "-")) for _, logit, _ in cells])
    shares = [float(share.split()[0]) for *_, share in cells]
    assert shares == pytest.approx((100 * logits.softmax(0)).tolist(), abs=0.3)  # logits are shown with two decimals
    page.get_by_label("All layers at once").check()
    assert shown.count() == layers + 2
    assert following.is_disabled()
    page.get_by_role("radio", name="frontier small").check()
    page.get_by_label("All layers at once").uncheck()
    assert shown.count() == 1


STROKE = [(0.3, 0.25), (0.6, 0.2), (0.65, 0.4), (0.45, 0.5), (0.7, 0.6), (0.6, 0.8), (0.3, 0.75)]


def test_by_mouse_and_cleared_again(page):
    box = field(page).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in STROKE]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()
    assert "3" in wait_for_answer(page)
    page.get_by_role("button", name="Clear").tap()
    page.wait_for_function("document.querySelector('.verdict').textContent === 'Nothing is drawn.'")
    assert page.evaluate("Math.max(...drawADigit.ink())") == 0
    assert not page.locator(".inside").is_visible()


def test_by_touch(page):
    box = field(page).bounding_box()
    session = page.context.new_cdp_session(page)
    for n, (x, y) in enumerate([(0.5, 0.15 + 0.07 * step) for step in range(11)]):
        point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        kind = "touchMove" if n else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    wait_for_answer(page)
    assert (drawn(page) > 0).any(1).sum() > 180, "the finger draws, the page does not scroll"
    assert page.evaluate("window.scrollY") == 0


def test_by_keyboard(page):
    said(page, len(NAMES) - len(HEAVY))
    before = page.evaluate("drawADigit.ink().toString()")
    field(page).focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("drawADigit.ink().toString()") == before, "the pen is up"
    for key in [*["ArrowUp"] * 7, " ", *["ArrowDown"] * 16]:
        page.keyboard.press(key)
    wait_for_answer(page)
    page.wait_for_function("document.querySelector('.spoken').textContent.includes('220 from the top')")
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelector('.spoken').textContent === 'Pen up'")
    ink = drawn(page)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((49, 230, 129, 150), abs=1)
    page.keyboard.press("Delete")
    page.wait_for_function("document.querySelector('.verdict').textContent === 'Nothing is drawn.'")


def prepared(ink: np.ndarray) -> np.ndarray:
    """MNIST's preparation, by other means: areas as differences of an interpolated sum table.

    `ink` has shape ``(280, 280)``, 0 to 255; the result ``(28, 28)``, the same scale, not rounded.
    """
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    height, width = rows[-1] + 1 - top, columns[-1] + 1 - left
    scale = max(height, width) / 20
    table = np.pad(ink.astype(float), ((1, 20), (1, 20))).cumsum(0).cumsum(1)
    edges = [
        first + scale * np.arange(np.ceil(side / scale - 1e-9) + 1) for first, side in ((top, height), (left, width))
    ]
    whole = np.arange(len(table))
    down = np.stack([np.interp(edges[0], whole, column) for column in table.T], 1)
    both = np.stack([np.interp(edges[1], whole, row) for row in down], 0)
    small = np.diff(np.diff(both, axis=0), axis=1) / scale**2
    image = np.zeros((28, 28))
    mass = np.round(small)
    middle = [(mass.sum(1 - axis) * np.arange(mass.shape[axis])).sum() / mass.sum() for axis in (0, 1)]
    y, x = (
        int(np.clip(np.floor(14 - centre + 0.5), 0, 28 - side))
        for centre, side in zip(middle, small.shape, strict=True)
    )
    image[y : y + small.shape[0], x : x + small.shape[1]] = small
    return image


def test_drawings_are_prepared_as_mnist_was(page):
    buttons = page.get_by_role("button", name="Example").all()
    assert len(buttons) == 3
    for button in buttons:
        button.tap()
        if "4 or a 9" in button.inner_text():
            page.wait_for_function("document.querySelector('.verdict').textContent.startsWith('The networks disagree')")
        wait_for_answer(page)
        pixels = page.evaluate("[...drawADigit.prepare(drawADigit.ink()).pixels]")
        expected = prepared(drawn(page))
        np.testing.assert_allclose(np.reshape(pixels, (28, 28)) * 255, expected, atol=0.51)
        check_that_it_looks_like_mnist(np.reshape(pixels, (1, 28, 28)))
    generator = np.random.default_rng(0)
    for height, width in [(3, 3), (250, 9), (17, 211), (20, 20), (280, 280)]:
        ink = np.zeros((280, 280), int)
        y, x = generator.integers(0, 281 - height), generator.integers(0, 281 - width)
        ink[y : y + height, x : x + width] = generator.integers(1, 256, (height, width))
        text = json.dumps(ink.flatten().tolist())
        pixels = page.evaluate("ink => [...drawADigit.prepare(JSON.parse(ink)).pixels]", text)
        np.testing.assert_allclose(np.reshape(pixels, (28, 28)) * 255, prepared(ink), atol=0.51)


def drawn(page) -> np.ndarray:
    """The field that one draws in, shape ``(280, 280)``. As text: 78,400 numbers one by one would take seconds."""
    return np.reshape(json.loads(page.evaluate("JSON.stringify([...drawADigit.ink()])")), (280, 280))


def check_that_it_looks_like_mnist(images: np.ndarray) -> np.ndarray:
    """Where the centre of mass of `images`, ``(n, 28, 28)``, is; returns the longer sides of their ink, ``(n,)``."""
    for axis in (1, 2):
        masses = images.sum(axis, dtype=float)
        centres = (masses * np.arange(28)).sum(1) / masses.sum(1)
        assert np.abs(centres - 14).max() <= 0.5 + 1e-6
    spans = [images.any(axis) for axis in (1, 2)]
    return np.max([28 - span.argmax(1) - span[:, ::-1].argmax(1) for span in spans], axis=0)


@pytest.mark.needs_mnist
def test_mnist_was_prepared_like_this():
    sides = check_that_it_looks_like_mnist(data.load("mnist")[1].images.numpy())
    assert sides.max() == 20
    assert (sides == 20).mean() > 0.99


def logits_by_torch(name: str, images: torch.Tensor) -> torch.Tensor:
    """Logits of shape ``(n, 10)`` for images of shape ``(n, 28, 28)`` with values from 0 to 1, as a page's run."""
    network = networks()[name]()
    network.load_state_dict(
        records.read_weights(records.record_path(experiments.published_records() / name, draw_page.SEED))
    )
    pixels = images.unsqueeze(1).float()
    if name in UPRIGHT:
        pixels = augmentation.deskew(pixels)
    with torch.no_grad():
        return network.eval()((pixels - draw_page.MNIST_MEAN) / draw_page.MNIST_STD)


IN_THE_PAGE = """
async ({images, count}) => {
  await drawADigit.load();
  const grey = Uint8Array.from(atob(images), letter => letter.charCodeAt(0));
  const begin = performance.now();
  const answers = drawADigit.networks.map(network => Array.from({length: count}, (_, n) => {
    const pixels = Float64Array.from(grey.subarray(784 * n, 784 * (n + 1)), value => value / 255);
    return [...drawADigit.run(network, pixels).at(-1)];
  }));
  return {answers, milliseconds: (performance.now() - begin) / count};
}
"""


@pytest.mark.needs_mnist
@pytest.mark.parametrize("count", [pytest.param(30, id="30"), pytest.param(1000, id="1000", marks=pytest.mark.slow)])
def test_the_page_says_what_torch_says(page, count):
    images = data.load("mnist")[1].images[:count]
    given = {"images": base64.b64encode(images.numpy().tobytes()).decode(), "count": count}
    found = page.evaluate(IN_THE_PAGE, given)
    print(f"{found['milliseconds']:.1f} ms an image, all networks")
    for name, answers in zip(NAMES, found["answers"], strict=True):
        check_logits(name, torch.tensor(answers), images / 255)


def check_logits(name: str, found: torch.Tensor, images: torch.Tensor) -> None:
    exact = logits_by_torch(name, images)
    assert found.argmax(1).equal(exact.argmax(1)), name
    torch.testing.assert_close(found.float(), exact, atol=2e-3, rtol=0, msg=lambda words: f"{name}: {words}")
    torch.testing.assert_close(found.softmax(1).float(), exact.softmax(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "layers",
    [
        *(pytest.param([nn.Conv2d(4, 8, 3, padding=1, groups=groups)], id=f"{groups} groups") for groups in (1, 2, 4)),
        pytest.param([nn.MaxPool2d(3, 2)], id="maxima of windows that overlap"),
        pytest.param([nn.AvgPool2d(3, 2)], id="means of windows that overlap"),
        pytest.param([nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)], id="means side by side"),
        pytest.param([nn.AvgPool2d(2, 3)], id="means of windows with gaps between them"),
    ],
)
def test_a_layer_is_computed_as_torch_does(page, layers):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), *layers).eval()
    layers, numbers = draw_page.describe(network)
    image = torch.rand(1, 1, 28, 28)
    run = """([layers, content, pixels]) => {
      drawADigitData.weights.mine = content;
      return [...drawADigit.run({name: "mine", mean: 0, std: 1, layers}, pixels).at(-1)];
    }"""
    content = base64.b64encode(numbers.numpy().tobytes()).decode()
    found = page.evaluate(run, [layers, content, image.flatten().tolist()])
    torch.testing.assert_close(torch.tensor(found), network(image).flatten().detach(), atol=1e-5, rtol=1e-5)


LEANING = [[190, 40], [80, 235]]


def test_drawings_are_read_as_torch_reads_them(page):
    """The page's own examples and a line that leans far over, which a network for upright images sets upright."""
    page.evaluate("drawADigit.load()")
    pixels = []
    for button in page.get_by_role("button", name="Example").all():
        button.tap()
        wait_for_answer(page)
        pixels.append(page.evaluate("[...drawADigit.prepare(drawADigit.ink()).pixels]"))
    page.get_by_role("button", name="Clear").tap()
    box = field(page).bounding_box()
    page.mouse.move(*(box[axis] + at * box["width"] / 280 for axis, at in zip("xy", LEANING[0], strict=True)))
    page.mouse.down()
    page.mouse.move(*(box[axis] + at * box["width"] / 280 for axis, at in zip("xy", LEANING[1], strict=True)))
    page.mouse.up()
    wait_for_answer(page)
    pixels.append(page.evaluate("[...drawADigit.prepare(drawADigit.ink()).pixels]"))
    images = torch.tensor(pixels).view(-1, 28, 28)
    for number, name in enumerate(NAMES):
        run = "([n, all]) => all.map(pixels => [...drawADigit.run(drawADigit.networks[n], pixels).at(-1)])"
        check_logits(name, torch.tensor(page.evaluate(run, [number, pixels])), images)
    upright = page.evaluate(
        "pixels => drawADigit.networks.map(each => [...drawADigit.seen(each, pixels).pixels])", pixels[-1]
    )
    for name, seen in zip(NAMES, torch.tensor(upright).view(-1, 28, 28), strict=True):
        expected = augmentation.deskew(images[-1:, None].float())[0, 0] if name in UPRIGHT else images[-1]
        torch.testing.assert_close(seen.float(), expected.float(), atol=1e-4, rtol=0)


def test_a_network_for_upright_images_says_so_and_its_frame_leans(page):
    said(page, len(NAMES) - len(HEAVY))
    page.get_by_role("button", name="Example: a 4 or a 9").tap()
    wait_for_answer(page)
    assert "upright" not in page.locator(".chosen").inner_text()
    page.get_by_role("radio", name="frontier accuracy").check()
    assert "So your drawing is sheared in the same way" in page.locator(".chosen").inner_text()
    page.wait_for_function("document.querySelector('.columns rect').getAttribute('transform')")
    ink = np.reshape(page.evaluate("[...drawADigit.prepare(drawADigit.ink()).pixels]"), (28, 28))
    slope = np.cov(*np.indices((28, 28)).reshape(2, -1), aweights=ink.flatten(), bias=True)
    matrix = page.locator(".columns rect").get_attribute("transform").strip("matrix()").split()
    assert float(matrix[2]) == pytest.approx(slope[0, 1] / slope[0, 0], rel=1e-6)
    # A unit's square in the upright image, its centre, is read from where its frame's centre lies in the drawing.
    y, height = (float(page.locator(".columns rect").get_attribute(key)) for key in ("y", "height"))
    at = page.evaluate("(({x, y, scale}) => [x, y, scale])(drawADigit.prepare(drawADigit.ink()))")
    row = (y + height / 2 - at[1]) / at[2] - 0.5
    middle = (ink.sum(1) @ np.arange(28)) / ink.sum()
    moved = float(matrix[2]) * (y + height / 2) + float(matrix[4])
    assert moved / at[2] == pytest.approx(slope[0, 1] / slope[0, 0] * (row - middle), abs=1e-6)


def test_a_unit_shows_what_it_sees(page):
    page.get_by_role("button", name="Example: a neat 3").tap()
    wait_for_answer(page)
    page.get_by_role("radio", name="1 setup").check()
    page.get_by_label("All layers at once").check()
    layers = architecture.layers(networks()["iteration_01_setup"]())
    assert page.locator(".layers > *").count() == len(layers) + 2  # before them the image, after them softmax
    first = page.locator(".maps").first
    assert first.locator("canvas").count() == 20

    third = first.locator("canvas").nth(2)
    unit = third.bounding_box()["width"] / 24
    third.hover(position={"x": 2.5 * unit, "y": 4.5 * unit})
    assert "Layer 1, map 3, row 5, column 3:" in page.locator(".unit").inner_text()
    assert "rows 5 to 9 and columns 3 to 7" in page.locator(".unit").inner_text()
    frame = page.locator(".seen rect")
    assert [frame.get_attribute(key) for key in ("x", "y", "width", "height")] == ["2", "4", "5", "5"]
    prepared = page.evaluate("(({x, y, scale}) => ({x, y, scale}))(drawADigit.prepare(drawADigit.ink()))")
    in_drawing = page.locator(".columns rect")
    assert float(in_drawing.get_attribute("x")) == pytest.approx(prepared["x"] + 2 * prepared["scale"])
    assert float(in_drawing.get_attribute("height")) == pytest.approx(5 * prepared["scale"])

    second = page.locator(".maps").nth(3)  # the second convolution
    second.locator("canvas").first.tap(position={"x": 1, "y": 1})
    assert "Layer 4, map 1, row 1, column 1:" in page.locator(".unit").inner_text()
    assert [frame.get_attribute(key) for key in ("x", "y", "width", "height")] == ["0", "0", "14", "14"]
    second.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "PageDown", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert "Layer 4, map 2, row 3, column 1:" in page.locator(".unit").inner_text()
    assert [frame.get_attribute(key) for key in ("x", "y", "width", "height")] == ["0", "4", "14", "14"]
    page.wait_for_function("document.querySelector('.spoken').textContent.startsWith('Layer 4, map 2, row 3')")
    page.locator(".maps").last.focus()
    page.keyboard.press("ArrowRight")
    assert "It sees the whole image." in page.locator(".unit").inner_text()


def test_weights_that_could_not_be_loaded_are_asked_for_again(browser, written):
    """A file that is missing for a moment, as on a bad connection; the console names it."""
    page = browser.new_page()
    page.route("**/networks/iteration_*.js", lambda route: route.abort())
    page.goto(written.as_uri())
    page.wait_for_function("document.querySelector('.verdict').textContent.includes('could not be loaded')")
    page.unroute_all()
    page.get_by_role("button", name="Example: a neat 3").click()
    wait_for_answer(page)
    page.close()


def test_nothing_is_wider_than_a_phone(page):
    page.get_by_role("button", name="Example: a letter").tap()
    wait_for_answer(page)
    page.get_by_label("All layers at once").check()
    for radio in [*page.get_by_role("radio").all()[::4], page.get_by_role("radio").last]:
        radio.check()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_records_the_page_says_so(browser, tmp_path):
    for page in opened(browser, write_page(tmp_path, tmp_path / "none")):
        assert "without trained networks" in page.locator(".verdict").inner_text()
        assert "10 one cycle" in page.locator(".note").inner_text()
        assert "cannot compute" not in page.locator(".note").inner_text()
        page.get_by_role("button", name="Example: a neat 3").tap()
        assert not page.locator(".inside").is_visible()


def test_a_network_that_cannot_be_computed_is_named(browser, tmp_path):
    file = write_page(tmp_path, tmp_path / "none")
    script = tmp_path / "_static" / "networks" / "networks.js"
    script.write_text(script.read_text("utf-8").replace('"tooMuch": []', '"tooMuch": ["11 attention"]'), "utf-8")
    for page in opened(browser, file):
        assert "this page cannot compute, and so left out: 11 attention." in page.locator(".note").inner_text()
