"""What does a training step in bfloat16 take on a processor that has no such numbers?

    python benchmarks/without_bfloat16.py [--batch 128] [--steps 5] [--rounds 5]

Each network is trained in float32, by torch's autocast to bfloat16, and as this library does it where bfloat16 is
missing: with float32 numbers that are rounded. The result is book/measurements/without_bfloat16.json, which the book
shows. On a processor that has bfloat16 it says only what rounding would cost there.
"""

import argparse
import statistics
import sys
from pathlib import Path

import measurement
import torch
from step_variants import Variants, seconds
from tqdm import tqdm
from training_loop import recipe

PAGES = ("frontier_time", "frontier_accuracy", "frontier_small", "frontier_size", "faster_arithmetic")


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("This processor has bfloat16: torch's autocast is fast here.", file=sys.stderr)
    rows = []
    for page in tqdm(PAGES, unit="network"):
        variants = Variants(recipe(page).network, options.batch)
        steps = {
            "in float32": variants.ours(),
            "by autocast": variants.mixed(),
            "rounded": variants.rounded(),
        }
        for step in steps.values():
            step()
        taken = {name: [] for name in steps}
        for _ in range(options.rounds):
            for name, step in steps.items():
                taken[name].append(1000 * seconds(step, options.steps) / options.steps)
        ratios = [cast / rounded for cast, rounded in zip(taken["by autocast"], taken["rounded"], strict=True)]
        rows.append(
            {"network": page}
            | {f"{name}, ms": statistics.median(times) for name, times in taken.items()}
            | {"times as fast as by autocast": statistics.median(ratios)}
            | {"smallest": min(ratios), "largest": max(ratios)}
        )
    what = f"One training step on {options.batch} images of 28 × 28 pixels, on one thread"
    measurement.write(options.output, what, rows)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128, help="images of a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed together (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "without_bfloat16.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
