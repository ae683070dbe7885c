"""Pictures for any reader: on white and on dark ground, with any colour vision, and drawings of networks."""

import io
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from torch import nn

from mnist_lib.results import architecture, drawing, network_drawing
from support import networks


class Branches(nn.Module):
    """Each of its layers has a name, a shape or a width that a flat network's have not."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 4, (3, 5), padding=(1, 2), dilation=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.tokens = nn.Upsample(scale_factor=2), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.last = nn.Linear(4, 10)

    def forward(self, images):
        x = self.first(images)
        x = nn.functional.gelu(self.again(x)) + x
        x = nn.functional.adaptive_avg_pool2d(self.up(x), 4)
        return self.last(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))


NETWORKS = networks() | {"branches": Branches}

PHONE = 390 - 2 * 16  # CSS pixels between the margins
WHITE, BLACK = np.ones(3), np.zeros(3)
COLOURS = {name: np.array(to_rgb(getattr(drawing, name))) for name in ("BLUE", "ORANGE", "GREEN", "GREY")}
GROUNDS = {
    "light": (COLOURS, WHITE),
    "dark": ({n: drawing.darkened(c) for n, c in COLOURS.items()}, drawing.DARK_GROUND),
}

# Viénot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of displays by dichromats", Color
# Research and Application 24 (1999), for linear sRGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


def linear(colour: object) -> np.ndarray:
    """Light of an sRGB colour, from 0 to 1 (IEC 61966-2-1)."""
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: object, second: object) -> float:
    """The contrast ratio of WCAG 2.1, from 1 to 21."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    """Linear sRGB in CIELAB, white D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ light) / (to_xyz @ WHITE)
    fx, fy, fz = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("name", COLOURS)
def test_lines_stand_out_from_their_ground(scheme, name):
    colours, ground = GROUNDS[scheme]
    assert contrast(colours[name], ground) >= 3


def test_words_can_be_read_on_a_dark_ground():
    ink, grey = drawing.darkened(BLACK), drawing.darkened(COLOURS["GREY"])
    assert contrast(ink, drawing.DARK_GROUND) >= 7
    assert contrast(grey, drawing.DARK_GROUND) >= 4.5


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_any_colour_vision(scheme, vision):
    """Grey, which only ever means "not highlighted", aside."""
    colours, _ = GROUNDS[scheme]
    seen = [lab(VISION[vision] @ linear(colours[name])) for name in ("BLUE", "ORANGE", "GREEN")]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


def test_a_dark_picture_is_the_same_picture():
    light = drawing.lines({"a": [4, 2], "b": [1, 3]}, x="x", y="y").png
    before, after = (Image.open(io.BytesIO(png)).convert("RGB") for png in (light, drawing.dark(light)))
    assert after.size == before.size
    before, after = np.asarray(before) / 255, np.asarray(after) / 255
    np.testing.assert_allclose(after, drawing.darkened(before), atol=0.5 / 255 + 1e-9)
    assert len(drawing.dark(light)) < 1.2 * len(light)
    for colour, expected in ((WHITE, drawing.DARK_GROUND), (BLACK, drawing.DARK_INK)):
        np.testing.assert_allclose(drawing.darkened(colour), to_rgb(expected), atol=1e-9)


def test_a_picture_of_any_kind_can_be_made_dark():
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), "white").save(buffer, format="png")
    after = Image.open(io.BytesIO(drawing.dark(buffer.getvalue()))).convert("RGB")
    assert after.getpixel((0, 0)) == tuple(round(255 * part) for part in to_rgb(drawing.DARK_GROUND))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_drawn_row_by_row_within_a_phones_width(name):
    network = NETWORKS[name]()
    figure = network_drawing.picture(network, NETWORKS["iteration_02_light_skeleton"]()).figure
    assert figure.get_figwidth() * 96 <= PHONE
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    for text in texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max), text.get_text()
        assert text.get_fontsize() * 96 / 72 >= 11, "too small on a phone"
    shown = " ".join(text.get_text() for text in texts)
    for layer in architecture.layers(network):
        assert layer.name in shown
    assert f"= {architecture.parameter_count(network):,} parameters" in shown


def test_a_block_is_as_wide_as_its_map():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(338, 10))
    (axes,) = network_drawing.picture(network).figure.axes
    widths = [block.get_width() for block in axes.patches]
    np.testing.assert_allclose([width / widths[0] for width in widths[:3]], [1, 26 / 28, 13 / 28])
    assert widths[3] == widths[4] == network_drawing.NARROWEST


def test_a_change_is_marked_by_signs_frames_and_words():
    picture = network_drawing.picture(
        NETWORKS["iteration_05_global_average_pooling"](), NETWORKS["iteration_04_dropout"]()
    )
    (axes,) = picture.figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert (shown.count("+"), shown.count("−")) == (1, 1)
    assert "+ new   − gone" in shown
    assert [block.get_hatch() is not None for block in axes.patches].count(True) == 1
    assert [block.get_linestyle() for block in axes.patches].count("--") == 1
    assert "gone: 7×7 convolution, 10 → 10; new: global average pool (10 × 1 × 1, sees 28 × 28)" in picture.alt
    assert picture.alt.endswith("Together: 6,070 parameters, before: 10,970.")


@pytest.mark.parametrize(
    ("name", "before", "words"),
    [
        ("iteration_08_without_dropout", "iteration_08_without_dropout", "the same network as before"),
        ("iteration_02_light_skeleton", "iteration_01_setup", "a new network"),
    ],
)
def test_a_network_without_marks_says_why(name, before, words):
    picture = network_drawing.picture(NETWORKS[name](), NETWORKS[before]())
    assert picture.alt.endswith(f", {words}.")
    assert "new:" not in picture.alt
    assert not any(block.get_hatch() for block in picture.figure.axes[0].patches)


def test_what_no_flat_network_has_is_named_in_plain_words():
    alt = network_drawing.picture(Branches()).alt
    for words in (
        "3×5 convolution",
        "GELU",
        "addition; resizing (4 × 56 × 56",
        "average pool to 4×4",
        "attention (16 × 4",
    ):
        assert words in alt
    blocks = network_drawing.picture(Branches()).figure.axes[0].patches
    assert max(block.get_width() for block in blocks) == blocks[0].get_width()
