"""Faults: processes killed, disks full, files damaged, records and parameters from anywhere."""

import ast
import dataclasses
import http.server
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient.exceptions import DeadKernelError
from torchvision.datasets import MNIST

from forked import PROCESSES
from mnist_lib import cli, data, experiments, records, training
from mnist_lib.base.digests import bytes_digest
from mnist_lib.base.files import FileError
from mnist_lib.data import DataError, Images
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import ParameterError, Recipe, validate
from mnist_lib.pipeline import catalogue, execution, workers
from mnist_lib.records import RecordError, record_path, weights_path
from mnist_lib.results import page, tables
from mnist_lib.training import DivergenceError
from support import (
    LAST_FILE,
    LIGHT,
    PATIENCE,
    ROOT,
    answer,
    check_nothing_is_truncated,
    command,
    content,
    few_digits,
    networks,
    put,
    refused_download,
    sealed,
)

CPU = torch.device("cpu")
NETWORK = page.of_notebook(LIGHT).network
RUN = Experiment("iteration_00", Recipe(dataset="digits", epochs=3, batch_size=16), NETWORK)
SEEDS = (0, 1)


def with_recipe(name: str, **changes: object) -> Experiment:
    """RUN under another name, with another recipe."""
    return dataclasses.replace(RUN, name=name, recipe=dataclasses.replace(RUN.recipe, **changes))


@pytest.fixture(autouse=True)
def no_user_store(tmp_store):
    """Nothing is written where the user's runs are."""


@pytest.fixture
def few_images(monkeypatch):
    few_digits(monkeypatch)


def train(folder: Path, seeds=SEEDS, run=RUN, log=None) -> list[records.Record]:
    def count(experiment, seed, epoch, number, seconds):
        if log is not None:
            log.append((seed, number))

    return [experiments.train(run, seed, CPU, folder, count) for seed in seeds]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, object]:
    """What an uninterrupted sweep leaves."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        train(folder)
    return content(folder)


# -- killed at any moment


def kinds_of_events(path: Path) -> str:
    return "checkpoint" if ".partial." in path.name else "record"


def train_until(kind: str, number: int, folder: Path) -> None:
    """In a process of its own: a sweep that SIGKILL ends at the event with this number, counted by kind.

    Events are the steps; and, of every file written, the moment when half of it is written, the moment before it gets
    its name and the moment after.
    """
    numbers = {name: itertools.count(1) for name in ("step", "checkpoint", "record")}

    def event(name: str) -> None:
        if next(numbers[name]) == number and name == kind:
            os.kill(os.getpid(), signal.SIGKILL)

    cross_entropy, mkstemp, fdopen, replace = training.functional.cross_entropy, tempfile.mkstemp, os.fdopen, os.replace
    writing = []

    def step(*arguments, **options):
        event("step")
        return cross_entropy(*arguments, **options)

    def begin(prefix, dir):
        writing.append(kinds_of_events(Path(prefix)))
        return mkstemp(prefix=prefix, dir=dir)

    class HalfFirst:
        def __init__(self, handle, mode):
            self.file = fdopen(handle, mode)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, text):
            self.file.write(text[: len(text) // 2])
            self.file.flush()
            event(writing[-1])
            self.file.write(text[len(text) // 2 :])

    def put(scratch, path):
        event(kinds_of_events(path))
        replace(scratch, path)
        event(kinds_of_events(path))

    few_digits(pytest.MonkeyPatch())  # this process is for it
    training.functional.cross_entropy = step
    tempfile.mkstemp, os.fdopen, os.replace = begin, HalfFirst, put
    train(folder)
    (folder / "events").write_text(json.dumps({name: next(count) - 1 for name, count in numbers.items()}))


def in_a_process(function, *arguments) -> int | None:
    """The exit code."""
    child = PROCESSES.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


EVENTS = {"step": 8 + 2 * (3 * 5 + 1), "checkpoint": 2 * 2 * 3, "record": 2 * 2 * 3}
"""How many events two runs of three epochs have: eight losses while the network is tried out; four steps and an
evaluation an epoch, and an evaluation in the end; three for each of two checkpoints; three for the weights and three
for the record."""
MOMENTS = [
    (kind, number)
    for kind, count in (("step", 8), ("checkpoint", 6), ("record", 6))
    for number in sorted(random.Random(0).sample(range(1, EVENTS[kind] + 1), count))
]


# Every second one is left to `make test-all`.
@pytest.mark.parametrize(
    ("kind", "number"), [*MOMENTS[::2], *(pytest.param(*moment, marks=pytest.mark.slow) for moment in MOMENTS[1::2])]
)
def test_killed_at_a_random_moment(tmp_path, few_images, whole, kind, number):
    earlier = with_recipe("earlier", epochs=1)
    train(tmp_path, [9], earlier)
    before = content(tmp_path)
    assert in_a_process(train_until, kind, number, tmp_path) == -signal.SIGKILL
    check_nothing_is_truncated(tmp_path)

    train(tmp_path)
    assert content(tmp_path) == whole | before, "also: no scratch file, lock or checkpoint is left"


def test_the_events_are_all_there_are(tmp_path):
    """Otherwise the moments above would be drawn from a part of the sweep only."""
    assert in_a_process(train_until, "none", 0, tmp_path) == 0
    assert json.loads((tmp_path / "events").read_text()) == EVENTS


def test_killed_between_the_weights_and_the_record_that_replace_older_ones(tmp_path, few_images, whole):
    """The one moment at which a pair cannot match. It is noticed, and the next sweep makes the pair anew."""
    train(tmp_path, run=with_recipe("older", momentum=0.5))
    assert in_a_process(train_until, "record", 4, tmp_path) == -signal.SIGKILL
    with pytest.raises(RecordError, match=r"seed_0\.safetensors: damaged: these are not the weights"):
        records.read_weights(record_path(tmp_path, 0))
    train(tmp_path)
    assert content(tmp_path) == whole


WHOSE_PARENT_DIES = """
import os, signal, sys, time
from pathlib import Path

