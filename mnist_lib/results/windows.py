"""What torch's functions read of a map: the one list of layers that tables, drawings and the browser's page know.

A reader below has the parameters of the torch function whose calls it reads, after `units`: the height and the width
of the map that the call reads, which a flattened map still has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Window:
    """What one unit of a layer's output reads. A layer that is not `known` may read more than is said here.

    A layer that is `pointwise` leaves every number in its place. `in_browser` is what the page "Draw a digit" calls
    the layer, empty where it cannot compute it.
    """

    name: str
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    in_browser: str = ""
    pointwise: bool = False
    known: bool = True


def read(name: str, units: Pair, output: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Window:
    """Return the window of a call of torch's function `name`, which returned `output`; a plain box if it is unknown."""
    plain = Window(name.replace("_", " "), known=False)
    if name in _RESHAPING:  # flattened, a map still has its positions
        return _pointwise("flatten", "Same") if output.ndim == 2 else replace(plain, name="reshape")
    kind = _WINDOWS.get(name, plain)
    try:
        return kind if isinstance(kind, Window) else kind(units, *args, **kwargs)
    except (TypeError, ValueError, IndexError):  # a form of the function that its reader does not know
        return plain


def short(pair: Pair) -> int | str:
    """Write one number where height and width are equal; else both, such as ``3×5``."""
    return pair[0] if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def _pointwise(name: str, in_browser: str = "") -> Window:
    return Window(name, in_browser=in_browser, pointwise=True)


def _box(name: str) -> Window:
    return Window(name, known=False)


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _named(what: str, kernel: Pair, options: Mapping[str, tuple[Pair, Any]]) -> str:
    """Size, kind, and those options, each a value and the usual one, that are not the usual one."""
    unusual = [f", {key} {short(value)}" for key, (value, usual) in options.items() if value != _pair(usual)]
    return f"{kernel[0]}×{kernel[1]} {what}{''.join(unusual)}"


def _square(*pairs: Pair) -> bool:
    return all(height == width for height, width in pairs)


def _own(weight: Tensor) -> bool:
    """Whether weights are learned as they are; what was made of others may have zeros, as masked weights have."""
    return isinstance(weight, torch.nn.Parameter)


def _convolution(units, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Window:
    kernel, stride, dilation = tuple(weight.shape[2:]), _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        around = [step * (side - 1) // 2 for side, step in zip(kernel, dilation, strict=True)]
        padding = around if padding == "same" else 0
    padding = _pair(padding)
    options = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1), "groups": (_pair(groups), 1)}
    name = _named(f"convolution, {weight.shape[1] * groups} → {weight.shape[0]}", kernel, options)
    computed = _own(weight) and _square(kernel, stride, padding) and dilation == (1, 1)
    return Window(name, kernel, stride, padding, dilation, "Conv2d" * computed, known=_own(weight))


def _pool(what: str, kernel: Any, stride: Any, padding: Any, dilation: Any = 1, ceil_mode: bool = False) -> Window:
    kernel, stride, padding, dilation = map(_pair, (kernel, stride or kernel, padding, dilation))
    options = {"stride": (stride, kernel), "padding": (padding, 0), "dilation": (dilation, 1)}
    name = _named(what, kernel, options) + ", rounded up" * ceil_mode
    return Window(name, kernel, stride, padding, dilation)


