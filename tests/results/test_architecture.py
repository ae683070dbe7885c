"""Layers, parameter counts and receptive fields, against hand-worked tables, autograd and torchsummary."""

import contextlib
import copy
import dataclasses
import io
import re

import pandas as pd
import pytest
import torch
import torchsummary
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mnist_lib.results import architecture, network_drawing, tracing, windows
from mnist_lib.results.architecture import (
    check_receptive_fields,
    difference,
    gradient_support,
    layers,
    parameter_count,
    receptive_field_table,
    summary,
)
from support import networks

ALL = networks()
NETWORKS = {name: network for name, network in ALL.items() if name.startswith("iteration_")}
IMAGE = (1, 28, 28)

COUNTS = {
    "iteration_01_setup": 431_080,
    "iteration_02_light_skeleton": 10_790,
    "iteration_03_batch_normalisation": 10_970,
    "iteration_04_dropout": 10_970,
    "iteration_05_global_average_pooling": 6_070,
    "iteration_06_capacity": 7_884,
    "iteration_07_small_batch": 7_884,
    "iteration_08_without_dropout": 7_884,
    "iteration_09_augmentation": 7_884,
    "iteration_10_one_cycle": 7_884,
}

REPORTED_COUNTS = {
    "reported_a_light_dropout": 17_360,
    "reported_b_heavy_dropout": 16_858,
    "reported_c_strided": 19_698,
    "reported_d_padded_pairs": 18_482,
    "reported_e_one_cycle": 7_884,
    "reported_e_early": 12_178,
}
REPORTED_FIELDS = {
    "reported_a_light_dropout": 28,
    "reported_b_heavy_dropout": 28,
    "reported_c_strided": 27,
    "reported_d_padded_pairs": 52,
    "reported_e_one_cycle": 28,
}

# What the reports' texts and code say, layer by layer: cA-B is a 3×3 convolution, kA-B a 1×1 one, p padded by 1, b with
# bias, s2 of stride 2; r ReLU, n batch normalisation, d2 and d dropout of maps and of elements, m max-pooling.
REPORTED_LAYERS = {
    "reported_a_light_dropout": "c1-16 r n d2.02 c16-16 r n d2.02 c16-32 r n d2.02 m k32-16 r "
    "c16-16 r n d2.02 c16-16 r n d2.02 c16-32 r n d2.02 avg5 k32-10 flat",
    "reported_b_heavy_dropout": "c1-16 r d2.1 n d2.1 c16-16 r n d2.1 c16-16 r n d2.1 m c16-16 r n d2.1 c16-16 r n d.1 "
    "c16-16 r n d2.1 c16-32 r n d2.1 gap flat l32-10b",
    "reported_c_strided": "c1-16b r n c16-16b r n c16-30b r n k30-30bs2 r n "
    "c30-16b r n c16-16b r n c16-32b r n avg5 flat l32-10b",
    "reported_d_padded_pairs": "c1-8pb r c8-8pb r m n c8-16pb r c16-16pb r m n "
    "c16-32pb r c32-32pb r m n k32-10b avg3 flat",
    "reported_e_one_cycle": "c1-10 r n c10-10 r n c10-10 r n c10-10 n k10-10 n m "
    "c10-14 r n c14-14 r n c14-13 n gap k13-10 n flat",
    "reported_e_early": "c1-4p r n c4-4p r n c4-4p r n d2.01 m c4-8p r n c8-8p r n c8-8p r n d2.01 m "
    "c8-16p r n c16-24p r n d2.01 m c24-16p r n c16-14p gap flat l14-10b",
}

