"""What a page notes of its execution, and how it is told by that what has changed since. In pages of a few cells."""

import importlib
import json
import shutil
from pathlib import Path

import nbformat
import pytest

from mnist_lib import experiments, records
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue, staleness
from mnist_lib.records import record_path
from support import ROOT, edit, reseal

NAME = "iteration_02_light_skeleton"
PAGE = ROOT / "notebooks" / f"{NAME}.ipynb"
code_cell, prose_cell = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "page.ipynb"


def write(path: Path, *cells: nbformat.NotebookNode, noted: object = None) -> None:
    """Write a page; cells keep their ids from one time to the next."""
    parameters = code_cell(f"name: str = {path.stem!r}", metadata={"tags": ["parameters"]})
    for number, cell in enumerate(cells := (parameters, *cells)):
        cell["id"] = f"cell-{number}"
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    if noted is not None:
        notebook.metadata["mnist_lib"] = noted
    nbformat.write(notebook, path)


def digests(path: Path, *sources: str) -> dict:
    """What a page with this code in its cells depends on."""
    write(path, *map(code_cell, sources))
    return staleness.current_digests(path)


# -- code


def test_code_counts_that_computes_something_else(path):
    before = digests(path, "a = 1 + 2\nprint(a)", "1")
    for alike in ("a = (1 + 2)  # three\n\nprint(a)", '"""Three."""\na = 1 + 2\nprint(a,)'):
        assert digests(path, alike, "1") == before
    for other in (("a = 1 - 2\nprint(a)", "1"), ("a = 1 + 2\nprint(a)", "2"), ("a = 1 + 2", "print(a)", "1")):
        assert digests(path, *other)["cells"] != before["cells"]
        assert digests(path, *other)["library"] == before["library"]


def test_which_line_of_ipythons_a_cell_has_does_not_count(path):
    assert digests(path, "%pip install x\n1") == digests(path, "!pip install y\n1") != digests(path, "%pip\n2")


def test_a_cell_in_another_syntax_counts_by_its_text(path):
    found = [digests(path, "import mnist_lib", cell) for cell in ("?data", "?data", "?data ")]
    assert found[0] == found[1] != found[2]


def test_prose_is_no_code(path):
    write(path, code_cell("1"), prose_cell("a = 1"))
    assert staleness.current_digests(path)["cells"] == digests(path, "1")["cells"]


@pytest.mark.parametrize("cell", ["-" * 5000 + "1", "+".join("1" * 20_000)])
def test_code_that_is_nested_too_deeply_is_refused_by_its_page(path, cell):
    said = f"^{path}: code in it is nested too deeply: write it in several"
    noted = digests(path, "1")
    with pytest.raises(ParameterError, match=said):
        digests(path, cell)
    write(path, code_cell(cell), noted=noted)
    with pytest.raises(ParameterError, match=said):
        staleness.edited(path)


def test_of_the_library_counts_what_a_page_uses(path):
    none, load, have, module = (
        digests(path, f"from mnist_lib import data\n{use}")["library"]
        for use in ("1", "data.load", "data.have_mnist", "data")
    )
    assert len({none, load, have}) == 3 and module == none
    assert digests(path, "from mnist_lib import data", "data.load")["library"] == load
    assert digests(path, "import mnist_lib.data as d; d.load")["library"] == load


def test_the_page_of_a_figure_counts_where_its_module_is_used(path, monkeypatch):
    slider = ROOT / "mnist_lib" / "backprop" / "slider.html"
    read = Path.read_bytes
    uses, does_not = "from mnist_lib.backprop import slider; slider.show", "from mnist_lib import data; data.load"
    before = [digests(path, each)["library"] for each in (uses, does_not)]
    monkeypatch.setattr(Path, "read_bytes", lambda file: read(file) + b" " * (file == slider))
    after = [digests(path, each)["library"] for each in (uses, does_not)]
    assert after[0] != before[0] and after[1] == before[1]


def test_what_pages_leave_out_is_in_the_library():
    """What trains and where images lie, each by the name it has."""
    for name in staleness.LEFT_OUT:
        home, _, definition = name.partition(".")
        assert callable(getattr(importlib.import_module(f"mnist_lib.{home}"), definition)), name


# -- records


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """Copies of the records of one iteration, in place of all published ones; returns their folder."""
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path / "records")
    return Path(shutil.copytree(ROOT / "book" / "records" / NAME, tmp_path / "records" / NAME))


@pytest.fixture
def page(tmp_path) -> Path:
    """The page of that iteration with its parameters and its network alone: what it uses of the library is little."""
    return note(tmp_path / f"{NAME}.ipynb")


