"""Run records: written whole or not at all, read back as they were, refused when damaged."""

import dataclasses
import errno
import fcntl
import json
import math
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mnist_lib import experiments, records
from mnist_lib.base.digests import bytes_digest
from mnist_lib.base.files import FileError, write_atomically
from mnist_lib.records import Record, RecordError, record_path, to_json, weights_path

WEIGHTS = b"the weights, serialized"

ACCEPTED = {"date": "2026-02-01", "commit": None, "code": "0" * 64, "checked": ["weights"]}

ENVIRONMENT = {
    "date": "2026-01-31",
    "device": "cpu",
    "device_name": "a processor",
    "torch": "2.6",
    "threads": 1,
    "epoch_seconds": [1.5, 2.0],
    "commit": None,
}


@pytest.fixture
def record() -> Record:
    return Record(
        experiment="iteration_00/variant",
        seed=3,
        parameters={"learning_rate": 0.1, "dataset": "digits", "nesterov": False},
        network={"source": "def network(width):\n    ...\n", "name": "network", "arguments": {"width": 10}},
        digests={"code": "c" * 64, "network": "e" * 64, "data": "d"},
        parameter_count=7884,
        train_size=50,
        class_counts=[2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        history={
            "learning_rate": [0.1, 0.1],
            "train_loss": [1 / 3, 1e-17],
            "train_correct": [25, 50],
            "test_loss": [0.1 + 0.2, 5e-324],
            "test_correct": [10, 19],
        },
        first_losses=[2.3, 2.25],
        misclassified=[[4, 7, 1]],
        trained_correct=49,
        weights_digest=bytes_digest(WEIGHTS),
        environment=ENVIRONMENT,
    )


def files_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_written_is_read_back(record, tmp_path):
    folder = tmp_path / "iteration_00" / "variant"  # made when needed
    path = records.write(record, WEIGHTS, folder)
    assert path == record_path(folder, 3) == folder / "seed_3.json"
    assert records.read(path) == record  # floats too, to the last bit
    assert weights_path(path).read_bytes() == WEIGHTS
    assert files_in(folder) == {"seed_3.json", "seed_3.safetensors"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}


def test_derived_figures(record):
    assert record.test_size == 20
    assert np.array_equal(record.test_accuracy, [50, 95])
    assert np.array_equal(record.train_accuracy, [50, 100])
    assert record.final_train_accuracy == 98
    assert record.seconds == 3.5


def test_json_depends_on_the_record_alone(record, tmp_path):
    again = records.read(records.write(record, WEIGHTS, tmp_path))
    assert to_json(again) == to_json(record)
    text = to_json(record)
    content = json.loads(text)
    assert content.pop("digest") == record.digest
    assert content == {key: value for key, value in dataclasses.asdict(record).items() if key != "path"}
    assert text.endswith("}\n")
    # A key a line: a changed number changes its line, and the digest's.
    changed = to_json(dataclasses.replace(record, parameter_count=7885))
    assert len(set(text.splitlines()) ^ set(changed.splitlines())) == 4


def test_a_record_knows_where_it_was_read(record, tmp_path):
    path = records.write(record, WEIGHTS, tmp_path)
    assert (record.path, records.read(path).path) == (None, path)
    assert "path" not in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        # other code, found to compute the same
        ({"digests": {"code": "0" * 64, "network": "e" * 64, "data": "d"}}, True),
        ({"misclassified": [[5, 7, 1]]}, False),
        ({"first_losses": [2.3, 2.26]}, False),
        ({"trained_correct": 48}, False),
        ({"weights_digest": "0" * 64}, False),
        ({"parameters": {"learning_rate": 0.2}}, False),
    ],
)
def test_results_have_a_digest_of_their_own(record, changes, kept):
    other = dataclasses.replace(record, **changes)
    assert other.digest != record.digest
    assert (other.results_digest == record.results_digest) == kept


def test_who_accepted_results_is_no_part_of_them(record):
    accepted = dataclasses.replace(record, environment=record.environment | {"accepted": [ACCEPTED]})
    assert accepted.digest != record.digest
    assert accepted.results_digest == record.results_digest
    elsewhere = dataclasses.replace(record, environment=record.environment | {"torch": "2.7"})
    assert elsewhere.results_digest != record.results_digest


