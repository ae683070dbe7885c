"""What pages accept besides the parameters of a notebook that trains, and the experiments that each page is about.

They are its own experiment, its baseline, candidates and variants, and those that it compares.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

from mnist_lib import cells, experiments, records
from mnist_lib.data import DATASETS
from mnist_lib.experiments import Experiment, Report
from mnist_lib.parameters import (
    Checked,
    NotebookParameters,
    ParameterError,
    Recipe,
    bounded,
    choice,
    literal,
    refusal,
    suggestion,
)
from mnist_lib.records import Record


@dataclass(frozen=True, kw_only=True)
class ComparisonParameters(Checked):
    """What a notebook that compares experiments accepts: which ones, on what data, and how much of each.

    With ``epochs = 0``, each experiment has as many epochs as its own notebook says.
    """

    name: str
    experiments: list[str]
    dataset: str = choice("mnist", options=tuple(DATASETS))
    evaluate_on: str = choice("test", options=("test", "validation"))
    epochs: int = bounded(15, low=0, high=1000)
    seeds: int = bounded(5, low=1, high=1000)
    device: str = "auto"


STEEPEST = 10
"""Where a sum is larger, the slope of the sigmoid is below 0.00005: its unit hardly learns, and no page can show it."""


@dataclass(frozen=True, kw_only=True)
class ExerciseParameters(Checked):
    """The network of two inputs, two hidden and two output units.

    `weights` are w1 to w8, numbered as in `mnist_lib.backprop.network`. The defaults are those of the public exercise.

    Raises:
        ParameterError: a value is not accepted, or the sigmoid of a unit is flat there, so that nothing is learnt.
    """

    inputs: list[float] = bounded((0.05, 0.10), low=-1000, high=1000, length=2)
    targets: list[float] = bounded((0.01, 0.99), low=0, high=1, length=2)
    weights: list[float] = bounded((0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55), low=-1000, high=1000, length=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        (i1, i2), (w1, w2, w3, w4, *_) = self.inputs, self.weights
        if not (i1 or i2):
            raise refusal("inputs", [i1, i2], "one at least that is not 0")
        if steep := [x for x in (w1 * i1 + w2 * i2, w3 * i1 + w4 * i2) if abs(x) > STEEPEST]:
            raise refusal(
                "inputs", [i1, i2], f"sums of the hidden units from {-STEEPEST} to {STEEPEST}, not {steep[0]:g}"
            )
        if flat := [w for w in self.weights[4:] if abs(w) > STEEPEST / 2]:  # each output adds up two of them
            raise refusal("weights", flat, f"w5 to w8 from {-STEEPEST / 2:g} to {STEEPEST / 2:g}, or outputs saturate")


@dataclass(frozen=True, kw_only=True)
class BackpropParameters(ExerciseParameters):
    """What the derivation of backpropagation accepts."""

    name: str
    learning_rate: float = bounded(0.5, low=0, high=1000)
    steps: int = bounded(100, low=1, high=100_000)


@dataclass(frozen=True, kw_only=True)
class ScratchParameters(Checked):
    """What the chapter on training from scratch accepts: a short run, whose every step stands on the page.

    It trains on the first `images`, or on all where there are fewer.
    """

    name: str
    dataset: str = choice("mnist", options=tuple(DATASETS))
    images: int = bounded(19_200, low=64, high=60_000)
    batch_size: int = bounded(64, low=2, high=10_000)
    learning_rate: float = bounded(0.05, low=0, high=100, above=True)
    momentum: float = bounded(0.9, low=0, high=0.9999)
    seeds: int = bounded(3, low=1, high=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        images = min(self.images, DATASETS[self.dataset].training_images)
        if images % self.batch_size == 1:
            accepted = f"another number: one of {images:,} images would be left alone"
            raise refusal("batch_size", self.batch_size, accepted)


@dataclass(frozen=True, kw_only=True)
class SweepParameters(ExerciseParameters):
    """What the sweep over learning rates accepts: one for the network of eight weights, one for a real network.

    `learning_rates` and `steps` are for the network of eight weights. `experiment` names the notebook whose network and
    recipe are trained on images with each of `cnn_learning_rates`, held constant, for `epochs` epochs.
    """

    name: str
    learning_rates: list[float] = bounded((0.1, 0.2, 0.5, 0.8, 1.0, 2.0), low=0, high=1000, above=True)
    steps: int = bounded(1000, low=1, high=100_000)
    experiment: str
    cnn_learning_rates: list[float] = bounded((0.01, 0.1, 1.0), low=0, high=100, above=True)
    dataset: str = choice("mnist", options=tuple(DATASETS))
    epochs: int = bounded(3, low=1, high=1000)
    seeds: int = bounded(3, low=1, high=1000)
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class SweepPageParameters(Checked):
    """What the page that reads a sweep accepts: the name of the sweep, and which value its figures show first."""

    name: str
    sweep: str
    value: str = "first"


def of_notebook(name: str, parameter: str = "experiment") -> NotebookParameters:
    """Return the published parameters of the notebook ``notebooks/<name>.ipynb``.

    `parameter` is the one whose value `name` is, for messages.

    Raises:
        ParameterError: there is no such notebook, it trains no network, or its parameters are not accepted.
    """
    paths = {path.stem: path for path in (experiments.root() / "notebooks").glob("*.ipynb")}
    if name not in paths or not cells.has_network(paths[name]):
        what = "trains no network" if name in paths else "is no notebook"
        hint = suggestion(name, (each for each in paths if cells.has_network(paths[each])))
        raise ParameterError(f"{parameter} = {name!r}: it {what}; expected one such as iteration_10_one_cycle{hint}")
    return cells.of_file(paths[name])


def experiment(parameters: NotebookParameters) -> Experiment:
    """Return the experiment that a notebook is about; all that its page is asked to show is checked before it trains.

    Raises:
        ParameterError: the device is not there, the network does not work, there is no notebook of the teacher's name
            or the baseline's, or `variants` or `beside` are not accepted.
    """
    own = unchecked(parameters)
    own.check()
    for label, (each, _) in variants(parameters).items():
        try:
            each.check()
        except ParameterError as error:
            raise ParameterError(f"variants: {label!r}: {error}") from error
    baseline(parameters)
    beside(parameters)
    return own


def unchecked(parameters: NotebookParameters) -> Experiment:
    """Return the experiment that a notebook is about; neither its network nor what else its page shows is looked at.

    Raises:
        ParameterError: the device is not there, or there is no notebook of the teacher's name.
    """
    experiments.resolve_device(parameters.device)
    return Experiment(
        parameters.name, parameters.recipe, parameters.network, teacher=teacher(parameters.teacher, parameters.recipe)
    )


def teacher(name: str, recipe: Recipe) -> Experiment | None:
    """Return the experiment whose runs teach those of `recipe`, on the same images; none if it has no teachers.

    It is the one that the notebook `name` is about, or with ``NOTEBOOK/VARIANT`` one of its variants, by its folder.

    Raises:
        ParameterError: there is no such notebook or variant, or its runs learn from others.
    """
    if not recipe.teachers:
        return None
    if name == "none":
        raise ParameterError(f"teachers = {recipe.teachers}: teacher must name the notebook whose runs teach")
    there = _of_variant(name, "teacher")
    if there.teachers:
        raise ParameterError(f"teacher = {name!r}: its runs have teachers themselves; choose one whose runs have none")
    images = {"dataset": recipe.dataset, "evaluate_on": recipe.evaluate_on}  # a teacher has not seen what is held out
    return unchecked(dataclasses.replace(there, **images))


def _of_variant(name: str, parameter: str) -> NotebookParameters:
    """Return the published parameters of a notebook, or of one of its variants, ``NOTEBOOK/VARIANT``."""
    there = of_notebook(name.partition("/")[0], parameter)
    known = {each.name: each for each in (there, *_varied(there).values())}
    if name not in known:
        raise ParameterError(f"{parameter} = {name!r}: expected one of {', '.join(known)}{suggestion(name, known)}")
    return known[name]


def at_equal_effort(
    name: str, parameters: NotebookParameters | ComparisonParameters, parameter: str = "experiments"
) -> Experiment:
    """Return the recipe of another notebook, on the same data, for as many epochs as `parameters` say (0: its own)."""
    other = of_notebook(name, parameter)
    effort = {key: getattr(parameters, key) for key in ("dataset", "epochs", "evaluate_on")}
    effort["epochs"] = parameters.epochs or other.epochs
    return unchecked(dataclasses.replace(other, **effort))


def baseline(parameters: NotebookParameters) -> Experiment | None:
    """Return the experiment that a notebook compares with, at equal effort.

    Where that is another effort than the baseline's own, its runs are the notebook's: ``<name>/baseline``.
    """
    if parameters.baseline == "none":
        return None
    equal = at_equal_effort(parameters.baseline, parameters, "baseline")
    there = of_notebook(parameters.baseline, "baseline")
    if equal.recipe == there.recipe:
        return equal
    return dataclasses.replace(equal, name=f"{parameters.name}/baseline")


def baseline_seeds(parameters: NotebookParameters) -> int:
    """Return how many runs of the baseline are shown: as many as the notebook's own, but not more than it published."""
    return min(parameters.seeds, of_notebook(parameters.baseline).seeds)


