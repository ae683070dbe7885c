"""Whole data sets as tensors: MNIST, and the small embedded `digits`.

MNIST (LeCun, Cortes and Burges) has 60,000 training and 10,000 test images. torchvision downloads and parses it; the
digests of the four uncompressed files are checked at every load, so that a damaged or swapped file can never train.
"""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import platformdirs
import torch

MNIST_FILES = {  # MD5 of the uncompressed file
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_TIMEOUT = 30  # seconds without a byte


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
    return Path(os.environ.get("MNIST_LIB_DATA") or platformdirs.user_cache_path("mnist_lib") / "data")


def have_mnist() -> bool:
    """Whether all four files are there; their content is checked when they are loaded."""
    return all((data_directory() / "MNIST" / "raw" / name).is_file() for name in MNIST_FILES)


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

    Raises:
        DataError: they are not there and cannot be had, or one has the wrong digest.
    """
    if not have_mnist():
        _download(data_directory())
    found = data_directory() / "MNIST" / "raw"
    _check_files(found)
    return found


def _check_files(folder: Path) -> None:
    for name, expected in MNIST_FILES.items():
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            raise DataError(
                f"{folder / name} is damaged: its MD5 is {found}, MNIST's is {expected}. "
                "Delete the file to have it downloaded again, or restore it."
            )


def _download(root: Path) -> None:
    """Download MNIST beside its final place, check it, then move it there: a broken download leaves nothing behind."""
    from torchvision.datasets import MNIST

    advice = (
        f"MNIST is not in {root} and could not be downloaded. Set MNIST_LIB_DATA to a directory that holds "
        "MNIST/raw/, or connect to the internet, or use dataset=digits, which is embedded"
    )
    scratch, timeout = None, socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="download-", dir=root))
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        MNIST(str(scratch), download=True)
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
    """A data set: what reads its training and test images, what identifies it in a record, and how it is split."""

    read: Callable[[], tuple[Images, Images]]
    digest: str
    held_out: int  # training images, the last ones, on which a recipe is chosen


DATASETS = {
    "mnist": Dataset(mnist, hashlib.sha256("".join(MNIST_FILES.values()).encode()).hexdigest(), 10_000),
    "digits": Dataset(digits, "embedded", 240),
}
"""The data sets, by the name that a recipe gives; a further one of the same shape is one more entry."""
