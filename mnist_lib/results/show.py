"""Tables, and words from outside, as a notebook and the book show them."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd

PLAIN = re.compile(r"""(?:[-\w ,;:.%°×→–−()+/='"?!@#]*)""")
"""Words that Markdown shows as they are, unless an underline begins or ends one of them."""


class Table:
    """A data frame, shown without its index; where `one_line`, no cell is broken, and a narrow page scrolls it."""

    def __init__(self, rows: pd.DataFrame | Iterable[Mapping[str, object]], one_line: bool = False):
        self.frame, self.one_line = pd.DataFrame(rows), one_line

    def _repr_html_(self) -> str:
        classes = "one-line" if self.one_line else None
        shown = self.frame.map(_unbroken).to_html(index=False, border=0, justify="left", na_rep="–", classes=classes)
        if re.search(r"[$\\]", shown):  # JupyterLab and Colab would look for formulas
            shown = shown.replace('class="', 'class="tex2jax_ignore mathjax_ignore ', 1)
        return shown

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, na_rep="–")


def as_text(words: object) -> str:
    """Return words from outside, such as a label or a device's name, so that Markdown shows them and nothing else.

    They stay as they are, or become a piece of code where something in them could be taken for markup or a formula.
    """
    text = " ".join(str(words).split())
    if PLAIN.fullmatch(text) and not re.search(r"\b_|_\b|://|www\.", text):
        return text
    fence = quoting(text, 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def quoting(text: str, least: int = 3) -> str:
    """Return the backticks that begin and end a piece of code in Markdown: more than stand side by side in it."""
    return "`" * max([least, *(len(found) + 1 for found in re.findall("`+", text))])


def _unbroken(cell: object) -> object:
    """Return a cell whose brackets and dimensions, ``[99.41, 99.53]`` and ``20 × 24 × 24``, stay on one line."""
    if not isinstance(cell, str):
        return cell
    return re.sub(r"\[[^]]*\]( %)?| [×→] ", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
