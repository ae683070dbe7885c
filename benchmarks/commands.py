"""How long do the report's own commands keep people waiting?

    python benchmarks/commands.py [--rounds 5]

Each command is run in turn with a Python that does nothing, and told as seconds and as a ratio to that. The book must
be built. The result is book/measurements/commands.json, which the book shows.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measurement
from tqdm import tqdm

from mnist_lib import experiments

CLI = [sys.executable, "-m", "mnist_lib.cli"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import mnist_lib": [sys.executable, "-c", "import mnist_lib"],
    "import mnist_lib.experiments (with torch)": [sys.executable, "-c", "import mnist_lib.experiments"],
    "mnist-lib --help": [*CLI, "--help"],
    "mnist-lib status": [*CLI, "status"],
    "mnist-lib book, with nothing to do": [*CLI, "book"],
    "make book, with nothing to do": ["make", "book"],
}
COMPILE = "mnist-lib book, all pages"


def main() -> int:
    options = _options()
    seconds: dict[str, list[float]] = {name: [] for name in [*COMMANDS, COMPILE]}
    seconds[COMPILE].append(_compile())
    for _ in tqdm(range(options.rounds), unit="round"):
        for name, command in COMMANDS.items():
            seconds[name].append(_timed(command))
    bare = statistics.median(seconds["python -c pass"])
    rows = [
        {"command": name, "seconds": statistics.median(taken), "times a bare Python": statistics.median(taken) / bare}
        for name, taken in seconds.items()
    ]
    measurement.write(options.output, "Seconds that commands take", rows)
    return 0


def _compile() -> float:
    stamp = experiments.root() / "_build" / "html" / ".sources"
    stamp.unlink(missing_ok=True)
    return _timed(COMMANDS["mnist-lib book, with nothing to do"])


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=experiments.root(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each command runs (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "commands.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
