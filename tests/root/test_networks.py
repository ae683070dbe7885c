"""A network is the text of the function that builds it, as it was executed."""

import functools
import importlib.util
import inspect
import linecache
import pickle
import re
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

from mnist_lib import blocks, experiments
from mnist_lib.blocks import Residual
from mnist_lib.experiments import Experiment, find, runs
from mnist_lib.network import Network, cut
from mnist_lib.parameters import ParameterError, Recipe
from support import few_digits, networks

IMPORTS = "from torch import nn\n"
LINEAR = """\
def network(width: int = 4):
    # One hidden layer.
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))
"""
SHOWN = IMPORTS + "\n\n" + LINEAR
"""A cut has two empty lines before a function."""


def executed(shell: InteractiveShell, *cells: str, name: str = "network"):
    """What cells define under `name`."""
    for cell in cells:
        shell.run_cell(textwrap.dedent(cell), store_history=True).raise_error()
    return shell.user_ns[name]


def imported(path: Path, text: str, name: str = "network"):
    """What a script defines under `name`."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)[name]


def refused(function) -> str:
    with pytest.raises(ParameterError) as caught:
        Network.of(function)
    return str(caught.value)


# -- the text as executed


def test_a_function_of_a_cell(shell):
    network = Network.of(executed(shell, IMPORTS + "\nprint('hello')\n" + LINEAR))
    assert network == Network(SHOWN)
    assert network.name == "network" and dict(network.arguments) == {"width": 4}
    assert network == Network.of(network) == Network.of_cell(IMPORTS + LINEAR)
    assert [tuple(p.shape) for p in network().parameters()] == [(4, 784), (4,), (10, 4), (10,)]


def test_a_cell_that_was_edited_and_run_again(shell):
    first = Network.of(executed(shell, IMPORTS + LINEAR))
    second = Network.of(
        executed(shell, IMPORTS + LINEAR.replace("nn.Linear(784, width)", "nn.Linear(784, width, False)"))
    )
    assert first == Network(SHOWN) != second
    assert "False" in second.source


def test_a_text_that_linecache_has_lost_is_in_the_history(shell):
    function = executed(shell, IMPORTS + LINEAR)
    shell.run_cell("what is no Python", store_history=True)
    linecache.clearcache()
    assert Network.of(function) == Network(SHOWN)


def test_a_text_under_the_wrong_name_is_not_taken(shell):
    """As where all cells have one name: the last one's text stands there."""
    function = executed(shell, IMPORTS + LINEAR)
    lines = LINEAR.replace("784", "785").splitlines(True)
    linecache.cache[function.__code__.co_filename] = (0, None, lines, "")
    assert Network.of(function) == Network(SHOWN)


def test_annotations_that_an_earlier_cell_has_put_off(shell):
    network = Network.of(executed(shell, "from __future__ import annotations", IMPORTS + LINEAR))
    assert network.signature == {"width": (int, 4)}


CLASS = """\
class network(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width))

    def forward(self, images):
        return self.layers(images)
"""


def test_a_class(shell):
    network = Network.of(executed(shell, IMPORTS + CLASS))
    assert network.source == IMPORTS + "\n\n" + CLASS
    assert network.with_arguments({"width": 3})().layers[1].out_features == 3


DECORATED = """\
import functools
from torch import nn

def twice(function):
    @functools.wraps(function)
    def made(*args, **kwargs):
        return nn.Sequential(function(*args, **kwargs), function(*args, **kwargs))
    return made

@twice
def network(width: int = 3):
    return nn.Linear(width, width)
"""


@pytest.mark.parametrize("decorator", ["@twice", "@functools.cache"])
def test_a_decorated_function(shell, decorator):
    network = Network.of(executed(shell, DECORATED.replace("@twice", decorator)))
    assert f"{decorator}\ndef network" in network.source
    assert ("def twice" in network.source) == (decorator == "@twice")
    assert len(list(network().parameters())) == (4 if decorator == "@twice" else 2)
    assert network() is not network(), "nothing is kept from build to build"


def test_a_function_of_a_script_without_the_rest_of_the_script(tmp_path):
    script = (
        '"""A script."""\n'
        + IMPORTS
        + "from mnist_lib import runs\n\n"
        + LINEAR
        + "\nif __name__ == '__main__':\n    runs(1)\n"
    )
    assert Network.of(imported(tmp_path / "script.py", script)) == Network(SHOWN)


