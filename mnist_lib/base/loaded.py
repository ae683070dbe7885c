"""The library's code as this process has loaded it, which is what trains, whatever lies on the disk by now.

A digest that is read from a file vouches for code that may not have run: the file can be edited while a notebook is
open. So the text of each module is kept when it is imported. When a digest is asked for, the code in use is compared
with that text, because IPython's autoreload puts new code into old functions and leaves no other trace.
"""

import ast
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import mnist_lib
from mnist_lib.base.digests import canonical, needed, simplified, text_digest

PACKAGE = mnist_lib.__name__
_FACE = {name: f"{home}.{name}".partition(".")[2] for name, home in mnist_lib.face.items()}  # names of the package
_SIMPLE = (int, float, str, bytes, bool, tuple, type(None))
_kept: dict[str, tuple[str, dict[str, str]]] = {}  # of each module, its text and its simple constants
_genuine: dict[tuple[str, int], types.CodeType] = {}  # code that was found in its module's text, by its id


class CodeError(RuntimeError):
    """The code in use is not the code that was loaded."""


def remember() -> None:
    """Keep the text of every module of the library that is imported by now."""
    for name, module in list(sys.modules.items()):
        if name not in _kept and name.partition(".")[0] == PACKAGE and module.__spec__ is not None:
            _kept[name] = (_read(name), _constants(module))


def outdated() -> list[str]:
    """Name the modules of the library whose files hold another text by now than the one that was loaded."""
    return [name for name, (text, _) in _kept.items() if _read(name) != text]


def source(name: str) -> str:
    """Return the text of the module `name`, as it was loaded; of one that is not, what its file holds, from now on.

    Raises:
        CodeError: the module's code has been changed since, by autoreload, say.
        ModuleNotFoundError: there is no such module.
    """
    if name not in _kept:
        remember()
    # To read a module is enough: importing all that pages use takes seconds.
    text, constants = _kept.get(name) or _kept.setdefault(name, (_read(name), {}))
    if (module := sys.modules.get(name)) is None:
        return text
    functions = _functions(module, _defined(text, name))
    changed = [function for function, code in functions if not _is_genuine(code, text, name)]
    changed += [key for key, value in _constants(module).items() if constants.get(key, value) != value]
    if changed:
        raise CodeError(f"{name}.{changed[0]} was changed in this session: restart the kernel")
    return text


def digest(definitions: Iterable[str], left_out: Iterable[str] = ()) -> str:
    """Return the digest of definitions of the library, such as ``training.Trainer``, and of all that they use of it.

    What names in other modules stand for is followed, too. `left_out` are definitions that are not followed.

    Raises:
        CodeError: a module's code has been changed since it was loaded.
    """
    return reached(definitions, left_out)[0]


def reached(definitions: Iterable[str], left_out: Iterable[str] = ()) -> tuple[str, frozenset[str]]:
    """Return the digest of definitions and of all that they use, and the modules in which that lies."""
    found, modules = _closure(tuple(sorted(set(definitions))), tuple(sorted(set(left_out))))
    for name in modules:
        source(name)  # is it still what was loaded?
    return found, modules


