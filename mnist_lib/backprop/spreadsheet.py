"""Sheets that train: a row for each step, a column for each quantity, cells to edit, charts, a name for what matters.

`mnist_lib.backprop.workbook` says what is in them; here is what they look like.
"""

import datetime
import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import xlsxwriter
from xlsxwriter.utility import xl_rowcol_to_cell
from xlsxwriter.worksheet import Worksheet

from mnist_lib.backprop.columns import Column
from mnist_lib.results.drawing import BLUE, GREEN, GREY, ORANGE

# The rows of a sheet, counted from 0. The first six stay in view when the rest is scrolled. Charts come next, then what
# the columns mean, then step 0.
HEADING, NOTE, LABELS, SETTINGS, GROUPS, SYMBOLS, CHARTS = range(7)
FORMULAS, WORDS, FIRST = 27, 28, 29

CREATED = datetime.datetime(2026, 1, 1)
"""The date in every file: with the present one, the same workbook would not be the same bytes."""

_STYLES: Mapping[str | int, dict[str, object]] = {
    "title": {"bold": True, "font_size": 16},
    "section": {"bold": True, "font_size": 12, "font_color": BLUE},
    "text": {"text_wrap": True, "valign": "top"},
    "link": {"font_color": BLUE, "underline": 1, "valign": "top"},
    "label": {"italic": True, "align": "right"},
    "edit": {"bg_color": "#FFF2CC", "border": 1, "border_color": "#7F6000"},
    "shown": {"border": 1, "border_color": "#BFBFBF"},
    "group": {"bold": True, "bg_color": "#D9E2EC"},
    "symbol": {"bold": True, "bg_color": "#EDF1F5", "align": "right", "bottom": 1},
    "small": {"font_size": 9, "text_wrap": True, "valign": "top", "align": "left", "indent": 1},
    "head": {"bold": True, "bg_color": "#EDF1F5", "bottom": 1},
    **{decimals: {"num_format": f"{0:.{decimals}f}"} for decimals in (0, 6, 8, 12)},
}
# Of a column, in characters, by the decimals that it shows. With these, a sheet printed two pages wide breaks between
# the forward pass and the loss.
_WIDTHS = {0: 10, 6: 12, 8: 14, 12: 16}
_COLOURS = (BLUE, ORANGE, GREEN, GREY, "#CC79A7", "#000000")
_DASHES = ("solid", "dash", "long_dash", "dash_dot")


