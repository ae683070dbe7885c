"""What the cells of a notebook say: its parameters and its network, in the running kernel or in a file."""

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from mnist_lib.base.digests import UNPARSABLE
from mnist_lib.network import KINDS, Network, executed_text, why
from mnist_lib.parameters import NotebookParameters, ParameterError, Schema, validate

FROM_PAPERMILL = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")
"""What ``papermill --inject-paths`` adds to the parameters: no experiment depends on it."""

INJECTED = "# Parameters"
"""The first line of the cell that papermill injects."""


def prepare() -> None:
    """Make the running notebook ready: from now on, what papermill injects is checked before it is executed.

    papermill writes a parameter's name into a cell as it is given. A name with a hyphen is then a syntax error, and
    one with more in it could be any code.
    """
    from IPython import get_ipython

    if (shell := get_ipython()) is not None and _checked_lines not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_checked_lines)


def _checked_lines(lines: list[str]) -> list[str]:
    """Return the lines of a cell; raises ParameterError if papermill injected them and they do more than assign."""
    from IPython import get_ipython

    if lines and lines[0].strip() == INJECTED and not _only_assigns("".join(lines)):
        line = next((line for line in lines[1:] if not _only_assigns(line)), lines[-1])
        name = line.partition(" = ")[0].strip()
        likely = name.replace("-", "_")
        if likely not in get_ipython().user_ns:
            hint = "it is no name of Python"
        elif likely == name:
            hint = f"`{line.strip():.80}` does more than give it a value"
        else:
            hint = f"did you mean {likely!r}?"
        raise ParameterError(f"unknown parameter {name!r}: {hint}")
    return lines


