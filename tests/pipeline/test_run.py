"""What `mnist-lib run` executes and what it refuses: it makes pages of published records, and changes no record."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

import forked
import support
from mnist_lib import records
from mnist_lib.base.digests import bytes_digest
from mnist_lib.records import record_path
from mnist_lib.results.comparison import label
from support import PATIENCE, ROOT, edit, mnist_lib, sealed

FIRST, SECOND, COMPARED = "iteration_01_setup", "iteration_02_light_skeleton", "iterations_compared"
CANDIDATES = "iteration_10_one_cycle"  # it tries several learning rates
SMALL = "small"  # what a test writes itself
ON_DIGITS = {'dataset: str = \\"mnist\\"': 'dataset: str = \\"digits\\"', "seeds: int = 5": "seeds: int = 1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A report of two small iterations and the page that compares them, trained and executed, with few figures."""
    report = tmp_path_factory.mktemp("finished") / "report"
    shutil.copytree(ROOT / "mnist_lib", report / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (report / "notebooks").mkdir()
    for name in (FIRST, SECOND, COMPARED):
        path = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", report / "notebooks"))
        for old, new in ON_DIGITS.items():
            edit(path, old, new)
        if name != COMPARED:  # which takes each iteration as it is
            edit(path, "epochs: int = 15", "epochs: int = 1")
            without_figures(path)
    done = mnist_lib("run", "--train", "--workers", "1", root=report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs have no record and are trained first" in done.stdout
    return report


def without_figures(path: Path) -> None:
    """Leave out the cells that only draw: they take longest, and no test here looks at a figure."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [each for each in notebook.cells if not each.source.startswith(("figures.", "network_drawing."))]
    nbformat.write(notebook, path)


@pytest.fixture
def report(finished, tmp_path) -> Path:
    """A copy of the finished report, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "report"))


def page(report: Path, name: str = SECOND) -> Path:
    return report / "notebooks" / f"{name}.ipynb"


def record(report: Path, name: str = SECOND) -> Path:
    return record_path(report / "book" / "records" / name, 0)


def published(report: Path) -> dict[str, str]:
    """The digests of all records with their weights, and of all pages."""
    files = [path for folder in ("book", "notebooks") for path in (report / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(report)): bytes_digest(path.read_bytes()) for path in files}


def refused(report: Path, *arguments: str) -> str:
    """What `run` says that fails and changes nothing."""
    before = published(report)
    done = mnist_lib("run", *arguments, root=report)
    assert done.returncode != 0, done.stdout
    assert published(report) == before
    return done.stdout + done.stderr


