"""How many seconds of training does the fastest recipe take, and how many does the usual loop?

    python benchmarks/fastest_recipe.py [--rounds 3] [--epochs 9]

In every round each way trains the network of frontier_time once, in turn and in one process, on all training images:
the recipe itself, the recipe with fewer epochs, with all cores, and the usual loop of the public notebooks by the
recipe of iteration 10. Time runs from the first step to the last. The images are in memory before, or in torchvision's
data set for the usual loop; evaluation comes after. The result is book/measurements/fastest_recipe.json.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measurement
import torch
from tqdm import tqdm
from training_loop import CORES, EPOCH, UsualLoop, operations, peak, percent_right, recipe

from mnist_lib import data, experiments, machine
from mnist_lib.data import Images
from mnist_lib.experiments import Experiment

Run = Callable[[int], tuple[float, float]]
"""Trains with a seed; returns the seconds, and the accuracy in percent."""


def main() -> int:
    options = _options()
    where = machine.resolve_device(options.device)
    fast, usual = recipe("frontier_time"), recipe("iteration_10_one_cycle")
    usual = dataclasses.replace(usual, network=fast.network)
    ways: list[tuple[str, int, int, str, Run]] = []
    for epochs in (fast.recipe.epochs, fast.recipe.epochs - 1):
        for threads in (1, CORES):
            changed = dataclasses.replace(fast.recipe, epochs=epochs, threads=threads)
            run = ours(dataclasses.replace(fast, recipe=changed), where)
            ways.append(("the recipe", epochs, threads, changed.precision, run))
    for epochs in (fast.recipe.epochs, options.epochs):
        changed = dataclasses.replace(usual.recipe, epochs=epochs)
        run = usual_loop(dataclasses.replace(usual, recipe=changed), where)
        ways.append(("the usual loop", epochs, CORES, "float32", run))
    found: list[list[tuple[float, float]]] = [[] for _ in ways]
    for seed in tqdm(range(options.rounds), unit="round"):
        for (*_, run), results in zip(ways, found, strict=True):
            results.append(run(seed))
    longest = [seconds for seconds, _ in found[-1]]
    rows = []
    for (name, epochs, threads, precision, _), results in zip(ways, found, strict=True):
        taken, accuracies = zip(*results, strict=True)
        ratios = [slow / quick for slow, quick in zip(longest, taken, strict=True)]
        rate = operations(fast) * EPOCH * epochs / statistics.median(taken)
        rows.append(
            {
                "way": name,
                "epochs": epochs,
                "threads": threads,
                "seconds": statistics.median(taken),
                "times as fast": statistics.median(ratios),
                "smallest": min(ratios),
                "largest": max(ratios),
                "share of the peak, %": 100 * rate / peak(precision, threads, where),
                "mean accuracy, %": round(statistics.fmean(accuracies), 2),
            }
        )
    what = f"Seconds of training of the network of frontier_time; seeds of each way: {options.rounds}"
    measurement.write(options.output, what, rows)
    return 0


def ours(experiment: Experiment, where: torch.device) -> Run:
    """Train by this library's loop."""
    train, test = data.load("mnist")
    first = Images(test.images[:10], test.labels[:10])  # evaluated after every epoch: as good as nothing

    def run(seed: int) -> tuple[float, float]:
        trainer = experiments.make_trainer(experiment, seed, where, (train, first))
        start = time.perf_counter()
        for _ in range(experiment.recipe.epochs):
            trainer.train_epoch()
        return time.perf_counter() - start, accuracy(experiment, trainer.evaluated(), where)

    return run


def usual_loop(experiment: Experiment, where: torch.device) -> Run:
    """Train by the loop of the public notebooks."""

    def run(seed: int) -> tuple[float, float]:
        loop = UsualLoop(experiment, EPOCH, 0, where, seed)
        seconds = sum(loop.epoch() for _ in range(experiment.recipe.epochs))
        return seconds, accuracy(experiment, loop.model, where)

    return run


def accuracy(experiment: Experiment, model: torch.nn.Module, where: torch.device) -> float:
    """Percent of the test images that a trained network gets right."""
    trainer = experiments.make_trainer(experiment, 0, where)
    trainer.load_final(model.state_dict())
    return percent_right(trainer)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="seeds (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=9, help="of the usual loop's longer run (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "fastest_recipe.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