def _only_assigns(text: str) -> bool:
    """Whether `text` only gives names plain values: literals, and what papermill writes for NaN and infinity."""
    try:
        for node in ast.parse(re.sub(r"float\('(nan|-?inf)'\)", "0.0", text)).body:
            if not isinstance(node, ast.Assign) or not all(isinstance(each, ast.Name) for each in node.targets):
                return False
            ast.literal_eval(node.value)
    except UNPARSABLE:
        return False
    return True


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file raises that is no notebook."""


def content(text: str) -> dict[str, Any]:
    """Return what the text of a notebook holds, as JSON does; raises one of `UNREADABLE` if it is none of format 4."""
    found = json.loads(text)
    if found["nbformat"] != 4:
        raise ValueError(f"its format is {found['nbformat']}, expected 4: open it in Jupyter and save it")
    return found


def from_notebook(schema: type[Schema], network: Callable | None = None) -> Schema:
    """Return the parameters of the running notebook, checked.

    Looks through the cells that the kernel has executed: the last one that assigns annotated parameters of `schema`,
    and every later one that papermill injected (its first line is ``# Parameters``). The arguments of `network`, a
    function defined in the notebook's network cell, are parameters like any other.

    Raises:
        ParameterError: as `validate`, or when no parameters cell has been executed, or the network cell needs names
            that it does not define.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ParameterError("from_notebook works inside a notebook; elsewhere call validate(schema, values)")
    built = None if network is None else Network.of_cell(*executed_text(network))
    names = [f.name for f in dataclasses.fields(schema) if not f.metadata.get("internal")]
    names += [] if built is None else built.signature
    cells = shell.history_manager.input_hist_parsed  # not `In`, which a parameter of that name would replace
    kinds: dict[str, str] = {}
    if any(cells):  # nbval keeps no history; it runs notebooks as they are, with nothing injected
        kinds = {name: kind for cell in cells for name, kind in _assignments(cell)[1].items()}
        names = [name for name in assigned_names(cells, set(names)) if name not in FROM_PAPERMILL]
        _check_shown(schema, [name for name in names if name not in kinds])
    values = {name: shell.user_ns[name] for name in names if name in shell.user_ns}
    try:
        return checked(schema, values, built, kinds)
    except ParameterError:
        _come_into_view()
        raise


def _check_shown(schema: type, injected: Sequence[str]) -> None:
    """Refuse what this page's parameters cell does not have, and no recipe either: it would change nothing."""
    shown = {f.name for f in dataclasses.fields(schema) if f.metadata.get("shown")}
    if idle := [name for name in injected if name in shown]:
        raise ParameterError(f"{idle[0]}: this page has no such parameter, and would show nothing of it")


def _come_into_view() -> None:
    """Bring this cell's output before whoever runs all cells: Jupyter goes to the last one, which is now empty."""
    from IPython.display import Javascript, display

    from mnist_lib.base.progress import in_jupyter

    if in_jupyter():
        display(Javascript("setTimeout(() => element.scrollIntoView({block: 'center'}), 1000)"))


def of_file(path: Path, schema: type[Schema] = NotebookParameters) -> Schema:
    """Return the parameters that the notebook at `path` has, checked; it is not executed.

    Raises:
        ParameterError: they are not accepted, or the network cell needs names that it does not define.
    """
    cell = tagged(path, "network")
    network = None if cell is None else _network(cell)
    _, kinds = _assignments(tagged(path, "parameters") or "")
    return checked(schema, notebook_parameters(path), network, kinds)


_network = cache(Network.of_cell)  # many pages ask for one cell's


def checked(
    schema: type[Schema], values: Mapping[str, Any], network: Network | None, kinds: Mapping[str, str]
) -> Schema:
    """Build `schema` from `values`, which may give arguments to `network`.

    Arguments:
        schema: a class of parameters.
        values: by name.
        network: whose arguments are parameters, too.
        kinds: the kinds of the arguments that the network's function does not annotate.

    Raises:
        ParameterError: as `validate`, or the network's function has an argument that is a parameter of the recipe.
    """
    if network is None:
        return validate(schema, values)
    fields = {f.name for f in dataclasses.fields(schema)}
    if taken := sorted(fields & network.signature.keys()):
        raise ParameterError(
            f"{network.name}({taken[0]}): {taken[0]} is a parameter of the recipe: choose another name"
        )
    known = {
        name: kind if kind is not object else KINDS.get(kinds.get(name, ""), type(values.get(name, "")))
        for name, (kind, _) in network.signature.items()
    }
    defaults = [default for _, default in network.signature.values()]
    parameters = validate(_with_arguments(schema, tuple(known.items()), *defaults), values)
    chosen = {name: getattr(parameters, name) for name in network.signature}
    return dataclasses.replace(parameters, network=network.with_arguments(chosen))


@lru_cache(typed=True)  # making a class takes longest; 1, 1.0 and True are different defaults
def _with_arguments(schema: type[Schema], kinds: tuple[tuple[str, type], ...], *defaults: Any) -> type[Schema]:
    """Return `schema` with a further field for each argument of a network; a default of None means that it has none."""
    fields = [
        (name, kind, dataclasses.field(default=dataclasses.MISSING if default is None else default))
        for (name, kind), default in zip(kinds, defaults, strict=True)
    ]
    return dataclasses.make_dataclass(schema.__name__, fields, bases=(schema,), frozen=True, kw_only=True)


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Return the values that the ``parameters`` cell of the notebook at `path` assigns; the notebook is not executed.

    Raises:
        ParameterError: there is no such cell, or a value is not a literal.
    """
    source = tagged(path, "parameters")
    if source is None:
        raise ParameterError(f"{path.name}: one cell must have the tag `parameters`, 0 have it")
    try:
        nodes = [node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]
        return {ast.unparse(node.target): ast.literal_eval(node.value) for node in nodes}
    except UNPARSABLE as error:
        raise ParameterError(f"{path.name}: the parameters cell must hold literals only: {why(error)}") from error


def has_its_name(path: Path) -> bool:
    """Tell whether a notebook is called as its file is: a copy is not, nor is what cannot be read."""
    try:
        return notebook_parameters(path).get("name") == path.stem
    except ParameterError:
        return False


def has_network(path: Path) -> bool:
    """Tell whether a notebook has a network cell: it trains, or shows runs that it has asked for."""
    return tagged(path, "network") is not None


def tagged(path: Path, tag: str) -> str | None:
    """Return the source of the one cell with this tag; None if there is none.

    Raises:
        ParameterError: it is no notebook, or several cells have the tag.
    """
    try:
        found = path.stat()
        sources = _tagged_cells(path, found.st_ino, found.st_mtime_ns, found.st_size).get(tag, ())
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise ParameterError(f"{path}: not a notebook: {error!r:.200}") from error
    if len(sources) > 1:
        raise ParameterError(f"{path.name}: one cell must have the tag `{tag}`, {len(sources)} have it")
    return sources[0] if sources else None


@cache
def _tagged_cells(path: Path, *_: int) -> dict[str, list[str]]:
    """Return the sources of a notebook's cells by their tags; as long as its file stays as it is, it is read once."""
    found: dict[str, list[str]] = {}
    for cell in content(path.read_text("utf-8-sig"))["cells"]:
        for tag in cell["metadata"].get("tags") or ():
            found.setdefault(tag, []).append("".join(cell["source"]))
    return found


def assigned_names(cells: Sequence[str], known: set[str]) -> list[str]:
    """Return the names assigned by the last parameters cell in `cells` and by the cells injected after it.

    A parameters cell consists of annotated assignments (``epochs: int = 15``), at least one to a name in `known`.
    """
    trees = [_assignments(source) for source in cells]
    starts = [i for i, (_, annotated) in enumerate(trees) if annotated.keys() & known]
    if not starts:
        raise ParameterError("no parameters cell has been executed: run the notebook from its top")
    start = starts[-1]
    injected = [i for i in range(start + 1, len(cells)) if cells[i].lstrip().split("\n")[0].rstrip() == INJECTED]
    return list(dict.fromkeys(name for i in (start, *injected) for name in trees[i][0]))


def _assignments(source: str) -> tuple[list[str], dict[str, str]]:
    """All names that a cell assigns at its top level, in order, and the annotations of those that have one."""
    try:
        body = ast.parse(source).body
        nodes = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
        annotated = {node.target.id: ast.unparse(node.annotation) for node in nodes}
    except UNPARSABLE:  # a cell with IPython's own syntax holds no parameters
        return [], {}
    plain = [t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return [*annotated, *plain], annotated
