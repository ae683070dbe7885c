"""Tables, as a notebook and the book show them."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd


class Table:
    """A data frame, shown without its index; where `one_line`, no cell is broken, and a narrow page scrolls it."""

    def __init__(self, rows: pd.DataFrame | Iterable[Mapping[str, object]], one_line: bool = False):
        self.frame, self.one_line = pd.DataFrame(rows), one_line

    def _repr_html_(self) -> str:
        classes = "one-line" if self.one_line else None
        return self.frame.map(_unbroken).to_html(index=False, border=0, justify="left", na_rep="–", classes=classes)

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, na_rep="–")


def _unbroken(cell: object) -> object:
    """Return a cell whose brackets and dimensions, ``[99.41, 99.53]`` and ``20 × 24 × 24``, stay on one line."""
    if not isinstance(cell, str):
        return cell
    return re.sub(r"\[[^]]*\]( %)?| [×→] ", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
