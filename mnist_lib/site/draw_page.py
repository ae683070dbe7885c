"""Trained networks as scripts, for the page of the book on which the reader's browser computes them.

A page that is opened as a file may not fetch data, but it may load scripts. So ``networks.js`` lists the networks with
their layers, and ``<name>.js`` hands over the weights of one of them: all numbers in one row, float32, in base64.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnist_lib import cells, data, records, training
from mnist_lib.base import files
from mnist_lib.blocks import Residual
from mnist_lib.parameters import Recipe
from mnist_lib.pipeline import catalogue
from mnist_lib.records import Record
from mnist_lib.results import architecture, comparison, page
from mnist_lib.results.page import ComparisonParameters

SEED = 0
"""Which run of each experiment is shown."""

FRONTIER = "frontier_"
"""What the names of the notebooks begin with whose networks are offered beside those of the iterations."""

MNIST_MEAN, MNIST_STD = 0.1306604762738429, 0.3081078038564627
"""What MNIST's pixels are normalised by, on the scale 0 to 1: a book is compiled without the images."""


def offered() -> list[str]:
    """Return the names of the experiments whose networks the page computes, in order."""
    (compared,) = catalogue.find("iterations_compared")
    frontier = [path.stem for path in catalogue.find() if path.stem.startswith(FRONTIER)]
    return [*page.listed(cells.of_file(compared, ComparisonParameters)), *frontier]


def export(names: Sequence[str], published: Path, folder: Path) -> list[str]:
    """Write the scripts of the experiments `names` into `folder`; returns the names that were left out.

    Left out is an experiment without a current record in ``<published>/<name>``, or with a network that the page
    cannot compute; the page says so.

    Raises:
        ParameterError: there is no notebook of one of the names.
        RecordError: a record is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    missing: list[str] = []
    too_much: list[str] = []
    for name in names:
        experiment = page.unchecked(page.of_notebook(name))
        path = records.record_path(published / name, SEED)
        if not path.exists() or experiment.differences(record := catalogue.record(path)):
            missing.append(name)
            continue
        network = experiment.network()
        network.load_state_dict(records.read_weights(path))
        try:
            layers, numbers = describe(network)
        except ValueError:
            too_much.append(name)
            continue
        content = base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode()
        script = f'drawADigitData.weights["{name}"] = "{content}";\n'
        files.write_atomically(folder / f"{name}.js", script.encode())
        mean, std = pixel_mean_and_std(experiment.recipe)
        listed.append(
            {"name": name, "label": comparison.label(name), "mean": mean, "std": std, "bytes": len(script)}
            | {"deskewed": experiment.recipe.preparation == "deskew"}
            | _results(record)
            | {"layers": layers}
        )
    left_out = {"missing": missing, "tooMuch": too_much}
    labels = {reason: [comparison.label(name) for name in found] for reason, found in left_out.items()}
    content = {"networks": listed, **labels, "weights": {}}
    files.write_atomically(folder / "networks.js", f"window.drawADigitData = {json.dumps(content)};\n".encode())
    return missing + too_much


def describe(network: nn.Module) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Describe the layers of `network` for the page, and line up all their numbers, shape ``(n,)``.

    ``tensors`` says for each tensor of a layer where it begins among the numbers, and how many it has. ``start`` is
    the row, and the column, of the image's pixel in which the receptive field of the first unit begins; with padding
    it lies outside of the image. A ``Sum`` adds what came out of layer number ``of``; layers count from 1, and 0 is the
    image. The other keys are those of `architecture.Layer`.

    Raises:
        ValueError: the network is not a chain of layers and residual sums, or the page cannot compute one of them.
    """
    calls = _calls(network)
    layers = architecture.layers(network)
    for layer in layers:
        if not layer.in_browser:
            raise ValueError(f"{layer.name}: the page cannot compute this layer")
    described: list[dict[str, Any]] = []
    numbers: list[torch.Tensor] = []
    position, start, jump = 0, 0, 1
    for call, layer in zip(calls, layers, strict=True):
        entry: dict[str, Any] = {}
        tensors = {}
        if isinstance(call, int):
            before = described[call - 1] if call else {"shape": architecture.INPUT_SHAPE, "start": 0}
            if before["shape"] != layer.output_shape or described[-1]["shape"] != layer.output_shape:
                raise ValueError(f"{layer.name} of maps of other sizes: the page cannot compute this layer")
            entry["of"], start = call, min(start, before["start"])
        else:
            for key, value in call.state_dict().items():
                if value.is_floating_point():  # batch normalisation counts its batches, too
                    tensors[key] = [position, value.numel()]
                    position += value.numel()
                    numbers.append(value.detach().cpu().float().flatten())
            entry |= {key: getattr(call, key) for key in ("eps", "groups") if hasattr(call, key)}
        start -= int(layer.padding) * jump
        jump = layer.jump
        entry |= {
            "kind": layer.in_browser,
            "name": layer.name,
            "kernel": layer.kernel,
            "stride": layer.stride,
            "padding": layer.padding,
            "shape": layer.output_shape,
            "start": start,
            "jump": layer.jump,
            "field": layer.receptive_field,
            "tensors": tensors,
        }
        described.append(entry)
    return described, torch.cat(numbers) if numbers else torch.empty(0)


def _calls(network: nn.Module, before: int = 0) -> list[nn.Module | int]:
    """List what `network` calls, in order: its layers, and for a residual sum the number of layers before its block."""
    if type(network).forward not in (nn.Sequential.forward, Residual.forward):
        raise ValueError(f"{type(network).__name__}: the page needs a chain of layers, nn.Sequential or Residual")
    calls: list[nn.Module | int] = []
    for module in network:
        if isinstance(module, nn.Sequential) or [*module.children()]:
            calls += _calls(module, before + len(calls))
        else:
            calls.append(module)
    if type(network).forward is Residual.forward:
        if any(getattr(module, "inplace", False) for module in network.modules()):
            raise ValueError("Residual: the page cannot compute a layer in place, which changes what is added")
        calls.append(before)
    return calls


def pixel_mean_and_std(recipe: Recipe) -> tuple[float, float]:
    """Return the mean and the standard deviation by which a run normalised its images, on the scale 0 to 1."""
    if (recipe.dataset, recipe.evaluate_on) == ("mnist", "test"):
        return MNIST_MEAN, MNIST_STD
    return training.mean_and_std(data.load(recipe.dataset, recipe.evaluate_on)[0].images)


def _results(record: Record) -> dict[str, Any]:
    accuracy = round(float(record.test_accuracy[-1]), 2)
    return {"seed": record.seed, "parameters": record.parameter_count, "accuracy": accuracy}
