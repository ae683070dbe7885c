"""Digests of Python code that change only when the code computes something else.

Comments, docstrings and formatting do not count, and the same code has the same digest under every Python version:
the syntax tree is written out in a canonical form of our own, because ``ast.dump`` differs between versions.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# Parsing takes longest, and each record asks for the same: what was found for a text is kept.


def text_digest(*parts: str) -> str:
    """SHA-256 of the parts, each delimited by its length, in hexadecimal."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def bytes_digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@cache
def code_digest(source: str) -> str:
    """The digest of a whole module or notebook cell."""
    return text_digest(canonical(ast.parse(source)))


def files_digest(paths: Iterable[Path]) -> str:
    """The digest of several modules; their order does not matter."""
    return text_digest(*(f"{path.name} {code_digest(path.read_text('utf-8'))}" for path in sorted(paths)))


@cache
def definition_digest(source: str, name: str) -> str:
    """The digest of one top-level definition of a module, and of all definitions in that module that it uses.

    Raises:
        KeyError: the module does not define `name`.
    """
    definitions = _definitions(ast.parse(source))
    if name not in definitions:
        raise KeyError(f"no definition of {name!r}")
    reached, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in reached or current not in definitions:
            continue
        reached.add(current)
        waiting += [node.id for node in ast.walk(definitions[current]) if isinstance(node, ast.Name)]
    return text_digest(*(f"{each} {canonical(definitions[each])}" for each in sorted(reached)))


def _definitions(tree: ast.Module) -> dict[str, ast.AST]:
    """What each name at a module's top level is bound to: a function, a class, an import or an assignment."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(alias.asname or alias.name).split(".")[0]: node for alias in names}
            case ast.Assign(targets=targets):
                found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def canonical(node: object) -> str:
    """A syntax tree as text: field names and values in order, without what is empty and without docstrings."""
    if isinstance(node, ast.AST):
        fields = []
        for key, value in ast.iter_fields(node):
            if key == "body" and isinstance(value, list):
                value = _without_docstring(value)
            if key == "values" and isinstance(node, ast.JoinedStr):
                value = _merged(value)
            if value is None or value == [] or key == "kind":
                continue
            fields.append(f"{key}={canonical(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """`body` without the bare strings in it: docstrings, of attributes too."""
    return [
        node
        for node in body
        if not (isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str))
    ]


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with adjacent constants joined, as newer Python versions give them."""
    merged: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and value.value == "":
            continue  # Python 3.12 ends a nested format, as in f"{x:{width}}", with an empty constant
        if merged and isinstance(value, ast.Constant) and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(value.value))
        else:
            merged.append(value)
    return merged
