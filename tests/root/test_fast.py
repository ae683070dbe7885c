"""Training in bfloat16: against the plain network in float64, and against PyTorch's own mixed precision."""

import copy
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from mnist_lib import data, experiments, fast
from mnist_lib.digests import files_digest
from mnist_lib.experiments import NETWORKS, Experiment
from mnist_lib.fast import Fast
from mnist_lib.parameters import Recipe

CPU = torch.device("cpu")
CONFIG = Recipe(network="deep", dataset="digits", epochs=3, batch_size=32, learning_rate=0.2, schedule="one_cycle")
FAST = dataclasses.replace(CONFIG, precision="bfloat16")
blocked = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU cannot do bfloat16")


@pytest.fixture(scope="module")
def batch():
    images, labels = data.load("digits")[0].images[:64], data.load("digits")[0].labels[:64]
    return images.unsqueeze(1) / 255, labels


def without_dropout(network: nn.Sequential) -> nn.Sequential:
    for layer in network:
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    return network


def step(network: nn.Module, forward, images, labels) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one step, the gradient as one vector."""
    loss = functional.cross_entropy(forward(images), labels)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.double().flatten() for parameter in network.parameters()])


@blocked
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_as_good_as_those_of_mixed_precision(name, batch):
    images, labels = batch
    torch.manual_seed(0)
    plain = without_dropout(NETWORKS[name]()).train()
    exact = copy.deepcopy(plain).double()
    mixed, ours = Fast(*copy.deepcopy(plain)), Fast(*copy.deepcopy(plain))
    loss, gradient = step(exact, exact, images.double(), labels)
    mixed_loss, mixed_gradient = step(mixed, mixed._autocast, images, labels)
    our_loss, our_gradient = step(ours, ours._blocked, images, labels)
    assert our_loss == pytest.approx(loss, rel=1e-2)
    assert mixed_loss == pytest.approx(loss, rel=1e-2)
    error = (our_gradient - gradient).norm()
    assert error < 1.5 * (mixed_gradient - gradient).norm()
    assert error < 0.5 * gradient.norm()


@blocked
@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_of_batch_normalisation_are_kept(name, batch):
    torch.manual_seed(0)
    plain = without_dropout(NETWORKS[name]()).train()
    ours = Fast(*copy.deepcopy(plain))
    with torch.no_grad():
        plain(batch[0])
        ours(batch[0])
    for (tensor, value), ours_value in zip(plain.named_buffers(), ours.buffers(), strict=True):
        assert ours_value.dtype == value.dtype
        torch.testing.assert_close(ours_value, value, rtol=0.01, atol=2e-3, msg=tensor)


@blocked
def test_channels_that_fill_a_block_stay_zero(batch):
    network = NETWORKS["report_c"]().train()
    x = batch[0].bfloat16().to_mkldnn()
    for layer in network[:9]:  # the third convolution has 30 channels
        x = fast._convolution(layer, x) if isinstance(layer, nn.Conv2d) else x
        x = fast._batch_norm(layer, x) if isinstance(layer, nn.BatchNorm2d) else x
        x = layer(x) if isinstance(layer, nn.ReLU) else x
    assert x.shape[1] == 32
    assert not x.to_dense()[:, 30:].any()
    assert x.to_dense()[:, :30].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_that_of_the_plain_network(name, batch):
    plain = NETWORKS[name]().eval()
    ours = Fast(*plain).eval()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(ours(batch[0]), plain(batch[0]))


def test_dropout_drops(batch):
    torch.manual_seed(0)
    ours = Fast(nn.Conv2d(1, 20, 3), nn.Dropout2d(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    out = ours(batch[0])
    assert out.shape == (64, 20)
    assert 0.4 < (out == 0).float().mean() < 0.6  # whole maps


def test_a_network_without_flatten_gives_its_own_channels(batch):
    assert Fast(nn.Conv2d(1, 10, 3), nn.ReLU()).train()(batch[0]).shape == (64, 10, 26, 26)


@pytest.mark.slow
def test_compiled_for_a_gpu_it_computes_the_same(batch):
    """Compiled for the CPU here: CUDA graphs are left out, all else is the same code."""
    torch.manual_seed(0)
    ours = Fast(*NETWORKS["report_d"]()).train()
    for images in (batch[0], batch[0][:17]):  # the last batch is smaller
        torch.testing.assert_close(ours._compiled(images), ours._autocast(images), rtol=0.02, atol=0.02)


@blocked
def test_same_seed_same_result():
    runs = [experiments.make_trainer(Experiment("fast", dataclasses.replace(FAST, epochs=1)), 0, CPU) for _ in range(2)]
    first, second = ([run.train_epoch()] for run in runs)
    assert first == second
    assert safetensors.torch.save(runs[0].state()) == safetensors.torch.save(runs[1].state())


@blocked
def test_it_learns_the_digits_as_float32_does():
    """Seeds 0 to 4 in float32 gave 95.8 to 97.2 %."""
    run = experiments.make_trainer(Experiment("fast", FAST), 0, CPU)
    assert isinstance(run.model, Fast)
    epochs = [run.train_epoch() for _ in range(3)]
    assert epochs[-1].test_correct / len(run.test_labels) > 0.93


def test_only_fast_runs_depend_on_the_fast_code(monkeypatch, tmp_path):
    plain, ours = Experiment("plain", CONFIG), Experiment("fast", FAST)
    before = plain.digests["code"], ours.digests["code"]
    assert before[0] != before[1]
    edited = tmp_path / "fast.py"
    edited.write_text(Path(fast.__file__).read_text("utf-8") + "\nEDITED = True\n", "utf-8")
    assert files_digest([edited]) != files_digest([Path(fast.__file__)])
    monkeypatch.setattr(fast, "__file__", str(edited))
    assert plain.digests["code"] == before[0]
    assert ours.digests["code"] != before[1]


def test_the_number_of_threads_is_the_recipe_s():
    for threads in (2, 1):
        experiments.make_trainer(Experiment("threads", dataclasses.replace(CONFIG, threads=threads)), 0, CPU)
        assert torch.get_num_threads() == threads
