"""Does training on another kind of device come to the same accuracy?

    python benchmarks/devices.py FOLDER

FOLDER holds records that were made elsewhere, in one folder for each notebook, with the seeds and the recipes of the
published ones. The bits differ, because sums are formed in another order, and dropout draws other numbers. So each pair
of runs is two draws of the same recipe, and means over the seeds are compared: as for all comparisons of the report, by
Welch's interval, here wide enough that all of them hold at once. The result is book/measurements/devices.json.
"""

import argparse
import sys
from pathlib import Path

import measurement
from training_loop import recipe

from mnist_lib import records
from mnist_lib.experiments import CHANGED
from mnist_lib.records import Record
from mnist_lib.results.comparison import accuracy_difference
from mnist_lib.results.target import final_accuracy


def main() -> int:
    options = _options()
    folders = sorted(path for path in options.folder.iterdir() if path.is_dir())
    rows = [compared(folder, comparisons=len(folders)) for folder in folders]
    measurement.write(options.output, "Test accuracy in percent of the same recipes and seeds on two devices", rows)
    return 0


def compared(folder: Path, comparisons: int) -> dict[str, object]:
    """The row of one notebook."""
    experiment, seeds = recipe(folder.name), records.published_seeds(folder)
    there, here = (
        [records.read(records.record_path(place, seed)) for seed in seeds] for place in (folder, experiment.published)
    )
    for record in there:
        others = [each for each in experiment.differences(record) if each != CHANGED["code"]]
        if others:
            raise SystemExit(f"{folder}: seed {record.seed} is a run of another recipe: {'; '.join(others)}")
    apart = accuracy_difference(here, there, comparisons)
    return {
        "network": folder.name,
        "seeds": len(seeds),
        "published on": _device(here),
        "mean": round(final_accuracy(here).center, 3),
        "again on": _device(there),
        "mean there": round(final_accuracy(there).center, 3),
        "difference": round(apart.center, 3),
        "from": round(apart.low, 3),
        "to": round(apart.high, 3),
    }


def _device(runs: list[Record]) -> str:
    return ", ".join(sorted({run.environment["device_name"] for run in runs}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of records made elsewhere")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "devices.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
