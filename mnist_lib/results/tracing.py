"""Follows any network as it runs, torch call by torch call, and works out what each result sees of the image.

A mode of torch's own (`torch.overrides.TorchFunctionMode`) sees every call, in modules and in ``forward`` alike, so a
network may branch, loop and share layers: what counts is which calls were made, and on what.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mnist_lib.results.windows import SOFT, Window, read, short

Shape = tuple[int, int, int]  # channels, height, width
BATCH = 2  # images at once: a batch of one would be a dimension to squeeze


@dataclass(frozen=True)
class Layer:
    """A layer in use. `output_shape` is without the batch; `jump` and `receptive_field` are in pixels of the image.

    Where height and width differ, `jump` and `receptive_field` are the larger one; kernel, stride and padding are both,
    such as ``3×5``. `in_browser` is what the page "Draw a digit" calls the layer, empty where it cannot compute it.
    """

    name: str
    kernel: int | str
    stride: int | str
    padding: int | str
    output_shape: tuple[int, ...]
    parameters: int
    jump: int
    receptive_field: int
    in_browser: str = field(default="", repr=False, compare=False)

    @property
    def output(self) -> str:
        """The output shape in words, such as ``10 × 26 × 26``."""
        return " × ".join(map(str, self.output_shape)) or "1"


@dataclass(frozen=True)
class Span:
    """What the rows, or the columns, of a map see: row i sees `field` pixels, from ``first + i * jump`` on."""

    first: int
    field: int
    jump: int
    units: int

    def of_middle(self) -> tuple[int, int]:
        """Return what the middle row sees: its first pixel, and the one after the last."""
        first = self.first + self.units // 2 * self.jump
        return first, first + self.field


@dataclass(frozen=True)
class Signal:
    """A tensor that depends on the image: which step made it, and what its rows and its columns see."""

    step: int
    spans: tuple[Span, ...]
    known: bool


@dataclass
class Step:
    """A torch call. `reads` are the steps before it, `unit` the middle of its output, where fields are measured."""

    layer: Layer
    signal: Signal
    reads: set[int]
    in_place: bool
    unit: torch.Tensor | None


def trace(network: nn.Module, input_shape: Shape) -> list[Step]:
    """List the steps that the output of `network` descends from, in evaluation mode and for empty images."""
    with copied(network) as mine:
        like = next(mine.parameters(), torch.empty(0))
        return _run(mine, torch.zeros(BATCH, *input_shape, dtype=like.dtype, device=like.device), soft=False)


def soft_trace(network: nn.Module, input_shape: Shape) -> tuple[torch.Tensor, list[Step]]:
    """Return images, and the steps of a network in which a gradient with respect to them is lost nowhere.

    In a copy in float64 all weights are positive, activations and normalisation are left out, and averages stand for
    maxima. Numbers are random, so that no two cancel, and come from a generator of their own.

    Raises:
        RuntimeError: the network changes its weights as it runs. It may fail in other ways, too: it may insist on
            float32, say.
    """
    generator = torch.Generator().manual_seed(0)
    with copied(network) as mine:
        for parameter in mine.double().parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.data = ((torch.rand(parameter.shape, generator=generator) + 0.5) / fan_in).to(parameter)
        device = next((parameter.device for parameter in mine.parameters()), None)
        images = torch.rand(BATCH, *input_shape, generator=generator, dtype=torch.float64).to(device) + 0.5
        steps = _run(mine, images.requires_grad_(), soft=True)
        if any((parameter <= 0).any() for parameter in mine.parameters()):
            raise RuntimeError("the network has set weights to zero, as a mask does")
    return images, steps


def _run(network: nn.Module, images: torch.Tensor, soft: bool) -> list[Step]:
    follower = Follower(soft)
    for module in network.eval().modules():
        if not isinstance(module, torch.jit.ScriptModule):  # that takes no hook
            module.register_forward_hook(follower.after_module, with_kwargs=True)
    with torch.set_grad_enabled(soft):
        signal = images.clone()  # which `forward` may write on
        follower.begin(signal)
        with follower:
            output = network(signal)
    return follower.behind(output)


@contextlib.contextmanager
def copied(network: nn.Module) -> Iterator[nn.Module]:
    """Lend a copy to do anything with; afterwards the random state is what it was."""
    # Tensors that a module keeps beside its parameters may be results of a computation, which deepcopy refuses.
    kept = [tensor for module in network.modules() for tensor in vars(module).values() if torch.is_tensor(tensor)]
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)):
        yield copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in kept})


class Follower(TorchFunctionMode):
    """Sees each torch call and notes those that depend on the image; if `soft`, it makes them measurable."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft, self.steps, self.resting = soft, [], False
        self.signals: dict[int, Signal] = {}  # by the id of a tensor, which is kept alive so that it stays its own
        self.learned: dict[int, set[nn.Parameter]] = {}  # what a tensor was computed from without the image
        self.counted: set[nn.Parameter] = set()  # a layer used twice has its parameters once
        self.alive: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [] if self.resting else list(_tensors((args, kwargs)))
        signals = [self.signals[id(tensor)] for tensor in given if id(tensor) in self.signals]
        if not signals:
            output = function(*args, **kwargs)
            if learned := self._learned(given):
                self.learned |= {id(tensor): learned for tensor in self._kept(output)}
            return output
        name = (function.__self__ if function.__name__ == "__get__" else function).__name__.strip("_")
        with torch.set_grad_enabled(self.soft):  # even where `forward` turns gradients off
            output = (SOFT.get(name, function) if self.soft else function)(*args, **kwargs)
            window = read(name, tuple(span.units for span in signals[0].spans), output, args, kwargs)
            if self.soft and window.pointwise and len(signals) == 1:
                (source,) = (tensor for tensor in given if id(tensor) in self.signals)
                if torch.is_tensor(output) and output is not source and output.shape == source.shape:
                    output = source.clone()
            self._note(args[0] if name == "setitem" else output, window, signals, self._learned(given))
        return output

    def after_module(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Note a module whose calls could not be seen, since it leaves torch or is compiled, as one plain box."""
        signals = [self.signals[id(tensor)] for tensor in _tensors((args, kwargs)) if id(tensor) in self.signals]
        if signals and self._kept(output) and not any(id(tensor) in self.signals for tensor in _tensors(output)):
            self.resting = True
            last = [step.signal for step in self.steps]  # any of which it may depend on
            self._note(output, Window(type(module).__name__, known=False), signals + last, set(module.parameters()))
            self.resting = False

    def begin(self, images: torch.Tensor) -> None:
        """Take `images` for what all fields are counted in: each pixel sees itself."""
        spans = tuple(Span(0, 1, 1, size) for size in images.shape[2:])
        self.signals[id(images)] = Signal(-1, spans, known=True)

    def behind(self, output: Any) -> list[Step]:
        """List the steps that `output` descends from; all, if it holds no tensor that could be followed."""
        live = {self.signals[id(tensor)].step for tensor in _tensors(output) if id(tensor) in self.signals}
        for number in reversed(range(len(self.steps)) if live else ()):
            live |= self.steps[number].reads if number in live else set()
        return [step for number, step in enumerate(self.steps) if number in live or not live]

    def _kept(self, output: Any) -> list[torch.Tensor]:
        tensors = list(_tensors(output))
        self.alive += tensors
        return tensors

    def _learned(self, given: list[torch.Tensor]) -> set[nn.Parameter]:
        own = {tensor for tensor in given if isinstance(tensor, nn.Parameter)}
        return own.union(*(self.learned.get(id(tensor), ()) for tensor in given))

    def _note(self, output: Any, window: Window, signals: list[Signal], learned: set[nn.Parameter]) -> None:
        tensors = self._kept(output)
        if not window.name or not tensors:
            self.signals |= {id(tensor): signals[0] for tensor in tensors}
            return
        made, new = tensors[0], learned - self.counted
        self.counted |= new
        is_map = made.ndim == 4
        spans = []
        for axis in (0, 1):
            seen = _union([signal.spans[axis] for signal in signals])
            kernel, stride = window.kernel[axis], window.stride[axis]
            units = made.shape[2 + axis] if is_map else 1 if kernel >= seen.units else seen.units
            jump = seen.jump * stride
            if units > seen.units and not window.known:  # more units, closer together
                jump = max(1, jump * seen.units // units)
            reach = window.dilation[axis] * (kernel - 1) * seen.jump
            spans.append(Span(seen.first - window.padding[axis] * seen.jump, seen.field + reach, jump, units))
        alike = len({tuple((span.jump, span.units) for span in signal.spans) for signal in signals}) == 1
        known = alike and window.known and all(signal.known for signal in signals)
        signal = Signal(len(self.steps), tuple(spans), known)
        layer = Layer(
            window.name,
            short(window.kernel),
            short(window.stride),
            short(window.padding),
            _without_batch(made),
            sum(parameter.numel() for parameter in new),
            max(span.jump for span in spans),
            max(span.field for span in spans),
            window.in_browser,
        )
        unit = _centre(made, known) if self.soft else None
        in_place = window.pointwise and len(signals) == 1
        self.steps.append(Step(layer, signal, {each.step for each in signals}, in_place, unit))
        self.signals |= {id(tensor): signal for tensor in tensors}


def _union(spans: list[Span]) -> Span:
    """Return what is seen through all of `spans`; the largest map says where its units lie."""
    widest = max(spans, key=lambda span: span.units)
    first = min(span.first for span in spans)
    return Span(first, max(span.first + span.field for span in spans) - first, widest.jump, widest.units)


def _centre(made: torch.Tensor, known: bool) -> torch.Tensor | None:
    """Return the middle unit of a map, over all channels; one number where its positions are not known."""
    if not known:
        return made.flatten()[made.numel() // (2 * BATCH)] if made.numel() else None
    return made[0, :, made.shape[2] // 2, made.shape[3] // 2].sum() if made.ndim == 4 else None


def _without_batch(made: torch.Tensor) -> tuple[int, ...]:
    """Its shape, less the batch, which is not the first dimension everywhere."""
    shape = list(made.shape)
    if BATCH in shape:
        shape.remove(BATCH)
    return tuple(shape)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)
