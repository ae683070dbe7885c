"""Digests of Python code that change only when the code computes something else.

Comments, docstrings, formatting and the annotations of functions do not count, and the same code has the same digest
under every Python version: the syntax tree is written out in a canonical form of our own, because ``ast.dump`` differs
between versions.
"""

import ast
import builtins
import copy
import hashlib
import re
import symtable
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

# Parsing takes longest, and each record asks for the same: what was found for a text is kept.

UNPARSABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
"""What reading a text as Python raises that is none, or is nested too deeply."""


def text_digest(*parts: str) -> str:
    """Return the SHA-256 of the parts, each delimited by its length, in hexadecimal."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def bytes_digest(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


_IPYTHON = re.compile(r"^( *)[%!].*", re.MULTILINE)


def plain(cell: str) -> str:
    """Return a cell's source as Python, without its lines in IPython's own syntax."""
    return _IPYTHON.sub(r"\1pass", cell)


@cache
def code_digest(source: str) -> str:
    """Return the digest of a whole module or notebook cell."""
    return text_digest(canonical(ast.parse(source)))


def canonical(node: object) -> str:
    """Write a syntax tree as text: field names and values in order, without what is empty and without docstrings."""
    if isinstance(node, ast.AST):
        fields = []
        for key, value in ast.iter_fields(node):
            if key == "body" and isinstance(value, list):
                value = _without_docstring(value)
            if key == "values" and isinstance(node, ast.JoinedStr):
                value = _merged(value)
            unheeded = key in ("kind", "returns") or (key == "annotation" and isinstance(node, ast.arg))
            if value is None or value == [] or unheeded:
                continue
            fields.append(f"{key}={canonical(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Leave out the bare strings in `body`: docstrings, of attributes too."""
    return [
        node
        for node in body
        if not (isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str))
    ]


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """Join adjacent constants among the parts of an f-string, as newer Python versions give them."""
    merged: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and value.value == "":
            continue  # Python 3.12 ends a nested format, as in f"{x:{width}}", with an empty constant
        if merged and isinstance(value, ast.Constant) and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(value.value))
        else:
            merged.append(value)
    return merged


def needed(
    source: str, names: Iterable[str], left_out: frozenset[str] = frozenset()
) -> tuple[list[ast.stmt], set[str]]:
    """Find the top-level statements that decide what `names` are, in order, and the names that none of them binds.

    Names in `left_out` are not followed.

    A statement counts when it binds a needed name or changes what it is bound to, in whatever form: ``a, b = …``,
    ``if …: a = …``, ``a += …``, ``a["key"] = …``, ``a.append(…)``. Builtins are no names here.
    """
    statements = _statements(source)
    wanted, chosen = set(names), set()
    while fresh := {i for i, (_, bound, _) in enumerate(statements) if bound & wanted} - chosen:
        chosen |= fresh
        for i in fresh:
            wanted |= statements[i][2] - left_out
    bound = {name for i in chosen for name in statements[i][1]}
    return [statements[i][0] for i in sorted(chosen)], wanted - bound - set(dir(builtins))


@cache
def _statements(source: str) -> list[tuple[ast.stmt, set[str], set[str]]]:
    """Each top-level statement with the names that it binds or changes, and the names that it uses.

    An import of several names is taken apart, so that each counts for itself.
    """
    found, imported = [], set()
    for node in ast.parse(source).body:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        for each in [_importing(node, name) for name in node.names] if is_import else [node]:
            bound, used = _names(each)
            imported |= bound if is_import else set()
            found.append((each, bound, used))
    return [(node, bound | (_changed(node) - imported), used) for node, bound, used in found]


def _importing(node: ast.Import | ast.ImportFrom, name: ast.alias) -> ast.stmt:
    part = copy.copy(node)
    part.names = [name]
    return part


def _names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the names that a statement binds, and the global ones that it reads, be it when a function is called."""
    tables = [symtable.symtable(ast.unparse(simplified(statement)), "<statement>", "exec")]
    bound, used = set(), set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        is_top = table.get_type() == "module"
        binds = is_top or table.get_name() == "genexpr"  # with := it binds a name outside
        for symbol in table.get_symbols():
            if is_top or symbol.is_global():
                if binds and (symbol.is_assigned() or symbol.is_imported()):
                    bound.add(symbol.get_name())
                if symbol.is_referenced():
                    used.add(symbol.get_name())
    return bound, used


def _changed(statement: ast.stmt) -> set[str]:
    """Return the names whose objects a statement may change: ``a[0] = …``, ``a.b = …``, ``a.append(…)``, ``f(a)``."""
    found: set[str] = set()
    for node in _in_scope(statement):
        match node:
            case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()):
                found |= _root(node)
            case ast.Expr(value=ast.Call(func=function, args=arguments)):
                found |= _root(function) if isinstance(function, ast.Attribute) else set()
                found |= {each.id for each in arguments if isinstance(each, ast.Name)}
    return found


def _in_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Walk `node` without what has a scope of its own."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
        for child in ast.iter_child_nodes(node):
            yield from _in_scope(child)


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


@cache
def simplified(statement: ast.stmt) -> ast.stmt:
    """Return a copy of a statement without the annotations of functions, and with generators as all comprehensions.

    Annotations decide nothing. The names of other comprehensions are, for Python 3.12 and later, those of the scope
    around.
    """
    return _simplified(statement)


def _simplified(node: Any) -> Any:
    if isinstance(node, list):
        return [_simplified(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    parts = {name: _simplified(value) for name, value in ast.iter_fields(node)}
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            parts["returns"] = None
        case ast.arg():
            parts["annotation"] = None
        case ast.ListComp() | ast.SetComp():
            return ast.GeneratorExp(**parts)
        case ast.DictComp():
            pair = ast.Tuple([parts["key"], parts["value"]], ast.Load())
            return ast.GeneratorExp(pair, parts["generators"])
    return ast.copy_location(type(node)(**parts), node)
