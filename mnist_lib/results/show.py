"""How results are shown in a notebook: tables, numbers stored for the prose, progress of long work."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd
from IPython.display import display


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
    """A cell whose brackets and dimensions, such as ``[99.41, 99.53]`` and ``20 × 24 × 24``, stay on one line."""
    if not isinstance(cell, str):
        return cell
    return re.sub(r"\[[^]]*\]( %)?| [×→] ", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)


def glue(**values: object) -> None:
    """Store numbers and words under names, for the prose: ``{glue:text}`name:.2f```."""
    for name, value in values.items():
        text = {"application/papermill.record/text/plain": repr(value)}
        display(text, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}})
