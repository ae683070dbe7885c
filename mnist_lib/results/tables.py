"""What an iteration's notebook shows: the change, the runs, the comparison with its baseline, the provenance."""

import shlex
import statistics as averages
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
from IPython.display import Markdown

from mnist_lib import data
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import NotebookParameters, has_effect, in_yaml
from mnist_lib.records import Record
from mnist_lib.results import architecture, sentences
from mnist_lib.results.comparison import accuracy_difference, label
from mnist_lib.results.listing import ranges
from mnist_lib.results.page import ComparisonParameters
from mnist_lib.results.show import Table, quoting
from mnist_lib.results.statistics import first_epoch_at, steady_from_epoch
from mnist_lib.results.target import TASK_ACCURACY, final_accuracy, reached

LONGEST_LINE = 90
"""Characters of a command, as far as a page shows them without scrolling."""

SIDE_BY_SIDE_FROM = 16
"""Above so many rows, a list of removed and added layers tells less than the two networks side by side."""


def opening(parameters: NotebookParameters | ComparisonParameters) -> Markdown:
    """Say first what a page was made with, and what differs from the published one."""
    yours = sentences.yours(parameters)
    after = f"\n\n{yours}" if yours else ""
    if parameters.dataset == "digits":
        said = "**Made with the embedded digits of scikit-learn, not with MNIST: a rehearsal of the real page.**"
        return Markdown(said + after)
    seeds = sentences.count(parameters.seeds, "seed")
    if isinstance(parameters, ComparisonParameters):
        seeds = f"at most {seeds} of each experiment"
    epochs = "as many epochs as each experiment's own page says"
    if parameters.epochs:
        epochs = sentences.count(parameters.epochs, "epoch")
    title = data.DATASETS[parameters.dataset].title or parameters.dataset
    return Markdown(f"{title}, {epochs}, {seeds}; evaluated on the {parameters.evaluate_on} images.{after}")


def recipe_difference(before: Experiment | None, after: Experiment) -> Table | Markdown:
    """List the parameters that differ between two recipes; without the first, all that the second one uses."""
    now = _used(after)
    if before is None:
        return Table({"parameter": name, "value": str(value)} for name, value in now.items())
    was = _used(before)
    ours, theirs = (dict(each.network.arguments) for each in (after, before))
    incomparable = ours.keys() ^ theirs.keys()  # only one of the two functions takes it
    rows = [
        {"parameter": name, "before": _value(before, name), "now": _value(after, name)}
        for name in was | now
        if was.get(name) != now.get(name) and name not in incomparable
    ]
    if rows:
        return Table(rows)
    same = before.network.digest == after.network.digest
    return Markdown(f"The recipe is the same{'' if same else ': only the network changed'}.")


def _value(experiment: Experiment, name: str) -> str:
    """Return a parameter of a recipe, or an argument of its network, for a table; and say if it has no effect."""
    recipe, arguments = experiment.recipe, dict(experiment.network.arguments)
    if name in arguments:
        return str(arguments[name])
    return str(getattr(recipe, name)) if has_effect(recipe, name) else "not used"


def _used(experiment: Experiment) -> dict[str, object]:
    """Return the parameters of a recipe that have an effect and are not switched off, and the network's arguments."""
    recipe = experiment.recipe
    chosen = {
        f.name: getattr(recipe, f.name)
        for f in fields(recipe)
        if f.name in recipe.identity or (has_effect(recipe, f.name) and f.default not in (0, "none"))
    }
    return dict(experiment.network.arguments) | chosen


def network_difference(before: Experiment | None, after: Experiment) -> Table | Markdown:
    """Return the layers removed and added; where a network is a new one, both side by side; else all its layers."""
    network = after.network()
    count = architecture.parameter_count(network)
    if before is None:
        return Table(
            {"layer": layer.name, "parameters": f"{layer.parameters:,}"} for layer in architecture.layers(network)
        )
    changes = architecture.difference(before.network(), network)
    if changes.empty:
        same = _used(before) == _used(after)
        return Markdown(f"The network is the same, {count:,} parameters{'' if same else ': only the recipe changed'}.")
    total = f"from {architecture.parameter_count(before.network()):,} to {count:,} parameters"
    if len(changes) > SIDE_BY_SIDE_FROM:
        tables = [architecture.receptive_field_table(each.network())["layer"] for each in (before, after)]
        sides = pd.concat(tables, axis=1, keys=["before", "now"]).fillna("")
        sides.loc[len(sides)] = [
            f"= {architecture.parameter_count(each.network()):,} parameters" for each in (before, after)
        ]
        return Table(sides)
    last = pd.DataFrame([{"change": "=", "layer": total}])
    changes["parameters"] = changes["parameters"].map("{:,}".format)
    return Table(pd.concat([changes, last]).fillna(""))


