"""What tests of several folders call; fixtures are in conftest.py."""

import dataclasses
import hashlib
import http.server
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.torch
import yaml
from bs4 import BeautifulSoup
from torchvision.datasets import MNIST

import forked
from mnist_lib import cells, data, records
from mnist_lib.base.digests import text_digest
from mnist_lib.data import DataError, Images
from mnist_lib.network import Network
from mnist_lib.records import Record
from mnist_lib.results import page

ROOT = Path(__file__).parents[1]

PATIENCE = 600  # seconds, for what should take a few: a busy machine is slow, not wrong


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) >= 1, f"{path} does not contain {old!r}"
    path.write_text(text.replace(old, new, 1), "utf-8")


# -- networks

LIGHT = "frontier_curve"
"""The page whose network trains fastest: for tests that any network would serve."""


@cache
def networks() -> dict[str, Network]:
    """The published networks, by the names of their notebooks; calling one builds it."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return {path.stem: page.of_notebook(path.stem).network for path in paths if cells.has_network(path)}


TINY = """
from torch import nn


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, width), nn.ReLU(), nn.Linear(width, 10))
"""


def own_notebook(folder: Path) -> Path:
    """Write what a user who tinkers has: a copy of a page, ``mine``, with a small network, for the digits."""
    copy = nbformat.read(ROOT / "notebooks" / "your_network.ipynb", as_version=4)
    for cell in copy.cells:
        if "network" in cell.metadata.get("tags", ()):
            cell.source = TINY
        if "parameters" in cell.metadata.get("tags", ()):
            changes = {
                "mnist": "digits",
                "epochs: int = 5": "epochs: int = 1",
                "= 16": "= 4",
                '"your_network"': '"mine"',
            }
            for old, new in changes.items():
                assert old in cell.source
                cell.source = cell.source.replace(old, new, 1)
    nbformat.write(copy, path := folder / "mine.ipynb")
    return path


# -- figures that answer to their reader


@contextmanager
def on_a_phone(browser, html: str, folder: Path):
    """Open pieces of a page on a phone's screen; nothing is fetched, nothing goes wrong, nothing is wider than it."""
    file = folder / "figure.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    file.write_text(f"{head}<title>figure</title><body>{html}", "utf-8")
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda sent: problems.append(sent.url) if sent.url != file.as_uri() else None)
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
    assert not problems


def refers_outside(html: str) -> list[str]:
    """What a piece of a page has in it that would load something, or settings that were not filled in."""
    foreign = ("://", "src=", "href=", "import", "fetch(", "XMLHttpRequest", "@import", "SETTINGS")
    return [each for each in foreign if each in html]


# -- images


def few_digits(patch: pytest.MonkeyPatch) -> None:
    """Leave 64 digits to train on, of which 14 are held out for validation, and 40 to evaluate on."""
    whole = data.DATASETS["digits"]

    def digits() -> tuple[Images, Images]:
        parts = zip(whole.read(), (64, 40), strict=True)
        return tuple(Images(part.images[:n], part.labels[:n]) for part, n in parts)

    # Not data.load: the library refuses to vouch for code that was replaced.
    patch.setitem(data.DATASETS, "digits", dataclasses.replace(whole, read=digits, training_images=64, held_out=14))


# -- records


def run(*accuracies: float, seed: int = 0) -> Record:
    """A record with these accuracies in percent, epoch by epoch."""
    correct = [round(100 * accuracy) for accuracy in accuracies]
    history = {"test_correct": correct, "train_correct": correct}
    history |= {name: [0.1] * len(correct) for name in ("learning_rate", "test_loss", "train_loss")}
    return Record(
        experiment="x",
        seed=seed,
        parameters={"epochs": len(correct)},
        network={"source": "", "name": "network", "arguments": {}},
        digests={},
        parameter_count=1,
        train_size=10_000,
        class_counts=[1000] * 10,
        history=history,
        first_losses=[],
        misclassified=[],
        trained_correct=correct[-1],
        weights_digest="",
        environment={},
    )


