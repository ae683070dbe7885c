"""Digests of Python code that change only when the code computes something else.

Comments, docstrings, formatting and the annotations of functions do not count, and the same code has the same digest
under every Python version: the syntax tree is written out in a canonical form of our own, because ``ast.dump`` differs
between versions.
"""

import ast
import builtins
import hashlib
import re
import symtable
from collections.abc import Iterable, Iterator
from functools import cache

# Parsing takes longest, and each record asks for the same: what was found for a text is kept.


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
    body: list[ast.stmt] = []
    for node in ast.parse(source).body:
        match node:
            case ast.Import(names=names):
                body += [ast.copy_location(ast.Import([each]), node) for each in names]
            case ast.ImportFrom(names=names):
                body += [ast.copy_location(ast.ImportFrom(node.module, [each], node.level), node) for each in names]
            case _:
                body.append(node)
    modules = {name for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in _bound(node)}
    return [(node, _bound(node) | (_changed(node) - modules), _used(node)) for node in body]


def _in_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Walk `node` without what has a scope of its own."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
        for child in ast.iter_child_nodes(node):
            yield from _in_scope(child)


def _bound(statement: ast.stmt) -> set[str]:
    found: set[str | None] = set()
    for node in _in_scope(statement):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=asname):
                found.add(asname or name.partition(".")[0])
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
                found.add(name)
            case ast.MatchMapping(rest=name):
                found.add(name)
    return {name for name in found if name}


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


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _used(statement: ast.stmt) -> set[str]:
    """Return the global names that a statement reads, at once or when a function in it is called."""
    tree = _Uninlined().visit(unannotated(statement))
    tables, found = [symtable.symtable(ast.unparse(tree), "<statement>", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return found


def unannotated(node: ast.AST) -> ast.Module:
    """Return a copy of a statement without the annotations of functions, which decide nothing."""
    return _Unannotated().visit(ast.parse(ast.unparse(node)))


class _Unannotated(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


class _Uninlined(ast.NodeTransformer):
    """Makes generators of comprehensions, whose names Python 3.12 and later count as those of the scope around."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp  # noqa: N815

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)