def training_log(runs: Sequence[Record]) -> Table:
    """One row per epoch: means over the seeds, the range of the test accuracy, and how many seeds reach the task's.

    Of one run, which has no range, whether it does.
    """
    rows, images = [], sentences.evaluated_on(runs)
    for epoch in range(len(runs[0].test_accuracy)):
        accuracies = [run.test_accuracy[epoch] for run in runs]
        if len(runs) == 1:
            of_seeds = {f"at {TASK_ACCURACY:.2f} %": "yes" if reached(accuracies) else "no"}
        else:
            of_seeds = {
                "lowest and highest seed": f"{min(accuracies):.2f} to {max(accuracies):.2f}",
                f"seeds at {TASK_ACCURACY:.2f} %": f"{reached(accuracies)} of {len(runs)}",
            }
        rows.append(
            {
                "epoch": epoch + 1,
                f"{images} %": f"{averages.fmean(accuracies):.2f}",
                **of_seeds,
                "train %, while learning": f"{averages.fmean(run.train_accuracy[epoch] for run in runs):.2f}",
                f"{images} loss": f"{averages.fmean(run.history['test_loss'][epoch] for run in runs):.4f}",
                "train loss": f"{averages.fmean(run.history['train_loss'][epoch] for run in runs):.4f}",
                "last learning rate": f"{runs[0].history['learning_rate'][epoch]:.2g}",
            }
        )
    return Table(rows)


def seeds_table(runs: Sequence[Record]) -> Table:
    """One row per seed: the final and the best epoch, when the task's accuracy is reached, and the training images."""
    return Table(
        {
            "seed": run.seed,
            "final epoch %": f"{run.test_accuracy[-1]:.2f}",
            "best epoch %": f"{run.test_accuracy.max():.2f}",
            f"first epoch at {TASK_ACCURACY:.2f} %": first_epoch_at(run.test_accuracy, TASK_ACCURACY) or "never",
            "stays there from epoch": steady_from_epoch(run.test_accuracy, TASK_ACCURACY) or "never",
            "train %, final weights": f"{run.final_train_accuracy:.2f}",
        }
        for run in runs
    )


def comparison(baseline: Sequence[Record], runs: Sequence[Record]) -> Table | Markdown:
    """Two experiments side by side, and their difference; with intervals where there are runs enough."""
    if not baseline:
        return Markdown("There is no baseline to compare with.")
    names = [label(each[0].experiment) for each in (baseline, runs)]
    if names[0] == names[1]:  # somebody's own run of a page, compared with what the page published
        if baseline[0].digests == runs[0].digests and baseline[0].parameters == runs[0].parameters:
            return Markdown("The baseline is this very recipe, at the same effort: there is nothing to compare.")
        names = [f"{names[0]}, published recipe", f"{names[1]}, yours"]
    mean = "" if len(baseline) == len(runs) == 1 else "mean "
    column = f"{mean}{sentences.evaluated_on(runs)} accuracy, %"
    rows = [
        {"experiment": name, "seeds": str(len(each)), column: _accuracy(each)}
        for name, each in zip(names, (baseline, runs), strict=True)
    ]
    difference = accuracy_difference(baseline, runs)
    change = f"{difference:+.2f}" if difference.is_known else f"{difference.center:+z.2f}"
    return Table([*rows, {"experiment": "difference, points", "seeds": "", column: change}])


def _accuracy(runs: Sequence[Record]) -> str:
    """Return the mean accuracy after the last epoch with its interval, or, of two runs, with both ends."""
    mean, ends = final_accuracy(runs), [run.test_accuracy[-1] for run in runs]
    if mean.is_known:
        return str(mean)
    return f"{mean.center:.2f}" + (f" ({min(ends):.2f} and {max(ends):.2f})" if len(runs) > 1 else "")


def final_accuracies(trials: Mapping[float, Sequence[Record]]) -> dict[float, list[float]]:
    """Return the accuracy after the last epoch of every run, by candidate."""
    return {rate: [float(run.test_accuracy[-1]) for run in runs] for rate, runs in trials.items()}


