"""Which changes to a training step pay, on this machine, and which do not?

    python benchmarks/step_variants.py [--page reported_c_strided] [--steps 20] [--rounds 5]

Each change is tried alone against the step of this library: float32, channels last, one thread, the plain optimizer.
The result is book/measurements/step_variants.json, which the book shows.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import measurement
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from training_loop import recipe

from mnist_lib import fast
from mnist_lib.fast import Fast

Step = Callable[[], None]


class Variants:
    """Training steps of one network that differ in one thing each."""

    def __init__(self, make: Callable[[], nn.Sequential], batch: int):
        self.make, self.batch = make, batch

    def ours(self, batch: int | None = None, layout: torch.memory_format = torch.channels_last, **sgd: bool) -> Step:
        """The step of the library, but for its batch, the layout of its images, or options of its optimizer."""
        network = self.make().to(memory_format=layout).train()
        return self._step(network, network, batch or self.batch, layout, **sgd)

    def compiled(self) -> Step:
        """The layers compiled by torch.compile."""
        network = self.make().to(memory_format=torch.channels_last).train()
        return self._step(network, torch.compile(network))

    def mixed(self) -> Step:
        """bfloat16 as PyTorch offers it."""
        network = self.make().to(memory_format=torch.channels_last).train()
        return self._step(network, autocast(network))

    def mixed_and_compiled(self) -> Step:
        """The same, compiled."""
        network = self.make().to(memory_format=torch.channels_last).train()
        return self._step(network, torch.compile(autocast(network)))

    def rounded(self) -> Step:
        """What the library does for bfloat16 on a processor that has none: float32 numbers, rounded."""
        network = fast.in_bfloat16(self.make().to(memory_format=torch.channels_last)).train()
        step = self._step(network, network)

        def without_bfloat16() -> None:
            with mock.patch.object(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False):
                step()

        return without_bfloat16

    def blocked(self, block: int = fast.BLOCK) -> Step:
        """bfloat16 in oneDNN's layout, with channels filled up to whole blocks of this many."""
        network = Fast(*self.make()).train()
        step = self._step(network, network, layout=torch.contiguous_format)

        def with_block() -> None:
            kept, fast.BLOCK = fast.BLOCK, block
            step()
            fast.BLOCK = kept

        return with_block

    def two_seeds(self) -> Step:
        """Two runs in one process: their weights are stacked, and their convolutions become grouped ones."""
        networks = [torch.func.replace_all_batch_norm_modules_(self.make().train()) for _ in range(2)]
        weights, buffers = torch.func.stack_module_state(networks)
        skeleton = copy.deepcopy(networks[0]).to("meta")
        images, labels = self._images(self.batch, torch.contiguous_format)

        def loss(weights: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
            answers = torch.func.functional_call(skeleton, (weights, buffers), (images,))
            return functional.cross_entropy(answers, labels)

        gradients = torch.func.vmap(torch.func.grad(loss), randomness="different")

        @torch.no_grad()
        def step() -> None:
            for name, gradient in gradients(weights, buffers).items():
                weights[name] -= 0.01 * gradient

        return step

    def _images(self, batch: int, layout: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(batch, 1, 28, 28).to(memory_format=layout), torch.randint(10, (batch,))

    def _step(
        self,
        network: nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        batch: int | None = None,
        layout: torch.memory_format = torch.channels_last,
        **sgd: bool,
    ) -> Step:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, **sgd)
        images, labels = self._images(batch or self.batch, layout)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(forward(images), labels).backward()
            optimizer.step()

        return step


def autocast(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network's forward pass under torch's autocast, with results in float32."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).float()

    return forward


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    experiment = recipe(options.page)
    variants, small = Variants(experiment.network, options.batch), options.batch
    # The change, its step, and how many batches of the usual size a step handles.
    tried: list[tuple[str, Callable[[], Step], int]] = [
        ("none: float32, channels last", variants.ours, 1),
        ("images row by row, not channels last", lambda: variants.ours(layout=torch.contiguous_format), 1),
        ("optimizer with foreach=True", lambda: variants.ours(foreach=True), 1),
        ("optimizer with fused=True", lambda: variants.ours(fused=True), 1),
        (f"batches of {4 * small} images", lambda: variants.ours(4 * small), 4),
        ("two runs in one process (torch.func.vmap)", variants.two_seeds, 2),
        ("torch.compile", variants.compiled, 1),
        ("bfloat16 by autocast", variants.mixed, 1),
        ("bfloat16 by autocast, and torch.compile", variants.mixed_and_compiled, 1),
        ("bfloat16 in oneDNN's layout, blocks not filled up", lambda: variants.blocked(1), 1),
        ("bfloat16 in oneDNN's layout, blocks filled up", variants.blocked, 1),
    ]
    steps, first = [], []
    for _, make, _ in tqdm(tried, unit="variant", desc="first step"):
        steps.append(make())
        first.append(seconds(steps[-1], 1))
    taken: list[list[float]] = [[] for _ in tried]
    for _ in tqdm(range(options.rounds), unit="round"):
        for (_, _, batches), step, times in zip(tried, steps, taken, strict=True):
            times.append(seconds(step, options.steps) / options.steps / batches)
    rows = []
    for (name, _, _), times, once in zip(tried, taken, first, strict=True):
        ratios = [plain / changed for plain, changed in zip(taken[0], times, strict=True)]
        rows.append(
            {
                "change": name,
                f"milliseconds for {small} images": 1000 * statistics.median(times),
                "times as fast": statistics.median(ratios),
                "smallest": min(ratios),
                "largest": max(ratios),
                "first step, s": once,
            }
        )
    measurement.write(
        options.output, f"One training step of {experiment.name} on one thread, changed in one thing", rows
    )
    return 0


def seconds(step: Step, times: int) -> float:
    """How long so many steps take."""
    start = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", default="reported_c_strided", help="the notebook (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images of a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="timed together (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "step_variants.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
