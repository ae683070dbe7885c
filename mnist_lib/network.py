"""A network as the text of the function that builds it, so that whoever has the text builds the same one.

A notebook's kernel, the command line, a worker on another machine and the book all build from this text: what trains
is, by construction, what the digest says. The text is what was *executed*, never what a file says by now.
"""

import __future__

import ast
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn

from mnist_lib.base import loaded
from mnist_lib.base.digests import UNPARSABLE, code_digest, needed, plain, text_digest
from mnist_lib.parameters import ParameterError

KINDS = {"int": int, "float": float, "str": str, "bool": bool}
"""What an argument of a network may be."""

_FUTURE = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
_SIMPLE = (int, float, str, bool, tuple, type(None))


@dataclass(frozen=True)
class Network:
    """A function that builds a network: the text that defines it and all that it needs, and its arguments.

    Calling it builds the network, with weights as torch draws them then.

    Raises:
        ParameterError: an argument is unknown, or of another kind than the function's.
    """

    source: str
    name: str = "network"
    arguments: tuple[tuple[str, Any], ...] = ()  # or a dictionary

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(sorted(self._checked(dict(self.arguments)).items())))

    @classmethod
    def of(cls, function: Callable[..., nn.Module]) -> "Network":
        """Take the text of a function as it was executed: in a cell, a script or a terminal.

        Names that other cells define are gathered: imports, functions, classes and simple values.

        Raises:
            ParameterError: the text is not found, or uses a name that cannot be gathered.
        """
        if isinstance(function, Network):
            return function
        text, name = executed_text(function)
        source, missing = cut(text, name)
        for each in sorted(missing):
            source = f"{_gathered(each, inspect.unwrap(function).__globals__, name)}\n{source}"
        network = cls(source, name)
        network._check_same(inspect.unwrap(function))
        return network

    @classmethod
    def of_cell(cls, cell: str, name: str = "network") -> "Network":
        """Take the text of a notebook's cell, which must stand alone; it is not executed.

        Raises:
            ParameterError: the cell does not define the function, or uses a name that it does not define.
        """
        source, missing = cut(plain(cell), name)
        if missing:
            raise ParameterError(
                f"the network cell uses {', '.join(map(repr, sorted(missing)))}, which is defined elsewhere: "
                f"define it in the same cell, or make it an argument of {name}"
            )
        return cls(source, name)

    def with_arguments(self, values: Mapping[str, Any]) -> "Network":
        """Return the network with other arguments; those not named stay."""
        return Network(self.source, self.name, dict(self.arguments) | dict(values))

    def check(self, statistics: bool = False) -> None:
        """Build the network, show it two images and ask for a gradient, so that no run fails over it later.

        Raises:
            ParameterError: it does not work, or does not give ten scores an image that its weights decide, or keeps no
                `statistics` of batch normalisation where they are asked for.
        """
        self.refuse("it does not work", lambda: _unfit(self, statistics))

    def refuse(self, what: str, why_not: Callable[[], str]) -> None:
        """Refuse the network if `why_not` says why, or fails over it: then `what` is said, and where in its text.

        Raises:
            ParameterError: so it is.
        """
        try:
            found = why_not()
        except ParameterError as error:
            found = str(error)
        except (Exception, SystemExit) as error:  # whatever the text raises
            found = f"{what}{_place(self.source, error)}: {str(error) or type(error).__name__}"
        if found:
            given = ", ".join(f"{name} {value!r}" for name, value in self.arguments)
            raise ParameterError(f"{self.name}({given}): {found}")

    def __call__(self) -> nn.Module:
        """Build the network.

        Raises:
            ParameterError: an argument has no value, or what the function returns is no `torch.nn.Module`.
        """
        if missing := sorted(self.signature.keys() - dict(self.arguments).keys()):
            raise ParameterError(f"{self.name}({', '.join(missing)}): no value is given, and there is no default")
        # The text is executed anew each time: numbers that it draws are then the same for the same random state.
        built = vars(self._module())[self.name](**dict(self.arguments))
        if not isinstance(built, nn.Module):
            raise ParameterError(f"{self.name} returned {type(built).__name__}: expected a torch.nn.Module")
        return built

    @property
    def described(self) -> dict[str, Any]:
        """What a record tells of its network; ``Network(**described)`` makes it again."""
        return {"source": self.source, "name": self.name, "arguments": dict(self.arguments)}

    @property
    def digest(self) -> str:
        """All that decides what is built, as one digest: the text, the arguments, and what it uses of the library."""
        library = loaded.digest(_used_of_library(self.source))
        return text_digest(code_digest(self.source), self.name, repr(self.arguments), library)

    @cached_property
    def signature(self) -> dict[str, tuple[type, Any]]:
        """The kind and the default of each argument, by name; the default is None where there is none."""
        *_, function = _definitions(parsed(self.source).body, self.name) or [None]  # the last one of a name counts
        if function is None:
            raise ParameterError(f"the network's text does not define {self.name!r}")
        is_class = isinstance(function, ast.ClassDef)
        if is_class:
            methods = [node for node in function.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
            function = (methods or ast.parse("def __init__(self): ...").body)[0]
        arguments, listed = function.args, function.args.args[is_class:]
        if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
            raise ParameterError(f"{self.name}: each argument needs a name of its own, without * and /")
        padding: list[ast.expr | None] = [None] * (len(listed) - len(arguments.defaults))
        pairs = [*zip(listed, padding + arguments.defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]  # noqa: B905
        return {argument.arg: self._kind(argument, default) for argument, default in pairs}

    def _kind(self, argument: ast.arg, default: ast.expr | None) -> tuple[type, Any]:
        try:
            value = None if default is None else ast.literal_eval(default)
        except ValueError:
            raise ParameterError(f"{self.name}({argument.arg}): its default must be a literal") from None
        written = argument.annotation and ast.unparse(argument.annotation).strip("'\"")
        kind = KINDS.get(written) if written else type(value)
        if kind not in KINDS.values() and (written or default):
            raise ParameterError(f"{self.name}({argument.arg}): expected one of {', '.join(KINDS)}")
        return (kind if written or default else object), value

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        for name in values.keys() - self.signature.keys():
            raise ParameterError(f"{self.name} has no argument {name!r}")
        for name, (kind, default) in self.signature.items():
            if name not in values and default is None:
                continue  # to be given later
            value = values.setdefault(name, default)
            if kind is float and type(value) is int:
                values[name] = float(value)
            elif type(value) not in (KINDS.values() if kind is object else (kind,)):
                expected = " or ".join(KINDS) if kind is object else kind.__name__
                raise ParameterError(f"{name} = {value!r}: expected {expected}, for {self.name}({name})")
        return values

    def _module(self) -> types.ModuleType:
        module = types.ModuleType(f"network_{text_digest(self.source)[:12]}")
        module.__file__ = f"<{module.__name__}>"
        # Tracebacks and inspect find the text here; without a time, checkcache leaves it alone.
        linecache.cache[module.__file__] = (len(self.source), None, self.source.splitlines(True), module.__file__)
        sys.modules[module.__name__] = module  # classes find their module
        # An annotation decides nothing: so it is not executed.
        code = compile(self.source, module.__file__, "exec", __future__.annotations.compiler_flag, dont_inherit=True)
        exec(code, vars(module))
        return module

    def _check_same(self, function: Callable) -> None:
        """Refuse a text whose values are not those that the function sees: a cell was edited, or run out of order."""
        with torch.random.fork_rng():
            rebuilt = vars(self._module())
        there = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
        for name, value in rebuilt.items():
            if name in there and not name.startswith("__") and isinstance(value, _SIMPLE) and there[name] != value:
                raise ParameterError(
                    f"{name} is {there[name]!r} now, {self.name} was defined with {value!r}: run it again"
                )
        if getattr(inspect.unwrap(rebuilt[self.name]), "__defaults__", None) != getattr(function, "__defaults__", None):
            raise ParameterError(f"the defaults of {self.name} are not what its text says: run it again")


@cache
def _unfit(network: Network, statistics: bool) -> str:
    """Say why a network cannot be trained on the report's images, with fresh statistics or not; nothing if it can."""
    with torch.random.fork_rng():
        built = network().eval()
        if lazy := [name for name, each in built.named_parameters() if torch.nn.parameter.is_lazy(each)]:
            return f"{lazy[0]} has no shape yet: give the layer its number of inputs"
        if statistics and not any("running_mean" in name for name in built.state_dict()):
            return "it has no batch normalisation, for which statistics_images could be counted"
        scores = built(torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    if not isinstance(scores, torch.Tensor):
        return f"from two images it makes a {type(scores).__name__}, not a tensor of the shape (2, 10)"
    if tuple(scores.shape) != (2, 10):
        return f"from two images it makes the shape {tuple(scores.shape)}, not (2, 10)"
    if scores.dtype != torch.float32:
        return f"its scores are {scores.dtype}, not torch.float32"
    if not scores.isfinite().all():
        return "its scores are not finite before it has learnt anything"
    if not scores.requires_grad:
        return "its scores depend on no weight that can be trained"
    scores.sum().backward()
    return ""


def _place(source: str, error: BaseException) -> str:
    """Say in which line of a network's text an error came up; nothing if it was elsewhere."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename[:9] == "<network_"]
    if not lines:
        return ""
    return f", at line {lines[-1]} of its text, `{source.splitlines()[lines[-1] - 1].strip()}`"


@cache
def _used_of_library(source: str) -> list[str]:
    return loaded.imported(parsed(source).body)


def parsed(text: str) -> ast.Module:
    """Return the syntax tree of a text.

    Raises:
        ParameterError: it is no Python, or nested too deeply.
    """
    with _readable():
        return ast.parse(text)


@contextmanager
def _readable() -> Iterator[None]:
    """Say in a sentence what is wrong with the network's text."""
    try:
        yield
    except UNPARSABLE as error:
        raise ParameterError(f"the network cell cannot be read: {why(error)}") from None


def why(error: BaseException) -> str:
    """Say why a text cannot be read as Python: where memory or the stack is exhausted, Python itself does not."""
    deep = isinstance(error, MemoryError | RecursionError)
    return "it is nested too deeply; write it in several statements" if deep else str(error)


def _definitions(statements: Iterable[ast.stmt], name: str) -> list[ast.FunctionDef | ast.ClassDef]:
    return [each for each in statements if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == name]


def cut(text: str, name: str) -> tuple[str, set[str]]:
    """Cut out of `text` the statements that `name` needs, as they are written, and name what none of them defines.

    Raises:
        ParameterError: the text does not define `name`.
    """
    with _readable():
        statements, missing = needed(text, [name])
    if not _definitions(statements, name):
        raise ParameterError(f"the cell must define a function {name!r}, at its top level")
    lines = text.splitlines()
    spans = dict.fromkeys(
        (min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]), node.end_lineno)
        for node in statements
    )
    parts = ("\n".join(lines[first - 1 : last]) for first, last in spans)
    spaced = (("\n\n\n" if part.startswith(("def ", "class ", "@")) else "\n") + part for part in parts)
    return "".join(spaced).lstrip("\n") + "\n", missing


def executed_text(function: Callable) -> tuple[str, str]:
    """Find the text that defines `function`, as it was executed, and the function's name.

    Raises:
        ParameterError: it is no function made by ``def``, or its text is not to be found.
    """
    inner = inspect.unwrap(function)
    if inspect.isclass(inner):
        codes = [method.__code__ for method in vars(inner).values() if hasattr(method, "__code__")]
    else:
        codes = [inner.__code__] if hasattr(inner, "__code__") else []
    if not codes or inner.__name__ == "<lambda>":
        raise ParameterError(f"network = {function!r:.60}: expected a function that returns a network, made by def")
    for text in _candidates(codes[0]):
        if _proves(text, codes[0]):
            return text, inner.__name__
    raise ParameterError(
        f"the text of {inner.__name__} as it was executed is not found: define it in a cell or a file of its own "
        "(without %%time), and run that again after an edit"
    )


def _candidates(code: types.CodeType) -> Iterator[str]:
    yield "".join(linecache.getlines(code.co_filename))
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if shell is not None:
        yield from reversed(shell.history_manager.input_hist_parsed)


def _proves(text: str, code: types.CodeType) -> bool:
    """Whether `text` compiles to `code`: as a whole, as a file is, or statement by statement, as IPython does."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    flags = code.co_flags & _FUTURE
    for unit in [tree, *(ast.Module([node], []) for node in tree.body)]:
        compiled = compile(unit, code.co_filename, "exec", flags=flags, dont_inherit=True)
        if code in loaded.all_codes(compiled):
            return True
    return False


def _gathered(name: str, there: Mapping[str, Any], network: str, seen: frozenset[str] = frozenset()) -> str:
    """Return what another cell defined, as lines to stand before the network: an import, a definition or a value.

    What uses each other, the names in `seen`, is gathered once.
    """
    value = there.get(name, loaded)
    if isinstance(value, types.ModuleType) and value is not loaded:
        return f"import {value.__name__} as {name}"
    if isinstance(value, _SIMPLE):
        return f"{name} = {value!r}"
    home, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if home not in (None, "__main__") and own and getattr(sys.modules.get(home), own, None) is value:
        return f"from {home} import {own} as {name}"
    if inspect.isfunction(value) or inspect.isclass(value):
        text, own = executed_text(value)
        source, missing = cut(text, own)
        seen |= {network, name}
        before = "\n".join(_gathered(each, there, network, seen) for each in sorted(missing - seen))
        return f"{before}\n{source}" + (f"{name} = {own}\n" if name != own else "")
    raise ParameterError(f"{network} uses {name!r}, which is defined elsewhere: define it in the same cell")
