"""What a notebook's outputs depend on, and whether that has changed since they were made."""

import ast
import io
import json
import re
import tokenize
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat

from mnist_lib import records
from mnist_lib.base import loaded
from mnist_lib.base.digests import bytes_digest, canonical, plain, text_digest
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue

NUMBER = re.compile(r"\{math\}`+[^`]+`|\$\$.+?\$\$|\$(?:[^$\n]|\n(?!\s*\n))+\$|[-−+±]?\d+(?:[.,·]\d+)*", re.DOTALL)
"""A number in prose with its sign, or a formula as a whole: in it, an operator says as much as a digit."""

ADDRESS = re.compile(r"https?://[^\s()<>\"'—]+|<!--.*?-->|^%.*?$", re.DOTALL | re.MULTILINE)
"""What no output depends on, and what the book does not show."""

RENDERED = ("tags", "mystnb", "render")
"""What the book reads of a cell's metadata."""

UNHEEDED = ("kernelspec", "language_info", "mnist_lib", "colab", "accelerator")
"""What the book does not read of a notebook's metadata, or what says nothing of its results."""

CHANGED = {"cells": "its cells changed", "library": "its library changed"}
"""What is said where a digest of a page's code is no longer that of its execution."""

OTHER_VERSION = "it was executed by another version of the library"

DAMAGED = "damaged"
"""In the place of the digest of a record that cannot be read."""

CPU = "cpu"
"""Under this name a page tells on which kind of CPU it was executed. Another kind does not make it stale."""

LEFT_OUT = ("training.Trainer", "training.begin", "data.folder", "parameters.Recipe")
"""What a page does not count as its own: what trains counts through the records; where images are found does not."""


def current_digests(path: Path) -> dict[str, Any]:
    """Return what a notebook's outputs depend on, and the outputs, as digests; and the numbers in its prose."""
    return _digests(path, catalogue.read(path))


def _digests(path: Path, notebook: nbformat.NotebookNode) -> dict[str, Any]:
    with _not_too_deep(path):
        code = _code(notebook)
        return {
            "cells": _cells_digest(code),
            "library": _library_digest([node for cell in code if not isinstance(cell, str) for node in cell.body]),
            "records": {run.name: _record_digests(run, seeds) for run, seeds in catalogue.read_runs(path)},
        } | noted(notebook)


@contextmanager
def _not_too_deep(path: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RecursionError) as error:
        raise ParameterError(f"{path}: code in it is nested too deeply: write it in several statements") from error


def stale(path: Path) -> list[str]:
    """Say why a notebook's outputs are not current; empty if they are."""
    notebook = catalogue.read(path)
    stored = _stored(path, notebook)
    if stored is None:
        return ["it has not been executed"]
    now = _digests(path, notebook)
    if stored.keys() != now.keys() | {CPU}:
        return [OTHER_VERSION]
    reasons = [why for kind, why in CHANGED.items() if stored[kind] != now[kind]]
    reasons += [
        f"the recipe or the record of {name} changed, seed {seed}"
        for name, seed, _, _ in _differing(stored["records"], now["records"])
    ]
    return reasons + _edits(stored, now)


def written(path: Path) -> dict[Path, tuple[int, int]]:
    """Return when each file was written that a page is made from, and its size: to tell whether one is, meanwhile.

    These are the page's own file, the library's, and the records that it shows. Over longer times than an execution,
    digests decide.
    """
    runs = [(run.published, seed) for run, seeds in catalogue.read_runs(path) for seed in range(seeds)]
    library = (file for kind in ("py", "html") for file in Path(__file__).parents[1].rglob(f"*.{kind}"))
    files = [path, *library, *(records.record_path(folder, seed) for folder, seed in runs)]
    return {file: (found.st_mtime_ns, found.st_size) for file in files if file.exists() for found in [file.stat()]}


def edited(path: Path) -> list[str]:
    """Say what of a page was changed by hand after its execution: outputs, their looks, numbers in words, or code."""
    notebook = catalogue.read(path)
    stored, now = _stored(path, notebook), noted(notebook)
    if stored is None:
        return ["it has outputs, and no execution has noted them"] if any(map(_outputs, notebook.cells)) else []
    if not now.keys() | {"cells"} <= stored.keys():
        return [OTHER_VERSION]
    with _not_too_deep(path):
        is_edited = stored["cells"] != _cells_digest(_code(notebook))
    return _edits(stored, now) + [CHANGED["cells"]] * is_edited


