"""Notebooks as published results: executed by papermill, cleaned, and stale when what they show has changed.

A notebook's outputs carry digests of what produced them, in its metadata: its code cells, the modules of the library
that it imports, and the records that it reads. They decide what is stale; modification times never do. The metadata
also tell whether what was published has been edited since: the outputs, and the numbers in the prose.
"""

import ast
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat

from mnist_lib import experiment, records, studies
from mnist_lib.digests import bytes_digest, canonical, files_digest, text_digest
from mnist_lib.experiment import Experiment
from mnist_lib.parameters import NotebookParameters, ParameterError, SweepParameters, notebook_parameters, validate

QUICK = {
    "dataset": "digits",
    "epochs": 2,
    "seeds": 2,
    "candidate_seeds": 1,
    "continued_seeds": 1,
    "cnn_learning_rates": [0.01, 0.1, 1.0],
}
"""The parameters of the rehearsal on the embedded data."""

NUMBER_IN_PROSE = re.compile(r"\{glue[\w:]*\}`[^`]*`|\d+(?:[.,]\d+)*")
"""A glued number, as the prose refers to it, or a typed one."""

ADDRESS, INSTALLATION = re.compile(r"https?://\S+"), re.compile(r"^( *)[%!].*", re.MULTILINE)
"""What no output depends on: an address, and a line in IPython's own syntax, which installs the library."""

KEPT_METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def find(pattern: str = "*") -> list[Path]:
    """The notebooks whose name matches `pattern` (a glob, a name, or a path), in order.

    Raises:
        ParameterError: none matches.
    """
    folder, given = experiment.root() / "notebooks", Path(pattern)
    found = sorted(folder.glob(f"{given.name.removesuffix('.ipynb')}.ipynb"))
    if not found or given.parent.resolve() not in (folder.resolve(), Path.cwd()):
        known = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb")))
        raise ParameterError(f"no notebook matches {pattern!r}; there are: {known}")
    return found


def published_runs(path: Path) -> list[tuple[Experiment, int]]:
    """The experiments whose records a notebook makes, with how many seeds each; none for a notebook that only reads."""
    values = notebook_parameters(path)
    if "cnn_learning_rates" in values:
        swept = validate(SweepParameters, values)
        return [(study, swept.seeds) for study in studies.sweep(swept).values()]
    if "network" not in values:
        return []
    parameters = validate(NotebookParameters, values)
    trials = [(study, parameters.candidate_seeds) for study in studies.candidates(parameters).values()]
    again = [(studies.continued(parameters), parameters.continued_seeds)] if parameters.continued_seeds else []
    return [*trials, (studies.study(parameters), parameters.seeds), *again]


def read_runs(path: Path) -> list[tuple[Experiment, int]]:
    """The experiments whose records a notebook shows: its own, its baseline's, or those that it lists."""
    values = notebook_parameters(path)
    names = [*values.get("experiments", ()), values.get("baseline", "none")]
    others = [run for name in names if name != "none" for run in published_runs(find(name)[0])]
    return published_runs(path) + [(study, seeds) for study, seeds in others if study.name in names]


def missing_runs(path: Path, seeds: Sequence[int] | None = None) -> list[tuple[Experiment, int, str]]:
    """The runs that a notebook publishes and that have no valid record: experiment, seed and why.

    A run that was killed when its record was written, before it had tidied up, counts as well: training it does that.
    With `seeds`, these seeds of the notebook's own experiment are looked at instead, or of all if none has its name.
    """
    wanted = [(study, range(count)) for study, count in published_runs(path)]
    if seeds is not None:
        own = [study for study, _ in wanted if study.name == path.stem] or [study for study, _ in wanted]
        wanted = [(study, seeds) for study in own]
    missing = []
    for study, numbers in wanted:
        left_behind = records.left_behind(study.published)
        for seed in numbers:
            file = records.record_path(study.published, seed)
            reasons = study.differences(records.read(file)) if file.exists() else ["there is no record"]
            if not reasons and file.stem in left_behind:
                reasons = [f"a process that was killed left {', '.join(left_behind[file.stem])}"]
            if reasons:
                missing.append((study, seed, "; ".join(reasons)))
    return missing