def sealed(content: dict) -> dict:
    """What a record's file holds, with the digest that it should then state."""
    kept = {name: value for name, value in content.items() if name != "digest"}
    return kept | {"digest": text_digest(json.dumps(kept, sort_keys=True))}


def reseal(file: Path, **changes: object) -> None:
    """Replace fields of a record, and state the digest that its file should then state."""
    file.write_text(json.dumps(sealed(json.loads(file.read_text("utf-8")) | changes)), "utf-8")


def content(folder: Path) -> dict[str, object]:
    """What is in a folder, without what tells where and when it was made."""
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".json":
            found[path.name] = records.to_json(dataclasses.replace(records.read(path), environment={}))
        else:
            found[path.name] = path.read_bytes()
    return found


def check_nothing_is_truncated(folder: Path) -> None:
    """Every file that has its name is whole; what was half written has a scratch name, which nothing reads."""
    for path in folder.glob("seed_*"):
        if path.suffix == ".json":
            records.read(path)
            records.read_weights(path)
        elif path.suffix == ".safetensors":
            safetensors.torch.load(path.read_bytes())
        else:
            assert path.suffix == ".lock"


def command(report: Path, *arguments: str) -> subprocess.Popen:
    """A command of the copy's own library, started in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_lib.cli", *arguments],
        cwd=report,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def mnist_lib(*arguments: str, root: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """What a command of the library in `root` does; in a copy, it keeps its own runs there, too."""
    environment = os.environ | {"PYTHONPATH": str(root)} | ({} if root == ROOT else {"MNIST_LIB_RUNS": f"{root}/runs"})
    return forked.python("-m", "mnist_lib.cli", *arguments, cwd=root, environment=environment | variables)


def papermill(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """What papermill's own command does in a directory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return forked.python("-m", "papermill", "--no-progress-bar", *arguments, cwd=cwd, environment=environment)


# -- files like MNIST's, and a server that has them

LAST_FILE = "/t10k-labels-idx1-ubyte.gz"


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in MNIST's file format: type and rank, the sizes, the values."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def put(root, files):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class Mirror:
    """A server on this machine in place of the mirrors; `answers` maps a path to the whole answer it gives."""

    def __init__(self, monkeypatch, answers: dict[str, bytes]):
        self.answers = answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                handler.wfile.write(self.answers.get(handler.path, b"HTTP/1.0 404 Not Found\r\n\r\n"))

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{self.server.server_port}/"])
        monkeypatch.setenv("no_proxy", "*")

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def answer(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def everything_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused_download(root) -> str:
    """The message of the failing download; checks what each such message says and that nothing stays."""
    before = everything_in(root) if root.is_dir() else []
    timeout = socket.getdefaulttimeout()
    with pytest.raises(DataError) as caught:
        data.load("mnist")
    message = str(caught.value)
    for word in (str(root), "MNIST_LIB_DATA", "dataset=digits"):
        assert word in message
    assert everything_in(root) == before
    assert socket.getdefaulttimeout() == timeout
    return message


# -- the built book

WIDTHS = {"desk": 1280, "phone": 390}


def contents(entry: object) -> list[str]:
    """The pages that a part of the table of contents names, in order."""
    if isinstance(entry, list):
        return [page for item in entry for page in contents(item)]
    if isinstance(entry, dict):
        own = [entry[key] for key in ("root", "file") if key in entry]
        if "glob" in entry:
            found = sorted(path for path in ROOT.glob(f"{entry['glob']}.*") if path.suffix in (".ipynb", ".md"))
            own += [path.relative_to(ROOT).with_suffix("").as_posix() for path in found]
        return own + [page for value in entry.values() if isinstance(value, list) for page in contents(value)]
    return []


PAGES = contents(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8")))


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")
