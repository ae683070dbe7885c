"""Measurements of speed as tables: the directive ``{measurement}``."""

import json
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class Measurement(SphinxDirective):
    """``{measurement} name``: the table in ``book/measurements/<name>.json``, and how it was measured as its caption.

    The file holds ``rows``, objects whose keys are the columns, and ``what``, ``machine``, ``command`` and ``date``.
    ``:where: column = text`` keeps the rows that have this text there, and leaves the column out. ``:bars: column``
    draws the numbers of a column as bars below them.
    """

    required_arguments = 1
    option_spec: ClassVar = {"where": directives.unchanged_required, "bars": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the table; a file that is missing or lacks something is an error, which ends the build."""
        path = Path(self.env.srcdir) / "book" / "measurements" / f"{self.arguments[0]}.json"
        self.env.note_dependency(str(path))
        try:
            measured = json.loads(path.read_text("utf-8"))
            rows, command = measured["rows"], nodes.literal("", measured["command"])
            before = f"{measured['what']}. Measured on {measured['date']} ({measured['machine']}) by "
            chosen, _, text = map(str.strip, self.options.get("where", "").partition("="))
            rows = [row for row in rows if not chosen or row.get(chosen) == text]
            drawn = self.options.get("bars")
            largest = max((row.get(drawn) or 0 for row in rows), default=0)
        except (OSError, ValueError, KeyError) as error:
            raise self.error(f"no measurement in {path.name}: {error!r}") from error
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != chosen]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in columns), cols=len(columns))
        group += nodes.thead("", nodes.row("", *map(_entry, columns)))
        body = nodes.tbody()
        for row in rows:
            body += nodes.row("", *(_entry(_shown(row.get(column))) for column in columns))
            if row.get(drawn):
                entry = body[-1][columns.index(drawn)]
                entry += nodes.raw("", BAR.format(share=row[drawn] / largest), format="html")
        group += body
        title = nodes.title("", "", nodes.Text(f"{text}: {before}" if text else before), command, nodes.Text("."))
        return [nodes.table("", title, group)]


BAR = '<span class="bar" aria-hidden="true" style="width: {share:.1%}"></span>'


def _entry(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", text))


def _shown(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{4 if abs(value) >= 10 else 3}g}"
    return str(value)