def test_a_second_write_replaces_the_first(record, tmp_path):
    records.write(record, WEIGHTS, tmp_path)
    other = dataclasses.replace(record, weights_digest=bytes_digest(b"other"))
    path = records.write(other, b"other", tmp_path)
    assert records.read(path) == other
    assert weights_path(path).read_bytes() == b"other"
    assert len(files_in(tmp_path)) == 2


# -- what is refused, leaving what was there


@pytest.fixture
def written(record, tmp_path):
    """A folder with a record and its weights; afterwards they must be as they were, with nothing beside them."""
    path = records.write(record, WEIGHTS, tmp_path)
    yield path
    assert records.read(path) == record
    assert weights_path(path).read_bytes() == WEIGHTS
    assert files_in(tmp_path) == {"seed_3.json", "seed_3.safetensors"}


def test_other_weights_than_the_record_tells_are_refused(record, written):
    with pytest.raises(RecordError, match=r"seed_3\.json: the weights are not those"):
        records.write(record, WEIGHTS + b"!", written.parent)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["first_losses", "history", "environment"])
def test_what_is_not_a_number_is_never_written(record, written, bad, field):
    value = [bad] if field == "first_losses" else getattr(record, field) | {"test_loss": [bad]}
    other = dataclasses.replace(record, weights_digest=bytes_digest(b"other"), **{field: value})
    with pytest.raises(RecordError, match=r"seed_3\.json: not written"):
        records.write(other, b"other", written.parent)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file(written, monkeypatch, failing, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, failing, fail)
    expected = FileError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_atomically(written, b"half")
    if expected is FileError:
        assert str(written) in str(caught.value)
        assert "No space left" in str(caught.value)