def said(report: Path, *arguments: str) -> str:
    """What a command says that succeeds."""
    done = mnist_lib(*arguments, root=report)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(path: Path) -> str:
    """All that the outputs of a notebook say."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())]
    return json.dumps([output.get("data", {}) for output in outputs])


def test_when_all_is_current_nothing_is_done(report):
    before = published(report)
    assert "no notebook to do" in said(report, "run")
    assert said(report, "status").splitlines()[-1] == "0 stale"
    assert published(report) == before


def test_only_the_page_is_executed_that_was_edited(report):
    edit(page(report), "tables.seeds_table(runs)", "tables.seeds_table(runs[:1])")
    done = said(report, "run", "--train")
    assert f"{SECOND}: done" in done and "1/1" not in done
    assert FIRST not in done and COMPARED not in done


def test_an_edited_recipe_costs_no_record_and_the_remedies_are_named(report):
    """Of that page and of those that show its runs, none is executed."""
    edit(page(report), 'dataset: str = \\"digits\\"', 'dataset: str = \\"mnist\\"')
    told = refused(report)
    assert f"record {SECOND} seed 0: dataset was 'digits', is 'mnist'" in told
    assert "`mnist-lib train --replace '*'`" in told and "`git restore notebooks`" in told
    assert "no notebook to do" in told


def test_train_leaves_what_another_recipe_made_unless_it_is_told_to_replace_it(report):
    edit(page(report), "learning_rate: float = 0.01", "learning_rate: float = 0.02")
    before = published(report)
    done = mnist_lib("train", root=report)
    assert done.returncode != 0 and published(report) == before
    assert f"left as it is: record {SECOND} seed 0: learning_rate was 0.01, is 0.02" in done.stdout
    assert "train --replace" in done.stdout
    assert f"to train: {SECOND} seed 0" in said(report, "train", "--replace", "--workers", "1")
    changed = {name for name, digest in published(report).items() if before[name] != digest}
    assert {Path(name).parent.name for name in changed} == {SECOND}
    assert records.read(record(report)).parameters["learning_rate"] == 0.02


@pytest.mark.parametrize("name", [f"{SECOND} copy", f"{SECOND}-Copy1", "iteration_03_tried"])
def test_a_duplicated_notebook_is_left_out_and_disturbs_nothing(report, name):
    shutil.copy(page(report), page(report, name))
    edit(page(report, name), "learning_rate: float = 0.01", "learning_rate: float = 0.5")
    status = said(report, "status").splitlines()
    assert f"{name}: not published: its name is '{SECOND}', its file's is '{name}': a copy" in "\n".join(status)
    assert status[-1] == "0 stale"
    before = published(report)
    assert f"{name}.ipynb is left out" in said(report, "run", "--train")
    assert published(report) == before


def test_a_notebook_of_the_users_own_is_left_out(report):
    """JupyterLab makes them where one is."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), page(report, "Untitled"))
    before = published(report)
    assert "Untitled.ipynb is left out: it has no cell with the tag parameters" in said(report, "run")
    assert published(report) == before


