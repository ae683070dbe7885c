"""The workbook of live formulas, calculated anew by LibreOffice and compared with the library."""

import dataclasses
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl.workbook import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from mnist_lib.backprop import columns, network, workbook
from mnist_lib.base.files import FileError
from mnist_lib.parameters import ParameterError
from mnist_lib.results.page import BackpropParameters, SweepParameters

EXERCISE = BackpropParameters(name="backprop_derivation")
RATES = (0.1, 0.2, 0.5, 0.8, 1.0, 2.0)
SHEETS = ["η 0.1", "η 0.2", "η 0.5", "η 0.8", "η 1", "η 2"]
HEADINGS = 6  # the row, counted from 1 as in the sheets
FIRST, LAST = 30, 130  # the rows of the steps 0 and 100
PLAYGROUND = "xl/worksheets/sheet2.xml"
FALSE = -7  # what a falsified file claims that every formula comes to


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("workbook") / "backprop.xlsx"
    workbook.write(path)
    return path


@pytest.fixture(scope="module")
def written(path) -> Workbook:
    """With formulas."""
    return openpyxl.load_workbook(path)


def setting(book: Workbook, name: str):
    """The cell that `name` stands for."""
    ((sheet, place),) = book.defined_names[name].destinations
    return book[sheet][place]


def column(sheet: Worksheet, heading: str) -> np.ndarray:
    """The numbers of a column, from step 0 on."""
    (number,) = [cell.column for cell in sheet[HEADINGS] if cell.value == heading]
    return np.array([sheet.cell(row, number).value for row in range(FIRST, sheet.max_row + 1)], dtype=float)


def check_steps(sheet: Worksheet, rate: float, weights, inputs, targets) -> None:
    """Every step of a sheet is the library's: the weights, the loss and the gradient."""
    curve = network.training_curve([rate], 100, weights=weights, inputs=inputs, targets=targets)
    found = np.stack([column(sheet, f"w{k}") for k in range(1, 9)], axis=1)
    assert found.shape == (101, 8)
    np.testing.assert_allclose(found, curve.weights[0], rtol=1e-12, atol=0)
    np.testing.assert_allclose(column(sheet, "E"), curve.losses[0], rtol=1e-12, atol=0)
    gradient = np.stack([column(sheet, f"∂E/∂w{k}") for k in range(1, 9)], axis=1)
    # Where terms of a δ cancel, only the absolute error is small.
    np.testing.assert_allclose(gradient, network.gradient(curve.weights[0], inputs, targets), rtol=1e-12, atol=1e-16)
    assert (column(sheet, "step") == np.arange(101)).all()


def check_all_rates(book: Workbook) -> None:
    start = {"weights": EXERCISE.weights, "inputs": EXERCISE.inputs, "targets": EXERCISE.targets}
    for sheet, rate in zip(SHEETS, RATES, strict=True):
        check_steps(book[sheet], rate, **start)
        together = column(book["All rates"], f"η = {rate:g}")
        assert together.shape == (101,)
        assert (together == column(book[sheet], "E")).all()


# -- recalculated by LibreOffice

ALWAYS_RECALCULATE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Office.Calc/Formula/Load"><prop oor:name="OOXMLRecalcMode" oor:op="fuse">
<value>0</value></prop></item>
</oor:items>
"""


def falsified(path: Path, target: Path, **places: float) -> Path:
    """A copy in which every formula is said to come to another number, and cells of the playground have these."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            text = source.read(name)
            if name.startswith("xl/worksheets/"):
                text = re.sub(rb"(<f>[^<]*</f><v>)[^<]*", rb"\g<1>%d" % FALSE, text)
            for place, value in places.items() if name == PLAYGROUND else ():
                cell = rb'(<c r="%s"[^>]*><v>)[^<]*' % place.encode()
                text, number = re.subn(cell, rb"\g<1>%s" % repr(float(value)).encode(), text)
                assert number == 1
            copy.writestr(name, text)
    return target


OTHER = {"weights": (-1.5, 2.0, 0.3, -0.7, 4.0, -3.0, 0.01, 1.25), "inputs": (-0.9, 3.0), "targets": (0.5, 0.25)}
EXTREME = {"weights": (-1000, 900, 0, 0, -1000, 1000, 1, -1), "inputs": (1000, -1000), "targets": (0, 1)}


def of_playground(rate: float, weights, inputs, targets) -> dict[str, float]:
    named = {"weight": weights, "input": inputs, "target": targets}
    cells = {f"play_{kind}_{k}": value for kind, values in named.items() for k, value in enumerate(values, 1)}
    return {"play_eta": rate, **cells}