def test_folder_that_is_a_file(record, tmp_path):
    (tmp_path / "file").write_text("as it was")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match=f"{folder}/seed_3.safetensors could not be written"):
            records.write(record, WEIGHTS, folder)
    assert files_in(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "as it was"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(record, tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(FileError, match=f"{tmp_path}/seed_3.safetensors could not be written"):
            records.write(record, WEIGHTS, tmp_path)
        assert not files_in(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_path_that_is_a_folder(written):
    blocked = written.with_name("folder")
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(FileError, match=f"{blocked} could not be written"):
        write_atomically(blocked, b"content")
    (blocked / "inside").rmdir()
    blocked.rmdir()


# -- reading


def edited(record, **changes) -> str:
    """A record's file with some fields changed, and the digest that goes with them."""
    known = {key: value for key, value in changes.items() if key in dataclasses.asdict(record) and value != "absent"}
    content = json.loads(to_json(dataclasses.replace(record, **known))) | changes
    return json.dumps({key: value for key, value in content.items() if value != "absent"})


def with_mistakes(mistakes: list[list[int]]) -> dict:
    """What goes with these mistakes: of 20 images, the others are right."""
    history = {name: [0.1] for name in ("learning_rate", "train_loss", "test_loss")}
    history |= {"train_correct": [50], "test_correct": [20 - len(mistakes)]}
    return {"misclassified": mistakes, "history": history, "environment": ENVIRONMENT | {"epoch_seconds": [1]}}


@pytest.mark.parametrize("field", ["trained_correct", "test_correct", "device"])
def test_a_record_that_says_something_twice_is_refused(record, tmp_path, field):
    """Whoever reads the file would read the first, and the library the last."""
    path = records.write(record, WEIGHTS, tmp_path)
    text = path.read_text("utf-8")
    assert text.count(f'"{field}":') == 1
    path.write_text(text.replace(f'"{field}":', f'"{field}": 9999, "{field}":'), "utf-8")
    with pytest.raises(RecordError, match=f"cannot be read as a record: it says '{field}' twice"):
        records.read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("misclassified", [[4, 7, 2]]),
        ("trained_correct", 50),
        ("experiment", "iteration_00/other"),
        ("parameter_count", 7885),
        ("first_losses", [2.3, 2.2500000000000004]),
        ("parameters", {"learning_rate": 0.1, "dataset": "digits"}),
        ("network", {"source": "def network(): ...", "name": "network", "arguments": {}}),
        ("digest", "0" * 64),
    ],
)
def test_an_altered_record_is_refused_whoever_altered_it(record, tmp_path, field, value):
    path = records.write(record, WEIGHTS, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(RecordError, match=f"^{path}: altered: its content does not have the digest that it states$"):
        records.read(path)


EVERYTHING = {
    "python": "3.11",
    "cpu_capability": "AVX2",
    "changed": True,
    "evaluated": {"date": "2026-03-01", "torch": "2.6", "device_name": "another", "commit": None},
}
"""What not every record says of where it was made."""


def test_what_a_record_may_hold_besides_is_read(record, tmp_path):
    """One with two misread images, and one that was accepted under other code."""
    for changes in (
        with_mistakes([[2, 7, 1], [4, 7, 1]]),
        {"environment": ENVIRONMENT | {"accepted": [ACCEPTED], "changed": None, "commit": "0" * 40}},
        {"environment": ENVIRONMENT | EVERYTHING | {"commit": "f" * 64}},
        *({"environment": ENVIRONMENT | {"device": device}} for device in ("cuda", "mps")),
        {"parameters": {"a": -1e308, "b": "x", "c": True, "d": 1}, "parameter_count": 2**53, "train_size": 2**53},
        {"history": record.history | {"train_loss": [0, 1e308]}, "parameter_count": 0},
    ):
        path = records.write(dataclasses.replace(record, **changes), WEIGHTS, tmp_path)
        assert records.read(path) == dataclasses.replace(record, **changes)


def test_another_layout_is_the_same_record(record, tmp_path):
    path = records.write(record, WEIGHTS, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert records.read(path) == record


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda r: to_json(r)[:-20], id="truncated"),
        pytest.param(lambda r: "", id="empty"),
        pytest.param(lambda r: "\0" * 100, id="zeros"),
        pytest.param(lambda r: b"\xff\xfe\x00", id="not text"),
        pytest.param(lambda r: "null", id="null"),
        pytest.param(lambda r: "[]", id="list"),
        pytest.param(lambda r: '{"format": 1}', id="foreign"),
        pytest.param(lambda r: edited(r, seed="absent"), id="a field is missing"),
        pytest.param(lambda r: edited(r, extra=1), id="a field too many"),
        pytest.param(lambda r: edited(r, parameter_count="many"), id="a field of the wrong kind"),
        pytest.param(lambda r: edited(r, misclassified=[[r.test_size, 1, 7]]), id="a mistake at an image too far"),
        pytest.param(lambda r: edited(r, misclassified=[[4, 7, 7]]), id="a mistake that is none"),
        pytest.param(lambda r: edited(r, misclassified=[]), id="fewer mistakes than the accuracy says"),
        pytest.param(lambda r: edited(r, **with_mistakes([[4, 7, 1], [4, 7, 2]])), id="an image misread twice"),
        pytest.param(lambda r: edited(r, **with_mistakes([[4, 7, 1], [2, 7, 1]])), id="mistakes out of order"),
        pytest.param(lambda r: edited(r, **with_mistakes([[k, 7, 1] for k in range(3)])), id="more 7s than there are"),
        pytest.param(lambda r: edited(r, history=r.history | {"test_correct": [21, 19]}), id="an accuracy above 100 %"),
        pytest.param(lambda r: edited(r, history=r.history | {"train_correct": [51, 50]}), id="one in training"),
        pytest.param(lambda r: edited(r, history=r.history | {"train_loss": [-0.1, 0.1]}), id="a negative loss"),
        pytest.param(lambda r: edited(r, train_size=25), id="more right in training than there are"),
        pytest.param(lambda r: edited(r, trained_correct=51), id="more right afterwards than there are"),
        pytest.param(lambda r: edited(r, parameters=r.parameters | {"epochs": 3}), id="an epoch without an entry"),
        pytest.param(lambda r: edited(r, first_losses=[-2.3]), id="a negative first loss"),
        *(
            pytest.param(
                lambda r, n=name, v=value: edited(r, environment=r.environment | {n: v}), id=f"{name} {value!r}"
            )
            for name, value in (
                ("date", "yesterday"),
                ("date", "2026-1-31"),
                ("torch", 2.6),
                ("device", "abacus"),
                ("device_name", None),
                ("threads", 0),
                ("commit", "HEAD"),
                ("changed", "no"),
                ("epoch_seconds", [1.5]),
                ("epoch_seconds", [1.5, -2]),
                ("accepted", [{"date": "2026-02-01"}]),
                ("mood", "good"),
            )
        ),
        pytest.param(lambda r: edited(r, network="deep"), id="an earlier kind of network"),
        pytest.param(lambda r: edited(r, network={"source": "", "name": ""}), id="a network without arguments"),
        pytest.param(lambda r: edited(r, digests={"code": "c" * 64, "data": "d"}), id="no digest of the network"),
        pytest.param(lambda r: edited(r, trained_correct=-1), id="a negative count"),
        pytest.param(lambda r: edited(r, digest="absent"), id="no digest"),
        pytest.param(lambda r: edited(r, path="elsewhere"), id="a path"),
        pytest.param(lambda r: edited(r, format=1), id="an earlier format"),
        pytest.param(lambda r: edited(r, format=3), id="a later format"),
        pytest.param(lambda r: edited(r, format="absent"), id="no format"),
    ],
)
def test_damaged_or_foreign_file_is_refused_by_name(record, tmp_path, content):
    path = record_path(tmp_path, 3)
    made = content(record)
    path.write_bytes(made if isinstance(made, bytes) else made.encode())
    with pytest.raises(RecordError, match=f"^{path}: "):
        records.read(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"epochs": 3}}, "history: expected 3 epochs, as in parameters"),
        ({"train_size": 49}, "history, train_correct: expected counts up to 49, as in train_size"),
        ({"class_counts": [1] * 10}, "history, test_correct: expected counts up to 10, as in class_counts"),
        ({"trained_correct": 51}, "trained_correct: expected a count up to 50, the train_size"),
        ({"misclassified": [[20, 7, 1]]}, "misclassified: expected indices below 20, as in class_counts, in order"),
        ({"misclassified": []}, "misclassified: expected 1 images: class_counts less the last test_correct of history"),
        ({"misclassified": [[4, 7, 7]]}, "misclassified: expected predictions that are not the label, of each digit"),
        *(({"train_size": bad}, "train_size: expected a whole number from 1") for bad in (0, 50.0, "50", 2**53 + 1)),
        *(
            ({"class_counts": bad}, "class_counts: expected ten whole numbers, not all 0")
            for bad in ([0] * 10, [20], [2.0] * 10, [2] * 11, "2", 5)
        ),
        *(({"experiment": bad}, "experiment: expected a name such as iteration_01_setup") for bad in (None, 3, "a b")),
        *(
            ({"parameters": {"a": bad}}, "parameters: expected numbers and words by name")
            for bad in (None, [1], 10**400, -(10**309))
        ),
        *(
            ({"environment": ENVIRONMENT | bad}, "environment: expected date, python, torch, device, ")
            for bad in ({"commit": "F" * 40}, {"commit": "f" * 41}, {"evaluated": {}}, {"python": 3})
        ),
    ],
)
def test_what_cannot_be_so_is_said_with_the_name_of_the_field(record, tmp_path, changes, said):
    record_path(tmp_path, 3).write_text(edited(record, **changes))
    with pytest.raises(RecordError) as caught:
        records.read(record_path(tmp_path, 3))
    (field, expected), (found, accepted) = (each.split(": expected ", 1) for each in (said, str(caught.value)))
    assert f"{found} ".startswith(f"{tmp_path}/seed_3.json: {field} ")
    assert accepted.startswith(expected)


