"""What nbval compares, made strict for `make test`: all that a page holds, figures and their metadata too."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from functools import cache, partial

import nbformat
import numpy as np
import pytest
from PIL import Image

from mnist_lib import data, machine
from mnist_lib.pipeline import staleness

Outputs = Sequence[nbformat.NotebookNode]

READS_IMAGES = re.compile(r"evaluation_images|inside\.")
"""What is in the code of a cell that shows images of MNIST: without them it draws empty frames."""


TRAINS = "training_from_scratch"
"""The notebook that trains while it is executed: its numbers are those of a kind of CPU, and of the seed."""

READS_ALL = "second_look"
"""The notebook whose numbers are all computed from MNIST's images: without them there is nothing to compare."""

NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def compare_all(items: Sequence[pytest.Item]) -> None:
    """Let nbval's cells compare everything; other tests stay as they are."""
    for item in items:
        if (compare := getattr(item, "compare_outputs", None)) is not None:
            item.compare_outputs = partial(_compare, item, compare)


def _compare(
    item: pytest.Item, compare: Callable[[Outputs, Outputs], bool], fresh: Outputs, published: Outputs
) -> bool:
    """In the place of nbval's method: the same comparison, and then that of the whole outputs."""
    if TRAINS in item.nodeid and _cpu() != item.parent.nb.metadata["mnist_lib"][staleness.CPU]:
        return without_numbers(fresh) == without_numbers(published)
    if READS_ALL in item.nodeid and not data.have_mnist():
        return True
    if not compare(fresh, published):
        return False
    if READS_IMAGES.search(item.cell.source) and not data.have_mnist():
        return True
    if difference := unlike([nbformat.from_dict(each) for each in fresh], published):
        item.comparison_traceback.append(difference)
    return not difference


_cpu = cache(machine.kind_of_cpu)


def without_numbers(outputs: Outputs) -> list[dict[str, str]]:
    """Return the outputs of a cell as text, without numbers; of a picture, that there is one."""
    found = []
    for each in map(nbformat.from_dict, outputs):
        texts = {"text": each["text"]} if each.get("name") == "stdout" else dict(each.get("data", {}))
        if each.get("name") != "stderr":
            found.append(
                {kind: "" if kind == "image/png" else NUMBER.sub("#", str(text)) for kind, text in texts.items()}
            )
    return found


def unlike(fresh: Outputs, published: Outputs) -> str:
    """Say in what the outputs of a cell differ, byte for byte; nothing if they do not.

    What goes to stderr is no part of a page. A line in a figure may be a shade lighter, as on another kind of CPU: a
    CPU's name says too little to know where it may not.
    """
    fresh = [each for each in fresh if each.get("name") != "stderr"]
    if len(fresh) != len(published):
        return f"{len(fresh)} outputs, and not {len(published)}"
    for number, (after, before) in enumerate(zip(fresh, published, strict=True)):
        for key in sorted({*after, *before} - {"data", "execution_count"}):
            if after.get(key) != before.get(key):
                return f"output {number}: {key} is {after.get(key)!r:.200}, and not {before.get(key)!r:.200}"
        one, other = after.get("data", {}), before.get("data", {})
        for kind in sorted({*one, *other}):
            is_picture = kind == "image/png" and kind in one and kind in other
            alike = is_picture and looks_like(one[kind], other[kind])
            if one.get(kind) != other.get(kind) and not alike:
                return f"output {number}: another {kind}"
    return ""


def looks_like(one: str, other: str) -> bool:
    """Whether two PNG files in base64 are the same, but for the shades of a few pixels."""
    before, after = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB"), int) for each in (one, other)
    )
    return before.shape == after.shape and bool((np.abs(before - after) > 8).mean() < 1e-4)