def note(page: Path, **noted: object) -> Path:
    """Write the page as if an execution had noted this."""
    notebook = nbformat.read(ROOT / "notebooks" / page.name, as_version=4)
    notebook.cells = [each for each in notebook.cells if {"parameters", "network"} & {*each.metadata.get("tags", ())}]
    notebook.metadata["mnist_lib"] = noted
    nbformat.write(notebook, page)
    return page


def test_of_each_record_the_recipe_counts_and_the_results(published, page):
    """Damaged ones, missing ones and those of another recipe have none; those of older code have."""
    found = [records.read(record_path(published, seed)) for seed in range(5)]
    recipe = next(run for run, _ in catalogue.read_runs(page)).digest
    noted = staleness.current_digests(page)["records"]
    assert noted.pop(NAME) == [[recipe, record.results_digest] for record in found]
    (without,) = noted.values()  # the baseline's, which lie elsewhere
    assert [results for _, results in without] == [None] * 5
    record_path(published, 0).unlink()
    edit(record_path(published, 1), '"train_size": 60000', '"train_size": 60001')
    reseal(record_path(published, 2), digests=found[2].digests | {"code": "0" * 64})
    reseal(record_path(published, 3), parameters=found[3].parameters | {"batch_size": 32})
    now = staleness.current_digests(page)["records"][NAME]
    assert [digest for digest, _ in now] == [recipe] * 5
    kept = [found[seed].results_digest for seed in (2, 4)]
    assert [results for _, results in now] == [None, "damaged", kept[0], None, kept[1]]


def test_a_record_is_altered_whose_results_changed_and_not_its_recipe(published, page):
    now = staleness.current_digests(page) | {staleness.CPU: []}
    recipe, result = now["records"][NAME][0]
    other = [recipe, "other"]

    def altered(*pairs: list) -> list[str]:
        note(page, **now | {"records": now["records"] | {NAME: list(pairs)}})
        return staleness.altered(page)

    assert altered(*now["records"][NAME]) == staleness.stale(page) == []
    assert altered([recipe, result], ["another", "other"], other, [recipe, None], [recipe, staleness.DAMAGED]) == [
        f"{NAME} seed 2"
    ]
    changed = [f"the recipe or the record of {NAME} changed, seed {seed}" for seed in range(7)]
    assert staleness.stale(page) == changed[1:5]
    assert altered(*[other] * 7) == [f"{NAME} seed {seed}" for seed in range(5)]
    assert staleness.stale(page) == changed
    assert altered(other) == [f"{NAME} seed 0"]
    assert staleness.stale(page) == changed[:5]
    record_path(published, 0).unlink()
    edit(record_path(published, 1), '"train_size": 60000', '"train_size": 60001')
    assert altered(*[other] * 3) == [f"{NAME} seed 2"]
    note(page)
    assert staleness.altered(page) == []


# -- what has been executed, and edited


def picture(text: str) -> dict:
    """A figure, and what is said in its place."""
    return {"output_type": "display_data", "data": {"image/png": "AAAA"}, "metadata": {"image/png": {"alt": text}}}


def test_every_output_counts_in_its_place_and_the_order_of_its_keys_does_not():
    def digest(*outputs: dict) -> str:
        cells = [code_cell("1", outputs=[nbformat.from_dict(each) for each in outputs]), prose_cell("2")]
        return staleness.outputs_digest(nbformat.v4.new_notebook(cells=cells))

    one, other = picture("one"), picture("other")
    assert digest(one) == digest(dict(reversed(one.items())))
    assert len({digest(), digest(one), digest(other), digest(one, other), digest(other, one)}) == 5


def test_a_page_says_why_it_is_stale(path):
    cells = code_cell("1"), prose_cell("one")
    write(path, *cells)
    assert staleness.stale(path) == ["it has not been executed"] and staleness.edited(path) == []
    write(path, code_cell("1", outputs=[nbformat.from_dict(picture("one"))]), prose_cell("one"))
    assert staleness.edited(path) == ["it has outputs, and no execution has noted them"]
    write(path, *cells)
    now = staleness.current_digests(path)
    write(path, *cells, noted=now)
    assert staleness.stale(path) == ["it was executed by another version of the library"]
    now |= {staleness.CPU: []}
    for noted in (now | {"more": 1}, *({each: now[each] for each in now if each != name} for name in now)):
        write(path, *cells, noted=noted)
        assert staleness.stale(path) == ["it was executed by another version of the library"]
        lacks = {"cells", "outputs", "looks", "numbers"} - noted.keys()
        assert staleness.edited(path) == ["it was executed by another version of the library"] * len(lacks)
    write(path, *cells, noted=now)
    assert staleness.stale(path) == []
    write(path, *cells, noted=now | {"library": "another"})
    assert staleness.stale(path) == ["its library changed"]
    write(path, code_cell("2"), prose_cell("2", id="two"), noted=now | {"outputs": "others"})
    edits = ["its outputs are not those of its execution", "it says 2 where it said nothing (cell cell-2)"]
    assert staleness.stale(path) == ["its cells changed", *edits]
    assert staleness.edited(path) == [*edits, "its cells changed"]


