"""The data sets: what they hold, and that a missing or damaged file is refused."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from mnist_lib import data, experiments, training
from mnist_lib.data import DATASETS, MNIST_FILES, DataError, Dataset
from mnist_lib.parameters import Recipe
from support import LAST_FILE, answer, everything_in, idx, md5, put, refused_download

# -- the embedded digits


def test_digits_have_the_shapes_and_types_of_mnist():
    train, test = data.load("digits")
    assert (len(train), len(test)) == (1437, 360)
    for part in (train, test):
        assert part.images.shape == (len(part), 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.labels.shape == (len(part),)
        assert set(part.labels.tolist()) == set(range(10))
        assert (part.images.amin(), part.images.amax()) == (0, 255)


def test_digits_are_the_original_ones_each_in_one_part():
    train, test = data.load("digits")
    original = load_digits()
    is_test = np.arange(1797) % 5 == 0
    for part, chosen in ((train, ~is_test), (test, is_test)):
        large = part.images.numpy()
        assert np.array_equal(part.labels, original.target[chosen])
        assert np.array_equal(large[:, 2:26:3, 2:26:3], original.images[chosen].astype(int) * 255 // 16)
        blocks = np.kron(large[:, 2:26:3, 2:26:3], np.ones((1, 3, 3), np.uint8))
        assert np.array_equal(large, np.pad(blocks, ((0, 0), (2, 2), (2, 2))))


def test_digits_are_the_same_every_time():
    """Records of runs on the digits hold only the word "embedded": the pixels must never change."""
    digest = hashlib.sha256()
    for part in data.load("digits"):
        digest.update(part.images.numpy().tobytes() + part.labels.numpy().tobytes())
    assert digest.hexdigest() == "522e515c7b3fa285408da0dcf3a035b4fae29020c021670c3e46eeebad238653"


def test_validation_holds_out_the_last_training_images_and_does_not_touch_the_test_set():
    train, _ = data.load("digits")
    kept, held_out = data.load("digits", evaluate_on="validation")
    assert (len(kept), len(held_out)) == (1197, 240)
    assert len(train) == DATASETS["digits"].training_images
    assert torch.equal(torch.cat([kept.images, held_out.images]), train.images)
    assert torch.equal(torch.cat([kept.labels, held_out.labels]), train.labels)


def test_a_further_data_set_is_one_more_entry(monkeypatch):
    train, test = data.load("digits")
    few = data.Images(train.images[:50], train.labels[:50])
    monkeypatch.setitem(DATASETS, "few", Dataset(lambda: (few, test), "digest", len(few), held_out=20))
    assert [len(part) for part in data.load("few")] == [50, 360]
    kept, held_out = data.load("few", evaluate_on="validation")
    assert torch.equal(torch.cat([kept.labels, held_out.labels]), few.labels)
    assert (len(kept), len(held_out)) == (30, 20)


def test_recipes_name_the_data_sets_of_the_table():
    (accepted,) = (f.metadata["options"] for f in dataclasses.fields(Recipe) if f.name == "dataset")
    assert accepted == tuple(DATASETS)


def test_data_directory_is_the_one_that_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_LIB_DATA", str(tmp_path))
    assert data.data_directory() == tmp_path
    assert not data.have_mnist()
    monkeypatch.delenv("MNIST_LIB_DATA")
    assert data.data_directory().parts[-2:] == ("mnist_lib", "data")


# -- a tree like MNIST's, small: 30 training and 20 test images of noise


def test_files_in_the_data_directory_are_read(root, small_files):
    put(root, small_files)
    assert data.have_mnist()
    train, test = data.load("mnist")
    for name, tensor in (
        ("train-images-idx3-ubyte", train.images),
        ("train-labels-idx1-ubyte", train.labels.to(torch.uint8)),
        ("t10k-images-idx3-ubyte", test.images),
        ("t10k-labels-idx1-ubyte", test.labels.to(torch.uint8)),
    ):
        assert idx(tensor.numpy()) == small_files[name]
    assert train.labels.dtype == torch.int64


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "empty", "longer"])
def test_damaged_file_is_refused_with_its_name_and_both_digests(root, small_files, name, damage):
    content = small_files[name]
    flipped = bytearray(content)
    flipped[-7] ^= 4
    damaged = {"truncated": content[:-1], "one bit flipped": bytes(flipped), "empty": b"", "longer": content + b"\0"}
    folder = put(root, small_files | {name: damaged[damage]})
    with pytest.raises(DataError) as caught:
        data.load("mnist")
    message = str(caught.value)
    assert str(folder / name) in message
    assert md5(damaged[damage]) in message
    assert md5(content) in message


def test_other_images_than_mnist_are_refused(tmp_path, monkeypatch, small_files):
    """Whole and well-formed, but not MNIST: the digests are the published ones."""
    monkeypatch.setenv("MNIST_LIB_DATA", str(tmp_path))
    put(tmp_path, small_files)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is damaged.*6bbc9ace898e44ae57da46a324031adb"):
        data.load("mnist")


def test_images_come_from_the_checked_files_only(root, small_files):
    """torchvision prefers a ``processed`` folder of its old versions to the files whose digests were checked."""
    put(root, small_files)
    old = root / "MNIST" / "processed"
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)), old / name)
    assert [len(part) for part in data.load("mnist")] == [30, 20]


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


LAYOUTS = {
    "in the folder itself": lambda name: name,
    "raw": lambda name: f"raw/{name}",
    "in small letters": lambda name: f"mnist/raw/{name}",
    "in small letters, without raw": lambda name: f"mnist/{name}",
    "compressed": lambda name: f"MNIST/raw/{name}.gz",
    "compressed, in the folder itself": lambda name: f"{name}.gz",
    "with dots": dotted,
    "a folder for each file": lambda name: f"{name}/{name}",
    "a folder for each file, with dots": lambda name: f"{dotted(name)}/{dotted(name)}",
    "a folder for one of them": lambda name: f"{name}/{name}" if name.startswith("t10k-l") else name,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_are_there_are_found_wherever_others_put_them(root, small_files, layout):
    for name, content in small_files.items():
        path = root / LAYOUTS[layout](name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert data.have_mnist()
    train, test = data.load("mnist")
    assert idx(train.images.numpy()) == small_files["train-images-idx3-ubyte"]
    assert len(test) == 20


def test_whole_files_of_the_usual_names_are_read_where_they_are(root, small_files):
    (root / "raw").mkdir(parents=True)
    for name, content in small_files.items():
        (root / "raw" / name).write_bytes(content)
    before = everything_in(root)
    assert data.folder() == root / "raw"
    assert everything_in(root) == before


@pytest.mark.parametrize("deeper", ["MNIST", "MNIST/raw"])
def test_the_variable_may_name_a_folder_further_down(root, small_files, deeper, monkeypatch):
    put(root, small_files)
    monkeypatch.setenv("MNIST_LIB_DATA", str(root / deeper))
    assert len(data.load("mnist")[0]) == 30


def test_compressed_files_in_a_folder_that_cannot_be_written_are_unpacked_into_the_cache(
    root, small_files, monkeypatch, tmp_path
):
    root.mkdir()
    for name, content in small_files.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(content))
    (root / "MNIST").write_text("in the way, whoever runs this")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(data.load("mnist")[0]) == 30
    copies = [f"mnist_lib/data/MNIST/raw/{name}" for name in MNIST_FILES]
    assert set(copies) <= set(everything_in(tmp_path / "cache"))
    monkeypatch.delenv("MNIST_LIB_DATA")
    assert data.have_mnist()  # the cache is where they are looked for, if no place is named

    (tmp_path / "cache").rename(tmp_path / "moved")
    (tmp_path / "cache").write_text("in the way, too")
    monkeypatch.setenv("MNIST_LIB_DATA", str(root))
    with pytest.raises(DataError, match=f"{root}: MNIST's files need to be unpacked, and neither .*cache.* can be wr"):
        data.load("mnist")


def test_another_archive_is_named_and_so_is_the_way_out(root, small_files):
    root.mkdir()
    for name, content in small_files.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(content + b"more"))
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged: .* Delete the file to have it downloaded again"):
        data.load("mnist")


def test_a_file_that_may_not_be_read_is_named(root, small_files, monkeypatch):
    """By a stub: root, who may run these tests, may read all files."""
    folder = put(root, small_files)
    read = Path.read_bytes

    def refuse(path):
        if path == folder / "t10k-labels-idx1-ubyte":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=f"{folder}/t10k-labels-idx1-ubyte cannot be read: .*denied. Make it readable"):
        data.load("mnist")


def test_a_damaged_archive_is_named(root, small_files):
    root.mkdir()
    for name, content in small_files.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read: .*Delete it, or restore it"):
        data.load("mnist")


KINDS = ("csv", "npz", "parquet", "mat", "pkl", "pt", "png", "jpg", "zip", "tar", "tgz")


@pytest.mark.parametrize("file", ["MNIST.ZIP", *(f"mnist_train.{kind}" for kind in KINDS)])
def test_what_cannot_be_used_is_named(root, mirror, file):
    mirror.answers.clear()
    root.mkdir()
    (root / file).touch()
    said = f"In it there is {file}, which is not read: the four files ending in -ubyte are needed. Set MNIST_LIB_DATA"
    assert said in refused_download(root)


def test_of_many_files_that_cannot_be_used_the_first_are_named(root, mirror):
    mirror.answers.clear()
    root.mkdir()
    for name in ("d.png", "b.png", "a.png", "c.png", "readme.txt"):
        (root / name).touch()
    assert "In it there is a.png, b.png, c.png, which is not read" in refused_download(root)


@pytest.mark.parametrize("there", ["no folder", "an empty folder", "a text"])
def test_where_nothing_could_be_meant_nothing_is_said(root, mirror, there):
    mirror.answers.clear()
    if there != "no folder":
        root.mkdir()
    if there == "a text":
        (root / "readme.txt").touch()
    assert "could not be downloaded. Set MNIST_LIB_DATA to a directory that holds MNIST/raw/" in refused_download(root)


def test_a_part_of_the_files_is_named(root, small_files, mirror):
    mirror.answers.clear()
    put(root, dict(list(small_files.items())[:3]))
    assert "there is a part of it; these files are missing: t10k-labels-idx1-ubyte" in refused_download(root)


def test_all_that_is_missing_is_named(root, small_files, mirror):
    mirror.answers.clear()
    put(root, dict(list(small_files.items())[:2]))
    _, _, missing = refused_download(root).partition("these files are missing: ")
    assert {*missing.partition(". ")[0].split(", ")} == {*list(MNIST_FILES)[2:]}


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("asked", ["", "1"])
@pytest.mark.parametrize("there", [True, False])
def test_a_page_does_without_images_only_where_they_are_missing_and_that_was_asked_for(
    root, small_files, monkeypatch, dataset, asked, there
):
    monkeypatch.setenv("MNIST_LIB_BLANK_IMAGES", asked)
    if there:
        put(root, small_files)
    assert data.may_be_blank(dataset) is (dataset == "mnist" and bool(asked) and not there)


def test_a_folder_that_may_not_be_entered_is_named(root, mirror, monkeypatch):
    (root / "MNIST").mkdir(parents=True)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != root / "MNIST" and access(path, mode))
    mirror.answers.clear()
    assert f"{root}/MNIST is there and may not be read: make it readable" in refused_download(root)


def test_a_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MNIST_LIB_DATA", "~/images")
    monkeypatch.setenv("MNIST_LIB_RUNS", "~/runs")
    assert data.data_directory() == tmp_path / "images"
    assert experiments.runs_directory() == tmp_path / "runs"


def test_a_mirror_that_sends_a_byte_now_and_then_does_not_keep_a_run_for_ever(root, monkeypatch):
    """Each byte comes in time, and all of them never do."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.05)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(data, "DOWNLOAD_LIMIT", 0.6)
    assert "it took longer than 0.01 minutes" in refused_download(root)
    server.shutdown()


