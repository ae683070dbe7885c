"""Training in bfloat16: against the plain network in float64, and against PyTorch's own mixed precision."""

import copy
import dataclasses
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from mnist_lib import data, experiments
from mnist_lib.blocks import Residual
from mnist_lib.experiments import Experiment
from mnist_lib.fast import Fast, in_bfloat16
from mnist_lib.parameters import Recipe
from support import networks

CPU = torch.device("cpu")
RECIPE = Recipe(dataset="digits", epochs=3, batch_size=32, learning_rate=0.2, schedule="one_cycle")
FAST = dataclasses.replace(RECIPE, precision="bfloat16")
NETWORK = networks()["iteration_10_one_cycle"]
blocked = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU cannot do bfloat16")

PUBLISHED = {name: network for name, network in networks().items() if name != "faster_arithmetic"}


class Doubled(nn.Conv2d):
    """A layer whose class is not torch's own, so nobody knows what it computes."""

    def forward(self, images):
        return 2 * super().forward(images)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda layer, given, output: 2 * output)
    return layer


def ended(*layers: nn.Module, channels: int = 16) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def after_one(*layers: nn.Module) -> nn.Sequential:
    """A convolution to 8 channels, `layers`, one to 16 channels."""
    return ended(nn.Conv2d(1, 8, 3), *layers, nn.Conv2d(8, 16, 3))


IN_BLOCKS = {
    "biases": lambda: after_one(nn.ReLU()),
    "in place": lambda: after_one(nn.ReLU(inplace=True)),
    "stride and dilation": lambda: ended(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, dilation=2)),
    "max-pool": lambda: after_one(nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "max-pool, its dilation a pair": lambda: after_one(nn.MaxPool2d(2, dilation=(1, 1))),
    "average pool": lambda: after_one(nn.AvgPool2d(3, 2, 1)),
    "average pool without padding": lambda: after_one(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "normalisation with a large epsilon": lambda: after_one(nn.BatchNorm2d(8, eps=1.0), nn.ReLU()),
    "first normalisation": lambda: ended(nn.BatchNorm2d(1), nn.Conv2d(1, 16, 3)),
    "first pool": lambda: ended(nn.MaxPool2d(2), nn.Conv2d(1, 16, 3)),
    "a convolution to ten": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 10, 1), nn.AvgPool2d(24), nn.Flatten()
    ),
    "a convolution after the average": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 10, 1), nn.Flatten()
    ),
    "linear layers only": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)),
    "residual": lambda: after_one(nn.ReLU(), Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())),
    "residual with normalisation": lambda: ended(
        nn.Conv2d(1, 24, 3),
        nn.ReLU(),
        Residual(nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)),
        nn.Conv2d(24, 16, 3),
    ),
    "residual bottleneck": lambda: after_one(nn.ReLU(), Residual(nn.Conv2d(8, 20, 1), nn.ReLU(), nn.Conv2d(20, 8, 1))),
    "residual at the start": lambda: ended(Residual(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()), nn.Conv2d(1, 16, 3)),
    "residual ending in a convolution": lambda: ended(
        Residual(nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1)), nn.Conv2d(1, 16, 3)
    ),
    "residual of an average": lambda: after_one(nn.ReLU(), Residual(nn.AdaptiveAvgPool2d(1))),
    "residual without weights": lambda: after_one(Residual(nn.ReLU())),
    "residual of nothing": lambda: after_one(Residual()),
    "residual after the average": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.AdaptiveAvgPool2d(1),
        Residual(nn.Conv2d(16, 16, 1), nn.ReLU()),
        nn.Conv2d(16, 10, 1),
        nn.Flatten(),
    ),
    "residual of linear layers": lambda: nn.Sequential(
        nn.Flatten(), Residual(nn.Linear(784, 784), nn.ReLU()), nn.Linear(784, 10)
    ),
}
"""Networks that are computed in blocks."""

CAST = {
    "groups": lambda: after_one(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2)),
    "depthwise": lambda: after_one(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
    "padding same": lambda: after_one(nn.Conv2d(8, 8, 3, padding="same")),
    "circular padding": lambda: after_one(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")),
    "normalisation without momentum": lambda: after_one(nn.BatchNorm2d(8, momentum=None), nn.ReLU()),
    "normalisation without weights": lambda: after_one(nn.BatchNorm2d(8, affine=False), nn.ReLU()),
    "normalisation without statistics": lambda: after_one(nn.BatchNorm2d(8, track_running_stats=False)),
    "max-pool with dilation": lambda: after_one(nn.MaxPool2d(2, dilation=2)),
    "average pool with a divisor": lambda: after_one(nn.AvgPool2d(2, divisor_override=3)),
    "normalisation of rows": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)
    ),
    "a class of one's own": lambda: after_one(nn.ReLU(), Doubled(8, 8, 3)),
    "a hook": lambda: after_one(nn.ReLU(), hooked(nn.Conv2d(8, 8, 3))),
    "group normalisation": lambda: after_one(nn.GroupNorm(2, 8), nn.GELU()),
    "nested": lambda: after_one(nn.Sequential(nn.ReLU())),
    "a residual with a layer of another kind": lambda: after_one(Residual(nn.GELU())),
}
"""Networks that blocks would not compute exactly: they are cast layer by layer."""


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