from mnist_lib.pipeline import workers


def wait_or_kill_the_parent(source, folder):  # in the place of a function that executes a notebook
    if source.stem == "waits":
        (folder / "started").touch()
    else:
        while not (folder / "started").exists():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(10_000)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    workers.execute(wait_or_kill_the_parent, [(Path("waits"), folder), (Path("kills"), folder)], 2)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Its pipe ends when the last of them has gone."""
    (script := tmp_path / "sweep.py").write_text(WHOSE_PARENT_DIES, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr


# -- two processes, one run


def train_and_tell(folder: Path, start, results) -> None:
    """In a process of its own: train seed 0 as soon as all are ready, and tell how many epochs it trained itself."""
    few_digits(pytest.MonkeyPatch())  # this process is for it
    log = []
    start.wait()
    (record,) = train(folder, [0], log=log)
    results.put((len(log), records.to_json(record)))


def test_of_three_processes_one_trains_and_the_others_take_the_result(tmp_path, few_images, whole):
    start, results = PROCESSES.Barrier(3), PROCESSES.Queue()
    children = [PROCESSES.Process(target=train_and_tell, args=(tmp_path, start, results)) for _ in range(3)]
    for child in children:
        child.start()
    told = [results.get(timeout=PATIENCE) for _ in children]
    for child in children:
        child.join()
    assert sorted(epochs for epochs, _ in told) == [0, 0, 3]
    assert len({text for _, text in told}) == 1, "with the same date and times: one record"
    assert content(tmp_path) == {name: whole[name] for name in ("seed_0.json", "seed_0.safetensors")}


def hold(folder: Path, holding) -> None:
    """In a process of its own: the run is begun, and never goes on."""
    with records.only_one(record_path(folder, 0)):
        holding.set()
        time.sleep(2 * PATIENCE)


def test_who_waits_goes_on_when_the_other_is_killed(tmp_path, few_images, whole):
    holding, start, results = PROCESSES.Event(), PROCESSES.Barrier(1), PROCESSES.Queue()
    first = PROCESSES.Process(target=hold, args=(tmp_path, holding))
    first.start()
    assert holding.wait(PATIENCE)
    second = PROCESSES.Process(target=train_and_tell, args=(tmp_path, start, results))
    second.start()
    second.join(1)
    assert second.is_alive()
    assert {path.name for path in tmp_path.iterdir()} == {"seed_0.lock"}, "it waits"
    first.kill()
    assert results.get(timeout=PATIENCE)[0] == 3
    second.join()
    assert content(tmp_path) == {name: whole[name] for name in ("seed_0.json", "seed_0.safetensors")}


# -- disks and folders


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MiB; yields its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here (it takes Linux and the right to do it)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Fill the disk up to this many pages."""
    disk = os.statvfs(folder)
    (folder / "ballast").write_bytes(b"\0" * (disk.f_bavail - left) * disk.f_bsize)
    assert os.statvfs(folder).f_bavail == left


