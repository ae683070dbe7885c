"""How many seconds does training take on a GPU, and what does recording a step bring?

    python benchmarks/gpu.py [--seeds 10] [--epochs 1 2 3]

The fastest recipe is trained by the library's loop, which replays each step as one CUDA graph; by the same loop when it
starts every kernel by itself; and for an epoch by the usual loop of the public notebooks. Then each of the ten
iterations is trained for an epoch. Time runs from the first step to the last. The images are on the device before, and
the step is recorded; evaluation comes after. The result is book/measurements/gpu.json.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from functools import cache
from pathlib import Path

import measurement
import torch
from fastest_recipe import accuracy
from tqdm import tqdm
from training_loop import EPOCH, UsualLoop, operations, recipe

from mnist_lib import data, experiments, machine
from mnist_lib.data import Images
from mnist_lib.experiments import Experiment

FASTEST = "frontier_time"


def main() -> int:
    options = _options()
    where = machine.resolve_device(options.device)
    fastest, usual = recipe(FASTEST), recipe("iteration_10_one_cycle")
    loop = UsualLoop(dataclasses.replace(usual, network=fastest.network), EPOCH, 0, where)
    slow = loop.epoch()
    rows = []

    def tell(network: str, way: str, experiment: Experiment, found: list[tuple[float, float]]) -> None:
        epochs, (taken, accuracies) = experiment.recipe.epochs, zip(*found, strict=True)
        seconds = statistics.median(taken)
        told = {"network": network, "way": way, "epochs": epochs, "seeds": len(found), "seconds": seconds}
        told |= {"smallest": min(taken), "largest": max(taken)}
        if network == FASTEST:
            told["times as fast"] = slow * epochs / seconds
        told["operations a second"] = operations(experiment) * EPOCH * epochs / seconds
        rows.append(told | {"mean accuracy, %": round(statistics.fmean(accuracies), 3)})
        print(rows[-1], flush=True)
        measurement.write(options.output, "Seconds of training on a GPU, by what starts the kernels", rows)

    for epochs in options.epochs:
        of_epochs = dataclasses.replace(fastest, recipe=dataclasses.replace(fastest.recipe, epochs=epochs))
        seeds = tqdm(range(options.seeds), unit="run")
        tell(FASTEST, "the library's loop", of_epochs, [timed(of_epochs, seed, where) for seed in seeds])
    one = dataclasses.replace(fastest, recipe=dataclasses.replace(fastest.recipe, epochs=1))
    tell(FASTEST, "the same, not recorded", one, [timed(one, 0, where, recorded=False)])
    tell(FASTEST, "the usual loop", one, [(slow, accuracy(one, loop.model, where))])
    for path in sorted((experiments.root() / "notebooks").glob("iteration_[01]*.ipynb")):
        each = recipe(path.stem)
        each = dataclasses.replace(each, recipe=dataclasses.replace(each.recipe, epochs=1))
        tell(path.stem, "the library's loop", each, [timed(each, 0, where)])
    return 0


def timed(experiment: Experiment, seed: int, where: torch.device, recorded: bool = True) -> tuple[float, float]:
    """Train; returns the seconds, and the test accuracy in percent."""
    trainer = experiments.make_trainer(experiment, seed, where, images())
    if not recorded:
        trainer._take_step = trainer._step
    with trainer.unchanged():
        trainer._train()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(experiment.recipe.epochs):
        trainer._train()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, 100 * float((trainer.evaluate()[1] == trainer.test_labels).float().mean())


@cache
def images() -> tuple[Images, Images]:
    """Load the images once."""
    return data.load("mnist")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="runs of the fastest recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3], help="of those (default: 1 2 3)")
    parser.add_argument("--device", default="cuda", help="which GPU (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "gpu.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