@cache
def _closure(definitions: tuple[str, ...], left_out: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    parts: set[str] = set()
    texts: dict[str, str] = {}  # of the modules
    waiting, done = list(definitions), set(left_out)
    while waiting:
        current = waiting.pop()
        if current in done:
            continue
        done.add(current)
        module, _, name = current.rpartition(".")
        inside = frozenset(each.removeprefix(f"{module}.") for each in left_out if each.startswith(f"{module}."))
        full = f"{PACKAGE}.{module}".rstrip(".")
        texts[full] = texts.get(full) or source(full)
        statements, used = _definition(texts[full], module, name, inside)
        parts |= statements
        waiting += used
    return text_digest(*sorted(parts)), frozenset(texts)


@cache
def _definition(text: str, module: str, name: str, left_out: frozenset[str]) -> tuple[set[str], list[str]]:
    """Return the statements that a definition needs in a module's text, and what they use of other modules."""
    statements, _ = needed(text, [name], left_out)
    own = [node for node in statements if not (isinstance(node, ast.Import | ast.ImportFrom) and _imports(node))]
    place = module.rpartition(".")[2]  # without its room: a move changes nothing
    said = {f"{place} {_canonical(node)}" for node in own} if statements else {f"{place} does not define {name}"}
    return said, imported(statements)


def imported(statements: Iterable[ast.stmt]) -> list[str]:
    """Name the definitions of the library that `statements` use: those imported by name, and attributes of modules.

    Arguments:
        statements: top-level statements of a module, or of a notebook's cell.
    """
    statements = list(statements)
    imports = [each for node in statements for each in _imports(node)]
    modules = {name: full for name, full in imports if _is_module(full)}
    attributes = [each for node in statements for each in _attributes(node)]
    found = [_FACE.get(full, full) for _, full in imports if not _is_module(full)]
    return found + [f"{modules[name]}.{attribute}" for name, attribute in attributes if name in modules]


_canonical = cache(canonical)  # statements are parsed once, so a node stands for its text


@cache
def _imports(node: ast.stmt) -> list[tuple[str, str]]:
    """Return what a statement imports of the library: the name given to it, and its own without the package's."""
    found: list[tuple[str, str]] = []
    for each in ast.walk(node):
        prefix = f"{each.module}." if isinstance(each, ast.ImportFrom) else ""
        for alias in each.names if isinstance(each, ast.Import | ast.ImportFrom) else ():
            package, _, full = f"{prefix}{alias.name}".partition(".")
            if package == PACKAGE and full:
                found.append((alias.asname or alias.name, full))
    return found


@cache
def _attributes(node: ast.stmt) -> list[tuple[str, str]]:
    """Return the attributes that a statement reads, but for those in annotations, each with what it is read of."""
    found = (each for each in ast.walk(simplified(node)) if isinstance(each, ast.Attribute))
    return [(_dotted(each.value), each.attr) for each in found]


def _dotted(node: ast.expr) -> str:
    """Return a name, or names with dots between them, as text; nothing of anything else, which is no module."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@cache
def _is_module(name: str) -> bool:
    place = Path(mnist_lib.__path__[0], *name.split("."))  # not find_spec, which imports all that is above it
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def _read(name: str) -> str:
    if (found := find_spec(name)) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return Path(found.origin).read_text("utf-8")  # not through its loader, which may be pytest's


def _constants(module: types.ModuleType) -> dict[str, str]:
    """Return the module's constants that are simple, and its tables of such, as text."""
    found = {}
    for name, value in vars(module).items():
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        parts = parts if isinstance(value, dict | list | set) else [value]
        if name.isupper() and all(isinstance(part, _SIMPLE) for part in parts):
            found[name] = repr(value)
    return found


def _functions(module: types.ModuleType, defined: Collection[str]) -> Iterator[tuple[str, types.CodeType | None]]:
    """Return the functions of a module, and the methods and properties of its classes, by name, with their code.

    Whatever stands where the text has a definition is one of them: another module's function may have been put there.
    """
    home = module.__name__
    waiting = [(n, v) for n, v in vars(module).items() if n in defined or getattr(v, "__module__", None) == home]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, type) and value.__module__ == home:
            waiting += [(f"{name}.{n}", each) for n, each in vars(value).items() if not isinstance(each, type)]
        elif isinstance(value, property | cached_property) or hasattr(value, "__wrapped__"):
            parts = (getattr(value, part, None) for part in ("fget", "fset", "func", "__wrapped__"))
            waiting += [(name, part) for part in parts if part is not None]
        elif name in defined:
            code = getattr(value, "__code__", None)
            yield name, code if getattr(code, "co_qualname", None) == name else None
        elif isinstance(value, types.FunctionType) and value.__module__ == home:
            if value.__code__.co_filename != "<string>":  # what a dataclass makes
                yield name, value.__code__


def _is_genuine(code: types.CodeType | None, text: str, name: str) -> bool:
    """Tell whether code is that of a module's text. Code objects never change, and comparing them takes long."""
    if (name, id(code)) in _genuine:
        return True
    if code not in _codes(text, name):
        return False
    _genuine[name, id(code)] = code  # kept, so that no other object gets its id
    return True


@cache
def _defined(text: str, name: str) -> frozenset[str]:
    """Return the names of all functions and classes of a module's text, and of what has no name, as a lambda."""
    return frozenset(code.co_qualname for code in _codes(text, name))


@cache
def _codes(text: str, name: str) -> frozenset[types.CodeType]:
    """Return the code of all that a module's text defines: its functions, classes and methods."""
    return frozenset(all_codes(compile(text, name, "exec", dont_inherit=True)))


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Go through a code object and all that are nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_codes(constant)