def baseline_runs(parameters: NotebookParameters, report: Report | None = None) -> list[Record]:
    """Return the runs to compare with, under the baseline's name; none if there is no baseline."""
    reference = baseline(parameters)
    if reference is None:
        return []
    found = experiments.runs(reference, baseline_seeds(parameters), parameters.device, report)
    return [dataclasses.replace(run, experiment=parameters.baseline) for run in found]


def candidates(parameters: NotebookParameters) -> dict[float, Experiment]:
    """One experiment for each candidate learning rate, judged on the validation split."""
    return {
        rate: unchecked(
            dataclasses.replace(
                parameters,
                name=f"{parameters.name}/learning_rate_{rate:g}",
                learning_rate=rate,
                evaluate_on="validation",
            )
        )
        for rate in parameters.learning_rates
    }


NO_VARIANT = {f.name for f in dataclasses.fields(NotebookParameters)} - {
    *(f.name for f in dataclasses.fields(Recipe)),
    *("network", "seeds", "teacher"),
}
"""The parameters of a notebook that say nothing of a run."""


def variants(parameters: NotebookParameters) -> dict[str, tuple[Experiment, int]]:
    """One experiment for each variant of a notebook's recipe, and its number of runs, by its label.

    A variant is written as its label and what differs, as for papermill's ``-p``: ``no rotation: rotation 0`` or, with
    several values, ``plain SGD: optimizer sgd, learning_rate 0.1``. ``network NOTEBOOK`` takes another one's network,
    and ``seeds 20`` another number of runs than `variant_seeds`.

    Raises:
        ParameterError: it is written otherwise, or a name or a value in it is not accepted.
    """
    return {label: (unchecked(varied), varied.seeds) for label, varied in _varied(parameters).items()}