def in_place(book: Workbook, settings: dict[str, float]) -> dict[str, float]:
    """Settings of the playground by the places of their cells."""
    cells = {setting(book, name): value for name, value in settings.items()}
    assert {cell.parent.title for cell in cells} == {"Playground"}
    assert all(isinstance(cell.value, float) for cell in cells)
    return {cell.coordinate: value for cell, value in cells.items()}


@pytest.fixture(scope="module")
def recalculated(path, written, tmp_path_factory) -> dict[str, Workbook]:
    """Four copies of the workbook after LibreOffice has calculated them."""
    soffice = shutil.which("soffice")
    if soffice is None:
        pytest.skip("needs LibreOffice: `apt-get install libreoffice-calc`")
    folder = tmp_path_factory.mktemp("libreoffice")
    settings = folder / "profile" / "user" / "registrymodifications.xcu"
    settings.parent.mkdir(parents=True)
    settings.write_text(ALWAYS_RECALCULATE, "utf-8")
    files = [
        falsified(path, folder / "falsified.xlsx"),
        falsified(path, folder / "faster.xlsx", **in_place(written, {"play_eta": 3.7})),
        falsified(path, folder / "other.xlsx", **in_place(written, of_playground(1.3, **OTHER))),
        falsified(path, folder / "extreme.xlsx", **in_place(written, of_playground(1000, **EXTREME))),
    ]
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    command = [
        soffice,
        profile,
        "--headless",
        "--convert-to",
        "xlsx",
        "--outdir",
        str(folder / "out"),
        *map(str, files),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    results = {file.stem: folder / "out" / file.name for file in files}
    assert all(result.exists() for result in results.values()), done.stdout + done.stderr
    return {name: openpyxl.load_workbook(result, data_only=True) for name, result in results.items()}


def test_every_step_is_the_librarys(recalculated, path, tmp_path):
    book = recalculated["falsified"]
    check_all_rates(book)
    start = {"weights": EXERCISE.weights, "inputs": EXERCISE.inputs, "targets": EXERCISE.targets}
    check_steps(book["Playground"], EXERCISE.learning_rate, **start)
    # The test can fail: without calculation, false numbers would have come through.
    before = openpyxl.load_workbook(falsified(path, tmp_path / "false.xlsx"), data_only=True)
    assert (column(before["η 0.5"], "E") == FALSE).all()


def test_the_playground_follows_its_learning_rate(recalculated):
    book = recalculated["faster"]
    start = {"weights": EXERCISE.weights, "inputs": EXERCISE.inputs, "targets": EXERCISE.targets}
    check_steps(book["Playground"], 3.7, **start)
    check_all_rates(book)  # which stay as they are


def test_the_playground_follows_everything_else(recalculated):
    check_steps(recalculated["other"]["Playground"], 1.3, **OTHER)


def test_no_accepted_setting_gives_an_error(recalculated):
    """Sums of a million, in both directions."""
    sheet = recalculated["extreme"]["Playground"]
    curve = network.training_curve([1000], 100, **EXTREME)
    found = np.stack([column(sheet, f"w{k}") for k in range(1, 9)], axis=1)
    np.testing.assert_allclose(found, curve.weights[0], rtol=1e-12)
    np.testing.assert_allclose(column(sheet, "E"), curve.losses[0], rtol=1e-12)
    assert np.abs(column(sheet, "h1")).max() > 1e6


# -- what the file says before it is calculated


def test_programs_that_do_not_calculate_show_the_same(path):
    book = openpyxl.load_workbook(path, data_only=True)
    check_all_rates(book)
    start = {"weights": EXERCISE.weights, "inputs": EXERCISE.inputs, "targets": EXERCISE.targets}
    check_steps(book["Playground"], EXERCISE.learning_rate, **start)


def test_the_only_numbers_are_the_settings(written):
    """And they are those of the exercise; everything else is a formula or a word."""
    assert written.sheetnames == ["Read me", "Playground", "All rates", *SHEETS]
    numbers = {
        (sheet.title, cell.coordinate): cell.value
        for sheet in written
        for row in sheet.iter_rows()
        for cell in row
        if cell.data_type == "n" and cell.value is not None
    }
    values = of_playground(EXERCISE.learning_rate, EXERCISE.weights, EXERCISE.inputs, EXERCISE.targets)
    values |= {name.removeprefix("play_"): value for name, value in values.items() if name != "play_eta"}
    values |= dict(zip(("eta_0_1", "eta_0_2", "eta_0_5", "eta_0_8", "eta_1", "eta_2"), RATES, strict=True))
    cells = {name: setting(written, name) for name in values}
    assert numbers == {(cell.parent.title, cell.coordinate): values[name] for name, cell in cells.items()}
    for sheet in [written["Playground"], *(written[name] for name in SHEETS)]:
        assert len(sheet[HEADINGS]) == len(columns.FORMULAS) == 30
        for row in sheet.iter_rows(FIRST, LAST):
            assert all(cell.data_type == "f" for cell in row)
    assert SweepParameters.learning_rates == RATES


def test_formulas_use_the_names(written):
    sheet = written["η 0.5"]
    formulas = {cell.value: sheet.cell(FIRST + 1, cell.column).value for cell in sheet[HEADINGS]}
    assert formulas["w1"] == "=B30 - eta_0_5*W30"
    assert formulas["h1"] == "=B31*input_1 + C31*input_2"
    assert formulas["E"] == "=((target_1 - P31)^2 + (target_2 - Q31)^2)/2"
    assert sheet.cell(FIRST, 2).value == "=weight_1"
    assert written["Playground"].cell(FIRST, 2).value == "=play_weight_1"
    assert written["All rates"].cell(FIRST + 1, 4).value == "=INDEX(loss_0_5, A31 + 1)"


def test_every_name_leads_somewhere_and_every_word_in_a_formula_is_known(written):
    for name, defined in written.defined_names.items():
        # Excel would take w1 for a cell.
        assert re.fullmatch(r"[a-z]+(_[0-9a-z]+)+", name)
        ((sheet, place),) = defined.destinations
        cells = written[sheet][place]
        assert cells.value is not None if not isinstance(cells, tuple) else len(cells) == 101
    described = [cell.value for cell in written["Read me"]["A"]]
    assert set(written.defined_names) <= set(described)
    known = set(written.defined_names) | {"EXP", "MAX", "INDEX"}
    for sheet in written.worksheets[1:]:
        for row in sheet.iter_rows(4):
            for cell in row:
                if cell.data_type == "f":
                    words = re.findall(r"[A-Za-z_][\w.]*", re.sub(r'"[^"]*"', "", cell.value))
                    assert all(word in known or re.fullmatch(r"[A-Z]{1,2}\d+", word) for word in words), cell.value


def test_every_column_is_explained(written):
    for name in ("Playground", *SHEETS):
        for symbol, formula, words in zip(written[name][HEADINGS], written[name][28], written[name][29], strict=True):
            assert formula.value.startswith(symbol.value)
            assert len(words.value.split()) > 3
    listed = {cell.value for cell in written["Read me"]["A"]}
    assert {cell.value for cell in written["Playground"][HEADINGS]} <= listed


def test_every_sheet_has_a_chart_of_its_losses(written, path):
    for name in ("Playground", *SHEETS):
        (series,) = written[name]._charts[0].series
        assert series.yVal.numRef.f == f"'{name}'!$R$30:$R$130".replace("'Playground'", "Playground")
        assert series.xVal.numRef.f.endswith("$A$30:$A$130")
        assert written[name]["R6"].value == "E"
    for chart in written["All rates"]._charts:
        drawn = [series.yVal.numRef.f for series in chart.series]
        assert drawn == [f"'All rates'!${letter}$30:${letter}$130" for letter in "BCDEFG"]
    linear, logarithmic = written["All rates"]._charts
    assert (linear.y_axis.scaling.logBase, logarithmic.y_axis.scaling.logBase) == (None, 10)
    with zipfile.ZipFile(path) as archive:
        drawings = [archive.read(name).decode() for name in archive.namelist() if "/drawings/drawing" in name]
    for drawing in drawings:
        texts = re.findall(r'<xdr:cNvPr [^>]*descr="([^"]*)"', drawing)
        assert len(texts) == drawing.count("<xdr:cNvPr ")
        assert all(len(text.split()) > 8 for text in texts)


def test_cells_to_edit_say_what_they_accept(written):
    rules = {str(rule.sqref): rule for rule in written["Playground"].data_validations.dataValidation}
    assert set(rules) == {f"{letter}4" for letter in "ABCDEFGHIJKLM"}
    assert (rules["A4"].formula1, rules["A4"].formula2, rules["A4"].prompt) == (
        "0",
        "1000",
        "Type a number from 0 to 1000.",
    )
    assert (rules["L4"].promptTitle, rules["L4"].formula2, rules["L4"].error) == (
        "target t1",
        "1",
        "Expected a number from 0 to 1.",
    )
    looks = {
        written[name][place].fill.fgColor.rgb
        for name, place in (("Playground", "A4"), ("All rates", "B4"), ("η 2", "A4"))
    }
    assert len(looks) == 1 and looks != {written["η 2"]["B4"].fill.fgColor.rgb}


def test_sheets_print_in_landscape_with_their_headings(written):
    for sheet in written:
        assert sheet.page_setup.orientation == "landscape"
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
    for sheet in written.worksheets[1:]:
        assert sheet.freeze_panes == "B7"
        assert sheet.print_title_rows == "$5:$6"


# -- columns


def numbers(low: float, high: float, count: int) -> st.SearchStrategy:
    return st.lists(st.floats(low, high), min_size=count, max_size=count)


@given(numbers(-5, 5, 8), numbers(-3, 3, 2), numbers(0, 1, 2))
def test_columns_are_the_librarys_for_any_network(weights, inputs, targets):
    known = {"step": np.zeros(1), **{f"w{k}": np.array([weight]) for k, weight in enumerate(weights, 1)}}
    known |= {"i1": inputs[0], "i2": inputs[1], "t1": targets[0], "t2": targets[1]}
    found = columns.values(known)
    assert list(found) == list(columns.FORMULAS)
    np.testing.assert_allclose(found["E"], network.loss(weights, inputs, targets), rtol=1e-12, atol=1e-15)
    gradient = np.concatenate([found[f"dE_dw{k}"] for k in range(1, 9)])
    np.testing.assert_allclose(gradient, network.gradient(weights, inputs, targets), rtol=1e-12, atol=1e-14)
    outputs = network.forward(weights, inputs)
    np.testing.assert_allclose([found["a_h1"][0], found["a_h2"][0]], outputs.hidden, rtol=1e-12)
    np.testing.assert_allclose([found["a_o1"][0], found["a_o2"][0]], outputs.output, rtol=1e-12)


# -- writing


def test_the_same_workbook_is_the_same_bytes(path, tmp_path):
    again = tmp_path / "again.xlsx"
    workbook.write(again)
    assert again.read_bytes() == path.read_bytes()
    workbook.write(again, learning_rates=(0.3,))  # replaces it
    assert openpyxl.load_workbook(again).sheetnames[3:] == ["η 0.3"]
    assert [file.name for file in tmp_path.iterdir()] == ["again.xlsx"]


def test_other_parameters(tmp_path):
    parameters = dataclasses.replace(EXERCISE, inputs=(1.0, 2.0), targets=(0.5, 0.5), learning_rate=4.0, steps=3)
    workbook.write(tmp_path / "a.xlsx", parameters, (1e-5, 30))
    book = openpyxl.load_workbook(tmp_path / "a.xlsx", data_only=True)
    assert book.sheetnames[3:] == ["η 1e-05", "η 30"]
    assert setting(book, "eta_1e_05").value == 1e-5
    curve = network.training_curve([4.0, 30.0], 3, weights=parameters.weights, inputs=(1, 2), targets=(0.5, 0.5))
    np.testing.assert_allclose(column(book["Playground"], "E"), curve.losses[0], rtol=1e-12)
    np.testing.assert_allclose(column(book["η 30"], "E"), curve.losses[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("book.xls", r"book\.xls: the name of a workbook must end in \.xlsx"),
        ("folder.xlsx", r"folder\.xlsx is a folder; name a file in it, such as .*folder\.xlsx/backprop\.xlsx"),
        ("nowhere/book.xlsx", r"nowhere/book\.xlsx: there is no folder .*nowhere; make it first"),
    ],
)
def test_what_cannot_be_a_workbook_is_refused(name, message, tmp_path):
    (tmp_path / "folder.xlsx").mkdir()
    with pytest.raises(ParameterError, match=message):
        workbook.write(tmp_path / name)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder.xlsx"]


@pytest.mark.parametrize(
    ("changes", "rates", "message"),
    [
        ({}, (), r"learning_rates = \[\]: expected at least one, and none of them twice"),
        ({}, (0.1, 0.1), r"learning_rates = \[0.1, 0.1\]: expected at least one, and none of them twice"),
        ({}, (-1.0,), "learning_rate = -1.0: expected a number from 0 to 1000"),
        ({"targets": (0.5, 2)}, RATES, r"targets\[1\] = 2: expected a number from 0 to 1"),
        ({"steps": 10_001}, RATES, "steps = 10001: a workbook holds at most 10000"),
    ],
)
def test_parameters_that_are_not_accepted(changes, rates, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        workbook.write(tmp_path / "a.xlsx", dataclasses.replace(EXERCISE, **changes), rates)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"before")

    def refuse(*_: object) -> None:
        raise PermissionError("permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileError, match=r"a\.xlsx could not be written: permission denied"):
        workbook.write(path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.xlsx"]
