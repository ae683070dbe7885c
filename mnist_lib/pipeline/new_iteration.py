"""A new iteration: a copy of another one's notebook, with a mark on all that its author has to write."""

import os
import re
from pathlib import Path

import nbformat

from mnist_lib import experiments, records
from mnist_lib.base.digests import text_digest
from mnist_lib.base.files import write_atomically
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue, execution

FILL_IN = "**Fill in:**"
"""Marks in a new notebook what only its author can say. No published page may hold it."""

OWN = "own"
"""The tag of cells of prose that speak of their own iteration; other prose is true of any."""

NAME = re.compile(r"iteration_(\d\d)_[a-z0-9]+(_[a-z0-9]+)*")

ANALYSIS = f"""# @title What the numbers show
sentences.prose(
    f"**What the numbers show.** {{sentences.accuracy(runs)}}.",
    before and f"Against {{sentences.baseline(parameters)}} the change is {{sentences.change(before, runs)}}.",
    "**Why.** {FILL_IN} what explains it, and which figure shows it.",
    "**What we would try next.** {FILL_IN} one thing.",
)"""
"""The sentences with numbers of a new iteration."""

BOX = f"""# @title In short
sentences.prose(
    sentences.box(
        parameters,
        target,
        runs,
        before,
        question="{FILL_IN} what you want to know.",
        expected="{FILL_IN} what you expect, and why.",
        meaning="{FILL_IN} what it means.",
    )
)"""
"""What the page of a new iteration says first."""


def new_iteration(name: str, source: str) -> Path:
    """Write the notebook of a new iteration; tables and the contents find it by its name.

    It has the cells of its source and takes over its recipe and its network. It compares with the source, and has no
    outputs. Where the source speaks of itself, its words are quoted below a mark.

    Arguments:
        name: the new notebook's, ``iteration_11_wider``, say; the number must be the next one.
        source: the iteration to start from, by its name or its number (``iteration_10``).

    Raises:
        ParameterError: the name is taken or no name of a next iteration, or the source is unknown. Nothing is written.
    """
    known = [path.stem for path in catalogue.find("iteration_??_*") if not catalogue.unpublished(path)]
    _check_name(name, known)
    target = experiments.root() / "notebooks" / f"{name}.ipynb"
    write_atomically(target, _notebook(name, _full_name(source, known)).encode())
    return target


def _check_name(name: str, known: list[str]) -> None:
    following = f"iteration_{int(known[-1].split('_')[1]) + 1:02}_"
    if name in known or os.path.exists(experiments.published_records() / name):
        raise ParameterError(f"{name!r} exists already; a new iteration's name begins with {following}")
    if not (NAME.fullmatch(name) and name.startswith(following) and records.is_name(name)):
        raise ParameterError(
            f"name = {name!r}: expected {following} and words of a-z and 0-9 joined by _, such as {following}mine"
        )


def _full_name(source: str, known: list[str]) -> str:
    found = [name for name in known if source in (name, "_".join(name.split("_")[:2]))]
    if not found:
        raise ParameterError(f"there is no iteration {source!r} to start from; there are: {', '.join(known)}")
    return found[0]


def _notebook(name: str, source: str) -> str:
    """Return the new notebook as a file's text."""
    notebook = catalogue.read(experiments.root() / "notebooks" / f"{source}.ipynb")
    for number, cell in enumerate(notebook.cells):
        cell.id = text_digest(name, cell.id)[:8]
        tags = cell.metadata.get("tags", ())
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "parameters" in tags:
                for parameter, value in (("name", name), ("baseline", source)):
                    cell.source = re.sub(rf'^({parameter}: str = )"[^"]*"', rf'\g<1>"{value}"', cell.source, flags=re.M)
            elif "prose" in tags:
                cell.source = BOX if cell.source.startswith(BOX.partition("\n")[0]) else ANALYSIS
        elif number == 0:
            cell.source = _title(cell.source, name, source)
        elif OWN in tags:
            cell.source = _marked(cell.source, source)
    notebook.cells = _without_repetition(notebook.cells)
    notebook.metadata.pop("mnist_lib", None)
    execution.clean(notebook)
    return execution.to_text(notebook)


def _title(text: str, name: str, source: str) -> str:
    """Return the first cell: the new title and links, and a mark above the source's introduction."""
    _, number, title = name.split("_", 2)
    links = [line.replace(source, name) for line in text.splitlines() if source in line]
    rest = [line for line in text.splitlines()[1:] if source not in line]
    return _marked("\n".join([f"# Iteration {int(number)}: {title.replace('_', ' ')}", "", *links, "", *rest]), source)


def _marked(text: str, source: str) -> str:
    """Prose with its headings and links as they are, and the rest quoted below a mark."""
    lines = text.strip().splitlines()
    kept = [line for line in lines if line.startswith(("#", "[!", "[Source"))]
    quoted = "\n".join(f"> {line}".rstrip() for line in lines if line not in kept).strip("> \n")
    before = "\n".join(f"{line}\n" if line.startswith("#") else line for line in kept).rstrip()
    said = f"{FILL_IN} this iteration's own words; in {source} they were"
    return f"{before}\n\n{said}\n\n> {quoted}" if before else f"{said}\n\n> {quoted}"


def _without_repetition(found: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return the cells, with the analysis once: the first below its heading."""
    heading = next(number for number, cell in enumerate(found) if cell.source.startswith("## Analysis"))
    kept = next(cell for cell in found[heading:] if cell.source == ANALYSIS)
    return [cell for cell in found if cell.source != ANALYSIS or cell is kept]