def test_of_a_cell_the_first_number_is_named_that_was_changed(path):
    def edited(*texts: str) -> list[str]:
        write(path, *map(prose_cell, ("1, 2 and 3", "4", "See https://example.org/5 for $a\n- b$.")))
        noted = staleness.current_digests(path)
        write(path, *map(prose_cell, texts), noted=noted)
        return staleness.edited(path)

    kept = "See https://example.org/6?7 for $a\n- b$."
    measured = ("([measured](https://example.org/6)—99.99 %)", '<a href="https://example.org/6">99.99</a>')
    for text in measured:
        assert edited("1, 2 and 3", "4", f"{text} {kept}")[0].startswith("it says ")
    assert edited("1 or 2 or 3", "it is 4", kept) == []
    assert edited("1, 5 and 2", "4", kept) == ["it says 5 where it said 2 (cell cell-1)"]
    assert edited("1, 2, 3 and 6", "none", kept) == [
        "it says 6 where it said nothing (cell cell-1)",
        "it says nothing where it said 4 (cell cell-2)",
    ]
    assert edited("1, 2 and 3", "4") == ["it says nothing where it said $a-b$ (cell cell-3)"]


def looks(change: str, value: object, cell: int | None = 0) -> bool:
    """Whether a page looks otherwise once this is in its metadata, or in those of one of its cells."""
    notebook = nbformat.v4.new_notebook(cells=[code_cell("1"), prose_cell("two")])
    before = staleness.noted(notebook)
    (notebook if cell is None else notebook.cells[cell]).metadata[change] = value
    now = staleness.noted(notebook)
    assert [name for name in now if now[name] != before[name]] in ([], ["looks"])
    return now != before


@pytest.mark.parametrize("cell", [0, 1])
def test_what_the_book_reads_of_a_cells_metadata_counts(cell):
    """A caption, say, or that its outputs are left out."""
    assert looks("tags", ["remove-output"], cell)
    assert looks("mystnb", {"figure": {"caption": "This network reads 99.99 % of them."}}, cell)
    assert looks("render", {"image": {"width": 10}}, cell)
    for name, value in {"tags": [], "mystnb": {}, "scrolled": True, "jupyter": {"source_hidden": True}}.items():
        assert not looks(name, value, cell)


def test_what_the_book_reads_of_a_notebooks_metadata_counts():
    assert looks("mystnb", {"remove_code_outputs": True}, None)
    assert looks("myst", {"substitutions": {"a": "99.99"}}, None)
    assert not looks("kernelspec", {"name": "another"}, None)
    assert not looks("colab", {"provenance": []}, None)
    assert not looks("accelerator", "GPU", None)  # which Colab writes as well


def test_a_cell_of_raw_text_counts_for_the_book_shows_it_as_it_is():
    cells = [code_cell("1")]
    noted = [staleness.noted(nbformat.v4.new_notebook(cells=cells))]
    for text in ("<b>a</b>", "<b>b</b>"):
        raw = nbformat.v4.new_raw_cell(text, id="raw", metadata={"format": "text/html"})
        noted.append(staleness.noted(nbformat.v4.new_notebook(cells=[*cells, raw])))
    raw.metadata["format"] = "text/latex"
    noted.append(staleness.noted(nbformat.v4.new_notebook(cells=[*cells, raw])))
    assert len({each["looks"] for each in noted}) == 4


def test_what_the_book_shows_otherwise_is_said(path):
    write(path, code_cell("1"))
    noted = staleness.current_digests(path) | {staleness.CPU: []}
    write(path, code_cell("1", metadata={"tags": ["remove-output"]}), noted=noted)
    said = ["what the book reads of its metadata, tags among them, or a cell of raw text was changed"]
    assert staleness.edited(path) == staleness.stale(path) == said


CODE = '''"""It has 1 layer."""
# of 2 units
%pip install x==9
def network(width: int = 7):
    """Return 3
    layers."""
    a = "8"  # about 4
    f("9",
      "10")

    "and 5"
    return a + \\
        "11"
'''