def _varied(parameters: NotebookParameters) -> dict[str, NotebookParameters]:
    """Return the parameters of a notebook's variants by their labels."""
    own = {f.name: getattr(parameters, f.name) for f in dataclasses.fields(NotebookParameters) if f.name != "network"}
    own["seeds"] = parameters.variant_seeds
    found: dict[str, NotebookParameters] = {}
    for text in parameters.variants:
        label, _, changes = text.partition(":")
        pairs = [each.split() for each in changes.split(",")]
        if not label.strip() or any(len(pair) != 2 for pair in pairs):
            raise ParameterError(f"variants: {text!r}: expected a label and values, such as 'no rotation: rotation 0'")
        values = {name: literal(value) for name, value in pairs}
        if len(values) < len(pairs):
            raise ParameterError(f"variants: {text!r}: a name has two values")
        if idle := sorted(NO_VARIANT & values.keys()):
            raise ParameterError(f"variants: {text!r}: {idle[0]} is the same for all runs of a page")
        folder = re.sub("[^a-z0-9]+", "_", label.lower()).strip("_")
        if not folder or not records.is_name(f"{parameters.name}/{folder}"):
            raise ParameterError(
                f"variants: {text!r:.80}: a label needs letters from a to z or digits, and fewer than 200"
            )
        if folder in {each.name.partition("/")[2] for each in found.values()}:
            raise ParameterError(f"variants: {text!r}: another one has the folder {folder}, too: choose another label")
        other = values.pop("network", None)
        try:
            network = parameters.network if other is None else of_notebook(other, "network").network
            changed = cells.checked(NotebookParameters, own | dict(network.arguments) | values, network, {})
        except ParameterError as error:
            raise ParameterError(f"variants: {text!r}: {error}") from error
        there = {"the page itself": parameters} | found
        if same := [each for each, others in there.items() if _trained(others) == _trained(changed)]:
            raise ParameterError(f"variants: {text!r}: its runs would be those of {same[0]}: leave it out")
        found[label.strip()] = dataclasses.replace(changed, name=f"{parameters.name}/{folder}")
    return found