# Worked by hand: kernel, stride, padding, channels and side of the output, jump, receptive field.
TABLES = {
    "iteration_01_setup": [
        (5, 1, 0, 20, 24, 1, 5),
        (2, 2, 0, 20, 12, 2, 6),
        (5, 1, 0, 50, 8, 2, 14),
        (2, 2, 0, 50, 4, 4, 16),
        (4, 1, 0, 500, None, 4, 28),
        (1, 1, 0, 10, None, 4, 28),
    ],
    "iteration_02_light_skeleton": [
        (3, 1, 0, 10, 26, 1, 3),
        (3, 1, 0, 10, 24, 1, 5),
        (3, 1, 0, 20, 22, 1, 7),
        (2, 2, 0, 20, 11, 2, 8),
        (1, 1, 0, 10, 11, 2, 8),
        (3, 1, 0, 10, 9, 2, 12),
        (3, 1, 0, 20, 7, 2, 16),
        (1, 1, 0, 10, 7, 2, 16),
        (7, 1, 0, 10, 1, 2, 28),
    ],
    "iteration_08_without_dropout": [
        (3, 1, 0, 10, 26, 1, 3),
        (3, 1, 0, 10, 24, 1, 5),
        (3, 1, 0, 10, 22, 1, 7),
        (3, 1, 0, 10, 20, 1, 9),
        (1, 1, 0, 10, 20, 1, 9),
        (2, 2, 0, 10, 10, 2, 10),
        (3, 1, 0, 14, 8, 2, 14),
        (3, 1, 0, 14, 6, 2, 18),
        (3, 1, 0, 13, 4, 2, 22),
        (4, 1, 0, 13, 1, 2, 28),
        (1, 1, 0, 10, 1, 2, 28),
    ],
    "reported_a_light_dropout": [
        (3, 1, 0, 16, 26, 1, 3),
        (3, 1, 0, 16, 24, 1, 5),
        (3, 1, 0, 32, 22, 1, 7),
        (2, 2, 0, 32, 11, 2, 8),
        (1, 1, 0, 16, 11, 2, 8),
        (3, 1, 0, 16, 9, 2, 12),
        (3, 1, 0, 16, 7, 2, 16),
        (3, 1, 0, 32, 5, 2, 20),
        (5, 5, 0, 32, 1, 10, 28),
        (1, 1, 0, 10, 1, 10, 28),
    ],
    "reported_c_strided": [
        (3, 1, 0, 16, 26, 1, 3),
        (3, 1, 0, 16, 24, 1, 5),
        (3, 1, 0, 30, 22, 1, 7),
        (1, 2, 0, 30, 11, 2, 7),
        (3, 1, 0, 16, 9, 2, 11),
        (3, 1, 0, 16, 7, 2, 15),
        (3, 1, 0, 32, 5, 2, 19),
        (5, 5, 0, 32, 1, 10, 27),
        (1, 1, 0, 10, None, 10, 27),
    ],
    "reported_d_padded_pairs": [
        (3, 1, 1, 8, 28, 1, 3),
        (3, 1, 1, 8, 28, 1, 5),
        (2, 2, 0, 8, 14, 2, 6),
        (3, 1, 1, 16, 14, 2, 10),
        (3, 1, 1, 16, 14, 2, 14),
        (2, 2, 0, 16, 7, 4, 16),
        (3, 1, 1, 32, 7, 4, 24),
        (3, 1, 1, 32, 7, 4, 32),
        (2, 2, 0, 32, 3, 8, 36),
        (1, 1, 0, 10, 3, 8, 36),
        (3, 3, 0, 10, 1, 24, 52),
    ],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks run faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_parameter_counts_are_those_of_the_report():
    assert {name: parameter_count(network()) for name, network in NETWORKS.items()} == COUNTS
    assert {name: parameter_count(ALL[name]()) for name in REPORTED_COUNTS} == REPORTED_COUNTS
    assert set(REPORTED_COUNTS) == {name for name in ALL if name.startswith("reported_")}


def shorthand(module: nn.Module) -> str:
    match module:
        case nn.Conv2d() | nn.Linear():
            kind, ends = "l", (module.weight.shape[1], module.weight.shape[0])
            if isinstance(module, nn.Conv2d):
                kind = {3: "c", 1: "k"}[module.kernel_size[0]]
            word = f"{kind}{ends[0]}-{ends[1]}" + "p" * any(getattr(module, "padding", ()))
            return word + "b" * (module.bias is not None) + "s2" * (getattr(module, "stride", None) == (2, 2))
        case nn.Dropout2d() | nn.Dropout():
            return ("d2" if isinstance(module, nn.Dropout2d) else "d") + f"{module.p}".removeprefix("0")
        case nn.MaxPool2d(kernel_size=2, stride=2):
            return "m"
        case nn.AvgPool2d():
            return f"avg{module.kernel_size}"
    return {nn.ReLU: "r", nn.BatchNorm2d: "n", nn.AdaptiveAvgPool2d: "gap", nn.Flatten: "flat"}[type(module)]


@pytest.mark.parametrize("name", REPORTED_LAYERS)
def test_reported_networks_are_those_of_the_reports(name):
    """Layer by layer: the order of operations, biases, padding, strides, kinds of dropout and of pooling."""
    assert " ".join(shorthand(module) for module in ALL[name]()) == REPORTED_LAYERS[name]


def test_the_parameters_of_report_c_layer_by_layer():
    counts = [count for module in ALL["reported_c_strided"]() if (count := sum(p.numel() for p in module.parameters()))]
    assert counts == [160, 32, 2320, 32, 4350, 60, 930, 60, 4336, 32, 2320, 32, 4640, 64, 330]


@pytest.mark.parametrize("name", REPORTED_FIELDS)
def test_receptive_fields_of_the_reports(name):
    assert receptive_field_table(ALL[name]())["receptive field"].iloc[-1] == REPORTED_FIELDS[name]


def shares(network: nn.Module) -> bool:
    """Whether a layer stands in several places: torchsummary counts it at each of them."""
    return len([*network.named_modules(remove_duplicate=False)]) > len([*network.named_modules()])


SHARING = {name for name, make in ALL.items() if shares(make())}


@pytest.mark.parametrize("name", sorted(ALL.keys() - SHARING))
def test_parameter_count_agrees_with_the_layers_and_with_torchsummary(name, capsys):
    network = ALL[name]()
    torchsummary.summary(network, (1, 28, 28), device="cpu")
    (total,) = re.findall(r"^Total params: ([\d,]+)$", capsys.readouterr().out, re.MULTILINE)
    assert parameter_count(network) == int(total.replace(",", "")) == sum(layer.parameters for layer in layers(network))


def test_parameter_count_includes_what_forward_does_not_use():
    class Idle(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(784, 10))
            self.idle = nn.Linear(3, 4)

        def forward(self, images):
            return self[1](self[0](images))

    assert parameter_count(Idle()) == 7850 + 16
    assert [layer.parameters for layer in layers(Idle())] == [0, 7850]


def test_a_layer_used_twice_has_its_parameters_once():
    conv, relu = nn.Conv2d(1, 1, 3), nn.ReLU()
    found = layers(nn.Sequential(conv, relu, conv, relu))
    assert [(layer.name, layer.parameters, layer.receptive_field) for layer in found] == [
        ("3×3 convolution, 1 → 1", 10, 3),
        ("ReLU", 0, 3),
        ("3×3 convolution, 1 → 1", 0, 5),
        ("ReLU", 0, 5),
    ]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_worked_by_hand(name):
    expected = [
        [f"{channels} × {side} × {side}" if side else f"{channels}", receptive_field, jump, kernel, stride, padding]
        for kernel, stride, padding, channels, side, jump, receptive_field in TABLES[name]
    ]
    table = receptive_field_table(ALL[name]())
    assert list(table) == ["layer", "output", "receptive field", "jump", "kernel", "stride", "padding"]
    assert table.drop(columns="layer").to_numpy().tolist() == expected


@pytest.mark.parametrize("name", ALL)
def test_receptive_fields_agree_with_the_gradient(name):
    network = ALL[name]()
    assert check_receptive_fields(network) == [layer.receptive_field for layer in layers(network)]


@pytest.mark.parametrize("name", ["iteration_01_setup", "iteration_06_capacity", "reported_c_strided"])
def test_the_positive_copy_sees_what_the_network_itself_sees(name):
    """On an input of its own size an unpadded network is clipped nowhere, so its own gradient has the same extent."""
    network = ALL[name]().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(0.01)
    images = torch.rand(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    found = []
    signal = images
    for module in network:
        if isinstance(module, nn.MaxPool2d):  # a maximum passes on one gradient of four
            module = nn.AvgPool2d(module.kernel_size)
        signal = module(signal)
        unit = signal[0, 0, signal.shape[-2] // 2, signal.shape[-1] // 2] if signal.ndim == 4 else signal[0, 0]
        rows = torch.autograd.grad(unit, images, retain_graph=True)[0][0, 0].any(dim=1).nonzero()
        if not isinstance(module, nn.Flatten):  # its first entry is the corner of the map, not its centre
            found.append(int(rows.max() - rows.min()) + 1)
    kept = [i for i, module in enumerate(network) if not isinstance(module, nn.Flatten)]
    measured = gradient_support(network)
    assert [measured[i] for i in kept] == found


def window(kind: str, kernel: int, stride: int, padding: int, groups: int) -> nn.Module:
    """One layer of a random stack of four channels; torch wants a pool's padding to be at most half its kernel."""
    if kind == "conv":
        return nn.Conv2d(4, 4, kernel, stride, padding, groups=groups, bias=False)
    pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
    return pool(kernel, stride, min(padding, kernel // 2))


random_windows = st.builds(
    window,
    kind=st.sampled_from(["conv", "max", "average"]),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 4]),
)
elementwise = st.sampled_from([[], [nn.ReLU()], [nn.BatchNorm2d(4), nn.ReLU(inplace=True)], [nn.Dropout2d(0.5)]])


# Four windows of at most 5 with stride 2 leave a map of at least one position from 64 × 64 pixels.
@settings(max_examples=60, deadline=None)
@given(
    stack=st.lists(st.tuples(random_windows, elementwise), min_size=1, max_size=4),
    end=st.sampled_from(["map", "average", "linear"]),
)
def test_recursion_equals_gradient_for_any_stack(stack, end):
    shape = (4, 64, 64)
    modules = [module for first, others in stack for module in (first, *others)]
    if end == "average":
        modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    elif end == "linear":
        features = nn.Sequential(*modules).eval()(torch.zeros(1, *shape)).numel()
        modules += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, 3), nn.ReLU(), nn.Linear(3, 2)]
    network = nn.Sequential(*modules)
    computed = [layer.receptive_field for layer in layers(network, shape)]
    assert computed == gradient_support(network, shape) == check_receptive_fields(network, shape)
    side = 64
    for module, layer in zip(network, layers(network, shape), strict=True):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
            assert layer.output_shape == (4, side, side)


def test_a_dilated_kernel_reaches_further():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, dilation=2, padding=2), nn.MaxPool2d(3, 2), nn.Conv2d(2, 2, 2, dilation=9)
    )
    assert check_receptive_fields(network) == [5, 7, 25]
    assert layers(network)[0].name == "3×3 convolution, 1 → 2, padding 2, dilation 2"


