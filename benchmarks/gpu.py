"""How many seconds does training take on a GPU, and what does recording a step bring?

    python benchmarks/gpu.py [--seeds 10] [--epochs 1 2 3]

The fastest recipe is trained by the library's loop, which replays each step as one CUDA graph; by the same loop when it
starts every kernel by itself; and for an epoch by the usual loop of the public notebooks. Then each of the ten
iterations is trained for an epoch. Time runs from the first step to the last. The images are on the device before, and
the step is recorded; evaluation comes after. The results are book/measurements/gpu.json and gpu_iterations.json.
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
from training_loop import EPOCH, UsualLoop, operations, percent_right, recipe

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
    rows: list[dict[str, object]] = []

    def tell(way: str, epochs: int, found: list[tuple[float, float]]) -> None:
        taken, accuracies = zip(*found, strict=True)
        row = {"way": way, "epochs": epochs, "seeds": len(found), "seconds": statistics.median(taken)}
        row |= {"smallest": min(taken), "largest": max(taken), "times as fast": slow * epochs / row["seconds"]}
        rows.append(row | {"mean accuracy, %": round(statistics.fmean(accuracies), 3)})
        what = f"Seconds of training of the network of {FASTEST} on a GPU, by what starts its kernels"
        measurement.write(options.output, what, rows, where)

    for epochs in options.epochs:
        each = of_epochs(fastest, epochs)
        seeds = tqdm(range(options.seeds), unit="run", desc=f"epochs: {epochs}")
        tell("the library's loop", epochs, [timed(each, seed, where) for seed in seeds])
    one = of_epochs(fastest, 1)
    tell("the same, not recorded", 1, [timed(one, 0, where, recorded=False)])
    tell("the usual loop", 1, [(slow, accuracy(one, loop.model, where))])

    names = sorted(path.stem for path in (experiments.root() / "notebooks").glob("iteration_[01]*.ipynb"))
    rows = []
    for name in tqdm(names, unit="iteration"):
        each = of_epochs(recipe(name), 1)
        seconds, _ = timed(each, 0, where)
        rate = operations(each) * EPOCH / seconds
        rows.append({"network": name, "seconds per run and epoch": seconds, "operations a second": rate})
    what = "Seconds for an epoch of each iteration on a GPU, one run by itself"
    measurement.write(options.output.with_stem(options.output.stem + "_iterations"), what, rows, where)
    return 0


def of_epochs(experiment: Experiment, epochs: int) -> Experiment:
    """The same for so many epochs."""
    return dataclasses.replace(experiment, recipe=dataclasses.replace(experiment.recipe, epochs=epochs))


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
    return seconds, percent_right(trainer)


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
