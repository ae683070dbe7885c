"""Digests of code change when, and only when, the code does."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib import augmentation
from mnist_lib.base import digests
from mnist_lib.base.digests import bytes_digest, canonical, code_digest, needed, simplified, text_digest

LIBRARY = Path(digests.__file__).parents[1]

CODE = '''\
"""Docstring."""

import math

RATE = 0.1
"""What the rate is."""


class Wheel:
    """A wheel."""

    radius: float = 2.0

    def area(self, scale=1):
        """Its area."""
        if scale > 0:
            return math.pi * self.radius**2 * scale
        return None
'''

# The same code: other comments, docstrings, quotes, spaces, brackets and line breaks.
SAME = """\
# A comment.
import math
RATE = 0.10
'Another description.'
class Wheel:
    '''Round.

    Very.'''
    radius: float=2.0
    "The radius."

    def area(
        self,
        scale = 1,
    ):
        if (scale > 0):  # always
            return (math.pi * (self.radius ** 2)
                    * scale)
        return None
"""

# Syntax that different Python versions represent differently, or might.
VERSIONED = '''\
"""A docstring."""
import asyncio
from dataclasses import dataclass, field
from functools import partial, wraps

text = "a" "b" f"c{1}d" "e" f"{text!r:>{width}.{digits}f}" f"{text:>{width}}" f"{total=}"
more = f"{{}}" rf"\\n{x:%H:%M}" f"{x:}" f""
several = f"""one {two
    + 3} {"nested"} {f'{inner}'} end"""
raw = rb"\\x00" + b"\\x00", u"unicode", "×", 1_000, 1e400, 0x10, 2j, ..., None, True
unpacked = {**text, "k": [*raw, None]}, {*raw}, (yes if text else no), not text, -raw, text[1:, ::2, None]


@dataclass(frozen=True, kw_only=True)
class Shape(Base, metaclass=Meta):
    """A shape."""

    sides: "list[int] | None" = field(default_factory=list)
    name: str


@wraps(partial)
@decorators[0].of(x := 1)
async def draw(a, /, b: int = 1, *rest: str, c: bool, d: dict[str, int] = None, **more) -> None:
    """Draw."""
    global counter
    async with lock as held, other:
        async for item in items:
            yield await item
    match a:
        case {"kind": "circle", "r": float(r), **others} if r > 0:
            return
        case [1, -2.5, *_] | (Shape(sides=[]) as shape):
            pass
        case None | True | "word" | Colour.RED:
            raise ValueError from None
        case _:
            lambda x, *, y=2: x @ y
    try:
        del a[0], b.c
    except* (OSError, ValueError) as group:
        assert group, "message"
    else:
        [i for i in range(3) if i if not i for j in i]
    finally:
        while 0 < b <= 3 != c is not d:
            b //= 2
            continue
        else:
            nonlocal_ = {k: v async for k, v in more}
'''
VERSIONED_DIGEST = "7f7c16a9c2a635b28e30e7d80f2081447b8a3878a214dd688ef3d0c8bb35fd39"


def test_code_digest_ignores_comments_docstrings_and_formatting():
    assert code_digest(CODE) == code_digest(SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE: float = 0.1"),
        ("radius: float = 2.0", "radius: int = 2.0"),  # a dataclass would read it
        ("RATE = 0.1", "RATES = 0.1"),
        ("RATE = 0.1", "RATE = '0.1'"),
        ("RATE = 0.1", ""),
        ("2.0", "2"),
        ("scale=1", "scale=True"),
        ("scale=1", "*, scale=1"),
        ("scale=1", "scale"),
        ("scale > 0", "scale >= 0"),
        ("scale > 0", "not scale > 0"),
        ("math.pi * self.radius**2", "(math.pi * self.radius)**2"),
        ("self.radius**2 * scale", "self.radius**2 * self"),
        ("import math", "import cmath as math"),
        ("import math", "from numpy import math"),
        ("return None", "return"),
        ("        return None", "    return None"),
        ("def area", "async def area"),
        ("    def area", "    @property\n    def area"),
        ("class Wheel", "class Wheel(list)"),
        ('"""Its area."""', '"""Its area."""; print("hello")'),
    ],
)
def test_code_digest_sees_a_change(old, new):
    assert CODE.count(old) == 1, "the edit must be clear"
    assert code_digest(CODE.replace(old, new)) != code_digest(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale=1", "scale: float = 1"),
        ("def area(self, scale=1):", "def area(self: 'Wheel', scale: float = 1) -> float | None:"),
    ],
)
def test_annotations_of_functions_do_not_count(old, new):
    assert CODE.count(old) == 1, "the edit must be clear"
    assert code_digest(CODE.replace(old, new)) == code_digest(CODE)


def test_code_digest_sees_every_name_constant_and_operator():
    """Changes each of them in a real module, one at a time."""
    source = Path(augmentation.__file__).read_text("utf-8")
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    written = [f.returns for f in functions] + [
        a.annotation for f in functions for a in ast.walk(f.args) if isinstance(a, ast.arg)
    ]
    annotations = {id(part) for each in filter(None, written) for part in ast.walk(each)}
    seen = {code_digest(source)}
    changes = 0
    for node in [*ast.walk(tree)]:
        kinds = ast.Name | ast.Attribute | ast.arg | ast.Constant | ast.BinOp
        if id(node) in docstrings | annotations or not isinstance(node, kinds):
            continue
        before = vars(node).copy()
        match node:
            case ast.Name():
                node.id += "_"
            case ast.Attribute():
                node.attr += "_"
            case ast.arg():
                node.arg += "_"
            case ast.Constant():
                node.value = [node.value].__repr__()
            case ast.BinOp():
                node.op = ast.BitXor()
        changes += 1
        seen.add(code_digest(ast.unparse(tree)))
        vars(node).update(before)
    assert changes > 100
    assert len(seen) == changes + 1  # all different from the original and from each other


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: path.stem)
def test_rewriting_a_module_of_the_library_leaves_its_digest(path):
    source = path.read_text("utf-8")
    rewritten = ast.unparse(ast.parse(source))  # no comments, another layout, other quotes
    assert code_digest(rewritten) == code_digest(source)
    assert code_digest(source + "\nnew = 1\n") != code_digest(source)


def test_parts_of_a_text_are_delimited():
    assert text_digest("ab", "c") != text_digest("a", "bc") != text_digest("abc")
    assert text_digest("1:a") != text_digest("a")
    assert bytes_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


# -- the statements that a name depends on

MODULE = '''\
import math
from os import path as place

FACTOR = 3
unrelated = 5


def assist(x):
    """Assist."""
    return FACTOR * other(x)


def other(x):
    return x + assist(x) if x else math.pi


def main(x):
    # Comment.
    return assist(x)


def second(x):
    return place.join(x)
'''


def definition(source: str, name: str) -> list[str]:
    """All that decides what `name` is."""
    return [canonical(node) for node in needed(source, [name])[0]]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("return assist(x)\n\n\ndef second", "return 2 * assist(x)\n\n\ndef second", {"main"}),
        ("FACTOR * other", "FACTOR + other", {"main", "assist", "other"}),
        ("x + assist", "x - assist", {"main", "assist", "other"}),
        ("FACTOR = 3", "FACTOR = 4", {"main", "assist", "other", "FACTOR"}),
        ("FACTOR = 3", "FACTOR: int = 3", {"main", "assist", "other", "FACTOR"}),
        ("import math", "import cmath as math", {"main", "assist", "other"}),
        ("import math", "import math, ast", set()),
        ("import path as place", "import path as place, sep", set()),
        ("import path", "import sep", {"second"}),  # `place` is then another thing
        ("unrelated = 5", "unrelated = 6", {"unrelated"}),
        ("unrelated = 5", "unrelated = 5\nnew = 7", set()),
        ("unrelated = 5", "unrelated = 5\nprint(unrelated)", {"unrelated"}),  # it might change it
        ("unrelated = 5", 'unrelated = 5\nprint("hello")', set()),
        ("# Comment.", "# Another.", set()),
        ('"""Assist."""', '"""Assist, differently."""', set()),
        ("def second(x):", "def second(x: math.inf) -> FACTOR:", set()),
    ],
)
def test_what_a_definition_uses_is_needed_and_nothing_else(old, new, changed):
    assert MODULE.count(old) == 1, "the edit must be clear"
    edited = MODULE.replace(old, new)
    names = ("main", "assist", "other", "second", "FACTOR", "unrelated")
    assert {name for name in names if definition(edited, name) != definition(MODULE, name)} == changed


@pytest.mark.parametrize(
    "binding",
    [
        "a = 1",
        "a: int = 1",
        "a, b = 1, 2",
        "[b, *a] = 1, 2",
        "b = a = 1",
        "if True:\n    a = 1",
        "try:\n    a = 1\nexcept ValueError:\n    b = 2",
        "try:\n    pass\nexcept ValueError as a:\n    pass",
        "for a in range(3):\n    pass",
        "for b in range(3):\n    a = b",
        "while False:\n    a = 1",
        "with open('f') as a:\n    pass",
        "(a := 1)",
        "b = [a := 1 for _ in 'x']",
        "import a",
        "import a.b",
        "import b as a",
        "from b import a",
        "from b import c as a",
        "def a(): pass",
        "async def a(): pass",
        "class a: pass",
        "match 1:\n    case [a, *_] | {'k': a}:\n        pass",
        "match 1:\n    case {**a}:\n        pass",
        "match 1:\n    case [*a]:\n        pass",
        "match 1:\n    case int() as a:\n        pass",
    ],
)
def test_every_form_of_binding_is_seen(binding):
    source = f"first = 0\n{binding}\nlast = 9\n"
    statements, missing = needed(source, ["a"])
    assert [node.lineno for node in statements] == [2]
    assert not missing & {"a", "first", "last"}


@pytest.mark.parametrize(
    "change",
    [
        "a += [1]",
        "a[0] = 1",
        "a[0] += 1",
        "a['k']['l'] = 1",
        "a.b = 1",
        "a.b.c[0] = 1",
        "del a",
        "del a[0]",
        "a.append(1)",
        "a[0].update(k=1)",
        "prepare(a)",
        "if True:\n    a.append(1)",
        "for i in 'xy':\n    a[i] = i",
    ],
)
def test_every_form_of_change_is_seen(change):
    source = f"a = {{}}\nb = 2\n{change}\nb = a\n\n\ndef function():\n    return a\n"
    assert [node.lineno for node in needed(source, ["function"])[0]] == [1, 3, 7 + change.count("\n")]


@pytest.mark.parametrize(
    "unrelated",
    ["b.a = 1", "f(b)", "print('a')", "def f(a):\n    a = 1", "[a for a in 'xyz']", "lambda a: a", "b = a", "a.b"],
)
def test_what_only_reads_a_name_or_has_another_of_that_name_is_not_needed(unrelated):
    assert [node.lineno for node in needed(f"a = 1\n{unrelated}\n", ["a"])[0]] == [1]


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(): return g()", {"g"}),
        ("def f(x, g=h): return g(x)", {"h"}),
        ("def f():\n    def g(): return deep\n    return g", {"deep"}),
        ("def f(): return [y for x in xs for y in x]", {"xs"}),
        ("f = [{k: v for k, v in x} for x in k]", {"k"}),  # the names of comprehensions are their own
        ("class f:\n    a = {k for k in ks if len(k)}", {"ks"}),
        ("def f():\n    global n\n    n = 1\n    return n", {"n"}),
        ("class f(base):\n    size = width\n    def g(self): return self.size + height", {"base", "width", "height"}),
        ("@decorated\ndef f(): return len(range(3))", {"decorated"}),
        ("def f(x: elsewhere) -> nowhere: return x", set()),
        ("from torch import nn\ndef f(): return nn.ReLU()", set()),
        ("def f(): return f()", set()),
    ],
)
def test_names_that_nothing_binds_are_missing(source, missing):
    assert needed(source, ["f"])[1] == missing


def test_order_is_that_of_the_source():
    """Two statements that bind the same name must not change places."""
    source = "a = 1\na = a + 1\n"
    assert [ast.unparse(node) for node in needed(source, ["a"])[0]] == ["a = 1", "a = a + 1"]


def test_annotations_are_taken_away_and_nothing_else():
    function = ast.parse(
        "@dataclass\nclass A:\n    b: int = 1\n    def c(self, d: e = 2, *f: g, h: i, **j: k) -> l: ..."
    ).body[0]
    expected = "@dataclass\nclass A:\n    b: int = 1\n\n    def c(self, d=2, *f, h, **j):\n        ..."
    assert ast.unparse(simplified(function)) == expected
    assert "-> l" in ast.unparse(function), "the original stays"


# -- the same under every Python


def test_digest_of_syntax_that_python_versions_represent_differently():
    """A digest that was computed once: it must be the same under every version, or all records become stale."""
    assert code_digest(VERSIONED) == VERSIONED_DIGEST


def other_pythons() -> list[str]:
    """Interpreters of other versions that this library supports: on the path, or kept by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {}
    for minor in range(11, 20):
        places = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"))]
        for place in filter(None, places):
            answer = subprocess.run(
                [place, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
            )
            if answer.stdout.split() == ["3", str(minor)] and minor != sys.version_info.minor:
                found.setdefault(minor, str(place))
    return list(found.values())


COMPREHENDED = """\
k = 1
v = {2: 3}
table = {k: [v for v in str(k)] for k in range(9)}
more = {k for k in v} | set(table)


class Network:
    sizes = [k for k in table]


def network():
    return Network, more, [v for v in "x"]
"""


def described(source: str) -> list:
    """The digest of a source; for each thing that it defines, which lines it needs and which names are missing."""
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found = [needed(source, [name]) for name in names]
    return [code_digest(source), [[[node.lineno for node in nodes], sorted(missing)] for nodes, missing in found]]


def test_other_python_versions_give_the_same_digests():
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python from 3.11 on here")
    sources = [
        VERSIONED,
        CODE,
        MODULE,
        COMPREHENDED,
        *(path.read_text("utf-8") for path in sorted(LIBRARY.rglob("*.py"))),
    ]
    expected = [described(source) for source in sources]
    program = "import json, sys; sys.path.insert(0, sys.argv[1]); from mnist_lib.base.digests import *\n"
    program += "import ast\n" + inspect.getsource(described)
    program += "print(json.dumps([described(source) for source in json.load(sys.stdin)]))"
    for python in pythons:
        # Isolated and without writing byte code: nothing of the running interpreter's set-up is taken along.
        command = [python, "-I", "-B", "-c", program, str(LIBRARY.parent)]
        answer = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout) == expected, python
