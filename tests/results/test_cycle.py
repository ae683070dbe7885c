"""The figure of one cycle: what the browser draws and says is what torch's scheduler does, peak and rise at will."""

import re

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from mnist_lib.parameters import Recipe
from mnist_lib.results import cycle
from support import on_a_phone, refers_outside

RECIPE = Recipe(epochs=4, schedule="one_cycle", learning_rate=0.3)
STEPS = 50  # an epoch
FIGURE = cycle.explorer(RECIPE, STEPS)


def by_torch(peak: float, rise: float, total: int) -> tuple[np.ndarray, np.ndarray]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    scheduler = OneCycleLR(optimizer, peak, total_steps=total, pct_start=rise)
    found = []
    for _ in range(total):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["momentum"]))
        optimizer.step()
        if len(found) < total:
            scheduler.step()
    return tuple(np.array(found).T)


def test_without_a_browser_there_is_a_picture_with_words():
    data, metadata = FIGURE._repr_mimebundle_()
    assert {"text/html", "image/png", "text/plain"} == set(data)
    assert "learning rate: from 0.012 at epoch 0 to" in metadata["image/png"]["alt"]
    assert refers_outside(FIGURE.html) == []
    assert len(FIGURE.html.encode()) < 12_000


@pytest.fixture
def page(browser, tmp_path):
    """The figure on a phone."""
    with on_a_phone(browser, FIGURE.html, tmp_path) as opened:
        yield opened


def check(page) -> tuple[float, float]:
    """Compare the curves and the mean with torch's; returns the peak and the share of the rise."""
    peak, rise = (page.get_by_role("slider", name=name) for name in ("Peak", "Share"))
    top, share = float(peak.get_attribute("aria-valuetext").split()[1]), int(rise.input_value())
    page.locator("[role=status]", has_text=f"Peak {top:g}, rising for {share} % of the steps").wait_for()
    rates, momenta = by_torch(top, share / 100, 200)
    assert float(page.locator("[role=status] data").get_attribute("value")) == pytest.approx(rates.mean(), rel=1e-9)
    highest = 1.05 * max(top, RECIPE.learning_rate)
    for name, exact, (low, high) in (("rate", rates, (0, highest)), ("momentum", momenta, (0.84, 0.96))):
        points = re.findall(r"([\d.]+) ([\d.]+)", page.locator(f".{name} .chosen").get_attribute("d"))
        drawn = [low + (158 - float(y)) / 136 * (high - low) for _, y in points]
        np.testing.assert_allclose(drawn, exact, atol=0.001 * (high - low))
    said = page.get_by_role("status").inner_text()
    assert f"in the first {4 * share / 100:.3g} of 4 epochs" in said
    assert float(re.search(r"then falls to ([\d.]+)\. ", said)[1]) == pytest.approx(rates[-1], rel=0.1)
    return top, share


def test_by_keyboard(page):
    assert check(page) == (0.3, 30)
    own, chosen = (page.locator(f".rate .{kind}").get_attribute("d").split("L") for kind in ("own", "chosen"))
    assert {own[0], own[-1]} == {f"M{chosen[0][1:]}", chosen[-1]}, "at first, the chosen cycle is the page's own"
    page.keyboard.press("Tab")
    seen = []
    for key in ("ArrowRight", "Home", "End"):
        page.keyboard.press(key)
        seen.append(check(page))
    assert seen == [(0.4, 30), (0.01, 30), (3, 30)]
    page.keyboard.press("Tab")
    for key in ("ArrowRight", "Home", "End"):
        page.keyboard.press(key)
        seen.append(check(page))
    assert [share for _, share in seen[3:]] == [35, 5, 95]