# -- downloading


def test_download_leaves_the_four_files_and_nothing_else(root, mirror):
    train, test = data.load("mnist")
    assert (len(train), len(test)) == (30, 20)
    expected = ["MNIST", "MNIST/raw", *(f"MNIST/raw/{name}" for name in MNIST_FILES)]
    assert everything_in(root) == sorted(expected)
    mirror.answers.clear()  # the second time nothing is asked for
    assert len(data.load("mnist")[0]) == 30


@pytest.mark.parametrize("there", ["no folder above", "an empty folder", "three of the files"])
def test_download_completes_what_is_there(root, mirror, small_files, monkeypatch, there):
    """Files are moved within the data directory, so that none is ever half there."""
    if there == "no folder above":
        root = root / "not" / "yet"
        monkeypatch.setenv("MNIST_LIB_DATA", str(root))
    elif there == "an empty folder":
        root.mkdir()
    else:
        put(root, dict(list(small_files.items())[:3]))
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda here, there: moved.append(Path(here)) or replace(here, there))
    assert len(data.load("mnist")[0]) == 30
    assert len(moved) == 4 and all(root in path.parents for path in moved)
    assert sum(name.endswith("-ubyte") for name in everything_in(root)) == 4


def test_a_silent_mirror_is_given_up_and_other_sockets_keep_their_patience(root, mirror, monkeypatch):
    before, told, tell = socket.getdefaulttimeout(), [], socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: told.append(seconds) or tell(seconds))
    try:
        tell(77)
        data.load("mnist")
        assert socket.getdefaulttimeout() == 77
        assert told[0] == data.DOWNLOAD_TIMEOUT < 60
    finally:
        tell(before)


