"""Digests of the code as it is loaded: only what a recipe switches on counts, and what was changed is refused."""

import dataclasses
import shutil
import subprocess
import sys
import types
from importlib.util import find_spec, module_from_spec

import pytest

from mnist_lib import augmentation, blocks, data, experiments, fast, network, optimization, training
from mnist_lib.base import loaded, progress
from mnist_lib.base.loaded import CodeError
from mnist_lib.experiments import code_digest
from mnist_lib.network import Network
from mnist_lib.parameters import Recipe
from support import ROOT, networks

RECIPES = {
    "sgd": Recipe(),
    "digits": Recipe(dataset="digits"),
    "validation": Recipe(evaluate_on="validation"),
    "step": Recipe(schedule="step"),
    "one_cycle": Recipe(schedule="one_cycle"),
    "linear": Recipe(schedule="linear"),
    "cosine": Recipe(schedule="cosine"),
    "adamw": Recipe(optimizer="adamw"),
    "muon": Recipe(optimizer="muon"),
    "average": Recipe(average_decay=0.9),
    "statistics": Recipe(statistics_images=500),
    "deskew": Recipe(preparation="deskew"),
    "rotation": Recipe(rotation=5.0),
    "crop": Recipe(crop_probability=0.1),
    "warp": Recipe(elastic=1.0),
    "teachers": Recipe(teachers=2),
    "bfloat16": Recipe(precision="bfloat16"),
}
"""Recipes that switch on one thing each."""
ALL = set(RECIPES)
ON_MNIST = ALL - {"digits"}


def anew() -> types.ModuleType:
    """The module that computes digests, as a session begins with it: it has computed none yet."""
    specification = find_spec(loaded.__name__)
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def load_edited(monkeypatch):
    """Makes the library's digests those of a session that loaded a module with another text."""

    def load(module: str, *edits: tuple[str, str]) -> None:
        text = loaded.source(f"mnist_lib.{module}")
        for old, new in edits:
            assert old in text, f"{module} does not contain {old!r}"
            text = text.replace(old, new, 1)
        session = anew()
        source = session.source
        session.source = lambda name: text if name == f"mnist_lib.{module}" else source(name)
        for user in (experiments, network):
            monkeypatch.setattr(user, "loaded", session)

    return load


def changed(load, module: str, *edits: tuple[str, str]) -> set[str]:
    """The recipes whose code differs after edits of a module."""
    before = {name: code_digest(recipe) for name, recipe in RECIPES.items()}
    load(module, *edits)
    return {name for name, recipe in RECIPES.items() if code_digest(recipe) != before[name]}


# -- what counts


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        ("training", "FIRST_STEPS = 10", "FIRST_STEPS = 11", ALL),
        ("training", "loss.backward()", "loss.backward(retain_graph=True)", ALL),
        ("training", "* temperature**2", "* temperature", {"teachers"}),
        ("data", '-labels-idx1-ubyte"))', '-labels-idx1-ubyte")).flip(0)', ON_MNIST),  # the parsing
        ("data", "% 5 == 0", "% 6 == 0", {"digits"}),
        ("data", "train.images[:kept]", "train.images[1:kept]", ALL),  # the split
        ("optimization", "nesterov=recipe.nesterov", "nesterov=True", ALL - {"adamw", "muon"}),
        ("optimization", "betas=(0.9, 0.99)", "betas=(0.9, 0.999)", {"adamw", "muon"}),
        ("optimization", "3.4445", "3.4446", {"muon"}),
        ("optimization", "recipe.step_size * steps_per_epoch", "recipe.step_size", {"step"}),
        ("optimization", "OneCycleLR(optimizer,", "OneCycleLR(optimizer, 2 *", {"one_cycle"}),
        ("optimization", "middles = [i + 0.5", "middles = [i + 1", {"linear", "cosine"}),
        ("optimization", "_foreach_lerp_(old, new, share)", "_foreach_lerp_(old, new, 2 * share)", {"average"}),
        ("optimization", "STATISTICS_BATCH = 500", "STATISTICS_BATCH = 501", {"statistics"}),
        ("augmentation", "clamp(-1, 1)", "clamp(-2, 2)", {"deskew"}),
        ("augmentation", "mode=interpolation", 'mode="nearest"', {"rotation"}),
        ("augmentation", "size: int = 22", "size: int = 20", {"crop"}),
        ("augmentation", "KNOTS = 5", "KNOTS = 6", {"warp"}),
        ("fast", "BLOCK = 16", "BLOCK = 32", {"bfloat16"}),
        ("blocks", "return x + super()", "return 2 * x + super()", {"bfloat16"}),
    ],
)
def test_an_edit_counts_for_the_recipes_that_it_matters_to(load_edited, module, old, new, expected):
    assert changed(load_edited, module, (old, new)) == expected


