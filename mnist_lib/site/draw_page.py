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

from mnist_lib import data, files, page, records, training
from mnist_lib.parameters import Recipe
from mnist_lib.records import Record
from mnist_lib.results import architecture, comparison

SEED = 0
"""Which run of each experiment is shown."""

MNIST_MEAN, MNIST_STD = 0.1306604762738429, 0.3081078038564627
"""What MNIST's pixels are normalised by, on the scale 0 to 1: a book is compiled without the images."""


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
        experiment = page.experiment(page.of_notebook(name))
        path = records.record_path(published / name, SEED)
        if not path.exists() or experiment.differences(record := records.read(path)):
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
    it lies outside of the image. The other keys are those of `architecture.Layer`.

    Raises:
        ValueError: the network is not a flat list of layers, or the page cannot compute one of them.
    """
    if type(network).forward is not nn.Sequential.forward or any(any(module.children()) for module in network):
        raise ValueError(f"{type(network).__name__}: the page needs a network that is a flat nn.Sequential")
    layers = architecture.layers(network)
    for layer in layers:
        if not layer.in_browser:
            raise ValueError(f"{layer.name}: the page cannot compute this layer")
    described: list[dict[str, Any]] = []
    numbers: list[torch.Tensor] = []
    position, start, jump = 0, 0, 1
    for module, layer in zip(network, layers, strict=True):
        tensors = {}
        for key, value in module.state_dict().items():
            if value.is_floating_point():  # batch normalisation counts its batches, too
                tensors[key] = [position, value.numel()]
                position += value.numel()
                numbers.append(value.detach().cpu().float().flatten())
        start -= int(layer.padding) * jump
        jump = layer.jump
        entry: dict[str, Any] = {
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
        described.append(entry | ({"eps": module.eps} if hasattr(module, "eps") else {}))
    return described, torch.cat(numbers) if numbers else torch.empty(0)


def pixel_mean_and_std(recipe: Recipe) -> tuple[float, float]:
    """Return the mean and the standard deviation by which a run normalised its images, on the scale 0 to 1."""
    if (recipe.dataset, recipe.evaluate_on) == ("mnist", "test"):
        return MNIST_MEAN, MNIST_STD
    return training.mean_and_std(data.load(recipe.dataset, recipe.evaluate_on)[0].images)


def _results(record: Record) -> dict[str, Any]:
    accuracy = round(float(record.test_accuracy[-1]), 2)
    return {"seed": record.seed, "parameters": record.parameter_count, "accuracy": accuracy}
