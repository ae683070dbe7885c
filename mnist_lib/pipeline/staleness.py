"""What a notebook's outputs depend on, and whether that has changed since they were made."""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat

from mnist_lib import experiments, records
from mnist_lib.digests import bytes_digest, canonical, files_digest, text_digest
from mnist_lib.experiments import Experiment
from mnist_lib.pipeline import catalogue

NUMBER_IN_PROSE = re.compile(r"\{glue[\w:]*\}`[^`]*`|\d+(?:[.,]\d+)*")
"""A glued number, as the prose refers to it, or a typed one."""


ADDRESS, INSTALLATION = re.compile(r"https?://\S+"), re.compile(r"^( *)[%!].*", re.MULTILINE)
"""What no output depends on: an address, and a line in IPython's own syntax, which installs the library."""


def current_digests(path: Path) -> dict[str, Any]:
    """What a notebook's outputs depend on, and the outputs, as digests; and the numbers in its prose."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    runs = catalogue.read_runs(path)
    modules = _library_modules(cells)
    pages = [page for module in modules if (page := module.with_suffix(".html")).exists()]  # what a module shows as is
    networks = sorted({experiment.recipe.network for experiment, _ in runs})
    return {
        "cells": text_digest(*map(_cell_text, cells)),
        "library": text_digest(
            files_digest(modules),
            *map(experiments.network_digest, networks),
            *(bytes_digest(page.read_bytes()) for page in pages),
        ),
        "records": {experiment.name: _record_digests(experiment, seeds) for experiment, seeds in runs},
        "outputs": outputs_digest(notebook),
        "numbers": _numbers_in_prose(notebook),
    }


def stale(path: Path) -> list[str]:
    """Why a notebook's outputs are not current; empty if they are."""
    stored = nbformat.read(path, as_version=4).metadata.get("mnist_lib")
    if stored is None:
        return ["it has not been executed"]
    now = current_digests(path)
    if stored.keys() != now.keys():
        return ["it was executed by another version of the library"]
    reasons = [f"its {kind} changed" for kind in ("cells", "library") if stored[kind] != now[kind]]
    reasons += [
        f"the recipe or the record of {name} changed, seed {seed}"
        for name, seed, _, _ in _differing(stored["records"], now["records"])
    ]
    if stored["outputs"] != now["outputs"]:
        reasons.append("its outputs are not those of its execution")
    before, after = ({cell: text.split() for cell, text in each["numbers"].items()} for each in (stored, now))
    first: dict[str, str] = {}  # of the changes in a cell: others may only have moved
    for cell, _, old, new in _differing(before, after):
        first.setdefault(cell, f"its prose says {new} where it said {old} (cell {cell})")
    return [*reasons, *first.values()]


def _differing(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, int, str, str]]:
    """Where two lists of one name differ: the name, the place, and what was and what is there."""
    for name in dict(before) | dict(after):
        pairs = zip_longest(before.get(name, ()), after.get(name, ()), fillvalue="nothing")
        for place, (old, new) in enumerate(pairs):
            if old != new:
                yield name, place, old, new


def _cell_text(source: str) -> str:
    try:
        return canonical(ast.parse(INSTALLATION.sub(r"\1pass", source)))
    except SyntaxError:  # other syntax of IPython's
        return source


def _library_modules(cells: list[str]) -> list[Path]:
    """The modules of the library that code imports, directly or not.

    Networks count one by one, and what trains counts through the records, so these modules are left out.
    """
    package = Path(__file__).parent
    reached: set[str] = set()
    waiting = [name for cell in cells for name in _imported(cell)]
    while waiting:
        name = waiting.pop()
        if name not in reached and (package / f"{name}.py").exists():
            reached.add(name)
            waiting += _imported((package / f"{name}.py").read_text("utf-8"))
    left_out = {"models", "reported", "training", "augmentation", "fast"}
    return [package / f"{name}.py" for name in sorted(reached - left_out)]


@cache  # every page reaches most of the modules
def _imported(source: str) -> tuple[str, ...]:
    """The modules of the library that a piece of source imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "mnist_lib":
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnist_lib."):
            names.append(node.module.split(".")[1])
    return tuple(names)


def _record_digests(experiment: Experiment, seeds: int) -> list[str]:
    """For each of the first `seeds` runs, the digest of the recipe and of the record's file."""
    files = [records.record_path(experiment.published, seed) for seed in range(seeds)]
    recipe = json.dumps(dataclasses.asdict(experiment.recipe), sort_keys=True)
    return [text_digest(recipe, bytes_digest(file.read_bytes()) if file.exists() else "missing") for file in files]


def outputs_digest(notebook: nbformat.NotebookNode) -> str:
    """The digest of all outputs: tables, glued numbers, figures with their alternative texts."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return text_digest(json.dumps(outputs, sort_keys=True))


def _numbers_in_prose(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The numbers in every cell of prose, in their order, by the cell's id."""
    prose = {each.id: ADDRESS.sub("", each.source) for each in notebook.cells if each.cell_type == "markdown"}
    return {cell: " ".join(found) for cell, text in prose.items() if (found := NUMBER_IN_PROSE.findall(text))}
