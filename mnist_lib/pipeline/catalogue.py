"""Which notebooks there are, and which runs each of them publishes and shows."""

from collections.abc import Sequence
from pathlib import Path

from mnist_lib import experiments, page, records
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import NotebookParameters, ParameterError, SweepParameters, notebook_parameters, validate


def find(pattern: str = "*") -> list[Path]:
    """The notebooks whose name matches `pattern` (a glob, a name, or a path), in order.

    Raises:
        ParameterError: none matches.
    """
    folder, given = experiments.root() / "notebooks", Path(pattern)
    found = sorted(folder.glob(f"{given.name.removesuffix('.ipynb')}.ipynb"))
    if not found or given.parent.resolve() not in (folder.resolve(), Path.cwd()):
        known = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb")))
        raise ParameterError(f"no notebook matches {pattern!r}; there are: {known}")
    return found


def published_runs(path: Path) -> list[tuple[Experiment, int]]:
    """The experiments whose records a notebook makes, with how many seeds each; none for a notebook that only reads."""
    values = notebook_parameters(path)
    if "cnn_learning_rates" in values:
        swept = validate(SweepParameters, values)
        return [(experiment, swept.seeds) for experiment in page.sweep(swept).values()]
    if "network" not in values:
        return []
    parameters = validate(NotebookParameters, values)
    trials = [(experiment, parameters.candidate_seeds) for experiment in page.candidates(parameters).values()]
    again = [(page.continued(parameters), parameters.continued_seeds)] if parameters.continued_seeds else []
    return [*trials, (page.experiment(parameters), parameters.seeds), *again]


def read_runs(path: Path) -> list[tuple[Experiment, int]]:
    """The experiments whose records a notebook shows: its own, its baseline's, or those that it lists."""
    values = notebook_parameters(path)
    names = [*values.get("experiments", ()), values.get("baseline", "none")]
    others = [run for name in names if name != "none" for run in published_runs(find(name)[0])]
    return published_runs(path) + [(experiment, seeds) for experiment, seeds in others if experiment.name in names]


def missing_runs(path: Path, seeds: Sequence[int] | None = None) -> list[tuple[Experiment, int, str]]:
    """The runs that a notebook publishes and that have no valid record: experiment, seed and why.

    A run that was killed when its record was written, before it had tidied up, counts as well: training it does that.
    With `seeds`, these seeds of the notebook's own experiment are looked at instead, or of all if none has its name.
    """
    wanted = [(experiment, range(count)) for experiment, count in published_runs(path)]
    if seeds is not None:
        own = [experiment for experiment, _ in wanted if experiment.name == path.stem] or [
            experiment for experiment, _ in wanted
        ]
        wanted = [(experiment, seeds) for experiment in own]
    missing = []
    for experiment, numbers in wanted:
        left_behind = records.left_behind(experiment.published)
        for seed in numbers:
            file = records.record_path(experiment.published, seed)
            reasons = experiment.differences(records.read(file)) if file.exists() else ["there is no record"]
            if not reasons and file.stem in left_behind:
                reasons = [f"a process that was killed left {', '.join(left_behind[file.stem])}"]
            if reasons:
                missing.append((experiment, seed, "; ".join(reasons)))
    return missing
