"""Steps that are recorded on a GPU. What needs none is tested everywhere: the step takes tensors for numbers."""

import contextlib
import dataclasses
import itertools

import pytest
import safetensors.torch
import torch
from torch import nn

from mnist_lib import data, optimization, training
from mnist_lib.blocks import Residual, conv_bn_relu
from mnist_lib.data import Images
from mnist_lib.optimization import RecordableSGD
from mnist_lib.parameters import Recipe
from mnist_lib.training import Trainer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
TRAIN, TEST = data.load("digits")

SGD = Recipe(dataset="digits", epochs=2, batch_size=100, learning_rate=0.1, schedule="one_cycle", rotation=15.0)
RECIPES = {
    "SGD": SGD,
    "cropped, with weight decay": dataclasses.replace(SGD, crop_probability=0.5, nesterov=True, weight_decay=1e-3),
    "Muon, warped, averaged": Recipe(
        dataset="digits",
        epochs=2,
        batch_size=100,
        optimizer="muon",
        learning_rate=0.1,
        schedule="linear",
        label_smoothing=0.1,
        average_decay=0.9,
        statistics_images=100,
        rotation=10.0,
        shear=0.1,
        scale=0.1,
        elastic=1.0,
        fade=1.0,
        final_strength=0.5,
    ),
    "AdamW, bfloat16": dataclasses.replace(
        SGD, optimizer="adamw", learning_rate=0.01, schedule="cosine", precision="bfloat16"
    ),
    "taught": dataclasses.replace(SGD, teachers=1, distillation=0.5, temperature=2.0),
}


def network() -> nn.Sequential:
    return nn.Sequential(
        *conv_bn_relu(1, 8),
        nn.MaxPool2d(2),
        Residual(*[nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]),
        nn.Conv2d(8, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def trainer(recipe: Recipe, device: str, make=network) -> Trainer:
    few = Images(TRAIN.images[:730], TRAIN.labels[:730])  # the last batch is smaller
    torch.manual_seed(7)
    teachers = [network()] * recipe.teachers
    return Trainer(make, recipe, 3, few, TEST, torch.device(device), teachers=teachers)


def with_tensor(change):
    """The same change of images, given a tensor for the number that says how strong it is."""
    return lambda self, images, numbers, strength: change(self, images, numbers, torch.as_tensor(strength))


@pytest.fixture
def replayed(monkeypatch) -> list[torch.cuda.CUDAGraph]:
    """The graphs that are replayed from now on, each as often as it is."""
    seen = []

    class Seen(torch.cuda.CUDAGraph):
        def replay(self) -> None:
            seen.append(self)
            super().replay()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Seen)
    return seen


@pytest.fixture
def unrecorded(monkeypatch):
    """Makes a context in which a step on a GPU is called as it is."""

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as here:
            here.setattr(training, "Captured", lambda function, unchanged, device: function)
            yield

    return context


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in run.state().items() if value.is_floating_point()}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "AdamW, bfloat16"])
def test_a_step_takes_tensors_for_numbers(name, monkeypatch):
    recipe = RECIPES[name]
    plain, recordable = trainer(recipe, "cpu"), trainer(recipe, "cpu")
    losses = plain.replay(4)
    if recipe.optimizer == "sgd":
        how = {"momentum": 0.9, "weight_decay": recipe.weight_decay, "nesterov": recipe.nesterov}
        recordable.optimizer = RecordableSGD(recordable.model.parameters(), **how)
    recordable.rates = [tuple(map(torch.as_tensor, each)) for each in recordable.rates]
    for change in map(type, recordable.changes):
        monkeypatch.setattr(change, "__call__", with_tensor(change.__call__))
    share = optimization.average_share
    monkeypatch.setattr(optimization, "average_share", lambda decay, step: torch.as_tensor(share(decay, step)))
    assert recordable.replay(4) == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(weights(recordable), weights(plain), rtol=1e-3, atol=1e-4)


def test_what_is_trained_in_between_leaves_no_trace():
    runs = [trainer(dataclasses.replace(RECIPES["Muon, warped, averaged"], epochs=3), "cpu") for _ in range(2)]
    runs[0].train_epoch()
    with runs[0].unchanged():
        runs[0].train_epoch()
        runs[0].train_epoch()
    runs[1].train_epoch()
    assert runs[0].train_epoch() == runs[1].train_epoch()
    assert safetensors.torch.save(runs[0].state()) == safetensors.torch.save(runs[1].state())


# -- on a GPU


@gpu
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recorded_step_computes_what_the_step_does(recipe, unrecorded, replayed):
    with unrecorded():
        plain = trainer(recipe, "cuda")
        losses = plain.replay(6)
    assert not replayed
    recorded = trainer(recipe, "cuda")
    assert recorded.replay(6) == pytest.approx(losses, rel=0.05 if recipe.precision == "bfloat16" else 2e-3)
    assert len(replayed) == 6
    with unrecorded():
        plain = trainer(recipe, "cuda")
        loss = plain.train_epoch().train_loss
    replayed.clear()
    assert trainer(recipe, "cuda").train_epoch().train_loss == pytest.approx(loss, rel=0.05)
    assert len(replayed) == 8
    assert len(set(replayed)) == 2, "one for whole batches, one for the last"


@gpu
def test_a_resumed_run_is_the_same_to_the_last_bit():
    with_dropout = lambda: nn.Sequential(network(), nn.Dropout(0.2))  # noqa: E731
    recipe = dataclasses.replace(RECIPES["Muon, warped, averaged"], epochs=3)
    torch.backends.cudnn.deterministic = True
    whole = trainer(recipe, "cuda", with_dropout)
    whole.train_epoch()
    state, losses = whole.state(), whole.first_losses
    resumed = trainer(recipe, "cuda", with_dropout)
    resumed.restore(state, 1, losses)
    assert resumed.train_epoch() == whole.train_epoch()
    assert safetensors.torch.save(resumed.state()) == safetensors.torch.save(whole.state())


@gpu
def test_dropout_is_another_one_at_every_step(replayed):
    recipe = dataclasses.replace(SGD, batch_size=10, learning_rate=1e-6, rotation=0.0, schedule="constant")
    same = Images(TRAIN.images[:1].repeat(50, 1, 1), TRAIN.labels[:1].repeat(50))  # steps differ by their dropout only
    make = lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))  # noqa: E731
    losses = sorted(Trainer(make, recipe, 3, same, TEST, torch.device("cuda")).replay(5))
    assert len(replayed) == 5
    assert min(b - a for a, b in itertools.pairwise(losses)) > 1e-4


@gpu
def test_a_network_that_looks_at_a_value_is_trained_without_a_recording(replayed):
    class Looks(nn.Module):
        def forward(self, images):
            return images if float(images.mean()) > -100 else -images

    run = trainer(SGD, "cuda", lambda: nn.Sequential(Looks(), network()))
    losses = [run.train_epoch().train_loss for _ in range(2)]
    assert losses[1] < losses[0]
    assert not replayed