def noted(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Return what an edit by hand would change: digests of the outputs and their looks, and what is said in numbers."""
    return {"outputs": outputs_digest(notebook), "looks": _looks(notebook), "numbers": _numbers_in_words(notebook)}


def _edits(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    reasons = []
    if stored["outputs"] != now["outputs"]:
        reasons.append("its outputs are not those of its execution")
    if stored["looks"] != now["looks"]:
        reasons.append("what the book reads of its metadata, tags among them, or a cell of raw text was changed")
    before, after = ({cell: text.split() for cell, text in each["numbers"].items()} for each in (stored, now))
    first: dict[str, str] = {}  # of the changes in a cell: others may only have moved
    for cell, _, old, new in _differing(before, after):
        first.setdefault(cell, f"it says {new} where it said {old} (cell {cell})")
    return [*reasons, *first.values()]


def altered(path: Path) -> list[str]:
    """Name the records of a page whose results are others than those it was made with, though their recipes are not.

    Training gives such a record only where the one before was lost; anything else is an alteration by hand.
    """
    stored = _stored(path, catalogue.read(path))
    if stored is None:
        return []
    now = {run.name: _record_digests(run, seeds) for run, seeds in catalogue.read_runs(path)}
    return [
        f"{name} seed {seed}"
        for name, seed, old, new in _differing(stored.get("records", {}), now)
        if isinstance(old, list) and isinstance(new, list) and old[0] == new[0]
        if not {None, DAMAGED} & {old[1], new[1]}  # what is missing is said elsewhere
    ]


def _stored(path: Path, notebook: nbformat.NotebookNode) -> dict[str, Any] | None:
    """Return what a page says of its execution; None if it has not been executed.

    Raises:
        ParameterError: no version of the library has written that.
    """
    stored = notebook.metadata.get("mnist_lib")
    if stored is None:
        return None
    try:
        pairs = [pair for runs in stored.get("records", {}).values() for pair in runs]
        texts = [*stored.get("numbers", {}).values(), *(each for pair in pairs for each in pair if each is not None)]
        holds = {*map(len, pairs)} <= {2} and all(isinstance(each, str) for each in texts)
    except (AttributeError, TypeError):
        holds = False
    if not holds:
        raise ParameterError(
            f"{path}: no execution has written what is under mnist_lib in its metadata: take it back with "
            f"`git restore`, or execute it with `mnist-lib run {path.stem} --accept --force`"
        )
    return stored


def _differing(
    before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, int, Any, Any]]:
    """Where two lists of one name differ: the name, the place, and what was and what is there."""
    for name in dict(before) | dict(after):
        pairs = zip_longest(before.get(name, ()), after.get(name, ()), fillvalue="nothing")
        for place, (old, new) in enumerate(pairs):
            if old != new:
                yield name, place, old, new


def _library_digest(statements: Sequence[ast.stmt]) -> str:
    """Return the digest of what cells use of the library, and of the pages that it shows as they are."""
    digest, modules = loaded.reached(loaded.imported(statements), LEFT_OUT)
    root = Path(__file__).parents[1]
    files = [root / f"{name.partition('.')[2].replace('.', '/')}.html" for name in sorted(modules)]
    return text_digest(digest, *(bytes_digest(file.read_bytes()) for file in files if file.exists()))


def _code(notebook: nbformat.NotebookNode) -> list[ast.Module | str]:
    # Lines in IPython's own syntax install the library: no output depends on them.
    return [_parsed(plain(cell.source)) for cell in notebook.cells if cell.cell_type == "code"]


def _cells_digest(code: Sequence[ast.Module | str]) -> str:
    return text_digest(*(cell if isinstance(cell, str) else canonical(cell) for cell in code))


def _parsed(cell: str) -> ast.Module | str:
    try:
        return ast.parse(cell)
    except SyntaxError:  # other syntax of IPython's
        return cell


def _record_digests(run: Experiment, seeds: int) -> list[list[str | None]]:
    """For each of the first `seeds` runs, the digest of all that decides its result, and that of its results.

    The second is None where there is no record, or only one of another recipe.
    """
    found: list[list[str | None]] = []
    digest, digests = run.digest, run.digests
    for seed in range(seeds):
        file = records.record_path(run.published, seed)
        results = None
        if file.exists():
            try:
                record = catalogue.record(file)
                results = record.results_digest if {*run.differences(record, digests)} <= catalogue.CODE_ONLY else None
            except records.RecordError:
                results = DAMAGED
        found.append([digest, results])
    return found


def outputs_digest(notebook: nbformat.NotebookNode) -> str:
    """Return the digest of all outputs: tables, sentences, figures with their alternative texts."""
    outputs = [_outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    return text_digest(json.dumps(outputs, sort_keys=True))


def _outputs(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return cell.get("outputs", [])


def _looks(notebook: nbformat.NotebookNode) -> str:
    """Return the digest of what decides how the book shows a page: metadata that it reads, and cells of raw text."""
    whole = {name: value for name, value in notebook.metadata.items() if name not in UNHEEDED}
    cells = [
        [cell.id, {name: cell.metadata[name] for name in RENDERED if cell.metadata.get(name)}]
        for cell in notebook.cells
    ]
    raw = [[cell.id, cell.source, cell.metadata] for cell in notebook.cells if cell.cell_type == "raw"]
    return text_digest(json.dumps([whole, [each for each in cells if each[1]], raw], sort_keys=True))


def _numbers_in_words(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Return the numbers and formulas in prose, and in comments and docstrings, in their order, by the cell's id."""
    words = {cell.id: cell.source if cell.cell_type == "markdown" else _remarks(cell.source) for cell in notebook.cells}
    plain_words = {cell: unicodedata.normalize("NFKC", ADDRESS.sub("", text)) for cell, text in words.items()}
    found = {cell: ["".join(each.split()) for each in NUMBER.findall(text)] for cell, text in plain_words.items()}
    return {cell: " ".join(each) for cell, each in found.items() if each}


def _remarks(code: str) -> str:
    """Return the comments and the docstrings of code, which its digest leaves out; of what cannot be read, all."""
    begins, found = True, []
    try:
        for token in tokenize.generate_tokens(io.StringIO(plain(code)).readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins):
                found.append(token.string)
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    except (tokenize.TokenError, SyntaxError):
        return code
    return "\n".join(found)
