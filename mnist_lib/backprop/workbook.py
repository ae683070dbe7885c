"""A workbook that trains the network of eight weights before the reader's eyes: every number in it is a formula.

It has a sheet for each learning rate, one with the losses of them all, and a playground in which everything can be
changed. A row is one step of gradient descent; its formulas are those of `mnist_lib.backprop.columns`.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from xlsxwriter.utility import xl_col_to_name
from xlsxwriter.worksheet import Worksheet

from mnist_lib.backprop import columns, network
from mnist_lib.backprop.columns import Column
from mnist_lib.backprop.spreadsheet import SETTINGS, SYMBOLS, Spreadsheet
from mnist_lib.base import files
from mnist_lib.parameters import ParameterError, check_distinct
from mnist_lib.results.page import BackpropParameters, SweepParameters

MOST_STEPS = 10_000
"""The longest sheet that is written."""

_TITLE = "Backpropagation, cell by cell"
_ABOUT, _PLAYGROUND, _ALL_RATES = "Read me", "Playground", "All rates"
_CONTENTS = {
    _PLAYGROUND: "One training, with everything to change.",
    _ALL_RATES: "The losses of all sheets below, whose inputs, targets and start weights are changed there.",
}
_ONE_RATE = "Training with this learning rate."

# What can be set, in the order of its cells: the start weights stand above the columns of the weights.
_SETTINGS = ("η", *(f"w{k}" for k in range(1, 9)), "i1", "i2", "t1", "t2")
# By the first letter: the label, the name of the cell, the parameter that holds the value.
_KINDS = {
    "η": ("", "eta", "learning_rate"),
    "w": ("start ", "weight_", "weights"),
    "i": ("input ", "input_", "inputs"),
    "t": ("target ", "target_", "targets"),
}

_PROSE = {
    "What this is": (
        "A network of two inputs, two hidden and two output units learns one example by gradient descent, one step a "
        "row. Every number is a formula, apart from the yellow cells. Select a cell to see where its number comes "
        "from. Change a yellow one, and everything that depends on it follows.",
    ),
    "How the network learns": (
        "Forward pass. A hidden unit adds up the inputs, each times its weight: h1 = w1·i1 + w2·i2, h2 = w3·i1 + "
        "w4·i2. It puts out the sigmoid of this sum, a_h1 = 1 / (1 + e^−h1), a number between 0 and 1. The output "
        "units do the same with what the hidden units put out: o1 = w5·a_h1 + w6·a_h2, o2 = w7·a_h1 + w8·a_h2. There "
        "are no biases.",
        "Loss. E says how far the outputs are from their targets: E = ½ (t1 − a_o1)² + ½ (t2 − a_o2)².",
        "Backward pass. The δ of a unit says how E changes with the sum that goes into it. The δ of the outputs come "
        "first. Those of the hidden units are made from them, with the weights between. The derivative ∂E/∂w of a "
        "weight is the δ of the unit where it ends, times what it carries. All eight derivatives together are the "
        "gradient.",
        "Step. The next row starts with new weights: each is the old one minus the learning rate η times its "
        "derivative.",
        "In the formulas of the sigmoid, MAX(…, −700) keeps EXP within what it can compute. It changes nothing that "
        "one could see: the sigmoid of −700 has 304 zeros after the decimal point.",
    ),
    "What to try in the playground": (
        "Let all eight weights start from the same number. Compare the two hidden units, step after step. Why do they "
        "never differ?",
        "Set both targets to 0.5. Which derivatives change their sign, and why?",
        "Keep these targets and double η, again and again. From which η on do steps make the loss larger? What is the "
        "gradient when learning gets stuck, and which factor in it is to blame?",
    ),
}


def write(
    path: Path,
    parameters: BackpropParameters | None = None,
    learning_rates: Sequence[float] = SweepParameters.learning_rates,
) -> None:
    """Write the workbook to `path`, in place of what was there. The same arguments give the same bytes.

    Arguments:
        path: a file name that ends in ``.xlsx``, in a folder that exists.
        parameters: inputs, targets and start weights; how many steps every sheet has; the playground's learning rate.
            Without them, those of the exercise.
        learning_rates: one sheet for each.

    Raises:
        ParameterError: `path` cannot be a workbook, a parameter is not accepted, a learning rate is there twice, or
            there are too many steps.
        FileError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    if path.suffix != ".xlsx":
        raise ParameterError(f"{path}: the name of a workbook must end in .xlsx")
    if os.path.isdir(path):
        raise ParameterError(f"{path} is a folder; name a file in it, such as {path / 'backprop.xlsx'}")
    if not os.path.isdir(path.parent):
        raise ParameterError(f"{path}: there is no folder {path.parent}; make it first")
    parameters = parameters or BackpropParameters(name="workbook")
    if parameters.steps > MOST_STEPS:
        raise ParameterError(f"steps = {parameters.steps}: a workbook holds at most {MOST_STEPS}")
    rates = [dataclasses.replace(parameters, learning_rate=rate).learning_rate for rate in learning_rates]
    check_distinct("learning_rates", rates)
    files.write_atomically(path, _content(parameters, rates))