@pytest.mark.parametrize("entries", [{"test_loss": [0.5]}, {"test_loss": [0.5], "train_loss": [0.5]}, None])
def test_a_history_has_as_many_entries_of_each_kind_one_at_least(record, tmp_path, entries):
    changes = {"history": record.history | (entries or {})}
    if entries is None:
        environment = record.environment | {"epoch_seconds": []}
        changes = {"history": {name: [] for name in record.history}, "environment": environment, "parameters": {}}
    record_path(tmp_path, 3).write_text(edited(record, **changes))
    with pytest.raises(RecordError, match=r"seed_3\.json: history: expected numbers for each epoch, one at least"):
        records.read(record_path(tmp_path, 3))


def test_seeds_are_those_of_records(tmp_path):
    for name in ("seed_10.json", "seed_2.json", "seed_03.json", "seed_4.json.part", "seed_x.json", "a_seed_5.json"):
        (tmp_path / name).touch()
    assert records.published_seeds(tmp_path) == [2, 10]
    assert records.published_seeds(tmp_path / "nowhere") == []


def test_the_record_of_another_seed_is_refused(record, tmp_path):
    path = records.write(record, WEIGHTS, tmp_path)
    with pytest.raises(RecordError, match=r"seed_4\.json: this is the record of seed 3$"):
        records.read(path.rename(path.with_name("seed_4.json")))


