"""Softmax at a temperature: against torch, and as the browser computes it."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.backprop import temperature

LOGITS = [[2.0, -1.0, 0.5, 0, 0, 0, 0, 0, 0, 7.25], [1000.0, 999.0, *[-1000.0] * 8]]


@given(st.lists(st.floats(-500, 500), min_size=10, max_size=10), st.floats(0.1, 10))
def test_softmax_is_torchs(logits, t):
    ours = temperature.softmax(logits, t)
    theirs = torch.softmax(torch.tensor(logits, dtype=torch.float64) / t, 0)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_without_a_browser_there_is_a_picture_with_words():
    data, metadata = temperature.explorer(LOGITS, [9, 0])._repr_mimebundle_()
    assert {"text/html", "image/png", "text/plain"} == set(data)
    assert f"at 1 the largest is {temperature.softmax(LOGITS[0]).max():.3f}" in metadata["image/png"]["alt"]
    with pytest.raises(ValueError, match="at least one image"):
        temperature.explorer([], [])


def test_the_slider_shows_what_softmax_gives(browser, tmp_path):
    """By keyboard, for every image, and with numbers that would overflow."""
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><html lang=en>{temperature.explorer(LOGITS, [9, 0]).html}", "utf-8")
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    slider = page.get_by_label("Temperature T")
    for number, logits in enumerate(LOGITS):
        page.get_by_label("Image").select_option(str(number))
        for key in ("Home", "End", "ArrowLeft"):
            slider.press(key)
            t = 10 ** (float(slider.input_value()) / 100)
            expected = temperature.softmax(logits, t)
            shown = page.locator("tbody tr").evaluate_all(
                "rows => rows.map(row => parseFloat(row.cells[2].textContent))"
            )
            assert shown == pytest.approx(100 * expected, abs=0.051)
            said = page.get_by_role("status").inner_text()
            assert (
                re.search(rf"the answer is {expected.argmax()}, with", said)
                and f"the label is {[9, 0][number]}" in said
            )
    assert not problems
    page.close()