def test_numbers_in_comments_and_docstrings_count_and_those_in_code_have_its_digest():
    def numbers(source: str) -> dict:
        return staleness.noted(nbformat.v4.new_notebook(cells=[code_cell(source, id="a")]))["numbers"]

    assert numbers(CODE) == {"a": "1 2 3 4 5"}
    assert numbers("1 + 1") == numbers("") == {}
    assert numbers("x = (1,  # 2") == {"a": "1 2"}, "what cannot be read may say anything"


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "+1",
        "−1",
        "±1",
        "1,000",
        "1.5",
        "1,000.25",
        "$x$",
        "$$\nx\n$$",
        "$1 + x$",
        "$1$ 2 $3$",
        "2-3",
        "5 $ or 6",
        "$a\n- b$",
        "5 $\n \n6 $",
        *("99·9", "⁹⁹·⁹", "¾ ①"),
    ],
)
def test_each_number_and_formula_is_noted_as_it_is_written(text):
    notebook = nbformat.v4.new_notebook(cells=[prose_cell(f"So {text} is it.", id="a"), prose_cell("none")])
    as_words = {
        "$1 + x$": "$1+x$",
        "$$\nx\n$$": "$$x$$",
        "2-3": "2 -3",
        "5 $ or 6": "5 6",
        "$a\n- b$": "$a-b$",
        "5 $\n \n6 $": "5 6",
        "⁹⁹·⁹": "99·9",
        "¾ ①": "3 4 1",
    }
    assert staleness.noted(notebook)["numbers"] == {"a": as_words.get(text, text)}


NO_EXECUTION = [
    [],
    "text",
    7,
    {"records": []},
    {"records": {"a": 1}},
    {"records": {"a": [[]]}},
    {"records": {"a": [["one"]]}},
    {"records": {"a": [["one", "two"], ["one", "two", "three"]]}},
    {"records": {"a": [["one", 2]]}},
    {"numbers": {"a": 1}},
    {"numbers": {"a": None}},
    {"numbers": ["1"]},
    {"records": {"a": [["one", "two"]]}, "numbers": {"a": ["1"]}},
]


@pytest.mark.parametrize("noted", NO_EXECUTION, ids=json.dumps)
def test_what_no_execution_has_written_is_refused_with_a_remedy(path, noted):
    write(path, code_cell("1"), noted=noted)
    for look in (staleness.stale, staleness.edited, staleness.altered):
        with pytest.raises(ParameterError) as caught:
            look(path)
        assert str(caught.value) == (
            f"{path}: no execution has written what is under mnist_lib in its metadata: take it back with "
            "`git restore`, or execute it with `mnist-lib run page --accept --force`"
        )


def test_a_run_without_a_record_is_noted_as_such(path):
    write(path, code_cell("1"), noted={"records": {"a": [["one", None]]}})
    assert staleness.stale(path) == ["it was executed by another version of the library"]


def test_what_was_written_is_the_page_the_library_and_the_records_it_shows(published, page):
    record_path(published, 4).unlink()
    found = staleness.written(page)
    library = [file for kind in ("py", "html") for file in (ROOT / "mnist_lib").rglob(f"*.{kind}")]
    assert found.keys() == {page, *library, *(record_path(published, seed) for seed in range(4))}
    assert all(found[file] == (file.stat().st_mtime_ns, file.stat().st_size) for file in found)
    assert {file.stem for file in found if file.suffix == ".html"} >= {"slider"}


# -- of published pages


def test_a_page_that_an_older_version_executed_is_stale_and_not_altered(tmp_path):
    path = tmp_path / PAGE.name
    notebook = nbformat.read(PAGE, as_version=4)
    notebook.metadata["mnist_lib"] = {"outputs": notebook.metadata["mnist_lib"]["outputs"]}
    nbformat.write(notebook, path)
    assert staleness.altered(path) == []
    assert staleness.stale(path) == ["it was executed by another version of the library"]


def test_a_page_that_was_executed_on_another_kind_of_cpu_is_as_current_as_before(tmp_path):
    path = tmp_path / PAGE.name
    notebook = nbformat.read(PAGE, as_version=4)
    before = staleness.stale(PAGE)
    notebook.metadata["mnist_lib"][staleness.CPU] = ["another", "older"]
    nbformat.write(notebook, path)
    assert staleness.stale(path) == before == staleness.edited(path) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("$a + b$", "$a - b$"),
        ("$$\n\\frac{a}{2}\n$$", "$$\n\\frac{2}{a}\n$$"),
        ("by +3 points", "by −3 points"),
        ("{math}`a + b`", "{math}`a - b`"),
        ("99.4 %", "<!-- 99.4 % --> much"),
        ("99.4 %", "\n% 99.4 %\n much"),
    ],
)
def test_a_sign_or_an_operator_counts_as_a_digit_does(path, before, after):
    """And what is left of a number that only the source has."""
    write(path, prose_cell(f"So it is {before}, at all times."))
    stored = staleness.current_digests(path)
    for text, found in ((before, []), (after, ["it says "])):
        write(path, prose_cell(f"So it is {text}, at  all times."), noted=stored)
        assert [why[:8] for why in staleness.edited(path)] == found