def test_missing_without_a_network(root, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed below, so that nobody listens there
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    monkeypatch.setenv("no_proxy", "*")
    assert "refused" in refused_download(root)


def test_missing_file_among_present_ones_is_not_mixed_with_them(root, small_files, mirror):
    present = dict(list(small_files.items())[:3])
    put(root, present)
    mirror.answers.clear()
    refused_download(root)
    assert not data.have_mnist()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda whole: b"HTTP/1.0 404 Not Found\r\n\r\n", id="one file is not there"),
        pytest.param(lambda whole: whole[:-9], id="the connection ends early"),
        pytest.param(lambda whole: b"", id="no answer"),
        pytest.param(lambda whole: b"not HTTP\r\n\r\n", id="not HTTP"),
        pytest.param(lambda whole: answer(b"<html>Please log in</html>"), id="a log-in page"),
        pytest.param(
            lambda whole: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort", id="a chunk ends early"
        ),
    ],
)
def test_broken_download_leaves_nothing_behind(root, mirror, broken):
    """The first three files arrive, the last does not."""
    mirror.answers[LAST_FILE] = broken(mirror.answers[LAST_FILE])
    refused_download(root)


def test_download_with_wrong_content_is_refused(root, mirror, monkeypatch):
    """The archive is the one that torchvision expects, but what is in it is not MNIST's file."""
    monkeypatch.setitem(MNIST_FILES, "t10k-labels-idx1-ubyte", "0" * 32)
    assert "is damaged" in refused_download(root)