UNUSED = "def unused(images):\n    return images\n\n\n"
NEW_FIELD = "sharpening: float = bounded(0.0, low=0, high=1)\n    "


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("augmentation", "def rotate(", UNUSED + "def rotate("),
        ("augmentation", "class Rotation:", "class Sharpening:\n    numbers = 1\n\n\nclass Rotation:"),
        (
            "augmentation",
            "Crop: recipe.crop_probability,",
            "Crop: recipe.crop_probability, Sharpening: recipe.sharpening,",
        ),
        ("optimization", "def sgd(", UNUSED + "def sgd("),
        ("parameters", "threads: int", NEW_FIELD + "threads: int"),
        ("data", "DOWNLOAD_TIMEOUT = 30", "DOWNLOAD_TIMEOUT = 60"),
        ("data", "if len(found) < len(MNIST_FILES):", "if True:"),
        ("data", '"digits": Dataset(', '"letters": Dataset(digits, "embedded", 1437, 1),\n    "digits": Dataset('),
        ("data", '"""Return the images to train on', '"""Give the images to train on'),
        ("experiments", "time.perf_counter()", "time.monotonic()"),
        ("records", "FORMAT = 2", "FORMAT = 3"),
        ("base.progress", "flush=True", "flush=False"),
    ],
)
def test_what_does_not_decide_the_result_does_not_count(load_edited, module, old, new):
    assert changed(load_edited, module, (old, new)) == set()


@pytest.mark.parametrize(
    "form",
    [
        "FIRST_STEPS, _ = {}, 0",
        "if True:\n    FIRST_STEPS = {}",
        "try:\n    FIRST_STEPS = {}\nexcept ValueError:\n    FIRST_STEPS = 0",
        "FIRST_STEPS = 5\nFIRST_STEPS += {}",
        "for FIRST_STEPS in ({},):\n    pass",
        'TABLE = {{}}\nTABLE["steps"] = {}\nFIRST_STEPS = TABLE["steps"]',
        "TABLE = []\nTABLE.append({})\nFIRST_STEPS = TABLE[0]",
        "FIRST_STEPS = (lambda: {})()",
    ],
)
def test_a_constant_counts_in_whatever_form_it_is_written(load_edited, form):
    found = []
    for value in (10, 11):
        load_edited("training", ("FIRST_STEPS = 10", form.format(value)))
        found.append(code_digest(Recipe()))
    assert found[0] != found[1]


def test_how_many_images_are_held_out_counts_on_the_validation_split(monkeypatch):
    before = {name: code_digest(recipe) for name, recipe in RECIPES.items()}
    monkeypatch.setitem(data.DATASETS, "mnist", dataclasses.replace(data.DATASETS["mnist"], held_out=5_000))
    assert {name for name, recipe in RECIPES.items() if code_digest(recipe) != before[name]} == {"validation"}


def test_the_library_that_a_network_uses_counts_for_it(load_edited):
    before = {name: network.digest for name, network in networks().items()}
    load_edited("blocks", ("nn.ReLU(), nn.BatchNorm2d(outputs)]", "nn.ReLU6(), nn.BatchNorm2d(outputs)]"))
    differing = {name for name, network in networks().items() if network.digest != before[name]}
    assert differing == {name for name, network in networks().items() if "conv_relu_bn" in network.source}
    assert differing


@pytest.mark.parametrize(
    "source",
    [
        "from mnist_lib.blocks import conv_bn as block\ndef network(): return block(1, 2)",
        "from mnist_lib import blocks\ndef network(): return blocks.conv_bn(1, 2)",
        "import mnist_lib.blocks\ndef network(): return mnist_lib.blocks.conv_bn(1, 2)",
        "import mnist_lib.blocks as b\ndef network(): return b.conv_bn(1, 2)",
        "def network():\n    from mnist_lib.blocks import conv_bn\n    return conv_bn(1, 2)",
    ],
)
def test_the_library_counts_however_it_is_imported(load_edited, source):
    before = Network(source).digest
    load_edited("blocks", ("def conv_relu(inputs", "def another(): ...\n\n\ndef conv_relu(inputs"))
    assert Network(source).digest == before
    load_edited("blocks", ("bias=False), nn.BatchNorm2d(outputs)]", "bias=True), nn.BatchNorm2d(outputs)]"))
    assert Network(source).digest != before


# -- what was changed in the session


def other(*_, **__):
    """Stands in place of a function of the library."""


