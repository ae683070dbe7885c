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

from mnist_lib import cells, data, experiments, records, training
from mnist_lib.page import listed
from mnist_lib.parameters import ComparisonParameters
from mnist_lib.results import architecture
from mnist_lib.site import draw_page, extension
from support import ROOT, networks

NAMES = listed(cells.of_file(ROOT / "notebooks" / "iterations_compared.ipynb", ComparisonParameters))
SCRIPTS = ("draw_a_digit.js", "draw_a_digit.css")
LARGEST_PAGE = 1_500_000  # bytes, all that the page loads before something is drawn, the theme aside


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
        for number, layer in enumerate(network["layers"]):
            for key, (start, length) in layer["tensors"].items():
                exact = weights.pop(f"{number}.{key}").flatten().numpy()
                np.testing.assert_array_equal(numbers[start : start + length], exact)
        assert not weights


def test_before_something_is_drawn_little_is_loaded(written):
    static = written.parents[1] / "_static"
    files = [static / name for name in SCRIPTS] + [static / "networks" / "networks.js", written]
    assert sum(file.stat().st_size for file in files) < LARGEST_PAGE


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_of_its_receptive_field_changes_a_unit(name):
    torch.manual_seed(0)
    network = networks()[name]().eval()
    layers, _ = draw_page.describe(network)
    image = torch.rand(1, 1, 28, 28)

    def outputs(signal: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for module in network:
            signal = module(signal)
            found.append(signal[0])
        return found

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


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2)), "average pool: the page cannot compute this layer"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2)), "dilation 2: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, groups=2)), "groups 2: the page cannot"),
        (nn.Sequential(nn.Conv2d(1, 1, (3, 5))), "3×5 convolution, 1 → 1: the page cannot"),
        (nn.Sequential(nn.MaxPool2d(2, padding=1)), "padding 1: the page cannot"),
        (nn.Sequential(nn.MaxPool2d(3, ceil_mode=True)), "rounded up: the page cannot"),
        (nn.Sequential(nn.BatchNorm2d(1, affine=False)), "batch normalisation: the page cannot"),
        (nn.Sequential(nn.GELU()), "GELU: the page cannot"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))), "flat nn.Sequential"),
        (nn.Sequential(nn.Sequential(nn.ReLU())), "a flat nn.Sequential"),
        (nn.Conv2d(1, 1, 3), "a flat nn.Sequential"),
        (shifted(), "Shifted: .* a flat nn.Sequential"),
    ],
)
def test_what_the_page_cannot_compute_is_refused(network, words):
    with pytest.raises(ValueError, match=words):
        draw_page.describe(network)


