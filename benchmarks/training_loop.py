"""How much faster is this library's training loop than the usual one, on this machine?

    python benchmarks/training_loop.py [--images 20000] [--rounds 3] [--seeds 3]

The usual loop is the one of the public notebooks: torchvision's transforms, image by image, behind a `DataLoader`. All
loops train the same network by the same recipe. In every round each takes its turn, so that a disturbance of the
machine meets them all. A ratio is formed within its round; told are the median over the rounds, the smallest and the
largest. Two results are written, which the book shows: book/measurements/training_loop.json says how fast, and
training_loop_accuracy.json whether what comes out is the same.
"""

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import measurement
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from tqdm import tqdm

from mnist_lib import data, experiments, machine, optimization, training
from mnist_lib.data import Images
from mnist_lib.experiments import Experiment
from mnist_lib.results import page

PAGES = ("reported_c_strided", "iteration_10_one_cycle", "reported_d_padded_pairs")
CORES = os.cpu_count() or 1
EPOCH = 60_000  # images


@dataclass(frozen=True)
class Loop:
    """A way to train: `epoch` shows every image once and returns the seconds, divided by the runs it trains."""

    name: str
    precision: str
    cores: int
    epoch: Callable[[], float]


def main() -> int:
    options = _options()
    where = machine.resolve_device(options.device)
    rows: list[dict[str, object]] = []
    for name in options.pages:
        rows += compare(name, options.images, options.rounds, where)
        measurement.write(options.output, "Seconds for 60,000 training images, by loop", rows)
    first, epochs = recipe(options.pages[0]), options.epochs
    same = accuracies(first, epochs, options.seeds, where)
    what = f"Test accuracy in percent after {epochs} of the {first.recipe.epochs} epochs of {first.name}, by loop"
    measurement.write(options.output.with_stem(options.output.stem + "_accuracy"), what, same)
    return 0


def recipe(name: str) -> Experiment:
    """The experiment of a notebook."""
    return page.experiment(page.of_notebook(name))


def compare(name: str, images: int, rounds: int, where: torch.device) -> list[dict[str, object]]:
    """The rows of the table for one network."""
    experiment = recipe(name)
    loops = [fastest_usual(experiment, images, where), *our_loops(experiment, images, where)]
    seconds: list[list[float]] = [[] for _ in loops]
    for _ in tqdm(range(rounds), unit="round", desc=name):
        for loop, taken in zip(loops, seconds, strict=True):
            taken.append(loop.epoch() * EPOCH / images)
    rows = []
    for loop, taken in zip(loops, seconds, strict=True):
        ratios = [usual / ours for usual, ours in zip(seconds[0], taken, strict=True)]
        rate = operations(experiment) * EPOCH / statistics.median(taken)
        rows.append(
            {
                "network": name,
                "loop": loop.name,
                "seconds per run and epoch": statistics.median(taken),
                "times as fast": statistics.median(ratios),
                "smallest": min(ratios),
                "largest": max(ratios),
                "share of the peak, %": 100 * rate / peak(loop.precision, loop.cores, where),
            }
        )
    return rows


def our_loops(experiment: Experiment, images: int, where: torch.device) -> list[Loop]:
    """This library's loop: in both precisions, by one core and by all, one run and several at once."""
    loops = []
    for precision in ("float32", "bfloat16"):
        for threads in sorted({1, CORES if where.type == "cpu" else 1}):
            name = f"ours, {precision}, {threads} thread{'s' * (threads > 1)}"
            run = one_run(varied(experiment, precision, threads), images, where)
            loops.append(Loop(name, precision, threads, run))
        runs = CORES if where.type == "cpu" else 10
        name = f"ours, {precision}, {runs} runs at once"
        several = several_runs(varied(experiment, precision), images, where, runs)
        loops.append(Loop(name, precision, CORES, several))
    return loops


def varied(experiment: Experiment, precision: str, threads: int = 1) -> Experiment:
    """The same in another precision, by so many threads."""
    recipe = dataclasses.replace(experiment.recipe, precision=precision, threads=threads)
    return dataclasses.replace(experiment, recipe=recipe)


def one_run(experiment: Experiment, images: int, where: torch.device) -> Callable[[], float]:
    """Trains one run, in this process."""
    trainer = make_trainer(experiment, images, where)

    def epoch() -> float:
        torch.set_num_threads(experiment.recipe.threads)
        start = time.perf_counter()
        trainer.train_epoch()
        return time.perf_counter() - start

    return epoch