class Other:
    """Stands in place of a class."""


@pytest.mark.parametrize(
    ("owner", "name", "value", "recipe"),
    [
        (training, "mean_and_std", other, "sgd"),
        (training, "begin", lambda *_: None, "sgd"),
        (training, "Trainer", Other, "sgd"),
        (training.Trainer, "evaluate", other, "sgd"),
        (training.Trainer, "train_epoch", training.Trainer.replay, "sgd"),
        (training, "FIRST_STEPS", 11, "sgd"),
        (data, "load", other, "sgd"),
        (data, "MNIST_FILES", data.MNIST_FILES | {"more": "0"}, "sgd"),
        (optimization, "orthogonal", other, "muon"),
        (augmentation.Warp, "__call__", other, "warp"),
        (augmentation.Warp, "__call__", augmentation.Rotation.__call__, "warp"),
        (fast, "BLOCK", 32, "bfloat16"),
    ],
)
def test_what_was_put_in_the_place_of_the_librarys_code_is_refused(monkeypatch, owner, name, value, recipe):
    before = code_digest(RECIPES[recipe])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, value)
        with pytest.raises(
            CodeError, match=rf"^mnist_lib\.\w+\.\S*{name} was changed in this session: restart the kernel$"
        ):
            code_digest(RECIPES[recipe])
    assert code_digest(RECIPES[recipe]) == before


def test_new_code_in_an_old_function_is_refused(monkeypatch):
    """As IPython's autoreload puts it there."""
    monkeypatch.setattr(
        augmentation.rotate, "__code__", (lambda images, degrees, interpolation="bilinear": images).__code__
    )
    with pytest.raises(CodeError, match=r"augmentation\.rotate was changed in this session: restart the kernel$"):
        code_digest(RECIPES["rotation"])


def test_a_block_that_was_changed_is_refused_where_a_network_uses_it(monkeypatch):
    monkeypatch.setattr(blocks, "conv_bn", other)
    with pytest.raises(CodeError, match=r"blocks\.conv_bn was changed in this session: restart the kernel$"):
        print(Network("from mnist_lib.blocks import conv_bn\ndef network(): return conv_bn(1, 2)").digest)


def test_what_does_not_train_may_be_changed(monkeypatch):
    monkeypatch.setattr(progress, "shown", other)
    code_digest(Recipe())


SESSION = """
import importlib
import os
import sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from mnist_lib import augmentation, blocks, experiments
from mnist_lib.base import loaded
from mnist_lib.parameters import Recipe

def told(recipe):
    return answer(lambda: experiments.code_digest(recipe)[:12])

def answer(asked):
    try:
        return asked()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"

def edit(module, old, new):
    path = Path("mnist_lib", f"{module}.py")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, (path.stat().st_mtime + 10,) * 2)

shell = InteractiveShell.instance()
for cell in ("%load_ext autoreload", "%autoreload 2", "pass"):
    shell.run_cell(cell).raise_error()
plain, fast = Recipe(rotation=5.0), Recipe(precision="bfloat16")
print(told(plain), told(fast))
edit("augmentation", "mode=interpolation", "mode='nearest'")
edit("blocks", "return x + super()", "return 2 * x + super()")
print(told(plain), told(fast))
importlib.reload(blocks)
print(told(plain))
print(told(fast))
shell.run_cell("pass").raise_error()
print(told(plain))
before = loaded.digest(["results.statistics.mean_interval"])
print("mnist_lib.results.statistics" in sys.modules, "scipy" in sys.modules)
edit("results/statistics", "sample.size == 0", "sample.size == 1")
print(loaded.digest(["results.statistics.mean_interval"]) == before)
import mnist_lib.results.statistics
print(answer(lambda: loaded.digest(["results.statistics.mean_interval"])))
"""


def test_a_session_vouches_for_the_code_that_it_loaded_whatever_lies_on_the_disk(tmp_path):
    copy = tmp_path / "mnist_lib"
    shutil.copytree(ROOT / "mnist_lib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", SESSION]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    before, edited, plain, reloaded, autoreloaded, *unloaded = result.stdout.splitlines()
    assert edited == before
    assert plain == before.split()[0]
    restart = "was changed in this session: restart the kernel"
    assert reloaded == f"CodeError: mnist_lib.blocks.Residual.forward {restart}"
    assert autoreloaded == f"CodeError: mnist_lib.augmentation.rotate {restart}"
    reading_is_enough, as_read, loaded_later = unloaded
    assert (reading_is_enough, as_read) == ("False False", "True")
    assert loaded_later == f"CodeError: mnist_lib.results.statistics.mean_interval {restart}"