def papermill(report: Path, target: Path, *options: str) -> None:
    """As a user would; the runs go to the user's store."""
    variables = {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    done = support.papermill(page(report), target, *options, cwd=report, **variables)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_papermill_wrote_among_the_notebooks_is_never_published(report):
    """Neither beside the page nor over it, and no run of the user's gets onto a page."""
    papermill(report, page(report, "mine"), "-p", "learning_rate", "0.02")
    assert (mine := list((report / "runs").rglob("seed_0.json"))), "the user's own run"
    shutil.copy(page(report, "mine"), page(report))
    told = refused(report, "--force", SECOND)
    assert f"{SECOND}.ipynb is left out: it is what papermill wrote" in told
    before = page(report, "mine").read_bytes()
    assert "mine.ipynb is left out: its name is" in said(report, "run", "mine", "--force")
    assert page(report, "mine").read_bytes() == before
    assert "not published" in said(report, "status", "mine")
    assert records.read(mine[0]).parameters["learning_rate"] == 0.02


def test_after_an_edit_of_the_training_code_nothing_is_trained_and_verify_takes_it(report):
    edit(report / "mnist_lib" / "training.py", "zero_grad(set_to_none=True)", "zero_grad()")
    told = refused(report, "--train")
    assert f"record {SECOND} seed 0: the training code changed" in told
    assert "2 records: `mnist-lib verify --accept '*'`" in told
    assert "--replace" not in told
    before = {name: records.read(record(report, name)) for name in (FIRST, SECOND)}
    assert "2 of 2 records hold" in said(report, "verify", "--accept", "--workers", "1")
    for name, old in before.items():
        new = records.read(record(report, name))
        assert new.results_digest == old.results_digest and new.digests["code"] != old.digests["code"]
    assert f"{SECOND}: done" in said(report, "run", SECOND)
    assert said(report, "status", SECOND).splitlines()[-1] == "0 stale"
    assert "All records are current: there is nothing to accept." in said(report, "verify", "--accept")


def test_a_page_takes_no_run_from_the_users_store(report):
    """Not even a valid run of just the recipe that its notebook has."""
    papermill(report, report / "out.ipynb", "-p", "learning_rate", "0.02")
    edit(page(report), "learning_rate: float = 0.01", "learning_rate: float = 0.02")
    assert f"{SECOND} seed 0: learning_rate was 0.01, is 0.02" in refused(report)
    shutil.rmtree(record(report).parent)
    told = refused(report)
    assert f"{SECOND} seed 0: there is no record" in told and "1 record: `mnist-lib train '*'`" in told

    code = "import sys; from pathlib import Path; from mnist_lib.pipeline import execution; path = Path(sys.argv[1]); "
    environment = os.environ | {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    code += "execution.execute(path, path)"
    done = forked.python("-c", code, page(report), cwd=report, environment=environment)
    assert f"{SECOND} seed 0 has no published record, and a page trains none" in done.stderr
    papermill(report, report / "out.ipynb")  # for its user the run is there
    assert len(list((report / "runs").rglob("seed_0.json"))) == 1


def test_at_another_effort_the_baselines_runs_are_published_as_the_pages_own(report):
    edit(page(report), "epochs: int = 1", "epochs: int = 2")
    own = f"{SECOND}/baseline"
    assert f"record {own} seed 0: there is no record" in said(report, "status", SECOND)
    baseline = record(report, FIRST).read_bytes()
    assert f"{own} seed 0" in said(report, "train", SECOND, "--replace", "--workers", "1")
    assert records.read(record(report, own)).parameters["epochs"] == 2
    assert record(report, FIRST).read_bytes() == baseline, "what the baseline itself published"
    assert f"{SECOND}: done" in said(report, "run", SECOND)
    assert said(report, "status", SECOND).splitlines()[-1] == "0 stale"
    assert label(FIRST) in shown(page(report)) and label(own) not in shown(page(report))
    edit(page(report, COMPARED), "epochs: int = 0", "epochs: int = 1")
    lacking = f"{COMPARED} is not executed: it shows another notebook's record {SECOND} seed 0: epochs was 2, is 1"
    assert lacking in refused(report)


def altered(report: Path) -> dict:
    content = json.loads(record(report).read_text("utf-8"))
    content["history"]["test_correct"][-1] -= 1
    misread = {index for index, _, _ in content["misclassified"]}
    another = next(index for index in range(sum(content["class_counts"])) if index not in misread)
    read = [digit for _, digit, _ in content["misclassified"]]  # of a digit, not more can be misread than there are
    digit = next(digit for digit, count in enumerate(content["class_counts"]) if read.count(digit) < count)
    content["misclassified"] = sorted([*content["misclassified"], [another, digit, (digit + 1) % 10]])
    return content


def test_an_altered_record_is_refused_by_its_own_digest(report):
    record(report).write_text(json.dumps(altered(report)), "utf-8")
    told = refused(report)
    assert "seed_0.json: altered: its content does not have the digest that it states" in told
    assert "git restore" in told and "under the same recipe" not in told
    assert "no notebook to do" in told and "Traceback" not in told


def test_an_altered_record_with_a_new_digest_is_refused_by_the_page_that_was_made_of_it(report):
    record(report).write_text(json.dumps(sealed(altered(report))), "utf-8")
    told = refused(report)
    for name in (SECOND, COMPARED):
        assert f"{name} is not executed: under the same recipe, the results of {SECOND} seed 0 are others than" in told
    assert "`git restore book/records`" in told and "--accept" in told
    assert "no notebook to do" in told
    assert f"{SECOND}: done" in said(report, "run", SECOND, "--accept")
    assert said(report, "status", SECOND).splitlines()[-1] == "0 stale"


def on_gpu(report: Path, pattern: str, parameters: str) -> subprocess.CompletedProcess:
    """What the workflow *gpu* calls, with an input of its own."""
    environment = os.environ | {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    return forked.python(ROOT / "deploy" / "gpu.py", pattern, parameters, cwd=report, environment=environment)


def test_the_gpu_workflow_gives_each_notebook_what_it_accepts_lists_too(report):
    for name in (SECOND, COMPARED):
        page(report, name).unlink()
    small_page(report, "1 + 1")  # it has no device
    shutil.copy(ROOT / "notebooks" / f"{CANDIDATES}.ipynb", report / "notebooks")
    here = {
        "epochs: int = 15": "epochs: int = 1",
        'baseline: str = \\"iteration_09_augmentation': 'baseline: str = \\"none',
    }
    for old, new in (ON_DIGITS | here).items():
        edit(page(report, CANDIDATES), old, new)
    without_figures(page(report, CANDIDATES))
    before = published(report)
    given = "device: cpu, learning_rates: [0.01, 0.02], candidate_seeds: 1, variants: [], beside: []"
    done = on_gpu(report, "*", given)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made = report / "_build" / "gpu" / "notebooks"
    assert {path.stem for path in made.glob("*.ipynb")} == {FIRST, CANDIDATES, SMALL}
    injected = {
        name: (made / f"{name}.ipynb").read_text("utf-8").count("learning_rates = [0.01, 0.02]")
        for name in (FIRST, CANDIDATES)
    }
    assert injected == {FIRST: 0, CANDIDATES: 1}, "a page without candidates is given none"
    trained = [records.read(path).parameters for path in (report / "runs").rglob("seed_*.json")]
    judged = [each["learning_rate"] for each in trained if each["evaluate_on"] == "validation"]
    assert sorted(judged) == [0.01, 0.02]
    assert published(report) == before


@pytest.mark.parametrize(
    "parameters", ["\"x=open('pwned', 'w'); y\": 1", "learning-rate: 1", "epochs: [", "__import__: 1"]
)
def test_the_gpu_workflow_runs_no_input_as_code(report, parameters):
    done = on_gpu(report, SECOND, parameters)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].partition("parameter")[1]
    assert not (report / "pwned").exists() and not (report / "_build" / "gpu").exists()


def test_the_gpu_workflow_goes_on_after_a_notebook_that_fails(report):
    done = on_gpu(report, "iteration_0*", "device: cpu, epochs: many")
    assert done.returncode == 1
    assert done.stdout.count("epochs = 'many': expected a whole number from 1 to 1000") >= 2


MEANWHILE = {
    "the page": "page.write_text(page.read_text('utf-8') + ' ', 'utf-8')",
    "the library, there and back": "(page.parents[1] / 'mnist_lib' / 'results' / 'show.py').touch()",
    "nothing": "(page.parents[1] / 'executed').open('a').write('once')",
}


def small_page(report: Path, code: str) -> None:
    """Write a page of one cell, whose only parameter is its name."""
    parameters = nbformat.v4.new_code_cell(f'name: str = "{SMALL}"', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)]), page(report, SMALL))


