"""The files around the code agree with each other: requirements, addresses, workflows, rooms, style."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import forked
from support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

CONDA_NAMES = {"pytorch": "torch", "playwright-python": "playwright"}
"""Packages that conda-forge calls by another name than PyPI."""

MAY_IMPORT = {
    "base": {"base"},
    "root": {"base", "root"},
    "results": {"base", "root", "results"},
    "backprop": {"base", "root", "results", "backprop"},
    "pipeline": {"base", "root", "results", "pipeline"},
    "site": {"base", "root", "results", "backprop", "pipeline", "site"},
    "notebooks": {"root", "results", "backprop"},
}
"""The rooms of the library, and from which rooms each imports. `cli` imports all, and none imports it."""


def required() -> dict[str, Requirement]:
    """Every dependency and extra of pyproject.toml, by name."""
    texts = PROJECT["dependencies"] + [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    return {canonicalize_name(each.name): each for each in map(Requirement, texts)}


def pins() -> list[tuple[Requirement, str]]:
    """The entries of the lock file: the pinned requirement, and the lines that follow it."""
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    heads = [entry.partition(" \\\n") for entry in entries]
    return [(Requirement(head), rest) for head, _, rest in heads]


def tracked_texts() -> dict[str, str]:
    """The text of every file that is, or is about to be, in git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            texts[name] = content.decode("utf-8")
    return texts


def test_the_lock_satisfies_every_requirement():
    versions: dict[str, list[str]] = {}
    for pin, _ in pins():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        versions.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    for name, requirement in required().items():
        assert name in versions, f"{name} is not in requirements.lock: run `make lock`"
        unfit = [v for v in versions[name] if not requirement.specifier.contains(v, prereleases=True)]
        assert not unfit, f"requirements.lock has {name} {unfit}, pyproject.toml wants {requirement.specifier}"


def test_every_pin_of_the_lock_has_hashes_and_no_address():
    assert pins()
    for pin, rest in pins():
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\\n)?)+", rest), f"{pin} is not hashed"
    for address in ("http:", "https:", "file:", "index-url", "find-links", "@"):
        assert address not in LOCK


def test_environment_yml_has_the_same_bounds():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    (from_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    from_conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert "--editable ." in from_pip
    listed = {}
    for text in from_conda + [text for text in from_pip if not text.startswith("-")]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        listed[CONDA_NAMES.get(name, name)] = requirement.specifier
    assert listed.pop("python") == PROJECT["requires-python"]
    assert listed.pop("pip") == ""
    assert listed == {name: requirement.specifier for name, requirement in required().items()}


def test_jupyter_book_stays_below_2():
    """Jupyter Book 2 ignores _config.yml and exits 0 without any HTML."""
    named = 0
    for name, text in tracked_texts().items():
        for bounds in re.findall(r"jupyter-book\b *((?:[<>=!~]=? *[\w.]+[, ]*)+)", text):
            assert bounds.startswith("==1.") or set(bounds.split(",")) == {">=1.0.4", "<2"}, name
            named += 1
    assert named == 3  # pyproject.toml, environment.yml, requirements.lock


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "jobs"} <= workflow.keys() and True in workflow  # YAML 1.1 reads the key `on` as true
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            called = re.findall(r"\bmake ([a-z]+)", step.get("run", ""))
            assert set(called) <= targets
            # A tag can be moved to other code; a commit cannot.
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", f"a@{40 * '0'}"))
            # An input inside a script would be run as code.
            assert "${{" not in step.get("run", "")


def test_there_is_a_workflow_each_for_the_tests_the_book_a_gpu_and_the_records():
    assert [path.stem for path in WORKFLOWS] == ["book", "gpu", "test", "weekly"]


def test_the_actions_and_the_lock_are_kept_up_to_date():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text("utf-8"))["updates"]
    assert {each["package-ecosystem"] for each in updates} == {"github-actions", "pip"}


def test_citation_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert citation["repository-code"] == REPOSITORY
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")


def foreign_addresses(text: str, repository: str) -> list[str]:
    """The addresses of this project in `text` that do not belong to `repository`.

    An address is this project's if it has the project's name or the placeholder for an owner, or launches a notebook.
    """
    owner, name = repository.rsplit("/", 2)[-2:]
    own_always = r"(?:colab\.research\.google\.com/github|mybinder\.org/v2/gh)"
    hosts = rf"(github\.com|raw\.githubusercontent\.com|{own_always})[/:]([\w.-]+)/([\w.-]+)"
    wrong = []
    for match in re.finditer(hosts, text):
        host, its_owner, its_name = match.groups()
        its_name = its_name.removesuffix(".git").rstrip(".")
        ours = its_name == name or its_owner == "OWNER" or re.fullmatch(own_always, host)
        if ours and (its_owner, its_name) != (owner, name):
            wrong.append(match.group())
    return wrong