def slip(monkeypatch, changes, function: str | None = None) -> None:
    """Let the windows of a torch function, or of all, be read wrongly; `changes` gives what is read in their place."""

    def misread(name, *given):
        window = windows.read(name, *given)
        if function not in (None, name):
            return window
        return dataclasses.replace(window, **{key: change(window) for key, change in changes.items()})

    monkeypatch.setattr(tracing, "read", misread)


def test_a_field_that_does_not_fit_into_the_image_is_checked_in_a_larger_one(monkeypatch):
    """In a small image a tap falls into the padding, and leaves a gradient that looks small."""
    network, large = nn.Conv2d(1, 1, 3, dilation=100, padding=100), (1, 401, 401)
    assert check_receptive_fields(network) == check_receptive_fields(network, large) == [201]
    slip(monkeypatch, {"dilation": lambda window: (99, 99)})
    assert gradient_support(network) == [199], "computed: there is no telling"
    assert gradient_support(network, large) == [201]
    with pytest.raises(ValueError, match="field of 199, its gradient reaches over 201"):
        check_receptive_fields(network, large)


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(-6, 15, 21), (-6, 14, 1), (14, 29, 15), (15, 30, 1), (14, 28, 1)]
)
def test_a_field_that_reaches_out_of_the_image_is_the_computed_one_if_the_gradient_lies_within(
    monkeypatch, first, last, expected
):
    """Here only pixel 14 has a gradient, in rows and columns; the table says that they are seen from first to last."""
    network = nn.Conv2d(1, 1, 3, dilation=100, padding=100)
    read = {"kernel": 2, "dilation": last - first - 1, "padding": 14 - first}
    slip(monkeypatch, {key: lambda window, value=value: (value, value) for key, value in read.items()})
    assert layers(network)[0].receptive_field == last - first
    assert gradient_support(network) == [expected]