def _content(parameters: BackpropParameters, rates: Sequence[float]) -> bytes:
    book = Spreadsheet(_TITLE, parameters.steps)
    about = book.sheet(_ABOUT)
    note = "Change a yellow cell: all steps and the charts follow."
    playground = book.steps_sheet(_PLAYGROUND, note, _ABOUT, pages=2)
    note = "Change a yellow cell: the sheets of all learning rates follow."
    together = book.steps_sheet(_ALL_RATES, note, _ABOUT)
    names = {symbol: _KINDS[symbol[0]][1] + symbol[1:] for symbol in _SETTINGS}
    own = {symbol: f"play_{name}" for symbol, name in names.items()}
    _to_edit(book, playground, own, parameters)
    examples = _steps(book, playground, own, parameters, "play_loss")
    shared = {symbol: name for symbol, name in names.items() if symbol != "η"}
    _to_edit(book, together, shared, parameters)
    for rate in rates:
        note = f"Inputs, targets and start weights come from the sheet {_ALL_RATES}; change them there."
        sheet = book.steps_sheet(f"η {_text(rate)}", note, _ABOUT, pages=2)
        own = {"η": _name("eta", rate)}
        at_rate = dataclasses.replace(parameters, learning_rate=rate)
        _to_edit(book, sheet, own, at_rate)
        for symbol, name in shared.items():
            book.shown(sheet, _SETTINGS.index(symbol), _label(symbol), f"={name}", _value(parameters, symbol))
        _steps(book, sheet, own | shared, at_rate, _name("loss", rate))
    _losses(book, together, parameters, rates)
    _about(book, about, examples)
    return book.content()


def _text(rate: float) -> str:
    return f"{rate:.15g}"


def _name(kind: str, rate: float) -> str:
    """Return the name of a cell or a range on the sheet of `rate`, such as ``loss_0_1``."""
    return f"{kind}_{re.sub('[^0-9e]', '_', _text(rate))}"


def _label(symbol: str) -> str:
    return _KINDS[symbol[0]][0] + symbol


def _value(parameters: BackpropParameters, symbol: str) -> float:
    found = getattr(parameters, _KINDS[symbol[0]][2])
    return found[int(symbol[1:]) - 1] if symbol[1:] else found


def _to_edit(book: Spreadsheet, sheet: Worksheet, names: Mapping[str, str], parameters: BackpropParameters) -> None:
    """Return the settings that are edited on this sheet, by symbol, each under its name."""
    limits = {field.name: field.metadata for field in dataclasses.fields(parameters)}
    for symbol, name in names.items():
        place, rule = _SETTINGS.index(symbol), limits[_KINDS[symbol[0]][2]]
        book.edit(sheet, place, _label(symbol), _value(parameters, symbol), rule["low"], rule["high"])
        book.define(name, sheet, (SETTINGS, place), f"{_label(symbol)}, to edit")