def test_one_place_holds_the_address():
    wrong = {name: found for name, text in tracked_texts().items() if (found := foreign_addresses(text, REPOSITORY))}
    assert not wrong, f"not {REPOSITORY}: {wrong}; run `make address`"


def test_a_foreign_address_is_found():
    ours = "https://github.com/" + "somebody/report"
    links = "git+https://github.com/{0} https://colab.research.google.com/github/{0}/blob/main/a.ipynb {0}"
    assert foreign_addresses(links.format("somebody/report") + " https://github.com/karpathy/micrograd.", ours) == []
    assert len(foreign_addresses(links.format("OWNER" + "/report"), ours)) == 2
    assert len(foreign_addresses("git@github.com:" + "other/report.git", ours)) == 1


def room(module: str) -> str:
    """Where a module is, given by its name after `mnist_lib.`."""
    first = module.partition(".")[0]
    return first if first in (*MAY_IMPORT, "cli") else "root"


def imported_rooms(source: str) -> dict[str, str]:
    """The rooms that `source` imports from, anywhere in it, each with an import."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative: {ast.unparse(node)}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {room(name.removeprefix("mnist_lib.")): name for name in names if name.startswith("mnist_lib.")}


LIBRARY = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "mnist_lib").rglob("*.py"))]
NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("name", [name for name in LIBRARY if name != "mnist_lib/cli.py"] + NOTEBOOKS)
def test_a_room_imports_only_from_the_rooms_that_it_may(name):
    source = (ROOT / name).read_text("utf-8")
    if name in NOTEBOOKS:
        source = "\n".join("".join(c["source"]) for c in json.loads(source)["cells"] if c["cell_type"] == "code")
        source = re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE)
    own = "notebooks" if name in NOTEBOOKS else room(name.removeprefix("mnist_lib/").replace("/", "."))
    assert not {each: name for each, name in imported_rooms(source).items() if each not in MAY_IMPORT[own]}


def test_the_command_line_starts_without_torch():
    code = "import sys, mnist_lib.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_carries_notebooks_and_records(tmp_path):
    """An installed copy finds its notebooks and records without the checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    packaged = installed / "mnist_lib" / "_published"
    assert {p.name.partition("-")[0] for p in installed.iterdir()} == {"mnist_lib"}, "only the package and its metadata"
    for folder, pattern in (("notebooks", "*.ipynb"), ("book/records", "**/*.json")):
        here, there = (sorted(p.relative_to(base) for p in (base / folder).glob(pattern)) for base in (ROOT, packaged))
        assert there == here

    code = "from mnist_lib import experiments; print(experiments.root())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == packaged

    before = sorted(installed.rglob("*"))
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    for command in (
        "train",
        "run",
        "quick",
        "book",
        "pdf",
        "new iteration_11_x --from iteration_10",
        "verify --accept",
    ):
        done = forked.python("-m", "mnist_lib.cli", *command.split(), cwd=tmp_path, environment=environment)
        assert done.returncode == 1
        assert f"mnist-lib {command.split()[0]} makes what is published, and needs a checkout" in done.stderr
    assert [path for path in sorted(installed.rglob("*")) if path.suffix != ".pyc"] == [
        path for path in before if path.suffix != ".pyc"
    ]


class TestSetup:
    """`make setup`, in a folder of its own with a .venv that looks finished."""

    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        venv = tmp_path / ".venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(sys.executable)
        (venv / "made-from-lock").write_text(f"{tmp_path.resolve()}\n{LOCK}", "utf-8")
        (venv / "made-from-pyproject").write_bytes((ROOT / "pyproject.toml").read_bytes())
        return tmp_path

    def make(self, folder: Path) -> subprocess.CompletedProcess:
        """Run it with a Python that does not exist: it succeeds only if there is nothing to set up."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "setup", "PYTHON=no-such-python"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def test_nothing_is_done_when_the_content_is_the_same(self, folder):
        for name in ("requirements.lock", "pyproject.toml"):
            os.utime(folder / name)
        os.utime(folder / ".venv" / "made-from-lock", (0, 0))
        result = self.make(folder)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_a_changed_lock_a_moved_folder_or_a_set_up_that_broke_off_is_noticed(self, folder):
        unfinished = folder / ".venv" / "unfinished"
        unfinished.touch()
        assert self.make(folder).returncode != 0
        unfinished.unlink()
        assert self.make(folder).returncode == 0
        moved = folder.rename(folder.with_name("moved"))
        assert self.make(moved).returncode != 0
        folder = moved.rename(folder)
        assert self.make(folder).returncode == 0
        with (folder / "requirements.lock").open("a") as lock:
            lock.write("\n")
        result = self.make(folder)
        assert result.returncode != 0
        assert "Python 3.11 or newer is needed; no-such-python is:" in result.stderr
        assert (folder / ".venv" / "bin" / "python").exists(), "what works is not thrown away"
