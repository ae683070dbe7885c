"""From a number on a page to its origin: the records behind it, what made them, the commands that check it."""

import html
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from mnist_lib import records
from mnist_lib.pipeline import catalogue, staleness
from mnist_lib.results import tables

COMMANDS = {
    "mnist-lib verify {name}": "checks its records in seconds: digests, first steps, weights, mistakes",
    "mnist-lib verify {name} --full 0": "trains the run of seed 0 again and compares every epoch",
    "mnist-lib run {name} --force": "executes this page again",
}
"""What a reader can do with a page, by command; ``{name}`` is the page's notebook."""


def describe(path: Path) -> str:
    """Say where the results of a notebook come from, as HTML; empty for one that was executed with other parameters.

    Raises:
        RecordError: a record that the notebook was made from is damaged.
    """
    digests = catalogue.read(path).metadata.get("mnist_lib")
    if digests is None:
        return ""
    runs = catalogue.read_runs(path)
    files = [[records.record_path(experiment.published, seed) for seed in range(seeds)] for experiment, seeds in runs]
    groups = [[catalogue.record(file) for file in each if file.exists()] for each in files]
    makes_runs = bool(catalogue.published_runs(path))
    commands = [text for text in COMMANDS if makes_runs or "verify" not in text]
    name = html.escape(path.stem)
    rows = [f"<dt><code>{text.format(name=name)}</code></dt><dd>{COMMANDS[text]}</dd>" for text in commands]
    parts = [
        f"<p>Computed by the code cells of <code>notebooks/{name}.ipynb</code>, executed by papermill with "
        f"the library of digest <code>{html.escape(digests['library'][:8])}</code>, on this kind of processor: "
        f"{html.escape(', '.join(digests[staleness.CPU]))}.</p>",
        *("<dl>", *rows, "</dl>"),
    ]
    if any(groups):
        parts.append(
            "<p>What the page shows of runs comes from these records, <code>book/records/NAME/seed_K.json</code>:</p>"
        )
        parts.append(f'<div class="scrolling" tabindex="0">{tables.provenance(*groups)._repr_html_()}</div>')
    else:
        parts.append("<p>No record is involved: the page computes all that it shows.</p>")
    return "\n".join(parts)


MARK = '<button type="button" class="origin" popovertarget="origin" aria-label="source of {what}">source</button>'
NOTE = """<aside id="origin" popover aria-label="Source of the results on this page">
<button type="button" class="origin" popovertarget="origin" popovertargetaction="hide">close</button>
<p class="title">Where the results of this page come from</p>
{text}
</aside>"""

CODE = '<details class="sentence-code"><summary>code</summary>'
"""The beginning of the code that computed a paragraph; it is closed until somebody wants to see it."""


def mark_origins(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a mark beside every result of a notebook: it opens a note on the page's records and how to check them.

    Results are the outputs of cells. The code of a sentence moves behind a mark of its own, after the sentence.
    """
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        return
    text = describe(path)
    for cell in list(doctree.findall(nodes.container)):
        if "tag_prose" in cell["classes"]:
            _fold(cell, bool(text))
        elif cell.get("nb_element") == "cell_code_output" and "tag_prose" not in cell.parent["classes"] and text:
            cell += _raw(MARK.format(what="this output"))
    if text:
        next(doctree.findall(nodes.section)).append(_raw(NOTE.format(text=text)))


def _fold(cell: nodes.container, is_marked: bool) -> None:
    """Move the code of a cell that writes sentences behind them; nothing is left where it wrote none."""
    parts = {part.get("nb_element"): part for part in cell.findall(nodes.container)}
    output, source = parts.get("cell_code_output"), parts["cell_code_source"]
    source.parent.remove(source)
    if output is not None:
        mark = MARK.format(what="these numbers") if is_marked else ""
        output += [_raw(f'<div class="marks">{mark}{CODE}'), source, _raw("</details></div>")]


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")
