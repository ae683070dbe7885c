"""Which notebooks there are, whether they are published, and which runs each of them publishes and shows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_lib import cells, experiments, records
from mnist_lib.base.digests import text_digest
from mnist_lib.experiments import CHANGED, Experiment
from mnist_lib.parameters import NotebookParameters, ParameterError, validate
from mnist_lib.records import Record, RecordError
from mnist_lib.results import page, sweeps
from mnist_lib.results.page import ComparisonParameters, SweepParameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

CODE_ONLY = {CHANGED[kind] for kind in ("code", "start", "teacher")}
"""What may have changed without changing what is computed."""


RESTORE, TRAIN, REPLACE, ACCEPT = "git restore", "train", "train --replace", "verify --accept"
"""What gives a run its record."""


@dataclass(frozen=True)
class Missing:
    """A run that a notebook publishes and that has no valid record, why, and what gives it one."""

    experiment: Experiment
    seed: int
    reasons: tuple[str, ...]
    remedy: str


def find(pattern: str = "*") -> list[Path]:
    """Return the notebooks whose name matches `pattern` (a glob, a name, or a path), in order.

    Raises:
        ParameterError: none matches.
    """
    folder, given = experiments.root() / "notebooks", Path(pattern)
    there = sorted(folder.glob("*.ipynb"))
    found = [path for path in there if fnmatchcase(path.stem, given.name.removesuffix(".ipynb"))]
    if not found or given.parent.resolve() not in (folder.resolve(), Path.cwd()):
        known = ", ".join(path.stem for path in there)
        raise ParameterError(f"no notebook matches {pattern!r:.200}; there are: {known}")
    return found


def read(path: Path) -> "NotebookNode":
    """Return the notebook at `path`. A cell without an id of its own, as in older formats, gets the same every time.

    Raises:
        ParameterError: it is no notebook, one of format 3 or older, or one that Jupyter would not take, or not save.
    """
    import nbformat  # what finds and trains does without it

    try:
        content = cells.content(path.read_text("utf-8-sig"))
        taken = {cell["id"] for cell in content["cells"] if _is_id(cell.get("id"))}
        seen = set()
        for cell in content["cells"]:
            if not _is_id(cell.get("id")) or cell["id"] in seen:
                source = "".join(cell["source"])
                found = (text_digest(source, str(number))[:8] for number in count())
                cell["id"] = next(each for each in found if each not in taken)
                taken.add(cell["id"])
            seen.add(cell["id"])
        content["nbformat_minor"] = max(content["nbformat_minor"], 5)  # the first with ids
        if half := re.search("[\ud800-\udfff]", json.dumps(content, ensure_ascii=False)):
            raise ValueError(f"{half[0]!r} in it is half a character, which no file can hold: delete it")
        nbformat.validate(content)
        return nbformat.v4.to_notebook(content)
    except nbformat.ValidationError as error:
        where = "".join(f"[{each!r}]" for each in error.absolute_path) or "at its top"
        what = error.message if len(error.message) < 100 else "not as Jupyter writes it"
        raise ParameterError(
            f"{path}: not a notebook: {where}: {what}; mend it, or take it back with `git restore`"
        ) from error
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from error
    except cells.UNREADABLE as error:
        raise ParameterError(f"{path}: not a notebook: {error!r:.200}") from error


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", value) is not None


def unpublished(path: Path) -> str | None:
    """Say why a notebook in the folder of notebooks is none of the report's; None if it is one."""
    try:
        if cells.tagged(path, "parameters") is None:
            return "it has no cell with the tag parameters"
        name = cells.notebook_parameters(path).get("name")
    except ParameterError as error:
        return str(error)
    if name != path.stem:
        return f"its name is {name!r}, its file's is {path.stem!r}: a copy; give it its file's name to publish it"
    if cells.tagged(path, "injected-parameters") is not None:
        return "it is what papermill wrote, with parameters of its own; `git restore notebooks` takes the page back"
    return None


def published_runs(path: Path) -> list[tuple[Experiment, int]]:
    """Return the experiments whose records a notebook makes, with how many seeds each."""
    if unpublished(path):
        return []
    values = cells.notebook_parameters(path)
    if "cnn_learning_rates" in values:
        swept = validate(SweepParameters, values)
        return [(experiment, swept.seeds) for experiment in page.sweep(swept).values()]
    if not cells.has_network(path):
        return []
    parameters = cells.of_file(path)
    trials = [(experiment, parameters.candidate_seeds) for experiment in page.candidates(parameters).values()]
    varied = [*page.variants(parameters).values()]
    again = [(page.continued(parameters), parameters.continued_seeds)] if parameters.continued_seeds else []
    own = [(experiment, seeds) for experiment, seeds in _baseline(parameters) if experiment.name != parameters.baseline]
    return [*trials, (page.unchecked(parameters), parameters.seeds), *again, *varied, *own]


