"""The files around the code agree with each other: requirements, addresses, workflows, floors, style."""

import ast
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

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

CONDA_NAMES = {"pytorch": "torch", "playwright-python": "playwright"}
"""Packages that conda-forge calls by another name than PyPI."""

FLOORS = {
    "cli": 4,
    "book": 3,
    "browser": 3,
    "claims": 3,
    "cluster": 3,
    "comparison": 3,
    "evaluation": 3,
    "gallery": 3,
    "judgement": 3,
    "notebooks": 3,
    "origin": 3,
    "pdf": 3,
    "report": 3,
    "show": 3,
    "studies": 3,
    "verification": 3,
    "sweep": 3,
    "target": 3,
    "template": 3,
    "experiment": 2,
    "curvature": 1,
    "environment": 1,
    "figures": 1,
    "interactive": 1,
    "network_drawing": 1,
    "records": 1,
    "spreadsheet": 1,
    "training": 1,
    "workbook": 1,
    "architecture": 0,
    "augmentation": 0,
    "backprop": 0,
    "columns": 0,
    "data": 0,
    "digests": 0,
    "drawing": 0,
    "fast": 0,
    "fields": 0,
    "models": 0,
    "parameters": 0,
    "reported": 0,
    "statistics": 0,
}
SAME_FLOOR = {
    ("figures", "records"),
    ("workbook", "records"),
    ("workbook", "spreadsheet"),
    ("notebooks", "studies"),
    ("gallery", "comparison"),
    ("gallery", "notebooks"),
    ("gallery", "target"),
    ("origin", "notebooks"),
    ("pdf", "book"),
    ("origin", "report"),
    ("target", "show"),
    ("template", "notebooks"),
    ("claims", "show"),
    ("claims", "target"),
    ("cluster", "sweep"),
    ("browser", "comparison"),
    ("browser", "studies"),
    ("comparison", "show"),
    ("comparison", "target"),
    ("judgement", "claims"),
    ("judgement", "show"),
    ("judgement", "target"),
    ("evaluation", "show"),
    ("sweep", "verification"),
    ("report", "show"),
    ("report", "target"),
    ("report", "comparison"),
}
"""The imports within a floor: importer, imported."""

MODULES = sorted(path.stem for path in (ROOT / "mnist_lib").glob("*.py") if path.stem != "__init__")
LONGEST_MODULE = 300


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
    assert len(pins()) > 100
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
            # An input inside a script would be run as code.
            assert "${{" not in step.get("run", "")


def test_there_is_a_workflow_each_for_the_tests_the_book_and_a_gpu():
    assert [path.stem for path in WORKFLOWS] == ["book", "gpu", "test"]


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


def imported_modules(source: str) -> set[str]:
    """The modules of the library that `source` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {n.name.split(".")[1] for n in names if n.name.startswith("mnist_lib.")}
            case ast.ImportFrom(module=module, names=names, level=level):
                full = ("mnist_lib." * bool(level) + (module or "")).rstrip(".")
                if full == "mnist_lib":
                    found |= {n.name for n in names}
                elif full.startswith("mnist_lib."):
                    found.add(full.split(".")[1])
    return found


def test_every_module_has_a_floor():
    assert set(MODULES) == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    for other in imported_modules((ROOT / "mnist_lib" / f"{module}.py").read_text("utf-8")):
        allowed = FLOORS[other] < FLOORS[module] or (module, other) in SAME_FLOOR
        assert allowed, f"{module} (floor {FLOORS[module]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short(module):
    lines = len((ROOT / "mnist_lib" / f"{module}.py").read_text("utf-8").splitlines())
    assert lines <= LONGEST_MODULE


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

    code = "from mnist_lib import experiment; print(experiment.root())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == packaged


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