def test_data_directory_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "data"
    monkeypatch.setenv("MNIST_LIB_DATA", str(root))
    with pytest.raises(DataError, match=f"MNIST is not in {root}.*Not a directory"):
        data.load("mnist")


# -- MNIST itself


@pytest.mark.needs_mnist
def test_mnist_is_complete():
    train, test = data.load("mnist")
    assert (train.images.shape, test.images.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert len(train) == DATASETS["mnist"].training_images
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert torch.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, std = training.mean_and_std(train.images)
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)  # the published figures


@pytest.mark.needs_mnist
def test_mnist_validation_holds_out_the_last_ten_thousand():
    kept, held_out = data.load("mnist", evaluate_on="validation")
    train, _ = data.load("mnist")
    assert (len(kept), len(held_out)) == (50_000, 10_000)
    assert torch.equal(held_out.labels, train.labels[50_000:])
    assert torch.equal(kept.images[-1], train.images[49_999])


@pytest.mark.needs_mnist
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped"])
def test_damaged_mnist_is_refused(tmp_path, monkeypatch, damage):
    name = "t10k-labels-idx1-ubyte"
    source = data.data_directory() / "MNIST" / "raw"
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for other in MNIST_FILES:
        os.symlink(source.resolve() / other, folder / other)
    content = bytearray((source / name).read_bytes())
    if damage == "truncated":
        del content[5000:]
    else:
        content[5000] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    monkeypatch.setenv("MNIST_LIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{folder / name} is damaged.*27ae3e4e09519cfbb04c329615203637"):
        data.load("mnist")
