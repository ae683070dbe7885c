"""What is identical to the last bit over threads, instruction sets and devices, and how close the rest is.

    python benchmarks/bit_identity.py [--steps 200]

Every setting runs in a process of its own: the first steps of two published recipes, seed 0, on MNIST; then all test
images are read by the network that came out, and by the published one. Each is compared with the reference: one
thread and the instructions that torch chooses by itself, as the published runs were made. The result is
book/measurements/bit_identity.json, which the book shows.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import measurement
import safetensors.torch
import torch
from tqdm import tqdm

from mnist_lib import experiments, records
from mnist_lib.base.digests import bytes_digest
from mnist_lib.pipeline import catalogue

EXPERIMENTS = ("iteration_01_setup", "iteration_10_one_cycle")
CHOOSES_INSTRUCTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # torch's own loops; convolutions by oneDNN


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a run differs from the published ones."""

    name: str
    threads: int = 1
    device: str = "cpu"
    instructions: tuple[str, ...] = ()  # environment variables, as NAME=value


REFERENCE = Setting("reference: 1 thread")
SETTINGS = [
    Setting("the same once more"),
    Setting("2 threads", threads=2),
    *(
        Setting(each, instructions=(each,))
        for each in (
            "ATEN_CPU_CAPABILITY=avx512",
            "ATEN_CPU_CAPABILITY=avx2",
            "ATEN_CPU_CAPABILITY=default",
            "ONEDNN_MAX_CPU_ISA=AVX512_CORE_AMX",
            "ONEDNN_MAX_CPU_ISA=AVX512_CORE",
            "ONEDNN_MAX_CPU_ISA=AVX2",
        )
    ),
    Setting("AVX2 in both", instructions=("ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2")),
    Setting("GPU", device="cuda"),
]


def main() -> int:
    options = _options()
    if options.child:
        print(json.dumps([measure(name, options) for name in EXPERIMENTS]))
        return 0
    reference = in_a_process(REFERENCE, options)
    rows = []
    for setting in tqdm(SETTINGS, unit="setting"):
        if setting.device == "cuda" and not torch.cuda.is_available():
            rows.append({"setting": setting.name, "identical bits": "not measured: no GPU"})
            continue
        for before, after in zip(reference, in_a_process(setting, options), strict=True):
            rows.append({"setting": setting.name} | compared(before, after))
    for row in rows:
        print(*row.values(), sep="  ")
    what = "What differs from the reference, a run with one thread and the instructions that torch chooses"
    measurement.write(options.output, what, rows)
    return 0


def in_a_process(setting: Setting, options: argparse.Namespace) -> list[dict]:
    """What `measure` gives under a setting, for each experiment."""
    kept = {name: value for name, value in os.environ.items() if name not in CHOOSES_INSTRUCTIONS}
    chosen = dict(each.split("=") for each in setting.instructions)
    command = [sys.executable, __file__, "--child", "--threads", str(setting.threads), "--device", setting.device]
    command += ["--steps", str(options.steps), "--dataset", options.dataset]
    done = subprocess.run(command, env=kept | chosen, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{setting.name}: the process ended with exit code {done.returncode}")
    return json.loads(done.stdout)


def measure(name: str, options: argparse.Namespace) -> dict:
    """The first steps of a published run, and what the networks answer afterwards."""
    (experiment,) = (run for run, _ in catalogue.published_runs(catalogue.find(name)[0]) if run.name == name)
    recipe = dataclasses.replace(experiment, recipe=dataclasses.replace(experiment.recipe, dataset=options.dataset))
    trainer = experiments.make_trainer(recipe, 0, torch.device(options.device))
    torch.set_num_threads(options.threads)
    losses = trainer.replay(options.steps)
    loss, answers = trainer.evaluate()
    weights = bytes_digest(safetensors.torch.save(trainer.state()))
    trainer.model.load_state_dict(records.read_weights(records.record_path(experiment.published, 0)))
    return {
        "network": name,
        "weights": weights,
        "losses": losses,
        "test loss": loss,
        "answers": answers.tolist(),
        "published": trainer.evaluate()[1].tolist(),
    }


def compared(before: dict, after: dict) -> dict:
    """A row of the table: how far a measurement is from the reference."""
    identical = all(before[key] == after[key] for key in before)
    apart = [abs(a / b - 1) for a, b in zip(after["losses"], before["losses"], strict=True)]
    return {
        "network": before["network"],
        "identical bits": identical,
        "first loss, relative": apart[0],
        f"largest of the first {len(apart)}": max(apart),
        "loss on test images, relative": abs(after["test loss"] / before["test loss"] - 1),
        "other answers": differing(before["answers"], after["answers"]),
        "other answers of the published network": differing(before["published"], after["published"]),
    }


def differing(before: list[int], after: list[int]) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "digits"], help="digits for a quick trial")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "bit_identity.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
