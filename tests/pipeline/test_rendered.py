"""The notebooks as GitHub and nbconvert show them, without the book: nothing stands raw, and the results are there."""

import base64
import io
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import nbconvert
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from mnist_lib import cells, records
from mnist_lib.pipeline import catalogue
from mnist_lib.records import record_path
from mnist_lib.results.target import final_accuracy

RAW = re.compile(r"\{[a-z][\w:+.-]*\}<code|:::|^\(.+\)=$", re.MULTILINE)
"""What remains of a role, of a directive and of a target where only Markdown is understood."""

BADGES = ("https://colab.research.google.com/assets/", "https://mybinder.org/")

pytestmark = pytest.mark.slow
by_name = pytest.mark.parametrize("path", catalogue.find(), ids=lambda path: path.stem)


@cache
def rendered(path: Path) -> BeautifulSoup:
    """What `jupyter nbconvert --to html` makes of a notebook, without the code: that may hold anything."""
    html, _ = nbconvert.HTMLExporter(embed_images=False).from_filename(str(path))
    page = BeautifulSoup(html, "html.parser").find("body")
    for code in page.select(".jp-CodeCell .jp-InputArea"):
        code.decompose()
    return page


@by_name
def test_nothing_stands_raw(path):
    page = rendered(path)
    assert page.select_one("h1") and page.select_one("p")
    found = RAW.search(str(page))
    assert found is None, str(page)[max(0, found.start() - 200) : found.end() + 100]


@by_name
def test_no_image_is_broken(path):
    for image in rendered(path).select("img"):
        kind, _, content = image["src"].partition(";base64,")
        if content and kind != "data:image/svg+xml":
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                picture.verify()
        else:
            assert content or image["src"].startswith(BADGES), image["src"][:100]


@by_name
def test_the_headlines_are_on_the_page(path):
    """The mean accuracy after the last epoch of every experiment that the page is about."""
    text = rendered(path).get_text()
    for experiment, seeds in catalogue.read_runs(path):
        runs = [records.read(record_path(experiment.published, seed)) for seed in range(seeds)]
        headline = f"{final_accuracy(runs).center:.2f}"
        assert headline in text or not is_about(path, experiment.name), f"{experiment.name}: {headline}"


def is_about(path: Path, name: str) -> bool:
    """A page that compares is about the first pattern in its list: what else it lists may be points in a figure."""
    patterns = cells.notebook_parameters(path).get("experiments", ["*"])
    return fnmatch(name, patterns[0])
