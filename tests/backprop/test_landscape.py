"""The map of the loss over two weights: what the browser draws and says is what the library computes."""

import itertools
import re

import numpy as np
import pytest

from mnist_lib.backprop import landscape, network, slider
from mnist_lib.results.page import ExerciseParameters
from support import on_a_phone, refers_outside

EXERCISE = ExerciseParameters()
NUMBERS = {"inputs": EXERCISE.inputs, "targets": EXERCISE.targets}
FIGURE = landscape.explorer(weights=EXERCISE.weights, learning_rate=0.5, **NUMBERS)


def test_two_weights_move_as_gradient_descent_moves_them_and_six_stay():
    way = landscape.path((1, 6), 2.0, 30, weights=EXERCISE.weights, **NUMBERS)
    assert way.shape == (31, 8)
    assert np.ptp(np.delete(way, (1, 6), axis=1), axis=0).max() == 0
    slopes = (
        network.loss(way[:-1] + 1e-6 * np.eye(8)[k], **NUMBERS)
        - network.loss(way[:-1] - 1e-6 * np.eye(8)[k], **NUMBERS)
        for k in (1, 6)
    )
    for k, slope in zip((1, 6), slopes, strict=True):
        np.testing.assert_allclose(np.diff(way[:, k]), -2.0 * slope / 2e-6, rtol=1e-3, atol=1e-9)


def test_without_a_browser_there_is_a_picture_with_words():
    data, metadata = FIGURE._repr_mimebundle_()
    assert {"text/html", "image/png", "text/plain"} == set(data)
    assert "in 100 steps w5 goes from 0.40 to -2.13, w7 from 0.50 to 1.91" in metadata["image/png"]["alt"]
    assert refers_outside(FIGURE.html) == []
    assert len(FIGURE.html.encode()) < 12_000


@pytest.fixture
def page(browser, tmp_path):
    """The figure twice on a page on a phone."""
    with on_a_phone(browser, FIGURE.html * 2, tmp_path) as opened:
        yield opened


def check(figure, pair: tuple[int, int]) -> np.ndarray:
    """Compare the path with the library's; returns where it went, shape ``(steps + 1, 8)``."""
    rate = float(figure.get_by_role("slider").get_attribute("aria-valuetext").removeprefix("η = "))
    way = landscape.path(pair, rate, 100, weights=EXERCISE.weights, **NUMBERS)
    figure.locator(
        "[role=status]", has_text=re.compile(rf"^η = {rate:g}: .* w{pair[0] + 1} .* w{pair[1] + 1} ")
    ).wait_for()
    shown = [float(each.get_attribute("value")) for each in figure.locator("[role=status] data").all()]
    np.testing.assert_allclose(shown, [*way[-1, pair], network.loss(way[-1], **NUMBERS)], rtol=1e-9)
    points = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", figure.locator(".way").get_attribute("d")), dtype=float)
    np.testing.assert_allclose(at(points), way[:, pair], atol=0.001, rtol=1e-3)
    return way


def at(points: np.ndarray) -> np.ndarray:
    """The two weights at places of the picture, shape ``(n, 2)``: 326 of its units are 20, from -10 to 10."""
    return np.stack([(points[:, 0] - 34) / 16.3 - 10, 10 - (points[:, 1] - 8) / 16.3], 1)


def check_map(figure, pair: tuple[int, int]) -> None:
    """All along a line the loss is the same, the one that the line stands for, and the levels are round numbers."""
    lines, levels = figure.locator(".line").all(), []
    assert 5 <= len(lines) <= 12
    for line in lines:
        level = float(line.get_attribute("data-level"))
        points = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", line.get_attribute("d")), dtype=float)
        assert len(points) > 1
        weights = np.tile(EXERCISE.weights, (len(points), 1))
        weights[:, pair] = at(points)
        losses = network.loss(weights, **NUMBERS)
        apart = float(figure.locator(".line").nth(1).get_attribute("data-level")) - float(
            figure.locator(".line").nth(0).get_attribute("data-level")
        )
        assert np.abs(losses - level).max() < 0.05 * apart
        levels.append(level)
    assert levels == sorted(levels) and len(f"{levels[0]:g}") <= 6


def test_by_keyboard(page):
    figure = page.locator(".landscape-figure").first
    assert check(figure, (4, 6))[-1, 4] == pytest.approx(-2.133, abs=1e-3)
    check_map(figure, (4, 6))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "rate"
    for key in ("ArrowRight", "PageUp", "End"):
        page.keyboard.press(key)
        way = check(figure, (4, 6))
    assert way[1] == pytest.approx(way[-1], abs=0.01), "the largest rate leaps to where the sigmoid is flat"
    page.keyboard.press("Home")
    check(figure, (4, 6))
    other = page.get_by_role("slider").last
    assert other.get_attribute("aria-valuetext") == "η = 0.5", "the second figure is another one"


def test_any_two_weights(page):
    figure = page.locator(".landscape-figure").last
    figure.get_by_role("slider").fill(str(slider.SLIDER.index(10)))
    across, up = figure.get_by_label("Across"), figure.get_by_label("Up")
    for first, second in itertools.islice(itertools.permutations(range(8), 2), 0, None, 11):
        across.select_option(str(first))
        up.select_option(str(second))
        check(figure, (first, second))
        check_map(figure, (first, second))
    across.select_option("2")
    up.select_option("5")
    up.select_option("2")  # one weight twice: the two are swapped
    check(figure, (5, 2))