def test_full_disk_leaves_what_was_there(small_disk, few_images, whole):
    """From no free page on, one more each time, until the record fits: it replaces an older one, or changes nothing."""
    older = with_recipe("older", epochs=1, momentum=0.5)
    newer = with_recipe("newer", epochs=1)
    folder = small_disk / "records"
    train(folder, [0, 1], older)
    before = content(folder)
    for left in range(100):
        fill(small_disk, left)
        try:
            train(folder, [0], newer)
        except FileError as error:
            assert "seed_0." in str(error)
            assert "could not be written: [Errno 28] No space left on device" in str(error)
            assert content(folder) == before
            (small_disk / "ballast").unlink()
        else:
            break
    assert left > 4, "the weights alone have 4 pages"
    after = content(folder)
    assert {name for name in after if after[name] != before[name]} == {"seed_0.json", "seed_0.safetensors"}


def test_a_disk_that_is_full_at_a_checkpoint_keeps_the_checkpoint_before_it(small_disk, few_images, whole):
    def fill_after_the_first(experiment, seed, epoch, number, seconds):
        if number == 1:
            fill(small_disk, 3)

    folder = small_disk / "records"
    with pytest.raises(FileError, match=r"seed_0\.partial\.safetensors could not be written.*No space left"):
        experiments.train(RUN, 0, CPU, folder, fill_after_the_first)
    assert [path.name for path in folder.iterdir()] == ["seed_0.partial.safetensors"]
    (small_disk / "ballast").unlink()
    log = []
    train(folder, log=log)
    assert log[0] == (0, 2)
    assert content(folder) == whole


def test_read_only_disk_is_an_error_before_training_and_can_be_read(small_disk, few_images, monkeypatch):
    train(small_disk, [0])
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    log = []
    with pytest.raises(FileError, match=f"{small_disk}/seed_1.json could not be written: .*Read-only file system"):
        train(small_disk, [1], log=log)
    assert log == []
    assert content(small_disk) == before
    monkeypatch.setattr(Experiment, "published", small_disk)
    assert experiments.find(RUN, 0).seed == 0


@pytest.mark.parametrize("after_epoch", [1, 2, 3])
def test_folder_that_vanishes_is_made_anew(tmp_path, few_images, whole, after_epoch):
    def vanish(experiment, seed, epoch, number, seconds):
        if number == after_epoch:
            shutil.rmtree(tmp_path / "below")

    experiments.train(RUN, 0, CPU, tmp_path / "below" / "records", vanish)
    expected = {name: whole[name] for name in ("seed_0.json", "seed_0.safetensors")}
    assert content(tmp_path / "below" / "records") == expected


def test_folder_that_vanishes_and_cannot_be_made_anew(tmp_path, few_images):
    def vanish(experiment, seed, epoch, number, seconds):
        (tmp_path / "disk").rename(tmp_path / "elsewhere")
        (tmp_path / "disk").write_text("not a folder")

    train(tmp_path / "disk" / "records", [0])
    before = content(tmp_path / "disk" / "records")
    with pytest.raises(FileError, match=f"{tmp_path}/disk/records/seed_1.* could not be written: .*Not a directory"):
        experiments.train(RUN, 1, CPU, tmp_path / "disk" / "records", vanish)
    after = content(tmp_path / "elsewhere" / "records")
    assert {name: after[name] for name in before} == before


# -- MNIST's files, and where they come from

HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Welcome to the network</body></html>\n"


@pytest.mark.parametrize("name", data.MNIST_FILES)
@pytest.mark.parametrize("instead", [*data.MNIST_FILES, "an HTML page"])
def test_a_swapped_file_is_refused_by_name_before_training(root, small_files, monkeypatch, tmp_path, name, instead):
    if name == instead:
        return  # that is no fault
    folder = put(root, small_files | {name: small_files.get(instead, HTML)})
    monkeypatch.setattr(experiments.training, "Trainer", lambda *_: pytest.fail("training began"))
    run = Experiment("iteration_00", Recipe(epochs=1), NETWORK)
    with pytest.raises(DataError, match=f"^{folder / name} is damaged: its MD5 is "):
        experiments.train(run, 0, CPU, tmp_path / "records")
    assert not list((tmp_path / "records").iterdir())