def test_a_script_that_was_edited_after_its_import_is_refused(tmp_path):
    function = imported(tmp_path / "script.py", IMPORTS + LINEAR)
    (tmp_path / "script.py").write_text(IMPORTS + LINEAR.replace("784", "785"))
    assert refused(function).startswith("the text of network as it was executed is not found: define it in a cell or a")


def test_a_function_of_this_file():
    assert Network.of(built_here).source.startswith("from torch import nn\n")
    assert isinstance(Network.of(built_here)(), nn.GELU)


def built_here():
    return nn.GELU()


def from_exec(text: str):
    space: dict = {}
    exec(text, space)
    return space["network"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda: nn.GELU(),
            "network = <function <lambda> at .*: expected a function that returns a network, made by def$",
        ),
        (functools.partial(built_here), r"network = functools\.partial.*: expected a function"),
        (nn.GELU(), r"network = GELU.*: expected a function"),
        ("iteration_10_one_cycle", "network = 'iteration_10_one_cycle': expected a function"),
        (None, "network = None: expected a function"),
        (len, "network = <built-in function len>: expected a function"),
        (from_exec("def network(): pass"), r"the text of network as it was executed is not found: .*without %%time"),
    ],
)
def test_what_has_no_text_is_refused(value, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        Network.of(value)


def test_a_timed_cell_is_refused(shell):
    assert "is not found: define it in a cell" in refused(executed(shell, "%%time\n" + IMPORTS + LINEAR))


def test_a_function_inside_of_another_is_refused():
    def network():
        return nn.GELU()

    assert refused(network) == "the cell must define a function 'network', at its top level"


# -- the cut

CELL = '''\
%pwd
"""A cell."""
import torch, math
from torch import nn
from torch.nn import functional as F  # not used


SIZES = {"small": 4}
SIZES["large"] = 40  # counts
a, b = 2, 3
print("building")
unrelated = [a]


class Block(nn.Module):
    """A block."""

    def forward(self, x):
        return x * math.pi * later()


def network(size: str = "small"):
    """Build it."""
    return nn.Sequential(Block(), nn.Linear(SIZES[size], b))


def later():
    return 1


!true
network("large")
'''
CUT = '''\
import torch, math
from torch import nn
SIZES = {"small": 4}
SIZES["large"] = 40  # counts
a, b = 2, 3


class Block(nn.Module):
    """A block."""

    def forward(self, x):
        return x * math.pi * later()


def network(size: str = "small"):
    """Build it."""
    return nn.Sequential(Block(), nn.Linear(SIZES[size], b))


def later():
    return 1
'''


def test_a_cut_holds_what_the_network_needs_as_it_is_written():
    network = Network.of_cell(CELL)
    assert network.source == CUT
    assert Network.of_cell(network.source) == network
    assert network()[1].in_features == 4


def test_a_cut_keeps_two_empty_lines_before_a_decorator():
    text = "import functools\n\n\n@functools.cache\ndef network():\n    pass\n"
    assert cut(text, "network") == (text, set())


def test_a_kernel_and_a_file_cut_the_same(shell):
    function = executed(shell, CELL)
    assert Network.of(function).digest == Network.of_cell(CELL).digest


# -- names of other cells


def test_what_other_cells_define_is_gathered(shell):
    function = executed(
        shell,
        "import torch.nn as nn, math",
        "from mnist_lib.blocks import conv_bn as block, Residual",
        "hidden, p, kinds = 5, 0.5, ('a', None, True)",
        """
        class Scaled(nn.Module):
            def forward(self, x):
                return x * math.pi
        """,
        """
        def layers(n):
            return [nn.Linear(n, hidden), Scaled(), *more(n - 1)] if n else []
        """,
        """
        def more(n):
            return layers(n)
        """,
        "alias = layers",
        """
        def network():
            return nn.Sequential(*block(1, 2), Residual(nn.Dropout(p)), *alias(2), nn.Identity(*kinds))
        """,
    )
    network = Network.of(function)
    for line in (
        "import torch.nn as nn",
        "import math as math",
        "from mnist_lib.blocks import conv_bn as block",
        "hidden = 5",
    ):
        assert line in network.source.splitlines()
    assert "alias = layers" in network.source and "Scaled = Scaled" not in network.source
    torch.manual_seed(0)
    expected = function()
    torch.manual_seed(0)
    assert str(network()) == str(expected)
    assert Network.of_cell(network.source).digest == network.digest, "what was gathered stands alone"


@pytest.mark.parametrize("value", ["[1, 2]", "{'a': 1}", "nn.Linear(2, 3)"])
def test_what_cannot_be_gathered_is_refused(shell, value):
    function = executed(shell, IMPORTS, f"sizes = {value}", "def network():\n    return nn.Sequential(sizes)")
    assert refused(function) == "network uses 'sizes', which is defined elsewhere: define it in the same cell"


def test_what_a_gathered_function_needs_is_refused_in_the_networks_name(shell):
    function = executed(
        shell,
        IMPORTS,
        "sizes = [1]",
        "def layer():\n    return nn.Linear(*sizes)",
        "def network():\n    return layer()",
    )
    assert refused(function) == "network uses 'sizes', which is defined elsewhere: define it in the same cell"


def test_a_method_of_another_module_cannot_be_gathered(shell):
    function = executed(shell, IMPORTS, "relu = nn.ReLU.forward", "def network():\n    return relu(nn.ReLU(), 1)")
    assert refused(function) == "the cell must define a function 'forward', at its top level"


def test_a_name_that_nothing_defines_is_refused(shell):
    function = executed(shell, IMPORTS, "def network():\n    return nn.Linear(2, nowhere)")
    assert refused(function) == "network uses 'nowhere', which is defined elsewhere: define it in the same cell"


def test_a_value_that_has_changed_since_is_refused(shell):
    function = executed(shell, IMPORTS + "hidden = 3\ndef network():\n    return nn.Linear(2, hidden)", "hidden = 4")
    assert refused(function) == "hidden is 4 now, network was defined with 3: run it again"


def test_defaults_that_are_not_those_of_the_text_are_refused(shell):
    function = executed(shell, IMPORTS + LINEAR)
    function.__defaults__ = (5,)
    assert refused(function) == "the defaults of network are not what its text says: run it again"


# -- what a network is


def test_equal_texts_and_arguments_are_equal_networks():
    network = Network(SHOWN)
    assert network == Network(SHOWN, "network", (("width", 4),)) == network.with_arguments({"width": 4})
    assert hash(network) == hash(Network(SHOWN))
    assert network != network.with_arguments({"width": 5})
    assert (
        len({network.digest, network.with_arguments({"width": 5}).digest, Network(SHOWN.replace("784", "785")).digest})
        == 3
    )
    assert Network(SHOWN.replace("# One hidden layer.", "# Another comment.")).digest == network.digest
    assert Network(SHOWN.replace("width: int", "width: 'int'")).digest == network.digest
    assert Network(SHOWN.replace("network", "net"), "net").digest != network.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 3}, "network has no argument 'depth'"),
        ({"width": "3"}, r"width = '3': expected int, for network\(width\)"),
        ({"width": 3.0}, r"width = 3\.0: expected int, for network\(width\)"),
        ({"width": True}, r"width = True: expected int, for network\(width\)"),
        ({"width": None}, r"width = None: expected int, for network\(width\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=f"^{message}$"):
        Network(SHOWN).with_arguments(arguments)


def test_an_argument_without_a_default_is_given_later():
    network = Network(SHOWN.replace(" = 4", ""))
    with pytest.raises(ParameterError, match=r"^network\(width\): no value is given, and there is no default$"):
        network()
    assert network.with_arguments({"width": 3})()[1].out_features == 3
    untyped = Network("def network(width): pass")
    with pytest.raises(
        ParameterError, match=r"^width = None: expected int or float or str or bool, for network\(width\)$"
    ):
        untyped.with_arguments({"width": None})


def test_an_annotation_decides_the_kind_and_not_the_default():
    network = Network("def network(rate: float = 1): pass")
    assert network.signature == {"rate": (float, 1)}
    assert repr(dict(network.arguments)["rate"]) == "1.0"
    with pytest.raises(ParameterError, match=r"^rate = 'x': expected float, for network\(rate\)$"):
        network.with_arguments({"rate": "x"})


def test_arguments_after_one_without_a_default_have_theirs():
    network = Network("def network(*, width: int, depth: int = 2): pass")
    assert dict(network.arguments) == {"depth": 2}
    with pytest.raises(ParameterError, match=r"^depth = 'x': expected int"):
        network.with_arguments({"depth": "x"})


def test_what_is_returned_must_be_a_network():
    with pytest.raises(ParameterError, match=r"^net returned int: expected a torch\.nn\.Module$"):
        Network("def net(): return 3", "net")()


@pytest.mark.parametrize("place", ["-> nn.Sequential", "-> wide.update(width=99)", "-> 1 / 0"])
def test_annotations_are_not_executed(place):
    """They decide nothing, so no digest heeds them; and what is named in them alone need not be there."""
    text = SHOWN.replace("):\n    # One", f") {place}:\n    # One").replace(
        "from torch import nn", "import torch.nn as nn"
    )
    assert place in text
    network = Network.of_cell(text)
    assert network.digest == Network.of_cell(text.replace(f" {place}", "")).digest
    assert network()[1].out_features == 4


FITS = "return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return nn.Linear(784, 0 // width)", "it does not work, at line 4 of its text, `return nn.Linear(784, 0 // w"),
        ("raise SystemExit(0)", "it does not work, at line 4 of its text, `raise SystemExit(0)`: 0"),
        (FITS.replace("784, 10", "784, 11"), "from two images it makes the shape (2, 11), not (2, 10)"),
        ("return nn.Conv2d(1, 10, 28)", "from two images it makes the shape (2, 10, 1, 1), not (2, 10)"),
        ("return nn.Conv2d(3, 10, 28)", "it does not work: Given groups=1"),
        ("return nn.LSTM(28, 10)", "it does not work: "),
        ("return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))", "1.weight has no shape yet"),
        (f"{FITS}.double()", "it does not work: mat1 and mat2 must have the same dtype"),
        (f"{FITS}.requires_grad_(False)", "its scores depend on no weight that can be trained"),
        ("return nn.Sequential(nn.AvgPool2d((14, 4), (14, 6)), nn.Flatten())", "its scores depend on no weight"),
        (
            f"net = {FITS[7:]}\n    nn.init.constant_(net[1].weight, float('nan'))\n    return net",
            "its scores are not finite",
        ),
        ("return width", "network returned int: expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_arguments(body, said):
    network = Network(f"from torch import nn\n\ndef network(width: int = 0):\n    {body}\n")
    state = torch.get_rng_state()
    with pytest.raises(ParameterError, match=f"^{re.escape('network(width 0): ' + said)}"):
        network.check()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_can_be_trained_is_not_refused():
    Network(f"from torch import nn\n\ndef network():\n    {FITS}\n").check()
    for network in networks().values():
        Network.of(network).check()


def test_statistics_need_batch_normalisation():
    network = Network(f"from torch import nn\n\ndef network():\n    {FITS}\n")
    for images in (2, 30):
        with pytest.raises(ParameterError, match=r"^network\(\): it has no batch norm.*, for which statistics_images"):
            Experiment("a", Recipe(statistics_images=images), network).check()
    Experiment("a", Recipe(), network).check()
    Experiment("a", Recipe(statistics_images=30), networks()["iteration_03_batch_normalisation"]).check()


def test_the_function_of_a_cell_may_have_another_name():
    network = Network.of_cell(SHOWN.replace("network", "net"), "net")
    assert network.name == "net" and network()[1].out_features == 4


DRAWING = """\
import torch
from torch import nn
SCALE = torch.rand(1).item()


def network():
    return nn.Linear(2, int(2 + 9 * SCALE))
"""


def test_two_builds_from_the_same_random_state_are_the_same(shell):
    """Also where the text draws a number when it is executed."""
    state = torch.get_rng_state()
    network = Network.of(executed(shell, SHOWN))
    assert torch.equal(torch.get_rng_state(), state), "taking the text draws nothing"
    for each in (network, Network(DRAWING)):
        torch.manual_seed(3)
        first = each()
        torch.rand(5)
        torch.manual_seed(3)
        assert all(torch.equal(*pair) for pair in zip(first.parameters(), each().parameters(), strict=True))


def test_another_process_builds_the_same_network_from_a_pickle(shell):
    network = Network.of(executed(shell, IMPORTS + CLASS)).with_arguments({"width": 3})
    assert pickle.loads(pickle.dumps(network)) == network
    program = "import pickle, sys, torch; n = pickle.load(sys.stdin.buffer); torch.manual_seed(0); print(n.digest, n())"
    answer = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(network), capture_output=True, check=True
    )
    torch.manual_seed(0)
    assert answer.stdout.decode() == f"{network.digest} {network()}\n"


