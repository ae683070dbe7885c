"""A new iteration: a notebook with the skeleton of another, named wherever the report lists its iterations."""

import re
from pathlib import Path

import nbformat

from mnist_lib import experiments
from mnist_lib.digests import text_digest
from mnist_lib.files import write_atomically
from mnist_lib.parameters import ParameterError, notebook_parameters
from mnist_lib.pipeline import catalogue, execution

FILL_IN = "**Fill in:**"
"""Marks in a new notebook what only its author can say. No published page may hold it."""

NAME = re.compile(r"iteration_(\d\d)_[a-z0-9]+(_[a-z0-9]+)*")

_OWN_PROSE = {
    "# Iteration": f"{FILL_IN} the idea of the change, and why it should help.",
    "## Target": f"## Target\n\n{FILL_IN} what is expected, before it is run. The bounds are still the baseline's.",
    "## What changed": f"## What changed\n\n{FILL_IN} the one change, in a sentence.",
    "The layers and their parameters:": "The layers, compared with those of the baseline: − was removed, + was added.",
    "There is no baseline yet": """\
Against the baseline, at equal effort. If the interval of the difference contains zero, the seeds' spread alone could
explain it.""",
    "**What the numbers show.**": """\
**What the numbers show.** The mean accuracy after the last epoch is {glue:text}`accuracy:.2f` %, with a 95 % interval
from {glue:text}`low:.2f` to {glue:text}`high:.2f`. The target is {glue:text}`verdict:s`. Against the baseline the
change is {glue:text}`change:+.2f` points [{glue:text}`change_low:+.2f`, {glue:text}`change_high:+.2f`]:
{glue:text}`change_in_words:s`.

**Why.** FILL_IN what explains it, and which figure shows it.

**What we would try next.** FILL_IN one thing.""".replace("FILL_IN", FILL_IN),
}
"""What replaces the prose of the source that is about the source alone, by how that prose begins.

The two entries without a mark stand for sentences of the first iteration, which has no baseline.
"""


def new_iteration(name: str, source: str) -> list[Path]:
    """Write the notebook of a new iteration and add it where the iterations are listed.

    The notebook has the cells of its source and takes over its recipe. It compares with the source, has no outputs,
    and says where prose is missing. What the source chose on the validation split is not chosen again.

    Arguments:
        name: the new notebook's, ``iteration_11_wider``, say; the number must be the next one.
        source: the iteration to start from, by its name or its number (``iteration_10``).

    Returns:
        The files written: the notebook, the table of contents, the notebooks that list the iterations.

    Raises:
        ParameterError: the name is taken or no name of a next iteration, the source is unknown, or the last iteration
            is not found where the new one belongs. Nothing is written.
    """
    known = [path.stem for path in catalogue.find("iteration_??_*")]
    _check_name(name, known)
    start = _full_name(source, known)
    contents = experiments.root() / "book" / "_toc.yml"
    target = experiments.root() / "notebooks" / f"{name}.ipynb"
    texts = {target: _notebook(name, start), contents: _listed_in_contents(contents, known[-1], name)}
    texts |= {path: _listed(path, known[-1], name) for path in catalogue.find() if known[-1] in _compared(path)}
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return list(texts)


def _check_name(name: str, known: list[str]) -> None:
    following = f"iteration_{int(known[-1].split('_')[1]) + 1:02}_"
    if name in known or (experiments.published_records() / name).exists():
        raise ParameterError(f"{name!r} exists already; a new iteration's name begins with {following}")
    if not NAME.fullmatch(name) or not name.startswith(following):
        raise ParameterError(
            f"name = {name!r}: expected {following} and words of a-z and 0-9 joined by _, such as {following}mine"
        )


def _full_name(source: str, known: list[str]) -> str:
    found = [name for name in known if source in (name, "_".join(name.split("_")[:2]))]
    if not found:
        raise ParameterError(f"there is no iteration {source!r} to start from; there are: {', '.join(known)}")
    return found[0]


def _compared(path: Path) -> list[str]:
    return list(notebook_parameters(path).get("experiments", ()))


def _notebook(name: str, source: str) -> str:
    """The text of the new notebook."""
    notebook = nbformat.read(catalogue.find(source)[0], as_version=4)
    notebook.cells = [cell for section in _sections(notebook.cells) if not _chooses(section) for cell in section]
    for number, cell in enumerate(notebook.cells):
        cell.id = text_digest(name, str(number))[:8]
        if cell.cell_type == "markdown":
            cell.source = _own_prose(cell.source, name, source)
        else:
            cell.outputs, cell.execution_count = [], None
            cell.source = cell.source.replace(", *trials.values()", "")
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = _own_parameters(cell.source, name, source)
    notebook.metadata.pop("mnist_lib", None)
    execution.clean(notebook)
    return execution.to_text(notebook)


def _sections(cells: list[nbformat.NotebookNode]) -> list[list[nbformat.NotebookNode]]:
    """The cells in groups, each from one ``##`` heading to the next."""
    sections: list[list[nbformat.NotebookNode]] = [[]]
    for cell in cells:
        if cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    return sections


def _chooses(section: list[nbformat.NotebookNode]) -> bool:
    return any(cell.source.startswith("trials = ") for cell in section)


def _own_prose(text: str, name: str, source: str) -> str:
    """Prose of the new notebook in place of prose that is about its source; other prose is shared by all iterations."""
    own = next((own for beginning, own in _OWN_PROSE.items() if text.startswith(beginning)), None)
    if own is None:
        return text
    if not text.startswith("# "):
        return own
    _, number, title = name.split("_", 2)
    badges = "\n".join(line.replace(source, name) for line in text.splitlines() if line.startswith("[!["))
    return f"# Iteration {int(number)}: {title.replace('_', ' ')}\n\n{badges}\n\n{own}"


def _own_parameters(text: str, name: str, source: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith(("learning_rates:", "candidate_seeds:"))]
    for parameter, value in (("name", name), ("baseline", source)):
        lines = [re.sub(rf'^({parameter}: str = )"[^"]*"', rf'\g<1>"{value}"', line) for line in lines]
    return "\n".join(lines)


def _listed_in_contents(path: Path, last: str, name: str) -> str:
    """The table of contents with the new page after the last iteration; the rest of the file as it is."""
    text, line = path.read_text("utf-8") if path.exists() else "", f"- file: notebooks/{last}\n"
    if text.count(line) != 1:
        raise ParameterError(f"{path} does not hold {line.strip()!r}, after which {name} belongs")
    return re.sub(rf"( *){line}", rf"\g<0>\g<1>{line.replace(last, name)}", text)


def _listed(path: Path, last: str, name: str) -> str:
    """A notebook that compares iterations, with the new one after the last; its outputs are stale then."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source, count = re.subn(rf'( *)"{last}",\n', rf'\g<0>\g<1>"{name}",\n', cell.source)
            if count != 1:
                raise ParameterError(
                    f"{path.name} does not list {last} in a line of its own, after which {name} belongs"
                )
    return execution.to_text(notebook)
