"""The figure with a slider: what the browser computes is what the library computes, by keyboard, mouse and touch."""

import numpy as np
import pytest

from mnist_lib.backprop import network, slider
from mnist_lib.results.page import SweepParameters
from support import on_a_phone, refers_outside

EXERCISE = SweepParameters(name="learning_rate_sweep", experiment="iteration_10_one_cycle")
NUMBERS = {"inputs": EXERCISE.inputs, "weights": EXERCISE.weights}
FIGURE = slider.training(targets=EXERCISE.targets, learning_rates=EXERCISE.learning_rates, **NUMBERS)


# -- what a notebook stores


def test_it_is_a_page_with_a_picture_to_fall_back_on():
    data, metadata = FIGURE._repr_mimebundle_()
    assert set(data) == {"text/html", "image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert "The loss goes from 0.2425 to 0.00516; w1 from 0.15 to 0.28" in data["text/plain"]
    assert FIGURE.picture.png.startswith(b"\x89PNG")


def test_the_page_is_small_and_needs_nothing_else():
    assert len(FIGURE.html.encode()) < 15_000
    assert refers_outside(FIGURE.html) == []


def test_the_slider_offers_the_rates_of_the_exercise():
    assert set(EXERCISE.learning_rates) <= set(slider.SLIDER)
    assert list(slider.SLIDER) == sorted(set(slider.SLIDER))
    assert (slider.SLIDER[0], slider.SLIDER[-1]) == (0.01, 1000)


def test_it_needs_a_rate():
    with pytest.raises(ValueError, match="at least one learning rate"):
        slider.training(targets=EXERCISE.targets, learning_rates=(), **NUMBERS)


# -- what a browser does with it


@pytest.fixture
def page(browser, tmp_path, request):
    """The figure, opened as a file."""
    with on_a_phone(browser, FIGURE.html + getattr(request, "param", ""), tmp_path) as opened:
        yield opened


def handle(page):
    return page.get_by_role("slider", name="Learning rate η")


def check(page, targets=EXERCISE.targets, steps: int = 100) -> float:
    """Compare all numbers that the figure shows with the library's; returns the learning rate that it stands at."""
    rate = float(handle(page).get_attribute("aria-valuetext").removeprefix("η = "))
    said = "start => document.querySelector('[role=status]').textContent.startsWith(start)"
    page.wait_for_function(said, arg=f"η = {rate:g}: in {steps:,} steps")
    assert page.locator(".value").inner_text() == f"{rate:g}"
    curve = network.training_curve([rate], steps, targets=targets, **NUMBERS)
    arrived = "loss => Math.abs(document.querySelector('[role=status] data').value - loss) <= 1e-9 * loss + 1e-15"
    page.wait_for_function(arrived, arg=float(curve.losses[0, -1]))  # the same words may stand there from before
    for place, exact in (("[role=status]", curve.losses[:, -1]), (".numbers", curve.weights[0, -1])):
        shown = page.locator(f"{place} data").all()
        values = [float(each.get_attribute("value")) for each in shown]
        np.testing.assert_allclose(values, exact, rtol=1e-9, atol=1e-15)
        printed = [float(each.inner_text().replace("−", "-")) for each in shown]
        np.testing.assert_allclose(printed, exact, rtol=1e-3, atol=1e-6)  # six decimals, or four digits
    return rate


def test_it_starts_at_the_last_of_the_rates(page):
    assert check(page) == 2
    assert "It never rises." in page.get_by_role("status").inner_text()
    assert not page.locator(".without-script").is_visible()
    assert page.locator("svg.losses path:not(.grid)").count() == 1 + len(EXERCISE.learning_rates)
    assert page.locator("svg.weights text", has_text="w").count() == 9  # the title and eight labels


def test_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "rate"
    seen = [check(page)]
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "PageUp", "Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        seen.append(check(page))
    assert seen[:4] == [2, 2.2, 2, 2.2]
    assert seen[4] > 5
    assert seen[5:] == [0.01, 0.011, 1000]


def test_by_mouse(page):
    box = handle(page).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    first = check(page)
    before = page.locator("svg.losses").inner_html()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=5)
    assert check(page) > 10 * first
    assert page.locator("svg.losses").inner_html() != before
    page.mouse.up()


def test_by_touch(page):
    box = handle(page).bounding_box()
    seen = []
    for share in (0.25, 0.75):
        page.touchscreen.tap(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
        seen.append(check(page))
    assert seen[1] > 100 * seen[0]


def test_other_targets_other_steps_and_a_logarithmic_axis(page):
    page.get_by_label("Targets").select_option("0.5 / 0.5")
    assert check(page, targets=(0.5, 0.5)) == 2
    page.get_by_label("Steps").select_option("1,000")
    check(page, targets=(0.5, 0.5), steps=1000)
    before = page.locator("svg.losses").inner_html()
    page.get_by_label("Loss axis").select_option("logarithmic")
    assert "10⁻⁵" not in before
    assert page.locator("svg.losses text", has_text="10⁻").count() >= 3
    handle(page).fill(str(slider.SLIDER.index(100)))
    page.get_by_label("Steps").select_option("100")
    assert check(page, targets=(0.5, 0.5)) == 100
    assert "It rises 3 times." in page.get_by_role("status").inner_text()


LONG = slider.training(targets=EXERCISE.targets, learning_rates=[0.5], steps=40_000, **NUMBERS)


@pytest.mark.parametrize("page", [LONG.html], indirect=True)
def test_many_steps(page):
    """More numbers than a call of JavaScript takes arguments."""
    _, figure = page.locator(".training-figure").all()
    figure.get_by_label("Steps").select_option("40,000")
    rate = float(figure.get_by_role("slider").get_attribute("aria-valuetext").removeprefix("η = "))
    curve = network.training_curve([rate], 40_000, targets=EXERCISE.targets, **NUMBERS)
    figure.locator("[role=status]", has_text="in 40,000 steps").wait_for()
    loss = float(figure.locator("[role=status] data").get_attribute("value"))
    assert loss == pytest.approx(curve.losses[0, -1], rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("page", [FIGURE.html], indirect=True)
def test_two_figures_on_a_page_do_not_disturb_each_other(page):
    assert page.locator("svg.losses").count() == 2
    first, second = page.get_by_role("slider").all()
    first.fill("0")
    assert (first.get_attribute("aria-valuetext"), second.get_attribute("aria-valuetext")) == ("η = 0.01", "η = 2")


def test_nothing_is_wider_than_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