def _baseline(parameters: NotebookParameters) -> list[tuple[Experiment, int]]:
    """Return what a notebook compares with: the baseline's published runs, or runs of its own at another effort."""
    experiment = page.baseline(parameters)
    return [] if experiment is None else [(experiment, page.baseline_seeds(parameters))]


def strays(paths: Sequence[Path], runs: Sequence[tuple[Experiment, int]]) -> list[tuple[str, int]]:
    """Name published records that no notebook asks for, by experiment and seed.

    Arguments:
        paths: the notebooks that are looked at. What lies where other notebooks have their records is left out.
        runs: all that these notebooks publish (`published_runs`).
    """
    root, asked = experiments.published_records(), {experiment.published for experiment, _ in runs}
    others = {path.stem for path in find()} - {path.stem for path in paths}
    found = []
    for folder in sorted({file.parent for file in root.rglob("seed_*.json")} - asked):
        name = folder.relative_to(root).as_posix()
        if name.partition("/")[0] not in others:
            found += [(name, seed) for seed in records.published_seeds(folder)]
    return found


def read_runs(path: Path) -> list[tuple[Experiment, int]]:
    """Return the experiments whose records a notebook shows: its own, its teachers, its baseline, or others."""
    values = cells.notebook_parameters(path)
    if "experiments" in values:
        parameters = validate(ComparisonParameters, values)
        return [
            (page.at_equal_effort(name, parameters), page.seeds(name, parameters)) for name in page.listed(parameters)
        ]
    if "sweep" in values:
        shown = sweeps.read(values["sweep"])
        return [(trial.experiment, len(shown.seeds)) for trial in shown.trials]
    found = published_runs(path)
    if not cells.has_network(path):
        return found
    parameters = cells.of_file(path)
    teachers = [(each.teacher, each.recipe.teachers) for each, _ in found if each.teacher]
    return list(dict.fromkeys([*found, *teachers, *_baseline(parameters), *page.beside(parameters)]))


def missing_runs(path: Path, seeds: Sequence[int] | None = None) -> list[Missing]:
    """Return the runs that a notebook publishes and that have no valid record.

    A run that was killed when its record was written, before it had tidied up, counts as well: training it does that.
    With `seeds`, these seeds of the notebook's own experiment are looked at instead, or of all if none has its name.
    """
    wanted = [(experiment, range(count)) for experiment, count in published_runs(path)]
    if seeds is not None:
        own = [experiment for experiment, _ in wanted if experiment.name == path.stem]
        wanted = [(experiment, seeds) for experiment in own or [experiment for experiment, _ in wanted]]
    return _without_record(wanted)


def lacking_runs(path: Path) -> list[Missing]:
    """Return the runs that a notebook shows, its own or another's, and that have no valid record."""
    return _without_record([(experiment, range(seeds)) for experiment, seeds in read_runs(path)])


def _without_record(wanted: Sequence[tuple[Experiment, Sequence[int]]]) -> list[Missing]:
    missing = []
    for experiment, numbers in wanted:
        left_behind, digests = _left_behind(experiment.published), experiment.digests
        for seed in numbers:
            file = records.record_path(experiment.published, seed)
            reasons, remedy = _problem(experiment, digests, file, left_behind)
            if reasons:
                missing.append(Missing(experiment, seed, tuple(reasons), remedy))
    return missing


def record(path: Path) -> Record:
    """Return the record at `path`; as long as its file stays as it is, it is read once: many pages show the same run.

    Raises:
        RecordError: as `records.read` says.
    """
    try:
        found = path.stat()
    except OSError:
        return records.read(path)  # which says what is wrong
    return _read_once(path, found.st_ino, found.st_mtime_ns, found.st_size)


@cache
def _read_once(path: Path, *_: int) -> Record:
    return records.read(path)


def _left_behind(folder: Path) -> dict[str, list[str]]:
    """Return what lies in a folder besides records and weights, by run: a lock, a checkpoint, half-written files."""
    found: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.glob("*seed_*.*")):
        if run := re.search(r"(seed_\d+)\.(?!(json|safetensors)$)", name):
            found.setdefault(run[1], []).append(name)
    return found


def _problem(
    experiment: Experiment, digests: Mapping[str, str], file: Path, left_behind: Mapping[str, Sequence[str]]
) -> tuple[list[str], str]:
    """Return why the record at `file` is no valid one of this experiment, and the remedy; no reasons if it is."""
    if not file.exists():
        return ["there is no record"], TRAIN
    try:
        reasons = experiment.differences(record(file), digests)
    except RecordError as error:
        return [str(error)], RESTORE
    if not reasons and file.stem in left_behind:
        return [f"a process that was killed left {', '.join(left_behind[file.stem])}"], TRAIN
    return reasons, ACCEPT if {*reasons} <= CODE_ONLY else REPLACE