def test_an_error_in_a_network_shows_its_line():
    with pytest.raises(ZeroDivisionError) as caught:
        Network("def network():\n    return 1 / 0  # here\n")()
    assert "return 1 / 0  # here" in "".join(traceback.format_exception(caught.value))


def test_a_class_of_a_network_is_found_by_pickle_and_by_inspect():
    text = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.layer = nn.Linear(784, width)
"""
    built = Network(text, "Net")()
    assert inspect.getsource(type(built)) == text.partition("\n\n\n")[2]
    again = pickle.loads(pickle.dumps(built))
    assert type(again) is type(built) and torch.equal(again.layer.weight, built.layer.weight)


def test_published_networks_of_equal_text_are_the_same():
    assert networks()["iteration_06_capacity"].digest == networks()["iteration_07_small_batch"].digest
    assert networks()["iteration_07_small_batch"].digest != networks()["iteration_08_without_dropout"].digest


# -- any network is trained


def residual():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 3), Residual(nn.ReLU(), nn.Conv2d(8, 8, 1)), nn.Flatten(), nn.Linear(648, 10)
    )


def shared():
    layer = nn.Linear(20, 20)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), layer, nn.ReLU(), layer, nn.Linear(20, 10))


def modern():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.Flatten(), nn.Linear(648, 10))


class Branches(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3, 3), nn.Conv2d(1, width, 5, 3, 1)
        self.last = nn.Linear(2 * width, 10)

    def forward(self, images):
        both = torch.cat([self.first(images), nn.functional.silu(self.second(images))], 1)
        return self.last(both.mean((2, 3)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", [residual, shared, modern, Branches])
def test_a_network_of_any_kind_is_trained_and_found_again(tmp_store, tmp_path, monkeypatch, network, precision):
    few_digits(monkeypatch)
    monkeypatch.setattr(experiments, "root", lambda: tmp_path)
    recipe = Recipe(dataset="digits", epochs=2, batch_size=16, learning_rate=0.05, precision=precision)
    experiment = Experiment("mine", recipe, network)
    (record,) = runs(experiment, 1, "cpu")
    assert record.history["train_loss"][1] < record.history["train_loss"][0]
    assert record.network["name"] == network.__name__
    assert record.parameter_count == sum(parameter.numel() for parameter in experiment.network().parameters())
    assert find(experiment, 0) == record


# -- blocks


@pytest.mark.parametrize("kind", ["conv_relu", "conv_bn_relu", "conv_relu_bn", "conv_bn", "biased_relu_bn"])
def test_a_block_has_the_size_and_the_bias_that_it_says(kind):
    """By default kernels of 3 × 3 without padding; only one kind has a bias."""
    convolution, *others = getattr(blocks, kind)(2, 5)
    assert (convolution.kernel_size, convolution.padding, convolution.stride) == ((3, 3), (0, 0), (1, 1))
    assert (convolution.in_channels, convolution.out_channels) == (2, 5)
    assert (convolution.bias is not None) == ("biased" in kind)
    assert [type(each) for each in others] == [
        {"bn": nn.BatchNorm2d, "relu": nn.ReLU}[word] for word in kind.split("_")[1:]
    ]
    assert getattr(blocks, kind)(2, 5, 1)[0].kernel_size == (1, 1)


def test_a_block_with_dropout_drops_last_and_has_no_bias():
    dropout = nn.Dropout2d(0.3)
    convolution, *others = blocks.relu_bn_dropout(2, 5, dropout)
    assert (convolution.kernel_size, convolution.padding, convolution.bias) == ((3, 3), (0, 0), None)
    assert [type(each) for each in others] == [nn.ReLU, nn.BatchNorm2d, nn.Dropout2d] and others[-1] is dropout


# -- papermill

CHECK = """\
from mnist_lib.cells import from_notebook
from mnist_lib.parameters import NotebookParameters
found = from_notebook(NotebookParameters, network)
print(found.network.digest, found.epochs)
"""


@pytest.mark.parametrize(("name", "value"), [("width", 12), ("widht", 12)])
def test_papermill_gives_arguments_to_a_network(tmp_path, name, value):
    cells = [("name: str = 'mine'\nwidth: int = 4", ["parameters"]), (IMPORTS + LINEAR, ["network"]), (CHECK, [])]
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=metadata), tmp_path / "mine.ipynb")

    def run():
        return papermill.execute_notebook(
            tmp_path / "mine.ipynb", tmp_path / "out.ipynb", {name: value, "epochs": 2}, progress_bar=False
        )

    if name == "widht":
        with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'widht': did you mean 'width'"):
            run()
    else:
        said = "".join(output["text"] for output in run().cells[-1].outputs if output["output_type"] == "stream")
        assert said.split() == [Network(SHOWN, arguments=(("width", 12),)).digest, "2"]
