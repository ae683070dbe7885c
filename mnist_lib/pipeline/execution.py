"""Notebooks as published results: executed by papermill, cleaned, and stale when what they show has changed.

A notebook's outputs carry digests of what produced them, in its metadata: its code cells, the modules of the library
that it imports, and the records that it reads. They decide what is stale; modification times never do. The metadata
also tell whether what was published has been edited since: the outputs, and the numbers in the prose. And they name the
kind of CPU: on another one a figure may differ by a shade, and what is trained while a page is executed by more.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from mnist_lib import cells, experiments, machine
from mnist_lib.base import files, loaded
from mnist_lib.base.loaded import CodeError
from mnist_lib.pipeline import catalogue, staleness

QUICK = {
    "dataset": "digits",
    "epochs": 2,
    "seeds": 2,
    "candidate_seeds": 1,
    "continued_seeds": 1,
    "cnn_learning_rates": [0.01, 0.1, 1.0],
}
"""The parameters of the rehearsal on the embedded data."""


FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""What hides the input of a cell: the first in Colab, the second in JupyterLab."""

KEPT_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python"},
}


class OwnKernel(AsyncKernelManager):
    """A kernel of this very interpreter, whatever kernels Jupyter knows by the name ``python3``."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What starts the kernel."""
        return KernelSpec(**get_kernel_dict())


def execute(source: Path, target: Path, parameters: Mapping[str, Any] | None = None) -> None:
    """Execute a notebook through papermill; `target` is replaced only when every cell has succeeded.

    Without `parameters` this makes a published page: nothing is trained for it, and only published records are shown.
    What cells write to stderr, such as a library's warnings, is said here and is no part of the page.

    Raises:
        ParameterError: `source` is no notebook.
        papermill.PapermillExecutionError: a cell failed; `target` is as it was.
        RuntimeError: the kernel died, for want of memory, say; the same. The message names the cell.
        CodeError: what the page is made from was changed meanwhile, as where a branch is switched; the same.
    """
    import papermill  # takes a second to import
    from nbclient.exceptions import DeadKernelError

    # Of what is executed, not of a later edit.
    digests, written = (None, {}) if parameters else (staleness.current_digests(source), staleness.written(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mnist-lib-") as scratch, _publishing(digests is not None):
        executed = Path(scratch) / source.name
        output = str(executed).replace("{", "{{").replace("}", "}}")  # papermill takes braces for parameters
        options = {"kernel_manager_class": OwnKernel, "kernel_name": "python3", "progress_bar": False, "cwd": scratch}
        options |= {"start_timeout": 600, "iopub_timeout": 600}  # seconds: a busy machine is slow, not wrong
        for attempt in (1, 2):
            try:
                papermill.execute_notebook(catalogue.read(source), output, dict(parameters or {}), **options)
                break
            except DeadKernelError as error:
                raise DeadKernelError(f"{source.name}: the kernel died in {_last_begun(executed)}") from error
            except RuntimeError as error:  # another kernel may have taken its ports while it started; nothing has run
                if attempt == 2 or "before replying to kernel_info" not in str(error):
                    raise
        notebook = catalogue.read(executed)
    if digests is not None and (loaded.outdated() or staleness.written(source) != written):
        raise CodeError(
            f"{source.name}: the page, the library or a record was changed while the page was executed; it is as it "
            "was. Start the command again"
        )
    for cell in notebook.cells:
        for said in [each for each in cell.get("outputs", ()) if each.get("name") == "stderr"]:
            print(f"{source.name}: {said.text.strip()}", file=sys.stderr)
            cell.outputs.remove(said)
    clean(notebook)
    if digests is not None:
        told = staleness.noted(notebook) | {staleness.CPU: machine.kind_of_cpu()}
        notebook.metadata["mnist_lib"] = digests | told
    files.write_atomically(target, to_text(notebook).encode())


@contextmanager
def _publishing(is_page: bool) -> Iterator[None]:
    """While this is entered, kernels that start find published records only, and train nothing."""
    if is_page:
        os.environ[experiments.PUBLISHED_ONLY] = "1"
    try:
        yield
    finally:
        os.environ.pop(experiments.PUBLISHED_ONLY, None)


def _last_begun(path: Path) -> str:
    """Return the last code cell that papermill began to execute, in words; cells are counted as in ``In [3]``."""
    code = [cell for cell in catalogue.read(path).cells if cell.cell_type == "code"]
    begun = [cell for cell in code if cell.metadata.papermill.start_time]
    return f"code cell {len(begun)}, {begun[-1].source.strip().splitlines()[0]!r}" if begun else "no cell"


def quick(source: Path, target: Path) -> None:
    """Execute a notebook on the embedded data with few epochs, and say so on its first line.

    A notebook that uses no images is executed as it is.
    """
    accepted = cells.notebook_parameters(source)
    execute(source, target, {name: value for name, value in QUICK.items() if name in accepted})
    if "dataset" not in accepted:
        return
    notebook = catalogue.read(target)
    note = "```{warning}\nMade with the embedded digits of scikit-learn, not with MNIST: a rehearsal.\n```\n"
    title, _, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{title}\n\n{note}{rest}"
    files.write_atomically(target, to_text(notebook).encode())


def clean(notebook: nbformat.NotebookNode) -> None:
    """Strip, in place, all that differs between two executions with the same result.

    Goes: execution times, papermill's metadata, widget state. Stays: outputs, execution counts, cell ids, tags, the
    name of what the book folds (``mystnb``). The input of a cell with the tag ``prose`` is folded in JupyterLab and
    Colab. The metadata name the language's file extension, which nbconvert asks for and Colab does not write.
    """
    digests = notebook.metadata.get("mnist_lib")
    notebook.metadata = nbformat.from_dict(KEPT_METADATA)
    if digests is not None:
        notebook.metadata["mnist_lib"] = digests
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        folded = FOLDED if cell.cell_type == "code" and "prose" in (tags or ()) else {}
        named = {"mystnb": cell.metadata["mystnb"]} if "mystnb" in cell.metadata else {}
        cell.metadata = nbformat.from_dict(({"tags": tags} if tags else {}) | named | folded)
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)


def to_text(notebook: nbformat.NotebookNode) -> str:
    """Return the notebook as a file's text, keys sorted."""
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