def _max_pool(
    units, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Window:
    window = _pool("max-pool", kernel_size, stride, padding, dilation, ceil_mode)
    computed = _is_plain(window) and not ceil_mode
    # No average, which stands for the maximum in a measurement, is dilated.
    return replace(window, in_browser="MaxPool2d" * computed, known=window.dilation == (1, 1))


def _average_pool(
    units, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> Window:
    window = _pool("average pool", kernel_size, stride, padding, ceil_mode=ceil_mode)
    computed = _is_plain(window) and not ceil_mode and divisor_override is None
    return replace(window, in_browser="AvgPool2d" * computed)


def _is_plain(window: Window) -> bool:
    """Whether a window is square, and lies in the map with no holes in it."""
    return _square(window.kernel, window.stride) and (window.padding, window.dilation) == ((0, 0), (1, 1))


def _adaptive(what: str, in_browser: str = "") -> Callable[..., Window]:
    def reader(units, input, output_size, return_indices=False) -> Window:
        sizes = _pair(output_size)
        if sizes == (1, 1):
            return Window(f"global {what}", units, in_browser=in_browser)
        stride = tuple(unit // (size or unit) or 1 for unit, size in zip(units, sizes, strict=True))
        kernel = tuple(-(-unit // (size or unit)) for unit, size in zip(units, sizes, strict=True))
        return Window(f"{what} to {sizes[0]}×{sizes[1]}", kernel, stride, known=kernel == stride)

    return reader


def _reduction(what: str, pool: str) -> Callable[..., Window]:
    def reader(units, input, dim=None, keepdim=False, dtype=None) -> Window:
        whole = input.ndim == 4 and sorted(each % 4 for each in dim or ()) == [2, 3]
        return Window(f"global {pool}", units) if whole else _box(what)

    return reader


def _linear(units, input, weight, bias=None) -> Window:
    flat = input.ndim == 2  # else tokens or channels that come last, or the rows of a map
    name = f"linear {weight.shape[1]} → {weight.shape[0]}"
    return Window(name, units if flat else (1, 1), in_browser="Linear" * flat, known=flat and _own(weight))


def _dropout(what: str) -> Callable[..., Window]:
    return lambda units, input, p=0.5, training=True, inplace=False: _pointwise(f"dropout {p:g} ({what})", "Same")


def _batch_norm(
    units, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Window:
    computed = not training and all(tensor is not None for tensor in (running_mean, running_var, weight, bias))
    return _pointwise("batch normalisation", "BatchNorm2d" * computed)


def _padding(units, input, pad, mode="constant", value=None) -> Window:
    left, _, top, _ = pad
    name = f"padding {left if len({*pad}) == 1 else tuple(pad)}"
    return Window(name, padding=(top, left), known=mode == "constant" and min(pad) >= 0)


_RESHAPING = {"flatten", "view", "reshape", "squeeze"}
_WINDOWS: dict[str, Window | Callable[..., Window]] = {
    "conv2d": _convolution,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive("average pool", "AdaptiveAvgPool2d"),
    "adaptive_max_pool2d": _adaptive("max-pool"),
    "mean": _reduction("mean", "average pool"),
    "amax": _reduction("maximum", "max-pool"),
    "linear": _linear,
    "pad": _padding,
    "batch_norm": _batch_norm,
    "dropout": _dropout("single values"),
    "dropout2d": _dropout("whole maps"),
    "relu": _pointwise("ReLU", "ReLU"),
    **{name: _pointwise(name) for name in ("tanh", "sigmoid", "softplus", "hardtanh", "hardswish", "hardsigmoid")},
    **{name.lower(): _pointwise(name) for name in ("ReLU6", "PReLU", "GELU", "SiLU", "ELU", "SELU", "CELU", "Mish")},
    "leaky_relu": _pointwise("leaky ReLU"),
    "group_norm": _pointwise("group normalisation"),
    "layer_norm": _pointwise("layer normalisation"),
    "instance_norm": _pointwise("instance normalisation"),
    "cat": _pointwise("concatenation"),
    **{before + "add": _pointwise("addition", "Sum") for before in ("", "r", "i")},
    **{before + "mul": _pointwise("multiplication") for before in ("", "r", "i")},
    **{before + "sub": _pointwise("subtraction") for before in ("", "r", "i")},
    "div": _pointwise("division"),
    "conv_transpose2d": _box("transposed convolution"),
    "interpolate": _box("resizing"),
    "multi_head_attention_forward": _box("attention"),
    "scaled_dot_product_attention": _box("attention"),
    **dict.fromkeys(("matmul", "bmm", "einsum"), _box("matrix product")),
    **dict.fromkeys(("permute", "transpose", "T", "mT"), _box("transposition")),
    **dict.fromkeys(("getitem", "chunk", "split", "unbind"), _box("selection")),
    "setitem": _box("replacement"),
    # The same numbers, in another place or type of memory: no layer.
    **dict.fromkeys(("contiguous", "clone", "detach", "data", "to", "float", "double", "type_as"), _pointwise("")),
}


def _average(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False) -> Tensor:
    """Stands for max-pooling, whose gradient reaches one number of a window only."""
    if _pair(dilation) != (1, 1):
        return functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    return functional.avg_pool2d(input, kernel_size, stride or kernel_size, padding, ceil_mode)


SOFT: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": _average,
    "adaptive_max_pool2d": lambda input, size, return_indices=False: functional.adaptive_avg_pool2d(input, size),
    "amax": torch.mean,
}
"""What stands for a function while fields are measured, so that no gradient is lost."""