def _steps(
    book: Spreadsheet, sheet: Worksheet, names: Mapping[str, str], parameters: BackpropParameters, loss: str
) -> dict[str, str]:
    """One row a step, and charts. `loss` is to be the name of the range of losses. Returns the formulas of step 1."""
    symbols = list(columns.FORMULAS)
    examples = {}
    places = {symbol: f"{xl_col_to_name(number)}{{row}}" for number, symbol in enumerate(symbols)}
    values = _values(parameters)
    for number, symbol in enumerate(symbols):
        carried = symbol in columns.CARRIED
        formula = columns.in_cells(columns.FORMULAS[symbol], {**names, **places})
        # A sheet counts its rows from 1, so `row` is there the number of the row above.
        formulas = [formula.format(row=row if carried else row + 1) for row in book.rows]
        if carried:
            formulas[0] = f"={names.get(symbol, 0)}"
        book.column(sheet, number, columns.column(symbol), formulas, values[symbol])
        examples[symbol] = formulas[1]
    number = symbols.index("E")
    book.define(loss, sheet, (book.rows[0], number, book.rows[-1], number), f"all losses of the sheet {sheet.name}")
    charts = [("Loss E", ["E"], False), ("Outputs", ["a_o1", "a_o2"], False), ("Weights", symbols[1:9], False)]
    book.charts(sheet, [(title, [symbols.index(symbol) for symbol in drawn], log) for title, drawn, log in charts])
    return examples


def _values(parameters: BackpropParameters) -> dict[str, np.ndarray]:
    """Return what all columns come to."""
    start = {name: getattr(parameters, name) for name in ("weights", "inputs", "targets")}
    weights = network.training_curve([parameters.learning_rate], parameters.steps, **start).weights[0]
    known = dict(zip(columns.CARRIED, (np.arange(len(weights)), *weights.T), strict=True))
    return columns.values(known | {symbol: _value(parameters, symbol) for symbol in ("i1", "i2", "t1", "t2")})


def _losses(book: Spreadsheet, sheet: Worksheet, parameters: BackpropParameters, rates: Sequence[float]) -> None:
    """Write the losses of all learning rates side by side, and their charts."""
    steps = ["=0", *(f"=A{row} + 1" for row in book.rows[1:])]
    book.column(sheet, 0, columns.column("step"), steps, np.arange(len(steps)))
    for number, rate in enumerate(rates, 1):
        loss, heading = _name("loss", rate), f"η = {_text(rate)}"
        words = f"The loss on the sheet η {_text(rate)}: of all its losses, {loss}, the one after so many steps."
        column = Column("Loss E" if number == 1 else "", heading, f"E, with {heading}", words, 12)
        formulas = [f"=INDEX({loss}, A{row + 1} + 1)" for row in book.rows]
        book.column(sheet, number, column, formulas, _values(dataclasses.replace(parameters, learning_rate=rate))["E"])
        # The heading, too, follows its cell.
        sheet.write_formula(SYMBOLS, number, f'="η = "&{_name("eta", rate)}', book.styles["symbol"], heading)
    drawn = range(1, len(rates) + 1)
    book.charts(sheet, [("Loss E", drawn, False), ("Loss E, logarithmic", drawn, True)])


def _about(book: Spreadsheet, sheet: Worksheet, examples: Mapping[str, str]) -> None:
    """Write the first sheet: what everything is. `examples` are the formulas of step 1 of the playground."""
    widths = (20, 42, 92, 50)
    for number, width in enumerate(widths):
        sheet.set_column(number, number, width)
    sheet.hide_gridlines(2)
    sheet.write_string(0, 0, _TITLE, book.styles["title"])
    sheets = [each.name for each in book.file.worksheets() if each.name != _ABOUT]
    tables = {heading: [(paragraph,) for paragraph in paragraphs] for heading, paragraphs in _PROSE.items()}
    tables["Sheets"] = [("Sheet", "What is in it"), *((name, _CONTENTS.get(name, _ONE_RATE)) for name in sheets)]
    explained = [("Symbol", "Formula", "In words", f"Step 1 on the sheet {_PLAYGROUND}")]
    for symbol, formula in examples.items():
        column = columns.column(symbol)
        explained.append((column.symbol, column.formula, column.words, formula))
    tables["Columns of a sheet with steps"] = explained
    tables["Names of cells and ranges"] = [("Name", "Place", "What it is"), *book.names]
    row = 1
    for heading, lines in tables.items():
        row += 1
        sheet.write_string(row, 0, heading, book.styles["section"])
        for number, line in enumerate(lines):
            row += 1
            book.text(sheet, row, line, widths, "head" if number == 0 and len(line) > 1 else "text")
            if line[0] in sheets:
                sheet.write_url(row, 0, f"internal:'{line[0]}'!A1", book.styles["link"], line[0])
        row += 1
