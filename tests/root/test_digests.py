"""Digests of code change when, and only when, the code does."""

import ast
import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib import augmentation, digests, models
from mnist_lib.digests import bytes_digest, code_digest, definition_digest, files_digest, text_digest

LIBRARY = Path(digests.__file__).parent
MODELS = Path(models.__file__).read_text("utf-8")

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
VERSIONED_DIGEST = "f4ff1e353dfc5cd03f36fede89a0dd1b890fbb070163de960b49bf2ee67eb0a6"


def test_code_digest_ignores_comments_docstrings_and_formatting():
    assert code_digest(CODE) == code_digest(SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE: float = 0.1"),
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


def test_code_digest_sees_every_name_constant_and_operator():
    """Changes each of them in a real module, one at a time."""
    source = Path(augmentation.__file__).read_text("utf-8")
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    seen = {code_digest(source)}
    changes = 0
    for position, node in enumerate(ast.walk(tree)):
        kinds = ast.Name | ast.Attribute | ast.arg | ast.Constant | ast.BinOp
        if id(node) in docstrings or not isinstance(node, kinds):
            continue
        edited = copy.deepcopy(tree)
        target = next(each for i, each in enumerate(ast.walk(edited)) if i == position)
        match target:
            case ast.Name():
                target.id += "_"
            case ast.Attribute():
                target.attr += "_"
            case ast.arg():
                target.arg += "_"
            case ast.Constant():
                target.value = [target.value].__repr__()
            case ast.BinOp():
                target.op = ast.MatMult()
        changes += 1
        seen.add(code_digest(ast.unparse(edited)))
    assert changes > 100
    assert len(seen) == changes + 1  # all different from the original and from each other


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: path.stem)
def test_rewriting_a_module_of_the_library_leaves_its_digest(path):
    source = path.read_text("utf-8")
    rewritten = ast.unparse(ast.parse(source))  # no comments, another layout, other quotes
    assert code_digest(rewritten) == code_digest(source)
    assert code_digest(source + "\nnew = 1\n") != code_digest(source)


def test_order_of_files_does_not_matter_and_names_do(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1")
    second.write_text("x = 2")
    digest = files_digest([first, second])
    assert digest == files_digest([second, first])
    first.write_text("x = 2")
    second.write_text("x = 1")
    assert files_digest([first, second]) != digest
    first.write_text("x = 1  # and a comment")
    second.write_text("x = 2")
    assert files_digest([first, second]) == digest


def test_parts_of_a_text_are_delimited():
    assert text_digest("ab", "c") != text_digest("a", "bc") != text_digest("abc")
    assert text_digest("1:a") != text_digest("a")
    assert bytes_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


# -- one definition of a module

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


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("return assist(x)\n\n\ndef second", "return 2 * assist(x)\n\n\ndef second", {"main"}),
        ("FACTOR * other", "FACTOR + other", {"main", "assist", "other"}),
        ("x + assist", "x - assist", {"main", "assist", "other"}),
        ("FACTOR = 3", "FACTOR = 4", {"main", "assist", "other", "FACTOR"}),
        ("FACTOR = 3", "FACTOR: int = 3", {"main", "assist", "other", "FACTOR"}),
        ("import math", "import cmath as math", {"main", "assist", "other"}),
        ("import path", "import sep", {"second"}),  # `place` is then another thing
        ("unrelated = 5", "unrelated = 6", {"unrelated"}),
        ("unrelated = 5", "unrelated = 5\nnew = 7", set()),
        ("# Comment.", "# Another.", set()),
        ('"""Assist."""', '"""Assist, differently."""', set()),
    ],
)
def test_definition_digest_sees_what_the_definition_uses_and_nothing_else(old, new, changed):
    assert MODULE.count(old) == 1, "the edit must be clear"
    edited = MODULE.replace(old, new)
    names = ("main", "assist", "other", "second", "FACTOR", "unrelated")
    differing = {name for name in names if definition_digest(edited, name) != definition_digest(MODULE, name)}
    assert differing == changed


def test_definition_digest_does_not_depend_on_the_order_of_definitions():
    blocks = MODULE.split("\n\n\n")
    shuffled = "\n\n\n".join([blocks[0], *reversed(blocks[1:])])
    assert definition_digest(shuffled, "main") == definition_digest(MODULE, "main")


def test_digest_of_a_definition_that_is_not_there():
    with pytest.raises(KeyError, match="no definition of 'absent'"):
        definition_digest(MODULE, "absent")


def edited_models(name: str) -> str:
    """The source of models.py with one statement more in the function `name`."""
    tree = ast.parse(MODELS)
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    function.body.insert(1, ast.Pass())
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        *((name, {name}) for name in models.NETWORKS),
        ("conv_relu", {"skeleton"}),
        ("conv_bn_relu", {"skeleton_bn", "skeleton_dropout", "skeleton_gap"}),
        ("conv_relu_bn", {"deep_dropout", "deep"}),
        ("conv_bn", {"deep_dropout", "deep"}),
    ],
)
def test_an_edit_of_models_changes_exactly_the_networks_that_use_it(edited, changed):
    source = edited_models(edited)
    differing = {name for name in models.NETWORKS if definition_digest(source, name) != definition_digest(MODELS, name)}
    assert differing == changed


def test_a_new_network_changes_no_other():
    source = MODELS.replace("NETWORKS:", "def another():\n    return deep()\n\n\nNETWORKS:")
    assert all(definition_digest(source, name) == definition_digest(MODELS, name) for name in models.NETWORKS)


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


def test_other_python_versions_give_the_same_digests():
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python from 3.11 on here")
    sources = [VERSIONED, CODE, MODULE, *(path.read_text("utf-8") for path in sorted(LIBRARY.rglob("*.py")))]
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from mnist_lib import digests;"
        "print(json.dumps([digests.code_digest(source) for source in json.load(sys.stdin)]))"
    )
    expected = [code_digest(source) for source in sources]
    for python in pythons:
        # Isolated and without writing byte code: nothing of the running interpreter's set-up is taken along.
        command = [python, "-I", "-B", "-c", program, str(LIBRARY.parent)]
        answer = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout) == expected, python