def candidates_table(trials: Mapping[float, Sequence[Record]], chosen: float) -> Table:
    """One row a candidate: its accuracy on the validation images, and which one was chosen."""
    means = {rate: averages.fmean(values) for rate, values in final_accuracies(trials).items()}
    best = max(means, key=means.__getitem__, default=None)
    return Table(
        {
            "learning rate": f"{rate:g}",
            "seeds": len(runs),
            "mean validation accuracy, %": f"{means[rate]:.3f}",
            "lowest and highest seed": " to ".join(f"{f(r.test_accuracy[-1] for r in runs):.2f}" for f in (min, max)),
            "": " and ".join(["best"] * (rate == best) + ["used"] * (rate == chosen)),
        }
        for rate, runs in trials.items()
    )


def provenance(*groups: Sequence[Record]) -> Table:
    """Which records results come from, one row per experiment: where they lie, what made them, what checks them."""
    rows, names = [], set()
    for runs in filter(None, groups):
        places, name = [run.environment for run in runs], runs[0].experiment
        is_published = all(map(sentences.is_published, runs))
        called = f"{name}, published recipe" if name in names else name  # a page may be its own baseline
        names.add(name)
        rows.append(
            {
                "records": f"{called}, {'seeds' if len(runs) > 1 else 'seed'} {ranges(run.seed for run in runs)}",
                "checked by": f"mnist-lib verify {name.partition('/')[0]}" if is_published else "– (not published)",
                "minutes": f"{sum(run.seconds for run in runs) / 60:.1f}",
                "date": _distinct(place["date"] for place in places),
                "commit": _distinct((place["commit"] or "–")[:8] for place in places),
                "code": _distinct(run.digests["code"][:8] for run in runs),
                "data": _distinct(run.digests["data"][:8] for run in runs),
                "torch": _distinct(place["torch"] for place in places),
                "device": _distinct(f"{place['device_name']}, threads: {place['threads']}" for place in places),
            }
        )
    return Table(rows, one_line=True)


def _distinct(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(words))


def papermill_line(parameters: NotebookParameters) -> Markdown:
    """Return the commands that make this page again, try something else, and check what is published."""
    name, there = parameters.name, sentences.published_parameters(parameters)
    chosen = {each: here for each, (here, _) in sentences.changed(parameters).items()}
    tried = {each: min(getattr(parameters, each), most) for each, most in (("epochs", 2), ("seeds", 1))}
    tried |= {"continued_seeds": 0, "learning_rates": (), "variants": ()}  # these train much more
    tried = {each: value for each, value in tried.items() if value != getattr(parameters, each)}
    tried["learning_rate"] = float(f"{parameters.learning_rate / 2:.6g}")
    trial = ("a short try " if len(tried) > 1 else "") + "at half the learning rate"
    commands = f"# this page\n{_papermill(name, chosen)}\n# {trial}\n{_papermill(name, chosen | tried)}"
    said = [f"{quoting(commands)}shell\n{commands}\n{quoting(commands)}"]
    if sentences.has_another_network(parameters):
        said.append("The network of this page is not the published one: give papermill your own copy of the notebook.")
    if there is not None:
        said.append(
            f"`mnist-lib verify {name} --full 0` trains the published run of seed 0 again and compares every epoch; "
            f"`mnist-lib train {name} --seeds 0-{2 * there.seeds - 1}` adds records of more seeds."
        )
    return Markdown("\n\n".join(said))


def _papermill(name: str, values: Mapping[str, object]) -> str:
    """Return the command that executes a notebook with these values; a long one goes on in the next line."""
    parts = [f"papermill notebooks/{name}.ipynb out.ipynb"]
    for key, value in values.items():
        is_list = isinstance(value, tuple)
        given = (
            shlex.quote(f"{key}: [{', '.join(map(in_yaml, value))}]") if is_list else f"{key} {shlex.quote(str(value))}"
        )
        parts.append(f"{'-y' if is_list else '-p'} {given}")
    line = " ".join(parts)
    return line if len(line) <= LONGEST_LINE else f"{parts[0]} \\\n    {' '.join(parts[1:])}"


def evaluation_images(experiment: Experiment) -> np.ndarray | None:
    """Return the images that the experiment is evaluated on, shape ``(n, 28, 28)``.

    None where the page does without (`mnist_lib.data.may_be_blank`).
    """
    if data.may_be_blank(experiment.recipe.dataset):
        return None
    return data.load(experiment.recipe.dataset, experiment.recipe.evaluate_on)[1].images.numpy()
