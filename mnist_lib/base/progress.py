"""What is said while something takes long: a bar to a person; of runs that train, a line for each epoch to a log."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm.auto import tqdm


def bar(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Return the items, one after the other; a bar says how many are done, to whoever looks on."""
    return tqdm(items, desc=what, file=_stream(), disable=not _is_person_there())


def shown() -> Callable[..., None]:
    """Return what shows the progress of runs, epoch by epoch, to whoever is there: an `experiments.Report`."""
    if not _is_person_there():
        return _print_line
    bars: dict[int, tqdm] = {}

    def show(experiment: Any, seed: int, epoch: Any, number: int, seconds: float) -> None:
        if seed not in bars:
            bars[seed] = tqdm(total=experiment.recipe.epochs, initial=number - 1, unit="epoch", file=_stream())
        bars[seed].set_description(_line(experiment, seed, epoch))
        bars[seed].update()
        if number == experiment.recipe.epochs:
            bars.pop(seed).close()

    return show


def _print_line(experiment: Any, seed: int, epoch: Any, number: int, seconds: float) -> None:
    line = f"{_line(experiment, seed, epoch)}, epoch {number} of {experiment.recipe.epochs}, {seconds:.1f} s"
    print(line, flush=True)


def _line(experiment: Any, seed: int, epoch: Any) -> str:
    return f"{experiment.name} seed {seed}: train loss {epoch.train_loss:.4f}, {epoch.test_correct} correct"


def _stream() -> TextIO:
    return sys.stderr if _kernel() is None else sys.stdout  # without widgets: a notebook shows stderr in red


def _is_person_there() -> bool:
    """Whether somebody looks on: in a terminal, or in Jupyter."""
    return sys.stderr.isatty() if _kernel() is None else in_jupyter()


def in_jupyter() -> bool:
    """Whether somebody looks on in a notebook: one that may ask for input, as only Jupyter's may."""
    kernel = _kernel()
    return kernel is not None and bool(kernel.get_parent("shell")["content"].get("allow_stdin", False))


def _kernel() -> Any:
    """Return the kernel of the running notebook; None outside of one."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None)