def test_a_slip_in_the_table_is_found(monkeypatch):
    network = NETWORKS["iteration_02_light_skeleton"]()
    found = layers(network)
    found[6] = dataclasses.replace(found[6], receptive_field=9)
    monkeypatch.setattr(architecture, "layers", lambda *_: found)
    with pytest.raises(ValueError, match=r"layer 7, 2×2 max-pool: .* field of 9, .* over 8"):
        check_receptive_fields(network)


def test_names_say_what_a_layer_is():
    network = nn.Sequential(
        nn.Conv2d(1, 10, 3, stride=2, padding=1),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 10, 3, groups=10),
        nn.Dropout2d(0.1),
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Dropout(0.25),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(10, 5),
    )
    assert [layer.name for layer in layers(network)] == [
        "3×3 convolution, 1 → 10, stride 2, padding 1",
        "batch normalisation",
        "ReLU",
        "3×3 convolution, 10 → 10, groups 10",
        "dropout 0.1 (whole maps)",
        "2×2 max-pool",
        "3×3 average pool, stride 1, padding 1",
        "dropout 0.25 (single values)",
        "global average pool",
        "flatten",
        "linear 10 → 5",
    ]


def attached(network: nn.Module) -> list[dict[str, int]]:
    """Of each module, how many things it holds of each kind: weights, buffers, parts, and hooks of every sort."""
    return [
        {kind: len(held) for kind, held in vars(module).items() if isinstance(held, dict)}
        for module in network.modules()
    ]


