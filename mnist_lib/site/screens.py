"""The book on any screen: figures for dark pages, and nothing in the build that no page loads."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.search import js_index

from mnist_lib.results import drawing

ICON = re.compile(r'("[^"]+"|\w+):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
"""An icon in Font Awesome's script: its name, its width and height, its other names, its code, its outline."""

ICON_RULE = re.compile(r"((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:[^}]*\}")
"""The same icon in the theme's style sheet, for a font: not needed, because the script draws it."""

EMPTY_TERMS = re.compile(r"<dl>(?=\s*<dd>)")
"""The beginning of a list that has descriptions and no terms."""

REFERENCES = '<div role="list" class="citation-list">'
"""The beginning of the references, whose entries have a role of their own, which a list must not hold."""

SIGNATURE, NO_BREAK = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL), re.compile(r'<span class="pre">([^<]*)</span>')
"""A signature, and the wrapper around each of its words: a fifth of the library's page."""


CODE, PLAIN = re.compile(r"<pre>.*?</pre>", re.DOTALL), re.compile(r'<span class="(?:[nwpo]|nn)">([^<]*)</span>')
"""A piece of code, and the wrapper around what needs no colour of its own in it: names, blanks, brackets, operators."""

NEIGHBOURS = re.compile(r'<span class="(\w+)">([^<]*)</span><span class="\1">([^<]*)</span>')
"""Two words of code of one colour, such as the parts of a string."""


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


def pair_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Put a copy for dark pages after every figure of a notebook; the theme shows the one that fits.

    The other one is not displayed, so it is not read out; and both are loaded lazily. Their place is kept free, so that
    the text does not jump then: whatever stands in an image's width is written into its style.
    """
    for output in doctree.findall(nodes.container):
        if output.get("nb_element") != "cell_code_output":
            continue
        for image in list(output.findall(nodes.image)):
            light = Path(app.env.relfn2path(image["uri"], app.env.docname)[1])
            if light.suffix == ".png":
                light.with_name(f"{light.stem}_dark.png").write_bytes(drawing.dark(light.read_bytes()))
                across, down = Image.open(light).size
                width = str(image.get("width", across))
                unit = "px" if width.isdecimal() else ""
                image["width"] = f"{width}{unit}; aspect-ratio: auto {across} / {down}"
                twin = image.deepcopy()
                twin["uri"] = image["uri"].removesuffix(".png") + "_dark.png"
                for each, ground in ((image, "light"), (twin, "dark")):
                    each["classes"].append(f"only-{ground}")
                    each["loading"] = "lazy"
                image.parent.insert(image.parent.index(image) + 1, twin)


def tidy_lists(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Correct what Sphinx's HTML says to screen readers (long signatures are no lists), and make code lighter."""
    if "body" in context:
        body = context["body"].replace(REFERENCES, '<div class="citation-list">')
        body = EMPTY_TERMS.sub('<dl role="presentation">', body)
        body = SIGNATURE.sub(lambda found: NO_BREAK.sub(r"\1", found[0]), body)
        context["body"] = CODE.sub(lambda found: _lighter(found[0]), body)


def _lighter(code: str) -> str:
    """Return highlighted code without wrappers that change nothing."""
    return NEIGHBOURS.sub(r'<span class="\1">\2\3</span>', PLAIN.sub(r"\1", code))


def leave_out_what_no_page_loads(app: Sphinx, exception: Exception | None) -> None:
    """Delete source maps, translations, and fonts in an outdated format; keep only the icons that pages show.

    The theme's script with all 2,000 icons would be larger than any page.
    """
    if exception is not None or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    for file in (*static.rglob("*.map"), *static.rglob("*.ttf")):
        file.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)
    script, styles = static / "scripts" / "fontawesome.js", static / "styles" / "pydata-sphinx-theme.css"
    files = (file for kind in ("html", "js") for file in Path(app.outdir).rglob(f"*.{kind}") if file != script)
    used = {name for file in files for name in re.findall(r"\bfa-([a-z0-9-]+)", file.read_text("utf-8"))}

    def kept(icon: re.Match) -> str:
        return icon[0] if used & {icon[1].strip('"'), *re.findall(r'"([\w-]+)"', icon[2])} else ""

    script.write_text(ICON.sub(kept, script.read_text("utf-8")), "utf-8")
    styles.write_text(ICON_RULE.sub("", styles.read_text("utf-8")), "utf-8")


def tidy_search(app: Sphinx, exception: Exception | None) -> None:
    """Make the index of the search lighter, and safe to show.

    The library's names are its objects and need not be its entries, too: every page loads the index. Titles become
    HTML: as such the search shows them, and Sphinx leaves those of sections as they were written.
    """
    if exception is not None or app.builder.name != "html":
        return
    file = Path(app.outdir) / "searchindex.js"
    index = js_index.loads(file.read_text("utf-8"))
    for entry, places in list(index["indexentries"].items()):
        if all(anchor.startswith(("mnist_lib.", "module-mnist_lib")) for _, anchor, _ in places):
            del index["indexentries"][entry]
    for kind in ("alltitles", "indexentries"):
        index[kind] = {html.escape(title, quote=False): places for title, places in index[kind].items()}
    compact = json.dumps(index, separators=(",", ":"))  # Sphinx puts spaces, a sixth of all
    file.write_text(f"{js_index.PREFIX}{compact}{js_index.SUFFIX}", "utf-8")


def add_excerpts(app: Sphinx, page: str, *_: object) -> None:
    """Show excerpts below the results of the search."""
    if page == "search":
        app.add_js_file("search.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx, which calls this."""
    app.connect("source-read", copy_alternative_texts)
    app.connect("doctree-read", pair_figures, priority=400)  # before Sphinx collects the images to copy
    app.connect("html-page-context", tidy_lists)
    app.connect("html-page-context", add_excerpts)
    app.add_js_file("scrolling.js")
    app.connect("build-finished", leave_out_what_no_page_loads)
    app.connect("build-finished", tidy_search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
