"""How a page comes to be published, step by step: papermill only copies it here. Other tests have it execute pages."""

import datetime
import os
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from mnist_lib import cells, experiments, machine
from mnist_lib.base import loaded
from mnist_lib.base.loaded import CodeError
from mnist_lib.pipeline import catalogue, execution, staleness

code_cell, prose_cell = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def stream(name: str, text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


class Copier:
    """What stands in papermill's place: it notes how it is called, lets `meanwhile` happen, and copies the notebook."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[dict] = []
        self.failures: list[Exception] = []
        """What the next calls end with."""
        self.outputs: list = []
        """Of the last cell."""
        self.meanwhile = lambda: None
        patch.setattr(papermill, "execute_notebook", self)

    def __call__(self, notebook: nbformat.NotebookNode, output: str, parameters: dict, **options: object) -> None:
        published_only = os.environ.get(experiments.PUBLISHED_ONLY)
        self.calls.append(options | {"output": output, "parameters": parameters, "published_only": published_only})
        target = Path(output.replace("{{", "{").replace("}}", "}"))
        assert target.parent.is_dir() and options["cwd"] == str(target.parent)
        self.meanwhile()
        notebook.metadata["papermill"] = {"duration": 1.0}
        for number, cell in enumerate(each for each in notebook.cells if each.cell_type == "code"):
            started = datetime.datetime.now().isoformat() if number < 2 else None
            cell.metadata["papermill"] = {"start_time": started}
        if notebook.cells[-1].cell_type == "code":
            notebook.cells[-1].outputs = self.outputs
        nbformat.write(notebook, target)
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def copier(monkeypatch) -> Copier:
    return Copier(monkeypatch)


@pytest.fixture
def page(tmp_path) -> Path:
    cells = [
        prose_cell("# A page\n\nIt has 1 number."),
        code_cell('name: str = "page"\nepochs: int = 5', metadata={"tags": ["parameters"]}),
        code_cell("\n1 + 1\n2", metadata={"tags": ["prose"]}),
        code_cell("3"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path := tmp_path / "page.ipynb")
    return path


def test_a_page_holds_what_it_was_made_of_and_what_it_shows(copier, page, capsys):
    copier.outputs = [
        stream("stdout", "a"),
        stream("stderr", " beware \n"),
        stream("stdout", "b"),
        stream("stderr", "!"),
    ]
    before = staleness.current_digests(page)
    execution.execute(page, target := page.parent / "new" / "folder" / "page.ipynb")
    made = nbformat.read(target, as_version=4)
    assert [each.text for each in made.cells[-1].outputs] == ["ab"]
    assert capsys.readouterr().err == "page.ipynb: beware\npage.ipynb: !\n"
    noted = made.metadata.pop("mnist_lib")
    assert noted == before | {"outputs": staleness.outputs_digest(made), staleness.CPU: machine.kind_of_cpu()}
    assert noted["outputs"] != before["outputs"]
    assert made.metadata == execution.KEPT_METADATA
    assert target.read_text("utf-8") == execution.to_text(nbformat.read(target, as_version=4))


def test_papermill_is_called_with_a_folder_of_its_own_that_goes(copier, page):
    execution.execute(page, page)
    execution.execute(page, page, {})
    execution.execute(page, page, given := {"epochs": 1})
    first, second, third = copier.calls
    options = {"kernel_name": "python3", "progress_bar": False, "start_timeout": 600, "iopub_timeout": 600}
    for call in copier.calls:
        assert call.items() >= options.items() and call["kernel_manager_class"] is execution.OwnKernel
        assert Path(call["cwd"]).name.startswith("mnist-lib-") and not Path(call["cwd"]).exists()
    assert first["parameters"] == second["parameters"] == {} and third["parameters"] == given
    assert third["parameters"] is not given, "papermill may change what it is given"
    assert [bool(call["published_only"]) for call in copier.calls] == [True, True, False]
    assert experiments.PUBLISHED_ONLY not in os.environ


def test_what_has_parameters_of_its_own_is_no_page(copier, page):
    execution.execute(page, page, {"epochs": 1})
    assert "mnist_lib" not in nbformat.read(page, as_version=4).metadata


def test_a_failure_leaves_the_target_and_no_trace(copier, page):
    copier.failures = [ValueError("a fault"), RuntimeError("another fault")]
    before = page.read_bytes()
    for error in (ValueError, RuntimeError):
        with pytest.raises(error, match="fault"):
            execution.execute(page, page)
    assert page.read_bytes() == before and len(copier.calls) == 2
    assert experiments.PUBLISHED_ONLY not in os.environ
    assert not any(Path(call["cwd"]).exists() for call in copier.calls)


def test_a_kernel_that_did_not_start_is_started_once_more(copier, page):
    """Nothing has run by then."""
    no_kernel = "Kernel died before replying to kernel_info"
    copier.failures = [RuntimeError(no_kernel)]
    execution.execute(page, page)
    copier.failures = [RuntimeError(no_kernel), RuntimeError(no_kernel), RuntimeError(no_kernel)]
    with pytest.raises(RuntimeError, match=no_kernel):
        execution.execute(page, page)
    assert len(copier.calls) == 4


def test_a_kernel_that_dies_is_told_with_the_cell_that_had_begun(copier, page):
    copier.failures = [DeadKernelError("Kernel died")]
    with pytest.raises(DeadKernelError, match=r"^page\.ipynb: the kernel died in code cell 2, '1 \+ 1'$") as caught:
        execution.execute(page, page)
    assert str(caught.value.__cause__) == "Kernel died" and len(copier.calls) == 1


def test_a_kernel_that_dies_before_the_first_cell_says_so(copier, page):
    notebook = nbformat.read(page, as_version=4)
    del notebook.cells[1:]
    nbformat.write(notebook, page)
    copier.failures = [DeadKernelError("Kernel died")]
    with pytest.raises(DeadKernelError, match=r"^page\.ipynb: the kernel died in no cell$"):
        execution.execute(page, page, {"epochs": 1})


@pytest.mark.parametrize("is_page", [True, False])
def test_what_is_edited_meanwhile_is_not_published(copier, page, is_page):
    """With parameters of its own it is no page, and shows what it was made with."""
    copier.meanwhile = lambda: page.write_text(page.read_text("utf-8") + "\n", "utf-8")
    parameters, target = None if is_page else {"epochs": 1}, page.parent / "target.ipynb"
    if is_page:
        with pytest.raises(CodeError, match=r"^page\.ipynb: the page, the library or a record was changed while"):
            execution.execute(page, target, parameters)
    else:
        execution.execute(page, target, parameters)
    assert target.exists() != is_page


def test_a_library_that_is_not_the_one_that_was_loaded_makes_no_page(copier, page, monkeypatch):
    monkeypatch.setattr(loaded, "outdated", lambda: ["mnist_lib.data"])
    with pytest.raises(CodeError, match=r"Start the command again$"):
        execution.execute(page, page)
    execution.execute(page, page, {"epochs": 1})


def test_the_kernel_is_of_this_interpreter():
    spec = execution.OwnKernel().kernel_spec
    assert spec.argv[0] == sys.executable and "{connection_file}" in spec.argv


# -- rehearsals


@pytest.mark.parametrize(("more", "is_rehearsal"), [('dataset: str = "mnist"', True), ("rate: float = 0.1", False)])
def test_a_rehearsal_takes_what_the_page_accepts_and_says_so(copier, page, more, is_rehearsal):
    notebook = nbformat.read(page, as_version=4)
    notebook.cells[1].source += f"\n{more}\nseeds: int = 5"
    nbformat.write(notebook, page)
    execution.quick(page, target := page.parent / "target.ipynb")
    given = {"epochs": 2, "seeds": 2} | ({"dataset": "digits"} if is_rehearsal else {})
    assert copier.calls[0]["parameters"] == given
    note = "```{warning}\nMade with the embedded digits of scikit-learn, not with MNIST: a rehearsal.\n```\n"
    made = nbformat.read(target, as_version=4)
    assert made.cells[0].source == (
        f"# A page\n\n{note}\nIt has 1 number." if is_rehearsal else "# A page\n\nIt has 1 number."
    )
    assert target.read_text("utf-8") == execution.to_text(made)


def test_a_rehearsal_gives_nothing_that_no_page_accepts():
    accepted = {name for path in catalogue.find() for name in cells.notebook_parameters(path)}
    assert execution.QUICK.keys() <= accepted


# -- what is left of an execution


def test_what_chance_left_goes_and_what_a_page_is_stays():
    cells = [
        prose_cell("a", metadata={"tags": ["prose"], "jp-MarkdownHeadingCollapsed": True}),
        code_cell("b", execution_count=7, metadata={"tags": ["prose", "x"], "mystnb": {"m": 1}, "execution": {}}),
        code_cell("c", metadata={"tags": [], "scrolled": True}),
        code_cell("d", metadata={"tags": ["parameters"], "papermill": {}}),
    ]
    texts = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stderr", "d"), ("stdout", "e")]
    shown = nbformat.v4.new_output("display_data", data={"text/plain": "f"})
    again = stream("stdout", "g")
    cells[1].outputs = [*(stream(*each) for each in texts), shown, nbformat.from_dict(dict(shown)), again]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"widgets": {}, "mnist_lib": {"cells": "1"}, "authors": [{}]}
    )
    ids = [cell.id for cell in cells]
    execution.clean(notebook)
    assert notebook.metadata == execution.KEPT_METADATA | {"mnist_lib": {"cells": "1"}}
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert [cell.metadata for cell in notebook.cells] == [
        {"tags": ["prose"]},
        {"tags": ["prose", "x"], "mystnb": {"m": 1}} | folded,
        {},
        {"tags": ["parameters"]},
    ]
    outputs = notebook.cells[1].outputs
    assert [(each.name, each.text) for each in outputs[:3]] == [("stdout", "ab"), ("stderr", "cd"), ("stdout", "e")]
    assert outputs[3:] == [shown, shown, again]
    assert notebook.cells[1].execution_count == 7 and [cell.id for cell in notebook.cells] == ids
    notebook.metadata.pop("mnist_lib")
    execution.clean(notebook)
    assert notebook.metadata == execution.KEPT_METADATA and "tags" not in execution.KEPT_METADATA


def test_the_text_of_a_notebook_has_its_keys_in_order_and_ends_with_its_line():
    notebook = nbformat.v4.new_notebook(cells=[code_cell("1", id="one")], metadata={"b": 1, "a": 2})
    text = execution.to_text(notebook)
    assert text.index('"a": 2') < text.index('"b": 1')
    assert text.endswith("}\n") and nbformat.reads(text, as_version=4) == notebook