class Spreadsheet:
    """A workbook of such sheets while it is being made.

    `names` lists the cells and ranges that have one: name, place, meaning.
    """

    def __init__(self, title: str, steps: int):
        self._buffer = io.BytesIO()
        self.file = xlsxwriter.Workbook(self._buffer, {"in_memory": True})
        self.file.set_properties({"title": title, "author": "The mnist-report authors", "created": CREATED})
        self.styles = {name: self.file.add_format(style) for name, style in _STYLES.items()}
        self.names: list[tuple[str, str, str]] = []
        self.rows = range(FIRST, FIRST + steps + 1)

    def content(self) -> bytes:
        """Return the file; nothing can be added afterwards."""
        self.file.close()
        return self._buffer.getvalue()

    def sheet(self, name: str, pages: int = 1) -> Worksheet:
        """Add a sheet, printed in landscape on A4, as wide as so many pages."""
        sheet = self.file.add_worksheet(name)
        sheet.set_landscape()
        sheet.set_paper(9)
        sheet.fit_to_pages(pages, 0)
        sheet.set_margins(0.4, 0.4, 0.5, 0.6)
        sheet.set_footer("&L&F&C&A&RPage &P of &N")
        return sheet

    def steps_sheet(self, name: str, note: str, home: str, pages: int = 1) -> Worksheet:
        """Add a sheet for steps, with its heading, a note, and a link to the sheet `home`."""
        sheet = self.sheet(name, pages)
        sheet.set_column(1, 60, _WIDTHS[6])
        for row, height in ((HEADING, 24), (FORMULAS, 40), (WORDS, 78)):
            sheet.set_row(row, height)
        sheet.write_url(HEADING, 0, f"internal:'{home}'!A1", self.styles["link"], home)
        sheet.write_string(HEADING, 1, name, self.styles["title"])
        sheet.write_string(NOTE, 1, note)
        sheet.freeze_panes(CHARTS, 1)
        sheet.repeat_rows(GROUPS, SYMBOLS)
        sheet.repeat_columns(0)
        return sheet

    def define(self, name: str, sheet: Worksheet, place: Sequence[int], meaning: str) -> None:
        """Name a cell (row, column), or a range (first row and column, last row and column)."""
        corners = [xl_rowcol_to_cell(*place[k : k + 2], True, True) for k in range(0, len(place), 2)]
        area = f"'{sheet.name}'!{':'.join(corners)}"
        self.file.define_name(name, f"={area}")
        self.names.append((name, area.replace("$", ""), meaning))

    def label(self, sheet: Worksheet, column: int, label: str) -> None:
        """Return what the setting in `column` is called."""
        sheet.write_string(LABELS, column, label, self.styles["label"])

    def edit(self, sheet: Worksheet, column: int, label: str, value: float, low: float, high: float) -> None:
        """Add a setting to edit: a cell that takes numbers from `low` to `high`, and says so when it is selected."""
        self.label(sheet, column, label)
        sheet.write_number(SETTINGS, column, value, self.styles["edit"])
        accepted = f"a number from {low:g} to {high:g}"
        rule = {"validate": "decimal", "criteria": "between", "minimum": low, "maximum": high, "ignore_blank": False}
        rule |= {"input_title": label, "input_message": f"Type {accepted}."}
        rule |= {"error_title": label, "error_message": f"Expected {accepted}."}
        sheet.data_validation(SETTINGS, column, SETTINGS, column, rule)

    def shown(self, sheet: Worksheet, column: int, label: str, formula: str, value: float) -> None:
        """Add a setting that is edited elsewhere: `formula` gets it from there."""
        self.label(sheet, column, label)
        sheet.write_formula(SETTINGS, column, formula, self.styles["shown"], value)

    def column(
        self, sheet: Worksheet, number: int, column: Column, formulas: Sequence[str], values: Sequence[float]
    ) -> None:
        """Add a column: what it is, and a formula for each step with the value that it comes to.

        Programs that show a workbook and do not calculate it show those values.
        """
        texts = {GROUPS: column.group, SYMBOLS: column.symbol, FORMULAS: column.formula, WORDS: column.words}
        for row, style in ((GROUPS, "group"), (SYMBOLS, "symbol"), (FORMULAS, "small"), (WORDS, "small")):
            sheet.write_string(row, number, texts[row], self.styles[style])
        sheet.set_column(number, number, _WIDTHS[column.decimals])
        for row, formula, value in zip(self.rows, formulas, values, strict=True):
            sheet.write_formula(row, number, formula, self.styles[column.decimals], float(value))

    def charts(self, sheet: Worksheet, charts: Sequence[tuple[str, Sequence[int], bool]]) -> None:
        """Charts side by side: of each its title, the columns drawn against the step, and whether the scale is log."""
        first, last = self.rows[0], self.rows[-1]
        width = 1410 // len(charts)
        for number, (title, drawn, log) in enumerate(charts):
            chart = self.file.add_chart({"type": "scatter", "subtype": "straight"})
            for column, colour, dash in zip(drawn, cycle(_COLOURS), cycle(_DASHES), strict=False):
                series = {"name": [sheet.name, SYMBOLS, column], "categories": [sheet.name, first, 0, last, 0]}
                series |= {"values": [sheet.name, first, column, last, column]}
                chart.add_series(series | {"line": {"color": colour, "dash_type": dash, "width": 2}})
            chart.set_title({"name": title, "name_font": {"size": 12}})
            chart.set_x_axis({"name": "step", "min": 0, "max": last - first, "label_position": "low"})
            grid = {"visible": True, "line": {"color": "#DDDDDD"}}
            chart.set_y_axis({"major_gridlines": grid, "num_format": "General"} | ({"log_base": 10} if log else {}))
            chart.set_legend({"none": True} if len(drawn) == 1 else {"position": "bottom"})
            chart.set_size({"width": width - 6, "height": 400})
            words = f"{title} on the sheet {sheet.name}, over steps 0 to {last - first}; the numbers are in the table."
            sheet.insert_chart(CHARTS, 1, chart, {"x_offset": width * number, "y_offset": 8, "description": words})

    def text(self, sheet: Worksheet, row: int, line: Sequence[str], widths: Sequence[int], style: str = "text") -> None:
        """Cells as wide as `widths`, in characters, and as high as their texts need; a single one takes all columns."""
        if len(line) == 1:
            sheet.merge_range(row, 0, row, len(widths) - 1, line[0], self.styles[style])
            widths = [sum(widths)]
        for number, text in enumerate(line):
            sheet.write_string(row, number, text, self.styles[style])
        lines = max(math.ceil(0.9 * len(text) / width) for text, width in zip(line, widths, strict=False))
        sheet.set_row(row, 15 * lines)