def several_runs(experiment: Experiment, images: int, where: torch.device, runs: int) -> Callable[[], float]:
    """Trains several runs, each in a process that waits to be told."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = zip(*(context.Pipe() for _ in range(runs)), strict=True)
    for pipe in theirs:
        context.Process(target=_serve, args=(pipe, experiment, images, where), daemon=True).start()
    for pipe in ours:
        pipe.recv()

    def epoch() -> float:
        start = time.perf_counter()
        for pipe in ours:
            pipe.send("train")
        for pipe in ours:
            pipe.recv()
        return (time.perf_counter() - start) / runs

    return epoch


def _serve(pipe: Connection, experiment: Experiment, images: int, where: torch.device) -> None:
    trainer = make_trainer(experiment, images, where)
    while True:
        pipe.send("ready")
        pipe.recv()
        trainer.train_epoch()


def make_trainer(experiment: Experiment, images: int, where: torch.device) -> training.Trainer:
    """A run that is warm: its first epoch has allocated the memory, and compiled what is compiled."""
    train, test = data.load("mnist")
    parts = Images(train.images[:images], train.labels[:images]), Images(test.images[:10], test.labels[:10])
    trainer = experiments.make_trainer(experiment, 0, where, parts)
    trainer.train_epoch()
    return trainer


class UsualLoop:
    """The loop of the public notebooks, for the recipe of `experiment` and the first `images` training images."""

    def __init__(self, experiment: Experiment, images: int, workers: int, where: torch.device, seed: int = 0):
        recipe = experiment.recipe
        crop = transforms.Compose([transforms.CenterCrop(22), transforms.Resize(28)])
        steps = [transforms.RandomApply([crop], recipe.crop_probability)] if recipe.crop_probability else []
        mode = transforms.InterpolationMode[recipe.interpolation.upper()]
        steps += [transforms.RandomRotation(recipe.rotation, mode)] if recipe.rotation else []
        steps += [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        every = datasets.MNIST(str(data.data_directory()), train=True, transform=transforms.Compose(steps))
        torch.manual_seed(seed)
        batches = {"batch_size": recipe.batch_size, "shuffle": True, "num_workers": workers}
        self.loader = DataLoader(Subset(every, range(images)), **batches, pin_memory=where.type == "cuda")
        self.model, self.where = experiment.network().to(where), where
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
        self.rates = iter(optimization.rates(recipe, len(self.loader)))

    def epoch(self) -> float:
        """Train for one epoch; returns the seconds."""
        torch.set_num_threads(CORES)
        self.model.train()
        start, correct, losses = time.perf_counter(), 0, []
        for images, labels in self.loader:
            images, labels = images.to(self.where), labels.to(self.where)
            group = self.optimizer.param_groups[0]
            group["lr"], group["momentum"] = next(self.rates)
            self.optimizer.zero_grad()
            answers = functional.log_softmax(self.model(images), dim=1)
            loss = functional.nll_loss(answers, labels)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            correct += answers.argmax(1).eq(labels).sum().item()
        return time.perf_counter() - start


def fastest_usual(experiment: Experiment, images: int, where: torch.device) -> Loop:
    """The usual loop with the number of workers that is fastest here."""
    taken = {}
    for workers in (0, 1, 2):
        trial = UsualLoop(experiment, images // 4, workers, where)
        trial.epoch()
        taken[workers] = trial.epoch()
    best = min(taken, key=taken.get)
    name = f"usual, {CORES} threads, {best} worker{'s' * (best != 1)}"
    return Loop(name, "float32", CORES, UsualLoop(experiment, images, best, where).epoch)


def accuracies(experiment: Experiment, epochs: int, seeds: int, where: torch.device) -> list[dict[str, object]]:
    """One row a loop: the test accuracy of each seed, after `epochs` epochs on all images."""
    parts = data.load("mnist")
    rows = []
    for name in ("usual", "ours, float32", "ours, bfloat16"):
        correct = []
        for seed in tqdm(range(seeds), unit="run", desc=name):
            precision = "bfloat16" if "bfloat16" in name else "float32"
            trainer = experiments.make_trainer(varied(experiment, precision), seed, where, parts)
            loop = UsualLoop(experiment, EPOCH, 0, where, seed) if name == "usual" else None
            for _ in range(epochs):
                loop.epoch() if loop else trainer.train_epoch()
            if loop:
                trainer.model.load_state_dict(loop.model.state_dict())
            correct.append(percent_right(trainer))
        mean = {"mean": round(statistics.fmean(correct), 3)}
        rows.append({"loop": name} | {f"seed {seed}": round(value, 2) for seed, value in enumerate(correct)} | mean)
    return rows


def percent_right(trainer: training.Trainer) -> float:
    """How many of its evaluation images a run gets right."""
    return 100 * float((trainer.evaluate()[1] == trainer.test_labels).float().mean())


def operations(experiment: Experiment) -> int:
    """The multiplications and additions of the convolutions and linear layers, to train on one image."""
    count = 0

    def add(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal count
        count += layer.weight.numel() * (output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)

    network = experiment.network().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    network(torch.zeros(1, 1, 28, 28))
    return 3 * 2 * count  # backward costs twice what forward does


def peak(precision: str, threads: int, where: torch.device, side: int = 2048) -> float:
    """Operations a second, at best, in the product of two large matrices."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, side, side, dtype=getattr(torch, precision), device=where)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # a GPU is done when the number is here
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", nargs="+", default=PAGES, help="notebooks (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20_000, help="training images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop is timed, fewer than epochs")
    parser.add_argument("--epochs", type=int, default=2, help="of the runs whose accuracy is compared")
    parser.add_argument("--seeds", type=int, default=3, help="runs whose accuracy is compared (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "training_loop.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