def test_a_network_that_the_page_cannot_compute_is_left_out(monkeypatch, tmp_path):
    networks = {"plain": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "other": nn.Sequential(nn.GELU())}

    def experiment(name):
        return SimpleNamespace(network=lambda: networks[name], differences=lambda record: [], recipe=None)

    record = SimpleNamespace(seed=0, parameter_count=7850, test_accuracy=[90.0])
    stubs = {
        "page": SimpleNamespace(of_notebook=str, experiment=experiment),
        "records": SimpleNamespace(
            record_path=lambda folder, seed: tmp_path,
            read=lambda path: record,
            read_weights=lambda path: networks["plain"].state_dict(),
        ),
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
() => {
  const said = document.querySelector(".verdict").textContent, cells = document.querySelectorAll(".answers .digit");
  const named = [...said.matchAll(/ say (\\d)/g)].map(match => match[1]).sort();
  const digits = [...new Set([...cells].map(cell => cell.textContent))].sort();
  return named.join() === digits.join() && said;
}
"""


def wait_for_answer(page) -> str:
    """What is said, once it names the digits that the table has, and no others."""
    assert page.locator(".answers .digit").count() == len(NAMES)
    return page.wait_for_function(SAID).json_value()


STROKE = [(0.3, 0.25), (0.6, 0.2), (0.65, 0.4), (0.45, 0.5), (0.7, 0.6), (0.6, 0.8), (0.3, 0.75)]


def test_by_mouse_and_cleared_again(page):
    assert page.evaluate("Object.keys(drawADigitData.weights).length") == 0, "weights wait for the first stroke"
    box = field(page).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in STROKE]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()
    assert "3" in wait_for_answer(page)
    shares = [float(text.split()[0]) for text in page.locator(".digits .share").all_inner_texts()]
    assert len(shares) == 10 and sum(shares) == pytest.approx(100, abs=0.6)
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
    ink = page.evaluate("[...drawADigit.ink()]")
    assert (np.reshape(ink, (280, 280)) > 0).any(1).sum() > 180, "the finger draws, the page does not scroll"
    assert page.evaluate("window.scrollY") == 0


def test_by_keyboard(page):
    field(page).focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("Math.max(...drawADigit.ink())") == 0, "the pen is up"
    for key in [*["ArrowUp"] * 7, " ", *["ArrowDown"] * 16]:
        page.keyboard.press(key)
    wait_for_answer(page)
    page.wait_for_function("document.querySelector('.spoken').textContent.includes('220 from the top')")
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelector('.spoken').textContent === 'Pen up'")
    ink = np.reshape(page.evaluate("[...drawADigit.ink()]"), (280, 280))
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
        ink, pixels = page.evaluate("[[...drawADigit.ink()], [...drawADigit.prepare(drawADigit.ink()).pixels]]")
        expected = prepared(np.reshape(ink, (280, 280)))
        np.testing.assert_allclose(np.reshape(pixels, (28, 28)) * 255, expected, atol=0.51)
        check_that_it_looks_like_mnist(np.reshape(pixels, (1, 28, 28)))
    generator = np.random.default_rng(0)
    for height, width in [(3, 3), (250, 9), (17, 211), (20, 20), (280, 280)]:
        ink = np.zeros((280, 280), int)
        y, x = generator.integers(0, 281 - height), generator.integers(0, 281 - width)
        ink[y : y + height, x : x + width] = generator.integers(1, 256, (height, width))
        pixels = page.evaluate("ink => [...drawADigit.prepare(ink).pixels]", ink.flatten().tolist())
        np.testing.assert_allclose(np.reshape(pixels, (28, 28)) * 255, prepared(ink), atol=0.51)


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


def predicted_by_torch(name: str, images: torch.Tensor) -> np.ndarray:
    """Probabilities of shape ``(n, 10)``."""
    path = records.record_path(experiments.published_records() / name, draw_page.SEED)
    network = networks()[name]()
    network.load_state_dict(records.read_weights(path))
    pixels = (images.unsqueeze(1).float() / 255 - draw_page.MNIST_MEAN) / draw_page.MNIST_STD
    with torch.no_grad():
        return network.eval()(pixels).softmax(1).numpy()


IN_THE_PAGE = """
async ({images, count}) => {
  await drawADigit.load();
  const grey = Uint8Array.from(atob(images), letter => letter.charCodeAt(0));
  const begin = performance.now();
  const answers = drawADigit.networks.map(network => Array.from({length: count}, (_, n) => {
    const pixels = Float64Array.from(grey.subarray(784 * n, 784 * (n + 1)), value => value / 255);
    return drawADigit.probabilities(drawADigit.run(network, pixels).at(-1));
  }));
  return {answers, milliseconds: (performance.now() - begin) / count};
}
"""


@pytest.mark.needs_mnist
@pytest.mark.parametrize("count", [pytest.param(100, id="100"), pytest.param(1000, id="1000", marks=pytest.mark.slow)])
def test_the_page_says_what_torch_says(page, count):
    images = data.load("mnist")[1].images[:count]
    given = {"images": base64.b64encode(images.numpy().tobytes()).decode(), "count": count}
    found = page.evaluate(IN_THE_PAGE, given)
    print(f"{found['milliseconds']:.1f} ms an image, all ten networks")
    for name, answers in zip(NAMES, found["answers"], strict=True):
        exact = predicted_by_torch(name, images)
        np.testing.assert_array_equal(np.argmax(answers, 1), exact.argmax(1), err_msg=name)
        np.testing.assert_allclose(answers, exact, atol=1e-3, rtol=0, err_msg=name)


def test_a_unit_shows_what_it_sees(page):
    page.get_by_role("button", name="Example: a neat 3").tap()
    wait_for_answer(page)
    page.get_by_role("radio", name="1 setup").check()
    layers = architecture.layers(networks()["iteration_01_setup"]())
    assert page.locator(".layers > *").count() == len(layers)
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
    page.get_by_role("button", name="Example: a neat 3").click()
    page.wait_for_function("document.querySelector('.verdict').textContent.includes('could not be loaded')")
    page.unroute_all()
    page.get_by_role("button", name="Example: a neat 3").click()
    wait_for_answer(page)
    page.close()


def test_nothing_is_wider_than_a_phone(page):
    page.get_by_role("button", name="Example: a letter").tap()
    wait_for_answer(page)
    for radio in page.get_by_role("radio").all()[::4]:
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
