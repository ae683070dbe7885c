"""What the book needs beyond configuration: formulas, origins, measurements, and files that its pages load."""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.napoleon import GoogleDocstring
from sphinxcontrib import katex

from mnist_lib.backprop import workbook
from mnist_lib.site import address, book, compare_page, draw_page, formulas, measurement, origin

BADGES = {
    "https://colab.research.google.com/assets/colab-badge.svg": "/book/static_files/badge_colab.svg",
    "https://mybinder.org/badge_logo.svg": "/book/static_files/badge_binder.svg",
}
"""Pictures that notebooks load from the network, and the copies that the book brings along."""


def keep_badges_here(app: Sphinx, docname: str, source: list[str]) -> None:
    """Take the badges of a notebook from the book itself: nothing on a page may need the network."""
    for address_of_badge, file in BADGES.items():
        source[0] = source[0].replace(f"]({address_of_badge})", f"]({file})")


FOLDED = {
    "tag_parameters": "the parameters, which papermill can override",
    "tag_network": "the network's code",
}
"""The cells of an experiment's page that a reader of the book opens when wanted, by their classes."""

RECIPE_ON_PAPER = ("notebooks/iteration_", "notebooks/reported_")
"""The pages of which paper shows the parameters, too."""

FOLDED_ON = (*RECIPE_ON_PAPER, "notebooks/frontier_", "notebooks/first_weights", "notebooks/without_last_normalisation")
"""The pages that begin with a box of question and result, in place of their parameters and their network."""


def fold_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Fold the parameters and the network on the pages of experiments: in the book, a page begins with its result."""
    if not app.env.docname.startswith(FOLDED_ON):
        return
    for cell in doctree.findall(nodes.container):
        for name in FOLDED.keys() & {*cell["classes"]}:
            cell["hide_mode"] = "input"
            cell["prompt_show"], cell["prompt_hide"] = f"Show: {FOLDED[name]}", f"Hide: {FOLDED[name]}"


CODE_ON_PAPER = {"backprop_derivation", "learning_rate_sweep", "training_from_scratch", "your_network"}
"""The notebooks whose subject is their code. Of the others, paper shows the network, and of experiments the recipe."""


def mark_for_paper(app: Sphinx, doctree: nodes.document) -> None:
    """Say by classes which code `print.css` prints; in the PDF, a network's drawing stands beside its recipe."""
    if app.env.docname.removeprefix("notebooks/") in CODE_ON_PAPER:
        return
    wanted = FOLDED.keys() if app.env.docname.startswith(RECIPE_ON_PAPER) else {"tag_network"}
    kept = []
    for cell in [each for each in doctree.findall(nodes.container) if each.get("nb_element") == "cell_code"]:
        source = cell.next_node(nodes.container)
        if wanted & {*cell["classes"]}:
            kept.append(cell)
            cell["classes"].append("on-paper")
            continue
        source["classes"].append("only-screen")
        if kept and source.astext().startswith("network_drawing.picture"):
            cell["classes"].append("network-drawing")
            if app.builder.name == "singlehtml":
                cell.attributes.pop("hide_mode", None)
                cell.parent.remove(cell)
                kept[0].parent.insert(kept[0].parent.index(kept[0]), cell)


def write_workbook(app: Sphinx) -> None:
    """Make what pages offer as ``{download}`backprop.xlsx <../_build/backprop.xlsx>```, anew for every build."""
    folder = Path(app.srcdir) / "_build"
    folder.mkdir(exist_ok=True)
    workbook.write(folder / "backprop.xlsx")


def write_comparisons(app: Sphinx, error: Exception | None) -> None:
    """Write what the page that compares any two experiments loads, from the records of the book's notebooks."""
    if error is None and app.builder.format == "html":
        paths = [Path(app.env.doc2path(name)) for name in app.env.collect_relations()]  # in the order of the contents
        groups = compare_page.published(path for path in paths if path.suffix == ".ipynb")
        compare_page.write(groups, Path(app.outdir) / "_static")


def write_networks(app: Sphinx, exception: Exception | None) -> None:
    """Put the networks that the page "Draw a digit" computes beside its script; it says which have no record."""
    if exception is None and app.builder.format == "html":
        published, folder = Path(app.srcdir) / "book" / "records", Path(app.outdir) / "_static" / "networks"
        draw_page.export(draw_page.offered(), published, folder)


def set_address(app: Sphinx, config: Config) -> None:
    """Tell Sphinx where the site lies: on GitHub Pages, by the repository's address in ``pyproject.toml``."""
    config.html_baseurl = config.ogp_site_url = address.site_address()


def write_page_not_found(app: Sphinx, exception: Exception | None) -> None:
    """Write ``404.html``. It is shown at any address, so it stands alone and links the site in full."""
    if exception is None and app.builder.format == "html":
        text = Path(__file__).with_name("404.html").read_text("utf-8")
        Path(app.outdir, "404.html").write_text(text.replace("ADDRESS", address.site_address()), "utf-8")


def offer_pdf(app: Sphinx, *_: object) -> None:
    """If there is a PDF of the book, put it where the end of every page links it."""
    if app.builder.format == "html" and book.pdf_is_current(book.sources_digest(Path(app.srcdir))):
        app.connect("html-page-context", _link_pdf)
        app.connect("build-finished", lambda app, exception: exception or shutil.copy(book.PDF, app.outdir))


def _link_pdf(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    address = context["pathto"](book.PDF.name, 1)
    context["theme_extra_footer"] = f'<p><a href="{address}" download>The whole book as one PDF</a></p>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx, which calls this."""
    katex.render_latex = formulas.render_formula
    # The docstrings of properties and constants are prose; napoleon would take what precedes a colon for a type.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
    app.add_directive("measurement", measurement.Measurement)
    app.connect("builder-inited", write_workbook)
    app.connect("build-finished", write_networks)
    app.connect("source-read", keep_badges_here)
    app.connect("doctree-read", fold_cells)
    app.connect("doctree-read", mark_for_paper)
    app.connect("doctree-resolved", origin.mark_origins)
    app.connect("build-finished", write_comparisons)
    app.connect("builder-inited", offer_pdf)
    app.connect("config-inited", set_address)
    app.connect("build-finished", write_page_not_found)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