@pytest.mark.parametrize("others", [*list(data.MNIST_FILES)[:3], "an HTML page"])
def test_a_mirror_that_serves_the_wrong_file(root, mirror, others):
    whole = mirror.answers[LAST_FILE]
    mirror.answers[LAST_FILE] = mirror.answers.get(f"/{others}.gz", answer(HTML))
    refused_download(root)
    mirror.answers[LAST_FILE] = whole
    assert [len(part) for part in data.load("mnist")] == [30, 20], "nothing bad was kept"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_mirror_that_drops_the_connection(root, mirror, share):
    name = "/train-images-idx3-ubyte.gz"
    whole = mirror.answers[name]
    mirror.answers[name] = whole[: int(len(whole) * share)]
    refused_download(root)
    mirror.answers[name] = whole
    assert [len(part) for part in data.load("mnist")] == [30, 20]


@pytest.fixture
def slow_mirror(monkeypatch, mirror):
    """Makes the mirror answer in ten pieces with a pause before each."""
    ended = threading.Event()

    def slow(pause: float) -> None:
        def answer_slowly(handler):
            whole = mirror.answers[handler.path]
            for start in range(0, len(whole), len(whole) // 10 + 1):
                if ended.wait(pause):
                    return
                handler.wfile.write(whole[start : start + len(whole) // 10 + 1])
                handler.wfile.flush()

        monkeypatch.setattr(mirror.server.RequestHandlerClass, "do_GET", answer_slowly)

    yield slow
    ended.set()


def test_a_mirror_that_is_slow_is_waited_for(root, slow_mirror):
    slow_mirror(0.02)
    assert [len(part) for part in data.load("mnist")] == [30, 20]


def test_a_mirror_that_falls_silent_is_given_up(root, slow_mirror, monkeypatch):
    monkeypatch.setattr(data, "DOWNLOAD_TIMEOUT", 0.2)
    slow_mirror(60)
    assert "timed out" in refused_download(root)


def test_the_next_mirror_is_asked_when_one_does_not_answer(root, mirror, monkeypatch):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{broken.server_port}/", *MNIST.mirrors])
        assert [len(part) for part in data.load("mnist")] == [30, 20]
        broken.shutdown()


# -- records from anywhere

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(300, 400).map(lambda digits: 10**digits)
    | st.floats()
    | st.text()
    | st.sampled_from(["../../outside", "/etc/passwd", "a/../../b", "<script>alert(1)</script>", "seed_0", "0" * 64]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = [field.name for field in dataclasses.fields(records.Record) if field.name != "path"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict:
    """A record, as JSON gives it."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        train(folder, [0], with_recipe("good", epochs=2))
    return json.loads(record_path(folder, 0).read_text())


@pytest.fixture(scope="module")
def read_as_record(tmp_path_factory):
    """Reads what it is given as the record of seed 0; a record's content has the digest that it should."""
    path = record_path(tmp_path_factory.mktemp("record"), 0)

    def read(value: object) -> records.Record:
        if isinstance(value, dict) and "digest" in value:
            value = sealed(value)
        path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
        return records.read(path)

    return read


def check_usable(record: records.Record) -> None:
    """What pages do with a record."""
    assert record.test_accuracy.shape == record.train_accuracy.shape == (len(record.history["test_loss"]),)
    assert record.seconds == record.seconds
    assert isinstance(RUN.differences(record), list)
    assert "<script" not in tables.provenance([record])._repr_html_()
    path = experiments.published_records() / record.experiment / f"seed_{record.seed}.json"
    assert path.resolve().is_relative_to(experiments.published_records().resolve())
    json.loads(records.to_json(record), parse_constant=pytest.fail)


@settings(max_examples=400)
@given(name=st.sampled_from(NAMES), value=JSON)
def test_any_value_of_a_field_is_refused_by_name_or_harmless(good, read_as_record, name, value):
    try:
        record = read_as_record(good | {name: value})
    except RecordError as error:
        assert name in str(error).partition("seed_0.json: ")[2]
    else:
        check_usable(record)


@settings(max_examples=300)
@given(where=st.data(), value=JSON)
def test_any_value_inside_a_field_is_refused_by_name_or_harmless(good, read_as_record, where, value):
    changed = json.loads(json.dumps(good))
    name = where.draw(st.sampled_from([name for name in NAMES if isinstance(good[name], dict | list)]))
    inner = changed[name]
    key = where.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
    if isinstance(inner[key], list) and where.draw(st.booleans()):
        inner, key = inner[key], 0
    inner[key] = value
    try:
        record = read_as_record(changed)
    except RecordError as error:
        assert name in str(error).partition("seed_0.json: ")[2]
    else:
        check_usable(record)


@settings(max_examples=200)
@given(JSON)
def test_any_json_is_refused(read_as_record, value):
    with pytest.raises(RecordError, match=r"seed_0\.json: "):
        read_as_record(value)


@pytest.mark.parametrize("name", [*NAMES, "digest"])
def test_a_missing_field_is_refused(good, read_as_record, name):
    with pytest.raises(RecordError, match="not a record of format 2"):
        read_as_record({key: value for key, value in good.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("experiment", "../../outside"),
        ("experiment", "/absolute"),
        ("experiment", "a/../b"),
        ("seed", 1),
        ("seed", -1),
        ("seed", True),
        ("parameter_count", 10**400),
        ("train_size", 0),
        ("class_counts", [0] * 10),
        ("class_counts", [1] * 9),
        ("first_losses", [float("nan")]),
        ("first_losses", [float("inf")]),
        ("misclassified", [[1, 2, 10]]),
        ("weights_digest", "../weights"),
        ("history", {}),
        ("environment", {}),
        ("digests", {"code": 3, "network": "e" * 64, "data": "d"}),
        ("digests", {"code": "c" * 64, "data": "d"}),
        ("digests", {"code": "c", "network": "e" * 64, "data": "d"}),
        ("network", {"source": "", "name": "network"}),
        ("network", {"source": "", "name": "network", "arguments": {"width": [1]}}),
        ("trained_correct", -1),
        ("format", 1),
        ("format", "2"),
    ],
)
def test_a_wrong_field_is_refused_by_name(good, read_as_record, name, value):
    with pytest.raises(RecordError, match=name):
        read_as_record(good | {name: value})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' * 50_000, "9" * 10_000, '"\\ud800"', "1e999"])
def test_json_that_breaks_readers_is_refused(read_as_record, text):
    with pytest.raises(RecordError, match=r"seed_0\.json: "):
        read_as_record(text)


def test_text_in_a_record_is_escaped_on_the_page(good, read_as_record):
    script = "<script>alert('x')</script><img src=x onerror=alert(1)>"
    environment = good["environment"] | dict.fromkeys(("python", "torch", "device_name", "cpu_capability"), script)
    record = read_as_record(good | {"environment": environment, "digests": good["digests"] | {"data": script}})
    html = tables.provenance([record])._repr_html_()
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;" in html


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("pack", [pickle.dumps, lambda bomb: b"\x08\0\0\0\0\0\0\0" + pickle.dumps(bomb)])
def test_weights_are_never_unpickled(good, tmp_path, pack):
    """The record vouches for them: their digest is right."""
    weights = pack(Bomb(tmp_path / "exploded"))
    path = record_path(tmp_path, 0)
    path.write_text(json.dumps(sealed(good | {"weights_digest": bytes_digest(weights)})))
    weights_path(path).write_bytes(weights)
    with pytest.raises(RecordError, match=r"seed_0\.safetensors: not a safetensors file"):
        records.read_weights(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("module", sorted((ROOT / "mnist_lib").rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_unpickles_nothing(module):
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "np.load", "numpy.load", "pd.read_pickle")


# -- parameters from anywhere

ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=2)
)
PLAUSIBLE = {
    "dataset": st.sampled_from(["mnist", "digits"]),
    "evaluate_on": st.sampled_from(["test", "validation"]),
    "epochs": st.integers(-1, 1100),
    "batch_size": st.integers(0, 60_100),
    "learning_rate": st.floats(0, 110),
    "momentum": st.floats(0, 1.1),
    "optimizer": st.sampled_from(["sgd", "adamw", "muon"]),
    "other_learning_rate": st.floats(0, 110),
    "nesterov": st.booleans(),
    "weight_decay": st.floats(0, 11),
    "label_smoothing": st.floats(0, 1),
    "average_decay": st.floats(0, 1),
    "statistics_images": st.integers(0, 60_100),
    "preparation": st.sampled_from(["none", "deskew"]),
    "schedule": st.sampled_from(["constant", "step", "one_cycle", "linear", "cosine"]),
    "warm_up": st.floats(0, 1),
    "step_size": st.integers(0, 1100),
    "step_factor": st.floats(0, 1.1),
    "rotation": st.floats(-1, 200),
    "crop_probability": st.floats(0, 1.1),
    "interpolation": st.sampled_from(["bilinear", "nearest"]),
    "shear": st.floats(0, 1.1),
    "scale": st.floats(0, 1),
    "translation": st.floats(0, 15),
    "elastic": st.floats(0, 15),
    "fade": st.floats(0, 1.1),
    "final_strength": st.floats(0, 1.1),
    "precision": st.sampled_from(["float32", "bfloat16", "float16"]),
    "threads": st.integers(0, 4),
}


def test_500_parameter_sets_are_refused_by_name_or_train_a_step():
    train_images, test_images = (Images(part.images[:8], part.labels[:8]) for part in data.load("digits"))
    outcomes = {"refused": 0, "trained": 0, "diverged": 0}

    @settings(max_examples=500, database=None)
    @given(
        st.sampled_from([*networks().values()]),
        st.fixed_dictionaries({}, optional=PLAUSIBLE),
        st.one_of(st.none(), st.tuples(st.sampled_from(["network", *PLAUSIBLE, "epcohs"]), ANY_VALUE)),
    )
    def refused_or_trained(network, values, strange):
        values = values | dict([strange] if strange else [])
        try:
            experiment = Experiment("iteration_00", validate(Recipe, values), network)
        except ParameterError as error:
            outcomes["refused"] += 1
            assert any(name in str(error) for name in values)
            return
        trainer = experiments.make_trainer(experiment, 0, CPU, (train_images, test_images))
        try:
            (loss,) = trainer.replay(1)
        except DivergenceError as error:
            outcomes["diverged"] += 1
            assert "learning_rate" in str(error)
        else:
            outcomes["trained"] += 1
            assert loss >= 0

    refused_or_trained()
    torch.set_num_threads(1)  # a recipe says how many
    assert sum(outcomes.values()) >= 500
    assert min(outcomes["refused"], outcomes["trained"]) > 50, outcomes


# -- a kernel that dies

DYING = [
    'name: str = "dying"',
    "number = 1",
    "number + 1",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "number + 2",
]


def dying_notebook(path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in DYING]
    cells[0].metadata["tags"] = ["parameters"]
    cells.insert(1, nbformat.v4.new_markdown_cell("Prose is not counted."))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_a_kernel_that_dies_leaves_the_published_notebook(tmp_path):
    source, target = tmp_path / "dying.ipynb", tmp_path / "published.ipynb"
    dying_notebook(source)
    target.write_text("as it was")
    with pytest.raises(DeadKernelError, match=r"^dying\.ipynb: the kernel died in code cell 4, 'import os, signal'$"):
        execution.execute(source, target)
    assert target.read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"dying.ipynb", "published.ipynb"}


def test_a_kernel_that_dies_is_told_by_the_command_line(small_report):
    dying_notebook(small_report / "notebooks" / "dying.ipynb")
    before = (small_report / "notebooks" / "dying.ipynb").read_bytes()
    process = command(small_report, "run", "dying")
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "dying failed: dying.ipynb: the kernel died in code cell 4, 'import os, signal'" in printed
    assert (small_report / "notebooks" / "dying.ipynb").read_bytes() == before


def test_many_failures_are_not_taken_for_success(monkeypatch, tmp_path):
    """An exit code has eight bits."""
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path)
    monkeypatch.setattr(workers, "train", lambda *_: 256)
    assert cli.main(["train", "iteration_01_setup"]) % 256 != 0


# -- memory

PEAK = """
import sys, torch
from mnist_lib import experiments
from mnist_lib.pipeline import catalogue, execution
published = catalogue.published_runs(catalogue.find(sys.argv[1])[0])
((experiment, _),) = [run for run in published if run[0].name == sys.argv[1]]
trainer = experiments.make_trainer(experiment, 0, torch.device("cpu"))
trainer.replay(20)
experiments.misclassified(trainer.evaluate()[1], trainer.test_labels)
trainer.state()
# Not getrusage: its maximum counts the process that this one was forked from.
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(line.split()[1]) * 1024 / 1e6)  # MB
"""
LARGEST = ["iteration_01_setup"]
OTHERS = sorted({path.stem for path in catalogue.find("iteration_??_*")} - {*LARGEST})


@pytest.mark.needs_mnist
@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell it in another way")
@pytest.mark.parametrize("name", [*LARGEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_one_training_process_needs_less_than_a_gigabyte_and_a_half(name):
    """The images, twenty steps, the evaluation of all test images, and a checkpoint."""
    done = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True, check=True)
    peak = float(done.stdout)
    print(f"{name}: {peak:.0f} MB")
    assert 100 < peak < 1500