def current_digests(path: Path) -> dict[str, Any]:
    """What a notebook's outputs depend on, and the outputs, as digests; and the numbers in its prose."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    runs = read_runs(path)
    modules = _library_modules(cells)
    pages = [page for module in modules if (page := module.with_suffix(".html")).exists()]  # what a module shows as is
    networks = sorted({study.config.network for study, _ in runs})
    return {
        "cells": text_digest(*map(_cell_text, cells)),
        "library": text_digest(
            files_digest(modules),
            *map(experiment.network_digest, networks),
            *(bytes_digest(page.read_bytes()) for page in pages),
        ),
        "records": {study.name: _record_digests(study, seeds) for study, seeds in runs},
        "outputs": _outputs_digest(notebook),
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


def execute(source: Path, target: Path, parameters: Mapping[str, Any] | None = None) -> None:
    """Execute a notebook through papermill; `target` is replaced only when every cell has succeeded.

    Raises:
        papermill.PapermillExecutionError: a cell failed; `target` is as it was.
        RuntimeError: the kernel died, for want of memory, say; the same. The message names the cell.
    """
    import papermill  # takes a second to import
    from nbclient.exceptions import DeadKernelError

    digests = None if parameters else current_digests(source)  # of what is executed, not of a later edit
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mnist-lib-") as scratch:
        executed = Path(scratch) / source.name
        options = {"kernel_name": "python3", "progress_bar": False, "cwd": scratch}
        options |= {"start_timeout": 600, "iopub_timeout": 600}  # seconds: a busy machine is slow, not wrong
        for attempt in (1, 2):
            try:
                papermill.execute_notebook(str(source), str(executed), dict(parameters or {}), **options)
                break
            except DeadKernelError as error:
                raise DeadKernelError(f"{source.name}: the kernel died in {_last_begun(executed)}") from error
            except RuntimeError as error:  # another kernel may have taken its ports while it started; nothing has run
                if attempt == 2 or "before replying to kernel_info" not in str(error):
                    raise
        notebook = nbformat.read(executed, as_version=4)
    clean(notebook)
    if digests is not None:
        notebook.metadata["mnist_lib"] = digests | {"outputs": _outputs_digest(notebook)}
    records.write_atomically(target, to_text(notebook).encode())


def _last_begun(path: Path) -> str:
    """The last code cell that papermill began to execute, in words; cells are counted as in ``In [3]``."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    begun = [cell for cell in cells if cell.metadata.papermill.start_time]
    return f"code cell {len(begun)}, {begun[-1].source.strip().splitlines()[0]!r}" if begun else "no cell"


def quick(source: Path, target: Path) -> None:
    """Execute a notebook on the embedded data with few epochs, and say so on its first line.

    A notebook that uses no images is executed as it is.
    """
    accepted = notebook_parameters(source)
    execute(source, target, {name: value for name, value in QUICK.items() if name in accepted})
    if "dataset" not in accepted:
        return
    notebook = nbformat.read(target, as_version=4)
    note = "```{warning}\nMade with the embedded digits of scikit-learn, not with MNIST: a rehearsal.\n```\n"
    title, _, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{title}\n\n{note}{rest}"
    records.write_atomically(target, to_text(notebook).encode())


def clean(notebook: nbformat.NotebookNode) -> None:
    """Strip, in place, all that differs between two executions with the same result.

    Goes: execution times, papermill's metadata, widget state. Stays: outputs, execution counts, cell ids, tags.
    """
    digests = notebook.metadata.get("mnist_lib")
    notebook.metadata = nbformat.from_dict(KEPT_METADATA | {"language_info": {"name": "python"}})
    if digests is not None:
        notebook.metadata["mnist_lib"] = digests
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)


def to_text(notebook: nbformat.NotebookNode) -> str:
    """The notebook as a file's text, keys sorted."""
    return nbformat.writes(notebook, version=4) + "\n"


def _joined_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Adjacent pieces of one stream as one output: where they were cut is chance."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


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


def _record_digests(study: Experiment, seeds: int) -> list[str]:
    """For each of the first `seeds` runs, the digest of the recipe and of the record's file."""
    files = [records.record_path(study.published, seed) for seed in range(seeds)]
    recipe = json.dumps(dataclasses.asdict(study.config), sort_keys=True)
    return [text_digest(recipe, bytes_digest(file.read_bytes()) if file.exists() else "missing") for file in files]


def _outputs_digest(notebook: nbformat.NotebookNode) -> str:
    """The digest of all outputs: tables, glued numbers, figures with their alternative texts."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return text_digest(json.dumps(outputs, sort_keys=True))


def _numbers_in_prose(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The numbers in every cell of prose, in their order, by the cell's id."""
    prose = {each.id: ADDRESS.sub("", each.source) for each in notebook.cells if each.cell_type == "markdown"}
    return {cell: " ".join(found) for cell, text in prose.items() if (found := NUMBER_IN_PROSE.findall(text))}
