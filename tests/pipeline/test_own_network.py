"""A reader's own network, through papermill, on the pages as they stand."""

import re

import nbformat
import papermill
import pytest

from mnist_lib import cells
from mnist_lib.pipeline import catalogue
from support import ROOT

RESIDUAL = """
import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2)
        self.shared = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        x = functional.relu(self.stem(images))
        for _ in range(2):  # the same layer twice
            x = x + functional.gelu(self.norm(self.shared(x)))
        return self.head(x.mean((2, 3)))


def network(width: int = 10) -> nn.Module:
    return Network(width)
"""


def execute(tmp_path, name: str, source: str | None = None, **parameters) -> str:
    """Execute a copy of a notebook on the embedded digits; returns all that its outputs say."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if source is not None and "network" in cell.metadata.get("tags", ()):
            cell.source = source
    given, made = tmp_path / "given.ipynb", tmp_path / "made.ipynb"
    nbformat.write(notebook, given)
    few = {"epochs": 1, "seeds": 1, "learning_rates": [0.1], "candidate_seeds": 1, "variants": []}
    values = {"dataset": "digits"} | few | parameters
    accepted = cells.notebook_parameters(given)
    values = {key: value for key, value in values.items() if key in accepted}
    papermill.execute_notebook(str(given), str(made), values, kernel_name="python3", progress_bar=False)
    outputs = [output for cell in nbformat.read(made, as_version=4).cells for output in cell.get("outputs", ())]
    said = [output.get("text", "") or "\n".join(map(str, output.get("data", {}).values())) for output in outputs]
    return "\n".join(said)


@pytest.mark.parametrize("name", ["iteration_10_one_cycle", "your_network"])
def test_any_module_is_described_trained_and_compared(tmp_path, tmp_store, name):
    said = execute(tmp_path, name, RESIDUAL, width=10)
    parameters = 10 * 9 + 10 + 10 * 10 * 9 + 10 + 2 * 10 + 10 * 10 + 10
    assert f"{parameters:,}" in said
    assert "another network" in said, "the first lines say what differs from the published page"
    assert re.search(r"\(one run, (so )?no interval\)", said)
    assert "too few runs to tell" in said, "one run against one carries no verdict"


def test_an_argument_of_the_network_is_a_parameter_of_the_notebook(tmp_path, tmp_store):
    said = execute(tmp_path, "iteration_10_one_cycle", width=12)
    assert "width 12 (10)" in said
    w = 12
    kernels = 9 * w + 3 * 9 * w**2 + w**2 + 9 * w * (w + 4) + 9 * (w + 4) ** 2 + 9 * (w + 4) * (w + 3) + 10 * (w + 3)
    assert f"{kernels + 2 * (5 * w + 2 * (w + 4) + (w + 3) + 10):,}" in said


@pytest.mark.parametrize("path", catalogue.find(), ids=lambda path: path.stem)
def test_a_default_is_the_same_in_the_parameters_cell_and_in_the_signature(path):
    if cells.has_network(path):
        values = cells.notebook_parameters(path)
        signature = cells.of_file(path).network.signature
        assert {name: values[name] for name in signature} == {name: default for name, (_, default) in signature.items()}