def _trained(parameters: NotebookParameters) -> tuple:
    """Return what decides a notebook's runs, but for their number, with so many epochs that each value has its part."""
    recipe = dataclasses.replace(parameters.recipe, epochs=1000)
    return parameters.epochs, recipe.identity, parameters.network, parameters.teacher if recipe.teachers else "none"


def variant_runs(parameters: NotebookParameters, report: Report | None = None) -> dict[str, list[Record]]:
    """Return the runs of a notebook's variants by their labels."""
    asked = variants(parameters)
    return {label: experiments.runs(each, seeds, parameters.device, report) for label, (each, seeds) in asked.items()}


def continued(parameters: NotebookParameters) -> Experiment:
    """Return the experiment that repeats a notebook's recipe from the weights that the recipe led to."""
    before = unchecked(parameters)
    return dataclasses.replace(before, name=f"{parameters.name}/continued", start=before)


def sweep(parameters: SweepParameters) -> dict[float, Experiment]:
    """One experiment for each learning rate of a real network: a known recipe, briefly, at that constant rate.

    They are judged on the validation split, because a sweep is there to choose from.

    Raises:
        ParameterError: there is no such notebook.
    """
    swept = of_notebook(parameters.experiment)
    briefly = dataclasses.replace(
        swept,
        dataset=parameters.dataset,
        epochs=parameters.epochs,
        evaluate_on="validation",
        schedule="constant",
    )
    named = {rate: f"learning_rate_sweep/learning_rate_{rate:g}" for rate in parameters.cnn_learning_rates}
    return {
        rate: unchecked(dataclasses.replace(briefly, name=name, learning_rate=rate)) for rate, name in named.items()
    }


def listed(parameters: ComparisonParameters) -> list[str]:
    """Return the names of the notebooks to compare, in order.

    Raises:
        ParameterError: a pattern matches no notebook with a network, or they are fewer than two.
    """
    found = _matching("experiments", parameters.experiments)
    if len(found) < 2:
        raise ParameterError(f"experiments = {[*parameters.experiments]!r}: expected at least two, which are compared")
    return found


def beside(parameters: NotebookParameters) -> list[tuple[Experiment, int]]:
    """Return the experiments that are shown beside a page's own, with their numbers of published runs.

    A name with a slash is one of a notebook's variants, ``NOTEBOOK/VARIANT``. There are none where the images are
    others.

    Raises:
        ParameterError: a pattern matches no notebook with a network, or there is no such variant.
    """
    names = [[each] if "/" in each else _matching("beside", [each]) for each in parameters.beside]
    there = [_of_variant(name, "beside") for name in dict.fromkeys(chain(*names))]
    images = (parameters.dataset, parameters.evaluate_on)
    return [(unchecked(each), each.seeds) for each in there if (each.dataset, each.evaluate_on) == images]


def beside_runs(parameters: NotebookParameters) -> dict[str, list[Record]]:
    """Return the published runs of what is shown beside a page's own, by name, as far as there are; none is trained."""
    found = {}
    for each, count in beside(parameters):
        files = [records.record_path(each.published, seed) for seed in range(count)]
        found[each.name] = [records.read(file) for file in files if file.exists()]
    return {name: runs for name, runs in found.items() if runs}


def _matching(parameter: str, patterns: Sequence[str]) -> list[str]:
    """Return the names of the notebooks with a network that match patterns such as ``iteration_*``, in order."""
    paths = {path.stem: path for path in sorted((experiments.root() / "notebooks").glob("*.ipynb"))}

    def trains(name: str) -> bool:
        return cells.has_its_name(paths[name]) and cells.has_network(paths[name])

    found = []
    for pattern in patterns:
        matching = [name for name in paths if fnmatchcase(name, pattern) and trains(name)]
        if not matching:
            hint = suggestion(pattern, filter(trains, paths))
            raise ParameterError(f"{parameter}: no notebook with a network matches {pattern!r}{hint}")
        found += matching
    return list(dict.fromkeys(found))


def seeds(name: str, parameters: ComparisonParameters) -> int:
    """Return how many runs of an experiment are compared: its published number, or fewer if asked for."""
    return min(parameters.seeds, of_notebook(name).seeds)


def compared(parameters: ComparisonParameters, report: Report | None = None) -> dict[str, list[Record]]:
    """Return the runs of several notebooks at equal effort, by name."""
    asked = {name: at_equal_effort(name, parameters) for name in listed(parameters)}
    return {
        name: experiments.runs(experiment, seeds(name, parameters), parameters.device, report)
        for name, experiment in asked.items()
    }