def cast(network: nn.Module):
    """The network under PyTorch's own mixed precision."""

    def forward(images):
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).float()

    return forward


def in_groups(network: nn.Module) -> bool:
    """Whether a convolution reads its maps in groups: it does not compute in blocks."""
    return any(layer.groups > 1 for layer in network.modules() if isinstance(layer, nn.Conv2d))


AUTOCAST = {name for name, make in PUBLISHED.items() if in_groups(make())}
CHAINS = sorted((PUBLISHED | IN_BLOCKS).keys() - AUTOCAST)


@pytest.mark.parametrize("name", sorted(AUTOCAST))
def test_a_published_network_that_is_no_chain_in_blocks_is_cast(name, batch):
    torch.manual_seed(0)
    plain = PUBLISHED[name]().train()
    ours = in_bfloat16(copy.deepcopy(plain))
    assert not isinstance(ours, Fast)
    loss, gradient = step(plain, plain, *batch)
    our_loss, our_gradient = step(ours, ours, *batch)
    assert our_loss == pytest.approx(loss, rel=1e-2)
    assert (our_gradient - gradient).norm() < 0.5 * gradient.norm()


@blocked
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_are_as_good_as_those_of_mixed_precision(name, batch):
    images, labels = batch
    torch.manual_seed(0)
    plain = without_dropout((PUBLISHED | IN_BLOCKS)[name]()).train()
    exact = copy.deepcopy(plain).double()
    mixed, ours = copy.deepcopy(plain), in_bfloat16(copy.deepcopy(plain))
    assert isinstance(ours, Fast)
    loss, gradient = step(exact, exact, images.double(), labels)
    mixed_loss, mixed_gradient = step(mixed, cast(mixed), images, labels)
    our_loss, our_gradient = step(ours, ours, images, labels)
    assert our_loss == pytest.approx(loss, rel=1e-2)
    assert mixed_loss == pytest.approx(loss, rel=1e-2)
    error = (our_gradient - gradient).norm()
    assert error < 1.5 * (mixed_gradient - gradient).norm()
    assert error < 0.5 * gradient.norm()


@pytest.mark.parametrize("name", [*CHAINS, *CAST])
def test_where_the_cpu_cannot_do_bfloat16_rounded_numbers_are_as_good(monkeypatch, name, batch):
    """The sums behind them are those of mixed precision in another order. Blocks would be several times slower."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *_: pytest.fail("computed in blocks"))
    torch.manual_seed(0)
    plain = without_dropout((PUBLISHED | IN_BLOCKS | CAST)[name]()).train()
    exact = copy.deepcopy(plain).double()
    mixed, ours = copy.deepcopy(plain), in_bfloat16(copy.deepcopy(plain))
    assert isinstance(ours, Fast) == (name in CHAINS)
    _, gradient = step(exact, exact, batch[0].double(), batch[1])
    mixed_loss, mixed_gradient = step(mixed, cast(mixed), *batch)
    our_loss, our_gradient = step(ours, ours, *batch)
    assert our_loss == pytest.approx(mixed_loss, rel=2e-3)
    assert 0 < (our_gradient - gradient).norm() < 1.5 * (mixed_gradient - gradient).norm()
    for buffer, mixed_buffer in zip(ours.buffers(), mixed.buffers(), strict=True):
        torch.testing.assert_close(buffer, mixed_buffer, rtol=0.01, atol=2e-3)


def test_where_the_cpu_cannot_do_bfloat16_a_layer_gives_what_it_would(monkeypatch):
    """To the last bit: a few products of 8 bits each have an exact sum in float32, which is rounded once."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    torch.manual_seed(0)
    layer, images = nn.Conv2d(1, 4, 2, bias=False), torch.randint(0, 256, (8, 1, 6, 6)) / 256
    weight = layer.weight.detach().bfloat16()
    assert not torch.equal(layer.weight, weight.float())
    ours = in_bfloat16(nn.Sequential(layer, nn.Flatten())).train()(images)
    assert torch.equal(ours, functional.conv2d(images.double(), weight.double()).bfloat16().float().flatten(1))


def test_where_the_cpu_cannot_do_bfloat16_factors_given_by_name_are_rounded_too(monkeypatch):
    class Named(nn.Module):
        def forward(self, images):
            return functional.linear(input=images.flatten(1), weight=weight)

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    torch.manual_seed(0)
    weight, images = torch.randn(3, 4), torch.randint(0, 256, (8, 1, 2, 2)) / 256
    exact = images.flatten(1).double() @ weight.bfloat16().double().T
    assert torch.equal(in_bfloat16(Named()).train()(images), exact.bfloat16().float())


