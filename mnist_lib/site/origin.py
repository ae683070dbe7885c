"""From a number on a page to its origin: the records behind it, what made them, the commands that check it."""

import html
from pathlib import Path

import nbformat

from mnist_lib import records
from mnist_lib.pipeline import catalogue
from mnist_lib.results import tables

COMMANDS = {
    "mnist-lib verify {name}": "checks its records in seconds: digests, first steps, weights, mistakes",
    "mnist-lib verify {name} --full 0": "trains the run of seed 0 again and compares every epoch",
    "mnist-lib run {name} --force": "executes this page again",
}
"""What a reader can do with a page, by command; ``{name}`` is the page's notebook."""


def describe(path: Path) -> str:
    """Where the results of a notebook come from, as HTML; empty for one that was executed with other parameters.

    Raises:
        RecordError: a record that the notebook was made from is damaged.
    """
    digests = nbformat.read(path, as_version=4).metadata.get("mnist_lib")
    if digests is None:
        return ""
    runs = catalogue.read_runs(path)
    files = [[records.record_path(experiment.published, seed) for seed in range(seeds)] for experiment, seeds in runs]
    groups = [[records.read(file) for file in each if file.exists()] for each in files]
    makes_runs = bool(catalogue.published_runs(path))
    commands = [text for text in COMMANDS if makes_runs or "verify" not in text]
    rows = [f"<dt><code>{text.format(name=path.stem)}</code></dt><dd>{COMMANDS[text]}</dd>" for text in commands]
    parts = [
        f"<p>Computed by the code cells of <code>notebooks/{html.escape(path.name)}</code>, executed by papermill with "
        f"the library of digest <code>{digests['library'][:8]}</code>.</p>",
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
