"""Whole data sets as tensors: MNIST, and the small embedded `digits`.

MNIST (LeCun, Cortes and Burges) has 60,000 training and 10,000 test images. torchvision downloads and parses it; the
digests of the four uncompressed files are checked at every load, so that a damaged or swapped file can never train.
"""

import gzip
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import platformdirs
import torch

from mnist_lib.base import files
from mnist_lib.base.digests import bytes_digest

MNIST_FILES = {  # MD5 of the uncompressed file
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_TIMEOUT = 30  # seconds without a byte
DOWNLOAD_LIMIT = 1200  # seconds in all
PLACES = ("MNIST/raw", ".", "raw", "mnist/raw", "MNIST", "mnist")
"""Where MNIST's files are looked for, below the data directory."""


class DataError(RuntimeError):
    """A data set is missing, unreachable or damaged."""


@dataclass(frozen=True)
class Images:
    """Grey images of shape ``(n, 28, 28)``, uint8, 0 is background; labels of shape ``(n,)``, int64, 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load(dataset: str, evaluate_on: str = "test") -> tuple[Images, Images]:
    """Return the images to train on and the images to evaluate on.

    With ``evaluate_on="test"`` these are the whole training set and the test set. With ``"validation"`` the last
    images of the training set are held out (10,000 of MNIST) and the test set is not touched.

    Raises:
        DataError: MNIST is neither in the data directory nor reachable, or a file has the wrong digest.
    """
    train, test = DATASETS[dataset].read()
    if evaluate_on == "test":
        return train, test
    kept = len(train) - DATASETS[dataset].held_out
    return (
        Images(train.images[:kept], train.labels[:kept]),
        Images(train.images[kept:], train.labels[kept:]),
    )


def data_directory() -> Path:
    """Where MNIST lies: ``MNIST_LIB_DATA`` if that is set, else the user's cache directory."""
    named = os.environ.get("MNIST_LIB_DATA")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mnist_lib") / "data"


def have_mnist() -> bool:
    """Whether all four files are there; their content is checked when they are loaded."""
    return len(_found(data_directory())) == len(MNIST_FILES)


def may_be_blank(dataset: str) -> bool:
    """Tell whether a page does without the images: MNIST is missing, and MNIST_LIB_BLANK_IMAGES is set, as by tests."""
    return dataset == "mnist" and bool(os.environ.get("MNIST_LIB_BLANK_IMAGES")) and not have_mnist()


def mnist() -> tuple[Images, Images]:
    """Return MNIST's training and test images, downloaded if they are not there.

    Raises:
        DataError: MNIST is neither in the data directory nor reachable, or a file has the wrong digest.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file  # takes a second to import

    here = folder()
    # Not through torchvision's MNIST, which would prefer a `processed` folder of its old versions to these files.
    train, test = (
        Images(
            read_image_file(str(here / f"{part}-images-idx3-ubyte")),
            read_label_file(str(here / f"{part}-labels-idx1-ubyte")),
        )
        for part in ("train", "t10k")
    )
    return train, test


def folder() -> Path:
    """Return the folder that holds MNIST's four files, whole.

    Files that are compressed, or have other names, are copied to where torchvision would put them.

    Raises:
        DataError: they are not there and cannot be had, or one has the wrong digest.
    """
    root = data_directory()
    found = _found(root)
    if len(found) < len(MNIST_FILES):
        _download(root)
        found = _found(root)
    folders = {path.parent for path in found.values()}
    if len(folders) > 1 or found.keys() != {path.name for path in found.values()}:
        return _copied(found, root)
    (here,) = folders
    _check_files(here)
    return here


def _found(root: Path) -> dict[str, Path]:
    """Return MNIST's files in a folder, as far as they are there: as such, or compressed, or with a dot in their names.

    They lie together, where torchvision puts them, or in `root` itself, or in a folder of a usual name.
    """
    best: dict[str, Path] = {}
    for place in PLACES:
        found = {}
        for name in MNIST_FILES:
            dotted = name.replace("-idx", ".idx")  # Kaggle's
            names = [name, dotted, f"{name}/{name}", f"{dotted}/{dotted}", f"{name}.gz", f"{dotted}.gz"]
            there = next((path for each in names if os.path.isfile(path := root / place / each)), None)
            if there is not None:
                found[name] = there
        if len(found) == len(MNIST_FILES):
            return found
        best = max(best, found, key=len)
    return best


def _copied(found: dict[str, Path], root: Path) -> Path:
    """Copy files, uncompressed and by their own names, to `root` or, where that cannot be written, to the user's cache.

    Raises:
        DataError: one cannot be read, or has the wrong digest, or the copy cannot be written.
    """
    contents = {}
    for name, path in found.items():
        try:
            content = path.read_bytes()
            contents[name] = gzip.decompress(content) if path.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}. Delete it, or restore it.") from error
        _check(path, contents[name], MNIST_FILES[name])
    for place in (root, platformdirs.user_cache_path("mnist_lib") / "data"):
        target = place / "MNIST" / "raw"
        with suppress(files.FileError):
            files.replace_all({target / name: content for name, content in contents.items()})
            return target
    raise DataError(f"{root}: MNIST's files need to be unpacked, and neither this folder nor {place} can be written")


def _check_files(folder: Path) -> None:
    for name, expected in MNIST_FILES.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error}. Make it readable, or restore it.") from error
        _check(folder / name, content, expected)


def _check(path: Path, content: bytes, expected: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is damaged: its MD5 is {found}, MNIST's is {expected}. "
            "Delete the file to have it downloaded again, or restore it."
        )


def _unusable(root: Path) -> str:
    """Say what lies in a data directory and is not all of MNIST's files, for whoever thinks that it is."""
    closed = [place for place in (root, *map(root.joinpath, PLACES)) if os.path.isdir(place) and not _may_enter(place)]
    if closed:
        return f" {closed[0]} is there and may not be read: make it readable."
    found = _found(root)
    if found:
        missing = ", ".join(MNIST_FILES.keys() - found.keys())
        return f" In {next(iter(found.values())).parent} there is a part of it; these files are missing: {missing}."
    kinds = (".csv", ".npz", ".parquet", ".mat", ".pkl", ".pt", ".png", ".jpg", ".zip", ".tar", ".tgz")
    try:
        others = sorted(path.name for path in root.iterdir() if path.name.lower().endswith(kinds))
    except OSError:
        return ""
    others = ", ".join(others[:3])
    return f" In it there is {others}, which is not read: the four files ending in -ubyte are needed." if others else ""


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _download(root: Path) -> None:
    """Download MNIST beside its final place, check it, then move it there: a broken download leaves nothing behind."""
    from torchvision.datasets import MNIST

    advice = (
        f"MNIST is not in {root} and could not be downloaded.{_unusable(root)} Set MNIST_LIB_DATA to a directory that "
        "holds MNIST/raw/, or connect to the internet, or use dataset=digits, which is embedded"
    )
    scratch, timeout = None, socket.getdefaulttimeout()
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            MNIST(str(scratch), download=True)
        except Exception as error:
            failures.append(error)

    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="download-", dir=root))
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        # In a thread that is left alone when it takes too long: a mirror that sends a byte now and then never fails.
        fetching = threading.Thread(target=fetch, daemon=True)
        fetching.start()
        fetching.join(DOWNLOAD_LIMIT)
        if fetching.is_alive():
            raise DataError(f"it took longer than {DOWNLOAD_LIMIT / 60:g} minutes")
        if failures:
            raise failures[0]
        _check_files(scratch / "MNIST" / "raw")
        target = root / "MNIST" / "raw"
        target.mkdir(parents=True, exist_ok=True)
        for name in MNIST_FILES:
            os.replace(scratch / "MNIST" / "raw" / name, target / name)
    except (OSError, RuntimeError, HTTPException) as error:  # DataError is a RuntimeError
        reason = " ".join(str(error).split())  # on one line: the last line of a traceback is what people read
        raise DataError(f"{advice}. The reason: {reason}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def digits() -> tuple[Images, Images]:
    """Return scikit-learn's 1,797 handwritten digits: every fifth is a test image.

    The 8×8 images (values 0 to 16) grow to 28×28 by repeating each pixel 3×3 and adding a frame of two pixels.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = (loaded.images * 255).astype(np.int64) // 16
    large = np.pad(pixels.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    images, labels = torch.from_numpy(large).to(torch.uint8), torch.from_numpy(loaded.target).long()
    is_test = torch.arange(len(labels)) % 5 == 0
    return Images(images[~is_test], labels[~is_test]), Images(images[is_test], labels[is_test])


@dataclass(frozen=True)
class Dataset:
    """A data set: what reads its training and test images, what identifies it in a record, how it is split, its title.

    The reader is a function of this module, so that its code counts in what a record depends on.
    """

    read: Callable[[], tuple[Images, Images]]
    digest: str
    training_images: int
    held_out: int  # training images, the last ones, on which a recipe is chosen
    title: str = ""  # what a page calls it; its name, if there is none


DATASETS = {
    "mnist": Dataset(mnist, bytes_digest("".join(MNIST_FILES.values()).encode()), 60_000, 10_000, "MNIST"),
    "digits": Dataset(digits, "embedded", 1437, 240),
}
"""The data sets, by the name that a recipe gives; a further one of the same shape is one more entry."""