@pytest.mark.parametrize("name", CAST)
def test_what_blocks_would_not_compute_exactly_is_left_to_torch(name, batch):
    images, labels = batch
    torch.manual_seed(0)
    plain = CAST[name]().train()
    exact, ours = copy.deepcopy(plain).double(), in_bfloat16(copy.deepcopy(plain))
    assert not isinstance(ours, Fast)
    loss, gradient = step(exact, exact, images.double(), labels)
    our_loss, our_gradient = step(ours, ours, images, labels)
    assert our_loss == pytest.approx(loss, rel=1e-2)
    assert (our_gradient - gradient).norm() < 0.1 * gradient.norm()
    assert ours(images).dtype == torch.float32


@blocked
@pytest.mark.parametrize("name", PUBLISHED)
def test_statistics_of_batch_normalisation_are_kept(name, batch):
    torch.manual_seed(0)
    plain = without_dropout(PUBLISHED[name]()).train()
    ours = in_bfloat16(copy.deepcopy(plain))
    with torch.no_grad():
        plain(batch[0])
        ours(batch[0])
    for (tensor, value), ours_value in zip(plain.named_buffers(), ours.buffers(), strict=True):
        assert ours_value.dtype == value.dtype
        torch.testing.assert_close(ours_value, value, rtol=0.01, atol=2e-3, msg=tensor)


@blocked
def test_channels_that_fill_a_block_stay_zero(batch):
    """The third convolution has 30 channels; the ReLUs after it and after its normalisation see what they give."""
    network = in_bfloat16(nn.Sequential(*PUBLISHED["reported_c_strided"]()[:9], nn.ReLU())).train()
    seen = []
    for layer in (network[7], network[9]):
        layer.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    assert network(batch[0]).shape[1] == 30
    assert len(seen) == 2
    for x in seen:
        assert x.shape[1] == 32
        assert not x.to_dense()[:, 30:].any()
        assert x.to_dense()[:, :30].any()


@pytest.mark.parametrize("name", PUBLISHED | IN_BLOCKS | CAST)
def test_evaluation_is_that_of_the_plain_network(name, batch):
    plain = (PUBLISHED | IN_BLOCKS | CAST)[name]().eval()
    ours = in_bfloat16(copy.deepcopy(plain)).eval()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(ours(batch[0]), plain(batch[0]))


def test_names_of_layers_stay():
    layers = OrderedDict(conv=nn.Conv2d(1, 4, 3), flat=nn.Flatten(), last=nn.Linear(4 * 26 * 26, 10))
    assert list(in_bfloat16(nn.Sequential(layers)).state_dict()) == [
        "conv.weight",
        "conv.bias",
        "last.weight",
        "last.bias",
    ]


@pytest.mark.parametrize("is_supported", [True, False])
def test_a_network_that_is_no_chain_is_trained_in_bfloat16_too(monkeypatch, is_supported, batch):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.seen = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10), []

        def forward(self, images):
            x = self.first(images)
            self.seen.append(x)
            return self.last((x + images).mean((2, 3)))

    asked, autocast = [], torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *given: asked.append(given) or autocast(*given))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: is_supported)
    ours = in_bfloat16(Branches())
    assert ours.train()(batch[0]).dtype == ours.eval()(batch[0]).dtype == torch.float32
    trained, evaluated = (x.float() for x in ours.seen)
    assert torch.equal(trained, trained.bfloat16().float())
    assert not torch.equal(evaluated, evaluated.bfloat16().float())
    assert isinstance(ours, Branches)
    assert asked == [("cpu", torch.bfloat16)] * is_supported  # elsewhere than on a CPU its default is another type


def test_dropout_drops(batch):
    torch.manual_seed(0)
    ours = Fast(nn.Conv2d(1, 20, 3), nn.Dropout2d(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    out = ours(batch[0])
    assert out.shape == (64, 20)
    assert 0.4 < (out == 0).float().mean() < 0.6  # whole maps


def test_a_network_without_flatten_gives_its_own_channels(batch):
    assert Fast(nn.Conv2d(1, 10, 3), nn.ReLU()).train()(batch[0]).shape == (64, 10, 26, 26)


@blocked
def test_same_seed_same_result():
    runs = [
        experiments.make_trainer(Experiment("fast", dataclasses.replace(FAST, epochs=1), NETWORK), 0, CPU)
        for _ in range(2)
    ]
    first, second = ([run.train_epoch()] for run in runs)
    assert first == second
    assert safetensors.torch.save(runs[0].state()) == safetensors.torch.save(runs[1].state())


@blocked
def test_it_learns_the_digits_as_float32_does():
    """Seeds 0 to 4 in float32 gave 95.8 to 97.2 %."""
    run = experiments.make_trainer(Experiment("fast", FAST, NETWORK), 0, CPU)
    assert isinstance(run.model, Fast)
    epochs = [run.train_epoch() for _ in range(3)]
    assert epochs[-1].test_correct / len(run.test_labels) > 0.93


def test_the_number_of_threads_is_the_recipe_s():
    for threads in (2, 1):
        experiments.make_trainer(Experiment("threads", dataclasses.replace(RECIPE, threads=threads), NETWORK), 0, CPU)
        assert torch.get_num_threads() == threads
