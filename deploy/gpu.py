"""Execute notebooks on a machine with a GPU, each with those of the parameters that it accepts; all train anew.

python deploy/gpu.py 'iteration_*' 'epochs: 2, learning_rates: [0.1, 0.2]' [FOLDER]
"""

import dataclasses
import logging
import sys
from pathlib import Path

import papermill
import yaml

from mnist_lib import cells
from mnist_lib.parameters import NotebookParameters
from mnist_lib.pipeline import catalogue, execution

pattern, text, folder = [*sys.argv[1:], "_build/gpu/notebooks"][:3]
try:
    given = yaml.safe_load(f"{{{text}}}")
    if not isinstance(given, dict):
        raise TypeError
except (yaml.YAMLError, TypeError):
    sys.exit(f"parameters = {text!r}: write them as epochs: 2, learning_rates: [0.1, 0.2]")

recipe = {f.name for f in dataclasses.fields(NotebookParameters) if not f.metadata.get("shown")}
accepted = {
    path: {*cells.notebook_parameters(path)} | (recipe if cells.has_network(path) else set())
    for path in catalogue.find(pattern)
    if not catalogue.unpublished(path)
}
# papermill writes a name into a cell as it is, so only names that are known get there.
if unknown := given.keys() - set().union(*accepted.values()):
    sys.exit(f"unknown parameter {sorted(map(str, unknown))[0]!r}: no notebook of {pattern!r} accepts it")

logging.basicConfig(level=logging.INFO, format="%(message)s")  # the epochs
Path(folder).mkdir(parents=True, exist_ok=True)
failed = 0
for path, names in accepted.items():
    print(f"::group::{path.name}", flush=True)
    chosen = {name: value for name, value in ({"device": "cuda"} | given).items() if name in names}
    options = {"kernel_manager_class": execution.OwnKernel, "log_output": True, "progress_bar": False}
    target = f"{folder}/{path.name}".replace("{", "{{").replace("}", "}}")
    try:
        papermill.execute_notebook(catalogue.read(path), target, chosen, kernel_name="python3", **options)
    except Exception as error:  # the others go on
        failed += 1
        print(f"::error::{path.name}: {str(error).strip().splitlines()[-1]}")
    print("::endgroup::", flush=True)
sys.exit(bool(failed))