def test_looking_leaves_no_trace():
    network = NETWORKS["iteration_04_dropout"]().train()
    network[1].eval()  # one frozen layer, say
    held, modes = attached(network), [module.training for module in network.modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    check_receptive_fields(network)
    with pytest.raises(RuntimeError):
        layers(network, (3, 28, 28))  # torch's own error, for the number of channels
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert attached(network) == held
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_on_another_device_reads_the_same():
    """Torch's device `meta` computes shapes only; an image that lay elsewhere would be refused."""
    network = NETWORKS["iteration_08_without_dropout"]()
    expected = layers(network)
    assert layers(network.to("meta")) == expected


def test_nested_blocks_read_like_flat_ones():
    flat = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    nested = nn.Sequential(nn.Sequential(*flat[:3]), nn.Sequential(*flat[3:]))
    assert layers(nested) == layers(nn.Sequential(*flat))


def test_difference_of_the_skeleton_and_its_normalised_form():
    table = difference(NETWORKS["iteration_02_light_skeleton"](), NETWORKS["iteration_03_batch_normalisation"]())
    assert list(table) == ["change", "layer", "parameters", "output"]
    changed = table[table["change"] != ""]
    assert changed.to_numpy().tolist() == [
        ["+", "batch normalisation", 20, "10 × 26 × 26"],
        ["+", "batch normalisation", 20, "10 × 24 × 24"],
        ["+", "batch normalisation", 40, "20 × 22 × 22"],
        ["+", "batch normalisation", 20, "10 × 11 × 11"],
        ["+", "batch normalisation", 20, "10 × 9 × 9"],
        ["+", "batch normalisation", 40, "20 × 7 × 7"],
        ["+", "batch normalisation", 20, "10 × 7 × 7"],
    ]
    same = table[table["change"] == ""]
    assert same["layer"].tolist()[:2] == ["… 1 layer unchanged", "… 2 layers unchanged"]
    assert same["parameters"].sum() == 10_790


def test_difference_shows_what_left_before_what_came():
    table = difference(NETWORKS["iteration_04_dropout"](), NETWORKS["iteration_05_global_average_pooling"]())
    assert table.to_numpy().tolist() == [
        ["", "… 24 layers unchanged", 6070, ""],
        ["−", "7×7 convolution, 10 → 10", 4900, "10 × 1 × 1"],
        ["+", "global average pool", 0, "10 × 1 × 1"],
        ["", "… 1 layer unchanged", 0, ""],
    ]


@pytest.mark.parametrize("before", NETWORKS)
@pytest.mark.parametrize("after", NETWORKS)
def test_difference_accounts_for_every_parameter(before, after):
    before, after = NETWORKS[before](), NETWORKS[after]()
    table = difference(before, after)
    signed = table["parameters"] * table["change"].map({"+": 1, "−": -1, "": 0})
    assert signed.sum() == parameter_count(after) - parameter_count(before)


def test_difference_sees_stride_and_bias():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False))
    assert difference(plain, nn.Sequential(nn.Conv2d(1, 2, 3)))["parameters"].tolist() == [18, 20]
    strided = difference(plain, nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, bias=False)))
    assert strided["layer"].tolist() == ["3×3 convolution, 1 → 2", "3×3 convolution, 1 → 2, stride 2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_the_same_layers_have_an_empty_difference(name):
    table = difference(NETWORKS[name](), NETWORKS[name]())
    assert table.empty
    assert list(table) == ["change", "layer", "parameters", "output"]


def test_difference_of_networks_for_coloured_images():
    before, after = (nn.Sequential(nn.Conv2d(3, 4, kernel)) for kernel in (3, 5))
    changed = architecture.difference(before, after, (3, 32, 32))
    assert changed[["change", "output"]].values.tolist() == [["−", "4 × 30 × 30"], ["+", "4 × 28 × 28"]]


def test_only_windows_have_a_kernel_and_padding():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.1), nn.Flatten())
    seen = [(layer.kernel, layer.stride, layer.padding) for layer in architecture.layers(network)]
    assert seen == [(3, 1, 1)] + [(1, 1, 0)] * 4


def test_difference_of_networks_with_hundreds_of_equal_layers():
    """From 200 items on, difflib would take a frequent one for noise, if it were let."""
    before = [nn.ReLU() for _ in range(250)]
    table = difference(nn.Sequential(*before), nn.Sequential(*before, nn.Flatten()))
    assert table["layer"].tolist() == ["… 250 layers unchanged", "flatten"]


# -- Networks of any kind


class Residual(nn.Module):
    """A block that adds its input, in place, and one that adds a 1×1 convolution of it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.shortcut = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(4, 8, 1, 2)
        self.last = nn.Linear(8, 10)

    def forward(self, images):
        before = functional.relu(self.stem(images))
        x = self.norm(self.first(before))
        x += before
        x = functional.relu(x, inplace=True)
        return self.last((self.second(x) + self.shortcut(x)).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(1, 2, side, padding=side // 2) for side in (1, 3, 5))
        self.last = nn.Conv2d(7, 10, 1)

    def forward(self, images):
        found = [branch(images) for branch in self.branches]
        x = torch.cat([*found, functional.max_pool2d(images, 3, 1, 1)], dim=1)
        return functional.adaptive_avg_pool2d(self.last(x), 1).squeeze()


class FunctionalLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.c, self.d = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, images):
        x = functional.max_pool2d(functional.relu(self.a(images)), 2)
        x = functional.max_pool2d(functional.relu(self.b(x)), 2)
        return self.d(functional.relu(self.c(x.view(-1, 800))))


class Shared(nn.Module):
    """One convolution in use three times, and a parameter that belongs to no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.last = nn.Linear(4, 10)

    def forward(self, images):
        x = self.first(images)
        for _ in range(3):
            x = torch.tanh(self.again(x)) * self.gain
        return self.last(x.amax((2, 3)))


class Attention(nn.Module):
    """Patches of 4×4 pixels that look at one another."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.places = nn.Parameter(torch.zeros(1, 49, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        x = x + self.attention(x, x, x)[0]
        return self.last(x.mean(1))


class Control(nn.Module):
    """What it does depends on the numbers, so that softened numbers take the other path."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3)

    def forward(self, images):
        x = self.first(images)
        return torch.flatten(self.second(x) if x.mean() > 0 else x, 1)