def with_page(folder: Path, meanwhile: str) -> Path:
    """A report of one page, which trains nothing and does something while it is executed."""
    report = folder / "report"
    shutil.copytree(ROOT / "mnist_lib", report / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (report / "notebooks").mkdir()
    small_page(report, f"from pathlib import Path\npage = Path({str(page(report, SMALL))!r})\n{MEANWHILE[meanwhile]}")
    return report


@pytest.mark.parametrize("what", ["the page", "the library, there and back"])
def test_a_page_is_not_written_if_something_changed_while_it_was_executed(tmp_path, what):
    """As where a branch is switched: what ran, and where it would be written, could be two different things."""
    report = with_page(tmp_path, what)
    before = page(report, SMALL).read_text("utf-8")
    done = mnist_lib("run", root=report)
    assert done.returncode == 1
    assert "was changed while the page was executed; it is as it was. Start the command again" in done.stdout
    assert page(report, SMALL).read_text("utf-8").rstrip() == before.rstrip()


def test_of_two_commands_at_once_one_executes_a_page_and_the_other_finds_it_current(tmp_path):
    report = with_page(tmp_path, "nothing")
    environment, logs = os.environ | {"PYTHONPATH": str(report)}, [tmp_path / "one", tmp_path / "other"]
    words = ("-m", "mnist_lib.cli", "run")
    both = [forked.start(*words, cwd=report, environment=environment, log=log) for log in logs]
    codes, said = [each.wait(PATIENCE) for each in both], [log.read_text() for log in logs]
    assert codes == [0, 0], said
    assert (report / "executed").read_text() == "once"
    assert sorted("no notebook to do" in text for text in said) == [False, True]
