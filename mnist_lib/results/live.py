"""Figures that answer to their reader in the browser: each has a page of its own, and ``live.html`` is common to all.

A page needs no kernel and no network. Where no script may run, as on GitHub, a picture takes its place.
"""

import json
from pathlib import Path

from mnist_lib.results.drawing import Interactive, Picture

PAGE = Path(__file__).with_suffix(".html")


def figure(page: Path, settings: object, picture: Picture, *scripts: Path) -> Interactive:
    """Return a live figure.

    Arguments:
        page: the file of its own page, which holds the word SETTINGS where they are to stand.
        settings: what the page is told, as JSON.
        picture: stands for it where no script may run.
        scripts: further files that the page builds on.
    """
    shared = "".join(file.read_text("utf-8") for file in (PAGE, *scripts))
    return Interactive(shared + page.read_text("utf-8").replace("SETTINGS", json.dumps(settings), 1), picture)