class Masked(nn.Conv2d):
    """Sees only what lies above, as in a PixelCNN; `hidden` says how it masks its weights."""

    def __init__(self, hidden):
        super().__init__(1, 2, 5, padding=2)
        self.hidden = hidden
        self.register_buffer("mask", torch.zeros(5, 5))
        self.mask[:2] = 1

    def forward(self, images):
        if self.hidden:
            self.weight.data *= self.mask
            return super().forward(images)
        return functional.conv2d(images, self.weight * self.mask, self.bias, padding=2)


class OutOfTorch(nn.Module):
    """Takes its numbers out of torch and brings them back: nobody can follow them."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, images):
        return self.after(torch.from_numpy(self.before(images).numpy(force=True) * 2))


class WithoutGradients(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, images):
        with torch.no_grad():
            x = self.a(images)
        return self.b(x.detach().contiguous())


class SeveralOutputs(nn.Module):
    """One of its layers is run in vain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 5)

    def forward(self, images):
        x = self.a(images)
        self.idle(x)
        return {"early": x, "late": [self.b(x)]}


class Upwards(nn.Module):
    """A small U-Net: down, up again, and joined to what was there before."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.c = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, images):
        x = self.a(images)
        return self.c(torch.cat([x, self.up(self.b(functional.max_pool2d(x, 2)))], 1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.last = nn.LSTM(28, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, images):
        return self.last(self.rows(images[:, 0])[0][:, -1])


def mixed() -> nn.Sequential:
    """Kernels that are not square, groups, dilation, and activations of all kinds."""
    return nn.Sequential(
        nn.Conv2d(1, 4, (3, 5), padding=(1, 2)),
        nn.GroupNorm(2, 4),
        nn.PReLU(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.GELU(),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=(1, 2)),
        nn.InstanceNorm2d(6),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    )


def weight_norm() -> nn.Sequential:
    """Old and new kinds of weights that are computed from others."""
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(1, 2, 3)), normed)


ANY = {
    "residual": Residual,
    "inception": Inception,
    "functional": FunctionalLeNet,
    "shared": Shared,
    "mixed": mixed,
    "attention": Attention,
    "transformer": lambda: nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(784, 2, 8, batch_first=True), nn.Flatten()
    ),
    "control": Control,
    "masked": lambda: Masked(False),
    "masked in its data": lambda: Masked(True),
    "out of torch": OutOfTorch,
    "without gradients": WithoutGradients,
    "several outputs": SeveralOutputs,
    "upwards": Upwards,
    "recurrent": Recurrent,
    "weight norm": weight_norm,
    "compiled": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 3)))),
    "nothing": nn.Identity,
    "odd pools": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 4, padding="same"),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d((2, 1), dilation=2),
        nn.AdaptiveAvgPool2d(5),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "padding": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.ZeroPad2d((1, 2, 0, 3)),
        nn.ReflectionPad2d(2),
        nn.Conv2d(2, 2, (4, 2)),
    ),
    "own statistics": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("name", ANY)
def test_any_network_is_described(name):
    network = ANY[name]()
    found = layers(network)
    assert check_receptive_fields(network) == [layer.receptive_field for layer in found]
    assert set(receptive_field_table(network)["layer"]) <= {layer.name for layer in found}
    assert difference(network, network).empty
    shown = network_drawing.picture(network, NETWORKS["iteration_02_light_skeleton"]()).alt
    assert all(layer.name in shown for layer in found)


@pytest.mark.parametrize("name", [name for name in ANY if name not in ("control", "several outputs")])
def test_every_parameter_is_counted_once(name):
    network = ANY[name]()
    assert sum(layer.parameters for layer in layers(network)) == parameter_count(network)


def fields(network: nn.Module) -> dict[str, list[int]]:
    """The receptive fields of the layers of each name."""
    frame = pd.DataFrame([(layer.name, layer.receptive_field) for layer in layers(network)], columns=["name", "field"])
    return frame.groupby("name")["field"].apply(list).to_dict()


def test_what_is_seen_through_branches_is_worked_by_hand():
    assert [(layer.name, layer.jump, layer.receptive_field, layer.parameters) for layer in layers(Residual())] == [
        ("3×3 convolution, 1 → 4, padding 1", 1, 3, 40),
        ("ReLU", 1, 3, 0),
        ("3×3 convolution, 4 → 4, padding 1", 1, 5, 144),
        ("batch normalisation", 1, 5, 8),
        ("addition", 1, 5, 0),
        ("ReLU", 1, 5, 0),
        ("3×3 convolution, 4 → 8, stride 2, padding 1", 2, 7, 296),
        ("1×1 convolution, 4 → 8, stride 2", 2, 5, 40),
        ("addition", 2, 7, 0),
        ("global average pool", 2, 7 + 13 * 2, 0),
        ("linear 8 → 10", 2, 33, 90),
    ]
    assert [layer.receptive_field for layer in layers(Inception())] == [1, 3, 5, 3, 5, 5, 5 + 27, 32]
    assert [layer.receptive_field for layer in layers(Upwards())] == [3, 4, 8, 8, 8, 10]
    assert layers(Upwards())[-1].jump == 1


def test_the_functional_form_of_a_network_is_that_network():
    assert layers(FunctionalLeNet()) == layers(NETWORKS["iteration_01_setup"]())


def test_a_shared_layer_sees_further_at_each_use():
    found = layers(Shared())
    assert [layer.receptive_field for layer in found] == [3, 5, 5, 5, 7, 7, 7, 9, 9, 9, 34, 34]
    assert [layer.parameters for layer in found if layer.parameters] == [40, 148, 4, 50]


def test_directions_may_differ():
    """By hand: rows see 3, then 2 · 2 more, then 2 more; columns 5, then 4, then 2 more, with a jump of 2."""
    table = receptive_field_table(mixed()).set_index("layer")
    assert table["receptive field"].tolist() == [5, 9, 11, 11 + 12 * 2, 35]
    assert table["kernel"].tolist() == ["3×5", 3, 3, "26×13", 1]
    assert table.loc["3×3 convolution, 4 → 6, stride 1×2", ["jump", "stride"]].tolist() == [2, "1×2"]
    assert [layer.name for layer in layers(mixed())[1:6]] == [
        "group normalisation",
        "PReLU",
        "3×3 convolution, 4 → 4, padding 2, dilation 2, groups 4",
        "GELU",
        "leaky ReLU",
    ]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, (3, 1)),
                nn.Conv2d(4, 4, (3, 1), padding=(2, 0), dilation=(2, 1)),
                nn.Conv2d(4, 6, (3, 1), stride=(1, 2)),
            ),
            [3, 7, 9],
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, (1, 5), padding=(0, 2)),
                nn.Conv2d(4, 4, (1, 3), padding=(0, 2), dilation=(1, 2)),
                nn.Conv2d(4, 6, (1, 3), stride=(1, 2)),
            ),
            [5, 9, 11],
        ),
    ],
    ids=["rows", "columns"],
)
def test_each_direction_is_measured_by_itself(monkeypatch, make, expected):
    """The convolutions of `mixed` along one direction; where the table knows no kernels, it gives no hint."""
    network = make()
    assert check_receptive_fields(network) == expected
    slip(monkeypatch, {"kernel": lambda window: (1, 1)})
    assert [layer.receptive_field for layer in layers(network)] == [1, 1, 1]
    assert gradient_support(network) == expected


def test_attention_sees_the_whole_image_though_no_kernel_says_so():
    assert fields(Attention())["attention"] == [28]
    assert fields(Attention())["4×4 convolution, 1 → 16, stride 4"] == [4]
    assert fields(Attention())["addition"] == [4, 28]


def test_a_path_that_depends_on_the_numbers_is_shown_without_a_measurement(monkeypatch):
    """So a slip in its arithmetic is not found."""
    network = Control()
    assert [layer.name for layer in layers(network)] == ["3×3 convolution, 1 → 4", "flatten"]
    slip(monkeypatch, {"kernel": lambda window: (4, 4)}, "conv2d")
    assert check_receptive_fields(network) == [4, 4]


def test_what_leaves_torch_is_a_box():
    assert [(layer.name, layer.output) for layer in layers(OutOfTorch())][-1] == ("OutOfTorch", "2 × 24 × 24")
    assert [layer.name for layer in layers(ANY["compiled"]())] == ["3×3 convolution, 1 → 2", "Sequential"]
    assert check_receptive_fields(ANY["compiled"]()) == [3, 5]


def test_what_is_run_in_vain_is_no_layer():
    assert [layer.name for layer in layers(SeveralOutputs())] == ["3×3 convolution, 1 → 2", "3×3 convolution, 2 → 2"]


def seen_by_modules(network: nn.Module) -> list[int]:
    """What each convolution sees, at each use, by autograd through the network itself, with positive weights."""
    network, outputs = copy.deepcopy(network).double().eval(), []
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() / 10 + 0.01
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, output: outputs.append(output.clone()))
    images = torch.rand(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    network(images)
    sides = []
    for output in outputs:
        middle = output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum()
        seen = torch.autograd.grad(middle, images, retain_graph=True)[0][0, 0].nonzero()
        sides.append(int((seen.amax(0) - seen.amin(0)).max()) + 1)
    return sides


@pytest.mark.parametrize("name", ["residual", "inception", "shared"])
def test_fields_are_those_that_the_network_itself_has(name):
    network = ANY[name]()
    computed = [layer.receptive_field for layer in layers(network) if "convolution" in layer.name]
    assert seen_by_modules(network) == computed


@pytest.mark.parametrize("name", ["residual", "inception", "functional", "shared", "mixed"])
@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": lambda window: (window.kernel[0] + 1, window.kernel[1] + 1)},
        {"kernel": lambda window: (1, 1)},
        {"stride": lambda window: (2, 2), "dilation": lambda window: (3, 3)},
    ],
    ids=["larger", "smaller", "wider apart"],
)
def test_a_slip_in_the_arithmetic_is_found_in_any_network(monkeypatch, name, changes):
    """So the measurement takes place, and is no copy of the arithmetic."""
    slip(monkeypatch, changes, "conv2d")
    with pytest.raises(ValueError, match="its gradient reaches over"):
        check_receptive_fields(ANY[name]())


@pytest.mark.parametrize("name", ["residual", "inception", "functional", "shared", "mixed"])
def test_most_maps_are_measured(monkeypatch, name):
    """Where every kernel is taken for 2×2, and no map for padded, only the gradient tells what a map sees."""
    network = ANY[name]()
    expected = [layer.receptive_field for layer in layers(network)]
    kernel = lambda window: (1, 1) if window.pointwise else (2, 2)  # noqa: E731
    slip(monkeypatch, {"kernel": kernel, "padding": lambda window: (0, 0)})
    found = layers(network)
    maps = [number for number, layer in enumerate(found) if len(layer.output_shape) == 3]
    assert maps and not any(found[number].receptive_field == expected[number] for number in maps)
    measured = gradient_support(network)
    assert [measured[number] for number in maps] == [min(expected[number], 28) for number in maps]


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("training", [True, False])
def test_looking_at_any_network_leaves_no_trace(name, training):
    network = ANY[name]().train(training)
    held, modes = attached(network), [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    for look in (check_receptive_fields, receptive_field_table, network_drawing.picture, printed):
        look(network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert [module.training for module in network.modules()] == modes
    assert attached(network) == held


# -- The table that is printed


def printed(network: nn.Module, show=summary) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        show(network)
    return text.getvalue()


def torchsummarys(network: nn.Module) -> str:
    return printed(network, lambda network: torchsummary.summary(network, IMAGE, device="cpu"))


@pytest.mark.parametrize("name", sorted(SHARING))
def test_published_parameters_that_are_shared_are_counted_once(name):
    network = ALL[name]()
    table, sentence = printed(network).rsplit("-\n", 1)
    assert table + "-\n" == torchsummarys(network)
    count = sum(p.numel() for p in network.parameters())
    assert parameter_count(network) == count == sum(layer.parameters for layer in layers(network))
    assert sentence.startswith(f"The network has {count:,} parameters: ")


@pytest.mark.parametrize("name", sorted(ALL.keys() - SHARING))
def test_the_printed_table_is_torchsummarys(name):
    network = ALL[name]()
    assert printed(network) == torchsummarys(network)


def test_where_torchsummary_miscounts_the_true_count_stands_below():
    """It counts 148 parameters three times, and not at all the 4 that belong to no layer."""
    table, sentence = printed(Shared()).rsplit("-\n", 1)
    assert table + "-\n" == torchsummarys(Shared())
    assert f"Total params: {40 + 3 * 148 + 50}" in table
    assert sentence.startswith(f"The network has {parameter_count(Shared())} parameters: torchsummary counts")
    assert sentence.count("\n") == 1


def test_parameters_of_another_name_are_counted():
    """Of attention's own, torchsummary sees none; places belong to no layer."""
    assert parameter_count(Attention()) == 272 + 784 + 3 * 272 + 272 + 170
    assert "Total params: 442\n" in printed(Attention())
    assert "\nThe network has 2,314 parameters: " in printed(Attention())


def test_where_torchsummary_fails_the_layers_are_printed():
    with pytest.raises(AttributeError):
        torchsummarys(ANY["transformer"]())
    network = ANY["transformer"]()
    text = printed(network)
    assert [line.split()[-1] for line in text.splitlines() if " attention" in line] == [f"{4 * 784 * 785:,}"]
    assert text.endswith(f"Total params: {parameter_count(network):,}\n")


def test_images_need_not_be_square_but_have_three_dimensions():
    assert layers(Inception(), (1, 28, 20))[0].output == "2 × 28 × 20"
    assert check_receptive_fields(Inception(), (1, 28, 20)) == [1, 3, 5, 3, 5, 5, 32, 32]
    for shape in ((28, 28), (1, 1, 28, 28)):
        message = re.escape(f"input of shape {shape}: expected (channels, height, width)")
        with pytest.raises(ValueError, match=f"^{message}$"):
            layers(NETWORKS["iteration_08_without_dropout"](), shape)


def test_layers_that_learn_their_size_when_they_are_used():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10))
    assert [layer.parameters for layer in layers(network)] == [40, 0, 27_050]
    assert isinstance(network[0].weight, nn.UninitializedParameter)