def test_weights_are_read_back_by_name(record, tmp_path):
    tensors = {"0.weight": torch.tensor([[1 / 3, -0.0]]), "1.running_mean": torch.arange(3)}
    content = safetensors.torch.save(tensors)
    path = records.write(dataclasses.replace(record, weights_digest=bytes_digest(content)), content, tmp_path)
    found = records.read_weights(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_missing_damaged_or_foreign_weights_are_refused_by_name(record, tmp_path):
    path = records.write(record, WEIGHTS, tmp_path)
    with pytest.raises(RecordError, match=r"seed_3\.safetensors: not a safetensors file: ."):
        records.read_weights(path)
    weights_path(path).write_bytes(WEIGHTS[:-1])
    with pytest.raises(RecordError, match=r"seed_3\.safetensors: damaged: .* that seed_3\.json was made with$"):
        records.read_weights(path)
    weights_path(path).unlink()
    with pytest.raises(RecordError, match=r"seed_3\.safetensors: the weights cannot be read: .*No such file"):
        records.read_weights(path)


def test_missing_file_is_refused_by_name(tmp_path):
    path = record_path(tmp_path, 0)
    with pytest.raises(RecordError, match=f"^{path}: cannot be read as a record"):
        records.read(path)
    with pytest.raises(RecordError, match=f"^{tmp_path}: cannot be read as a record"):
        records.read(tmp_path)  # a folder


def test_what_is_half_written_lies_beside_its_file_under_a_hidden_name(tmp_path, monkeypatch):
    """On the same disk, so that it can take the file's place at once, and where whoever tidies up looks for it."""
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(Path(source)), replace(source, target)))
    write_atomically(tmp_path / "a.json", b"content")
    (scratch,) = seen
    assert scratch.parent == tmp_path and scratch.name.startswith(".a.json.")


# -- a lock where the file system has none


@pytest.fixture
def without_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_lock_that_another_machine_left_names_its_holder_and_how_to_go_on(tmp_path, without_flock):
    path = records.record_path(tmp_path, 3)
    lock = path.with_suffix(".lock")
    lock.write_text("4242\nnode07\n1764244800\n")
    os.utime(lock, (time.time() - 3600,) * 2)
    with pytest.raises(RecordError) as caught, records.only_one(path, wait=False):
        pass
    said = str(caught.value)
    assert "process 4242 on node07 is training this run, last heard of 60 minutes ago" in said
    assert f"If it was killed, delete {lock}, and the run goes on" in said
    for nobody in ("4242\n", "somebody\nnode07\n", ""):
        lock.write_text(nobody)
        with pytest.raises(RecordError, match=r"another process is training this run$"), records.only_one(path, False):
            pass
    lock.unlink()
    with records.only_one(path, wait=False):
        assert lock.read_text().startswith(f"{os.getpid()}\n")
    assert not lock.exists()


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_lock_that_a_killed_process_of_this_machine_left_is_taken_over(tmp_path, without_flock):
    path = records.record_path(tmp_path, 3)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    path.with_suffix(".lock").write_text(f"{ended.pid}\n{socket.gethostname()}\n")
    with records.only_one(path):
        pass


def test_a_name_is_measured_in_bytes(tmp_path):
    assert records.is_name("ä" * 99)
    assert not records.is_name("ä" * 100)


def test_a_store_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNIST_LIB_RUNS", str(tmp_path / "file" / "runs"))
    store = experiments.runs_directory() / "x"
    with pytest.raises(FileError, match=r"could not be written: .* set MNIST_LIB_RUNS"), experiments.in_store(store):
        with records.only_one(records.record_path(store, 0)):
            pass


def test_what_could_not_be_read_again_is_not_written(record, tmp_path):
    for changes, said in (
        ({"seed": True}, "seed = True: expected a whole number"),
        ({"misclassified": []}, "misclassified: expected 1 images"),
        ({"digests": record.digests | {"code": "x"}}, "digests = "),
    ):
        with pytest.raises(RecordError, match=f"not written, because it could not be read again: {said}"):
            records.write(dataclasses.replace(record, **changes), WEIGHTS, tmp_path)
    assert files_in(tmp_path) == set()


def test_half_a_character_is_refused(record, tmp_path):
    environment = record.environment | {"device_name": "a\ud800b"}
    (tmp_path / "seed_3.json").write_text(records.to_json(dataclasses.replace(record, environment=environment)))
    with pytest.raises(RecordError, match=r"cannot be read as a record: .*surrogates not allowed"):
        records.read(tmp_path / "seed_3.json")
