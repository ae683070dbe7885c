"""A step of training on a GPU, recorded once and replayed as a whole.

A step of a network as small as these is a few hundred kernels, each of a few microseconds. Started one by one, from
Python, they take longer to start than to compute. A CUDA graph holds all of them and is started at once.
"""

from collections.abc import Callable

import torch

WARM = 3
"""How often a function runs before it is recorded: libraries choose their algorithms then, and allocate."""

Outputs = tuple[torch.Tensor, ...]


class Captured:
    """A function on a GPU that is replayed as a CUDA graph; there is one graph for each size of its inputs.

    What it returns is overwritten by the next call. A function that cannot be recorded, because it looks at a value
    on the way, is called as it is.

    Arguments:
        function: takes tensors and numbers, in the graph all of them as tensors; changes other tensors in place.
        unchanged: makes a context; what is done in it leaves those as they were.
        device: the GPU.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        unchanged: Callable,
        device: torch.device,
    ):
        self._function, self._unchanged, self._device = function, unchanged, device
        self._graphs: dict[tuple, Callable[..., Outputs]] = {}

    def __call__(self, *inputs: torch.Tensor | float) -> Outputs:
        """Compute the function."""
        sizes = tuple(each.shape for each in inputs if isinstance(each, torch.Tensor))
        if sizes not in self._graphs:
            with torch.cuda.device(self._device), self._unchanged():
                self._graphs[sizes] = self._recorded(inputs)
        return self._graphs[sizes](*inputs)

    def _recorded(self, inputs: tuple[torch.Tensor | float, ...]) -> Callable[..., Outputs]:
        numbers = torch.tensor([each for each in inputs if not isinstance(each, torch.Tensor)], device=self._device)
        tensors = [each.clone() for each in inputs if isinstance(each, torch.Tensor)]
        given, own = iter(numbers.unbind()), iter(tensors)
        held = [next(own) if isinstance(each, torch.Tensor) else next(given) for each in inputs]
        graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(beside):
                for _ in range(WARM):
                    self._function(*held)
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(graph):
                found = self._function(*held)
        except RuntimeError:
            torch.cuda.synchronize()
            return self._function

        def replay(*inputs: torch.Tensor | float) -> Outputs:
            values = [each for each in inputs if not isinstance(each, torch.Tensor)]
            numbers.copy_(torch.tensor(values), non_blocking=True)
            for mine, given in zip(tensors, (each for each in inputs if isinstance(each, torch.Tensor)), strict=True):
                mine.copy_(given)
            graph.replay()
            return found

        return replay
