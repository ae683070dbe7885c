"""One step of gradient descent as the columns of a table: every formula once, for numpy, for a sheet and for people.

The notation is that of `mnist_lib.backprop.network`, in which the same network is computed with arrays.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FORMULAS = {
    "step": "step + 1",
    **{f"w{k}": f"w{k} - η*dE_dw{k}" for k in range(1, 9)},
    "h1": "w1*i1 + w2*i2",
    "h2": "w3*i1 + w4*i2",
    "a_h1": "1/(1 + EXP(-MAX(h1, -700)))",
    "a_h2": "1/(1 + EXP(-MAX(h2, -700)))",
    "o1": "w5*a_h1 + w6*a_h2",
    "o2": "w7*a_h1 + w8*a_h2",
    "a_o1": "1/(1 + EXP(-MAX(o1, -700)))",
    "a_o2": "1/(1 + EXP(-MAX(o2, -700)))",
    "E": "((t1 - a_o1)^2 + (t2 - a_o2)^2)/2",
    "δ_o1": "(a_o1 - t1)*a_o1*(1 - a_o1)",
    "δ_o2": "(a_o2 - t2)*a_o2*(1 - a_o2)",
    "δ_h1": "(δ_o1*w5 + δ_o2*w7)*a_h1*(1 - a_h1)",
    "δ_h2": "(δ_o1*w6 + δ_o2*w8)*a_h2*(1 - a_h2)",
    "dE_dw1": "δ_h1*i1",
    "dE_dw2": "δ_h1*i2",
    "dE_dw3": "δ_h2*i1",
    "dE_dw4": "δ_h2*i2",
    "dE_dw5": "δ_o1*a_h1",
    "dE_dw6": "δ_o1*a_h2",
    "dE_dw7": "δ_o2*a_h1",
    "dE_dw8": "δ_o2*a_h2",
}
"""By symbol, from left to right. A column uses those to its left; the first nine use the row above instead.

EXP has no result above 709. MAX stops it at 700, where the sigmoid has 304 zeros after the decimal point.
"""

CARRIED = tuple(FORMULAS)[:9]
"""What a row takes over from the row above: the number of the step, and the weights."""

_SUM = "What goes into {} unit {{0}}: the sum of what comes in, each times its weight."
_SIGMOID = "What {} unit {{0}} puts out: the sigmoid of {}{{0}}, 1 divided by (1 plus e to the power −{}{{0}})."
_ERROR = (
    "How E changes with o{0}: the error, a_o{0} minus t{0}, times the sigmoid's slope, a_o{0} times (1 minus a_o{0})."
)
_SENT_BACK = (
    "How E changes with h{0}: each δ_o times its weight to a_h{0}, added up, times a_h{0} times (1 minus a_h{0})."
)
_KINDS = {
    "step": ("", 0, "The row above plus 1."),
    "w": ("Weights", 6, "Step 0: the start value. Then, from the row above: w{0} minus η times ∂E/∂w{0}."),
    "h": ("Forward pass: hidden units", 6, _SUM.format("hidden")),
    "a_h": ("", 6, _SIGMOID.format("hidden", "h", "h")),
    "o": ("Forward pass: output units", 6, _SUM.format("output")),
    "a_o": ("", 6, _SIGMOID.format("output", "o", "o")),
    "E": ("Loss", 12, "Half the sum of the squared errors: (target minus output) squared, for both outputs."),
    "δ_o": ("Backward pass: the δ of the units", 8, _ERROR),
    "δ_h": ("", 8, _SENT_BACK),
    "dE_dw": (
        "Backward pass: the gradient",
        8,
        "How E changes with w{0}: the δ where w{0} ends, times what w{0} carries.",
    ),
}
"""By kind of symbol: the heading of a group that it begins, the decimals shown, and the formula in words."""


@dataclass(frozen=True)
class Column:
    """What is to be read above a column, and how many decimals its numbers show.

    `group` is the heading of the group that the column begins; inside a group it is empty.
    """

    group: str
    symbol: str
    formula: str
    words: str
    decimals: int


def column(symbol: str) -> Column:
    """Return the column of `symbol`, a key of `FORMULAS`, with symbol and formula as people write them."""
    kind = symbol.rstrip("12345678")
    number = symbol[len(kind) :]
    group, decimals, words = _KINDS[kind]
    left, right = (_typeset(text) for text in (symbol, FORMULAS[symbol]))
    formula = f"{left} ← {right}" if symbol in CARRIED else f"{left} = {right}"
    return Column(group if number in ("", "1") else "", left, formula, words.format(number), decimals)


def _typeset(formula: str) -> str:
    for plain, typeset in (("dE_dw", "∂E/∂w"), ("*", "·"), ("^2", "²"), ("-", "−")):
        formula = formula.replace(plain, typeset)
    return formula


def in_cells(formula: str, cells: Mapping[str, str]) -> str:
    """Return `formula` with cells, or names of cells, in place of its symbols: what a sheet calculates."""
    return "=" + re.sub(r"[^\W\d]\w*", lambda match: cells.get(match[0], match[0]), formula)


def values(known: Mapping[str, np.ndarray | float]) -> dict[str, np.ndarray]:
    """All columns, each of shape ``(steps + 1,)``.

    Arguments:
        known: i1, i2, t1, t2, and the columns in `CARRIED`, of that shape.
    """
    found = dict(known)
    functions = {"EXP": np.exp, "MAX": np.maximum}
    for symbol, formula in FORMULAS.items():
        if symbol not in CARRIED:
            found[symbol] = eval(formula.replace("^", "**"), functions, found)
    return {symbol: found[symbol] for symbol in FORMULAS}
