"""The command line, ``mnist-lib``: its commands, and what they take."""

import argparse
import os
import random
import sys
from pathlib import Path

# Heavy modules are imported by the commands that need them, so that --help answers at once.

MOST_SEEDS = 1_000


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    for name in {"MNIST_LIB_DATA", "MNIST_LIB_RUNS"} & os.environ.keys():  # kernels run in other folders
        os.environ[name] = os.environ[name] and os.path.abspath(os.path.expanduser(os.environ[name]))
    try:
        _check_place(options)
        code = min(options.command(options) or 0, 100)  # failures may be many, and an exit code of 256 would read as 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        trains = options.command in (_train, _sweep, _run, _quick)
        kept = "; finished runs and epochs are kept, the same command continues" if trains else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:  # in Colab, say, where only what notebooks need is installed
        print(f"{error}: this command needs more; `pip install 'mnist-lib[report]'` brings it", file=sys.stderr)
        return 1
    except (ValueError, RuntimeError, OSError) as error:  # the library's own errors derive from the first two
        if os.environ.get("MNIST_LIB_TRACEBACK"):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _check_place(options: argparse.Namespace) -> None:
    """Refuse what would write into an installed package: published records, pages, the book."""
    writes = options.command in (_train, _run, _quick, _book, _pdf, _new) or getattr(options, "accept", False)
    if writes and (Path(__file__).parent / "_published").is_dir():
        raise RuntimeError(
            f"mnist-lib {options.name_of_command} makes what is published, and needs a checkout of the report: clone "
            "its repository and start the command there. In an installed copy, sweep, runs, verify and papermill work"
        )


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments of every command."""
    parser = argparse.ArgumentParser(
        prog="mnist-lib", description="Make and check the report's records, pages and book."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function, name_of_command=name)
        return added

    pattern = {"nargs": "?", "default": "*", "help": "a notebook's name or a pattern such as 'iteration_*'"}
    added = command("status", _status, "Say which records and notebooks are stale, and why.")
    added.add_argument("pattern", **pattern)

    added = command("train", _train, "Train the runs that have no published record.")
    added.add_argument("pattern", **pattern)
    added.add_argument("--replace", action="store_true", help="also what another recipe or other code has made")
    added.add_argument("--seeds", type=_seeds, help="such as 0-9 or 0,3,5 (default: as many as the notebook says)")
    added.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    added.add_argument("--workers", type=_count, default=_cores(), help="processes, of one thread each")
    added.add_argument("--scheduler", metavar="ADDRESS", help="train on the Dask cluster at, say, tcp://10.0.0.1:8786")

    added = command(
        "sweep", _sweep, "Train a notebook's network with every combination of some values, into your store."
    )
    added.add_argument("notebook", help="a notebook's name, or the path of a copy of yours")
    added.add_argument(
        "--set",
        type=_values,
        action="append",
        required=True,
        metavar="NAME=VALUES",
        help="such as width=8,10; repeat it",
    )
    added.add_argument("--seeds", type=_seeds, help="such as 0-4 (default: as many as the notebook says)")
    added.add_argument(
        "--random", type=_count, metavar="N", help="only N combinations, drawn at random, always the same"
    )
    added.add_argument("--name", help="of the sweep (default: the notebook's and those of the values)")
    added.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    added.add_argument("--workers", type=_count, default=_cores(), help="processes, of one thread each")
    added.add_argument("--scheduler", metavar="ADDRESS", help="train on the Dask cluster at, say, tcp://10.0.0.1:8786")

    added = command("runs", _runs, "List all runs, yours and the published ones.")
    added.add_argument(
        "pattern", nargs="?", default="*", help="an experiment's name or a pattern such as 'iteration_*'"
    )
    added.add_argument("--sweep", metavar="NAME", help="the runs of this sweep only")
    either = added.add_mutually_exclusive_group()
    either.add_argument("--csv", action="store_true", help="all columns, as CSV")
    either.add_argument("--json", action="store_true", help="all columns, as JSON")
    either.add_argument("--delete", action="store_true", help="delete those of them that are yours, after a question")
    added.add_argument("--yes", action="store_true", help="delete without a question")

    added = command("verify", _verify, "Check records, published ones or yours, without training them again.")
    added.add_argument(
        "pattern",
        **pattern | {"help": f"{pattern['help']}, or the path of a record or a folder, whose code is then run"},
    )
    either = added.add_mutually_exclusive_group()
    either.add_argument(
        "--accept",
        action="store_true",
        help="after a change of code, or of a network in its notebook, that computes the same: give records its digest",
    )
    either.add_argument(
        "--full", type=int, metavar="SEED", help="train this run again, and compare every epoch and the weights"
    )
    either.add_argument("--sample", type=_count, metavar="N", help="the same, for N records chosen by chance")
    added.add_argument("--device", default="auto", help="where to compute")
    added.add_argument("--workers", type=_count, default=_cores(), help="processes, of one thread each")

    added = command("run", _run, "Execute the stale notebooks through papermill; without --train, nothing is trained.")
    added.add_argument("pattern", **pattern)
    added.add_argument("--train", action="store_true", help="first train runs that have no record at all")
    added.add_argument(
        "--accept", action="store_true", help="make pages from results that changed under the same recipe"
    )
    added.add_argument("--force", action="store_true", help="execute notebooks that are not stale, too")
    added.add_argument("--device", default="auto", help="where to train")
    added.add_argument("--workers", type=_count, default=_cores(), help="processes")

    added = command("quick", _quick, "Execute all notebooks on the embedded digits into _build/quick.")
    added.add_argument("pattern", **pattern)
    added.add_argument("--workers", type=_count, default=_cores(), help="processes")

    added = command("book", _book, "Compile the book, from nothing, if any of its sources changed.")
    added.add_argument("--quick", action="store_true", help="compile the rehearsal made by `mnist-lib quick`")

    command("pdf", _pdf, "Print the whole book as one PDF, through Chromium, and compile the book that offers it.")

    added = command("workbook", _workbook, "Write backpropagation by hand as a workbook of live formulas.")
    added.add_argument("path", nargs="?", default="backprop.xlsx", type=Path, help="(default: backprop.xlsx)")
    added.add_argument("--learning-rates", type=_rates, help="one sheet for each, such as 0.1,0.5")

    added = command("clean", _clean, "Strip execution times and other chance from notebooks.")
    added.add_argument("files", nargs="+", type=Path, help="the paths of notebooks")

    added = command("new", _new, "Write the notebook of a new iteration, with the skeleton of another.")
    added.add_argument("name", help="such as iteration_11_mine")
    added.add_argument("--from", dest="source", required=True, metavar="ITERATION", help="such as iteration_10")

    return parser


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seeds(text: str) -> list[int]:
    """``0-3,7`` as ``[0, 1, 2, 3, 7]``."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and len(last) < 10 and int(first) <= int(last)):
            raise argparse.ArgumentTypeError(f"{text!r}: write seeds as 0-9 or 0,3,5")
        if len(seeds) + int(last) - int(first) >= MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"{text!r}: at most {MOST_SEEDS:,} seeds at a time")
        seeds += range(int(first), int(last) + 1)
    return list(dict.fromkeys(seeds))


def _values(text: str) -> tuple[str, list]:
    """``width=8,10`` as ``("width", [8, 10])``; what is no number, True or False is a word."""
    from mnist_lib.parameters import literal

    name, _, values = text.partition("=")
    if not (name and values):
        raise argparse.ArgumentTypeError(f"{text!r}: write a name and its values as learning_rate=0.01,0.1")
    return name, [literal(word) for word in values.split(",")]


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _rates(text: str) -> list[float]:
    """``0.1,2`` as ``[0.1, 2.0]``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write learning rates as 0.1,0.5") from None


def _status(options: argparse.Namespace) -> int:
    from mnist_lib.parameters import ParameterError
    from mnist_lib.pipeline import catalogue, staleness

    count = 0
    for path in catalogue.find(options.pattern):
        if reason := catalogue.unpublished(path):
            print(f"{path.stem}: not published: {reason}")
            continue
        try:
            lines = [_said(run) for run in catalogue.missing_runs(path)]
            lines += [f"outputs: {why}" for why in staleness.stale(path)]
        except ParameterError as error:  # of this page; the others go on
            lines = [f"refused: {error}"]
        print(f"{path.stem}: {'current' if not lines else ''}")
        for line in lines:
            print(f"  {line}")
        count += bool(lines)
    print(f"{count} stale")
    return 0


def _said(run) -> str:
    return f"record {run.experiment.name} seed {run.seed}: {'; '.join(run.reasons)}"


def _train(options: argparse.Namespace) -> int:
    from mnist_lib.pipeline import catalogue, workers
    from mnist_lib.records import record_path

    missing = [run for path in catalogue.find(options.pattern) for run in catalogue.missing_runs(path, options.seeds)]
    jobs = [(run.experiment, run.seed) for run in missing if run.remedy == catalogue.TRAIN or options.replace]
    left = [run for run in missing if (run.experiment, run.seed) not in jobs]
    for run in left:
        print(f"left as it is: {_said(run)}")
    if left:
        _say_remedies(left, options.pattern)
    if not jobs:
        print(f"nothing to train: {'see above' if left else 'every record asked for is there and current'}")
        return int(bool(left))
    for experiment, seed in jobs:
        print(f"to train: {experiment.name} seed {seed} -> {record_path(experiment.published, seed)}")
    if options.scheduler:
        from mnist_lib.pipeline import cluster

        return cluster.train(jobs, options.device, options.scheduler)
    return workers.train(jobs, options.device, options.workers, options.replace)


def _say_remedies(runs: list, pattern: str) -> None:
    """Say which command gives each of the runs its record."""
    from mnist_lib.pipeline.catalogue import ACCEPT, REPLACE, RESTORE, TRAIN

    if damaged := sum(run.remedy == RESTORE for run in runs):
        print(
            f"{damaged} cannot be read: `git restore book/records` takes them back, or delete them and train them anew"
        )
    words = {
        TRAIN: "trains the runs that have no record, and tidies up after those that were killed",
        ACCEPT: "checks the records that older code made, and keeps those that the new code makes, too",
        REPLACE: "trains anew what another recipe made; the old records are lost (git has them)",
    }
    for remedy, meaning in words.items():
        count = sum(run.remedy == remedy for run in runs)
        if count:
            command, _, option = remedy.partition(" ")
            command = f"mnist-lib {command} {option} '{pattern}'".replace("  ", " ")
            print(f"{count} {'record' if count == 1 else 'records'}: `{command}` {meaning}")
    if any(run.remedy == REPLACE for run in runs):
        print("Was the notebook changed by mistake? `git restore notebooks` takes it back.")


def _sweep(options: argparse.Namespace) -> int:
    from mnist_lib import machine
    from mnist_lib.parameters import ParameterError
    from mnist_lib.pipeline import catalogue
    from mnist_lib.results import sweeps

    values = dict(options.set)
    if len(values) < len(options.set):
        raise ParameterError("--set: give all values of a name at once, such as learning_rate=0.01,0.1")
    paths = [Path(options.notebook)] if os.path.isfile(options.notebook) else catalogue.find(options.notebook)
    if len(paths) > 1:
        raise ParameterError(f"{options.notebook!r} names {len(paths)} notebooks: a sweep is of one")
    sweep = sweeps.plan(paths[0], values, options.seeds, options.random, options.name)
    if not options.scheduler:
        machine.resolve_device(options.device)
    print(f"{sweep.name}: {len(sweep.trials)} combinations, {len(sweep.seeds)} seeds each -> {sweeps.write(sweep)}")
    jobs = sweep.missing()
    there = len(sweep.trials) * len(sweep.seeds) - len(jobs)
    print(f"{there} runs are there, {len(jobs)} to train; judged on the {_images(sweep)} images")
    if jobs and options.scheduler:
        from mnist_lib.pipeline import cluster

        failures = cluster.train(jobs, options.device, options.scheduler, publish=False)
    elif jobs:
        from mnist_lib.pipeline import workers

        failures = workers.train(jobs, options.device, options.workers, publish=False)
    else:
        failures = 0
    print(f"the table: `mnist-lib runs --sweep {sweep.name}`; the page:")
    print(f"papermill notebooks/your_sweep.ipynb out.ipynb -p sweep {sweep.name}")
    return int(failures > 0)


def _images(sweep) -> str:
    return " or ".join(dict.fromkeys(trial.experiment.recipe.evaluate_on for trial in sweep.trials))


def _runs(options: argparse.Namespace) -> int:
    from mnist_lib import experiments
    from mnist_lib.results import listing

    frame = listing.table(options.pattern, options.sweep)
    if options.delete:
        return _delete(frame[frame["where"] == listing.YOURS], options)
    if options.csv:
        print(frame.map(_no_formula).to_csv(index=False), end="")
    elif options.json:
        print(frame.to_json(orient="records", indent=1))
    elif frame.empty:
        print(f"no runs match {options.pattern!r}; yours lie in {experiments.runs_directory()}")
    else:
        print(listing.in_words(frame).to_string(index=False))
    return 0


def _no_formula(cell: object) -> object:
    """Return a cell that a spreadsheet takes for text, whoever wrote it into a record: a formula begins with =, say."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _delete(frame, options: argparse.Namespace) -> int:
    from mnist_lib import experiments
    from mnist_lib.results import listing, sweeps

    there = frame.loc[[Path(folder).exists() for folder in frame["folder"]]]
    plan = sweeps.path(options.sweep) if options.sweep else None
    has_plan = plan is not None and plan.exists()
    if there.empty and not has_plan:
        print(
            f"none of your runs match {options.sweep or options.pattern!r}; published records are deleted by git only"
        )
        return 1
    print("none of its runs are yours" if there.empty else listing.in_words(there).to_string(index=False))
    what = f"these {there['runs'].sum()} runs" + (" and the plan of the sweep" if has_plan else "")
    question = f"Delete {what} from {experiments.runs_directory()}? [y/N] "
    if not (options.yes or _agrees(question)):
        print("nothing is deleted")
        return 1
    seeds = sweeps.read(options.sweep).seeds if options.sweep else None
    for folder in there["folder"]:
        listing.delete(Path(folder), seeds)
    if has_plan:
        plan.unlink(missing_ok=True)
    print(f"deleted {there['runs'].sum()} runs of {len(there)} experiments")
    return 0


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there
        return False


def _verify(options: argparse.Namespace) -> int:
    from mnist_lib.parameters import ParameterError
    from mnist_lib.pipeline import catalogue, verification, workers
    from mnist_lib.records import published_seeds

    if os.path.exists(options.pattern) and (path := Path(options.pattern)).suffix != ".ipynb":
        if options.accept or options.full is not None or options.sample is not None:
            raise ParameterError("--accept, --full and --sample are for published records: name a notebook")
        return _say(workers.verify(verification.of_path(path), options.device, options.workers))
    paths = catalogue.find(options.pattern)
    runs = [run for path in paths for run in catalogue.published_runs(path)]
    # Those that the notebooks ask for, there or not, and those that are there besides.
    jobs = [
        (experiment, seed)
        for experiment, seeds in runs
        for seed in sorted({*range(seeds), *published_seeds(experiment.published)})
    ]
    if not jobs:
        raise ParameterError(f"no record belongs to {options.pattern}")
    check, rounds, strays = verification.verify, [jobs], list[verification.Verdict]()
    if options.accept:
        check, rounds = verification.accept, _to_accept(jobs)
        if not any(rounds):
            print("All records are current: there is nothing to accept.")
            return 0
    elif options.full is not None:
        check, rounds = verification.verify_fully, [[job for job in jobs if job[1] == options.full]]
        if not any(rounds):
            raise ParameterError(f"no record of seed {options.full} belongs to {options.pattern}")
    elif options.sample is not None:
        check, rounds = verification.verify_fully, [random.sample(jobs, min(options.sample, len(jobs)))]
    else:
        why = ("no notebook asks for it: delete it, or take its notebook back with `git restore notebooks`",)
        strays = [verification.Verdict(name, seed, why) for name, seed in catalogue.strays(paths, runs)]
    found = [each for jobs in rounds for each in workers.verify(jobs, options.device, options.workers, check)]
    return _say(found + strays)


def _to_accept(jobs: list[tuple]) -> list[list[tuple]]:
    """Choose the runs whose records are not current, those that no other run's weights are needed for first."""
    from mnist_lib.pipeline import catalogue, verification
    from mnist_lib.records import RecordError, record_path

    rounds: list[list[tuple]] = [[], []]
    for experiment, seed in jobs:
        try:
            is_current = not experiment.differences(catalogue.record(record_path(experiment.published, seed)))
        except RecordError:
            is_current = False
        if not is_current:
            rounds[bool(verification.learns_from(experiment, seed))].append((experiment, seed))
    return rounds


def _say(verdicts: list) -> int:
    """Say what was found about each record."""
    width = max((len(each.run) for each in verdicts), default=0)
    for each in verdicts:
        print(f"{each.run:{width}}  {'; '.join(each.problems) or 'holds'}")
        for sentence in each.open:
            print(f"{'':{width}}  not compared: {sentence}")
    failed = sum(bool(each.problems) for each in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} records hold")
    return int(failed > 0)


def _run(options: argparse.Namespace) -> int:
    from mnist_lib import cells
    from mnist_lib.pipeline import catalogue, execution, staleness, workers
    from mnist_lib.site import book

    found = catalogue.find(options.pattern)
    left_out = {path: reason for path in found if (reason := catalogue.unpublished(path))}
    for path, reason in left_out.items():
        print(f"{path.name} is left out: {reason}")
    overwritten = [path for path in left_out if cells.has_its_name(path)]
    paths = [path for path in found if path not in left_out]
    missing = [run for path in paths for run in catalogue.missing_runs(path)]
    absent = [(run.experiment, run.seed) for run in missing if run.remedy == catalogue.TRAIN]
    if absent and options.train:
        print(f"{len(absent)} runs have no record and are trained first; interrupting is safe")
        if code := workers.train(absent, options.device, options.workers):
            return code
        missing = [run for path in paths for run in catalogue.missing_runs(path)]
    for run in missing:
        print(_said(run))
    _say_remedies(missing, options.pattern)
    altered = [] if options.accept else [(path, staleness.altered(path)) for path in paths]
    altered = [(path, found) for path, found in altered if found]
    for path, found in altered:
        print(f"{path.stem} is not executed: under the same recipe, the results of {', '.join(found)} are others than")
        print("  those of the page. `git restore book/records` takes these back, --accept takes the others.")
    blocked = {path for path, _ in altered} | _lacking(paths, missing)
    os.environ.pop("MNIST_LIB_BLANK_IMAGES", None)  # published pages show the images
    with book.alone():  # another process may execute the same pages: afterwards they are current
        stale = [path for path in paths if path not in blocked and (options.force or staleness.stale(path))]
        failures = workers.execute(execution.execute, [(path, path) for path in stale], options.workers)
        book.save_picture()
    return failures + len(blocked) + len(overwritten)


def _lacking(paths: list[Path], said: list) -> set[Path]:
    """Return the notebooks that show a run without a valid record; name those runs that are not among `said`."""
    from mnist_lib.pipeline import catalogue

    lacking = {path: runs for path in paths if (runs := catalogue.lacking_runs(path))}
    known = {(run.experiment, run.seed) for run in said}
    for path, runs in lacking.items():
        for run in runs:
            if (run.experiment, run.seed) not in known:
                print(f"{path.stem} is not executed: it shows another notebook's {_said(run)}")
    return {*lacking}


def _quick(options: argparse.Namespace) -> int:
    from mnist_lib.pipeline import catalogue, execution, workers
    from mnist_lib.site import book

    with book.alone():  # another rehearsal would delete the pages of this one
        target = book.prepare_quick()
        os.environ["MNIST_LIB_RUNS"] = str(target / "runs")
        # Notebooks that compare experiments come last: by then the runs that they need are there.
        found = [path for path in catalogue.find(options.pattern) if not catalogue.unpublished(path)]
        paths = sorted(found, key=lambda path: not catalogue.published_runs(path))
        jobs = [(path, target / "notebooks" / path.name) for path in paths]
        return workers.execute(execution.quick, jobs, options.workers)


def _book(options: argparse.Namespace) -> int:
    from mnist_lib.site import book

    return book.build(quick=options.quick)


def _pdf(_: argparse.Namespace) -> int:
    from mnist_lib.site import book, pdf

    return pdf.write() or book.build()


def _workbook(options: argparse.Namespace) -> int:
    from mnist_lib.backprop import workbook

    rates = {} if options.learning_rates is None else {"learning_rates": options.learning_rates}
    workbook.write(options.path, **rates)
    print(f"wrote {options.path}")
    return 0


def _clean(options: argparse.Namespace) -> int:
    from mnist_lib.base import files
    from mnist_lib.pipeline import catalogue, execution

    read = {path: catalogue.read(path) for path in options.files}  # all of them, before any is written
    for path, notebook in read.items():
        execution.clean(notebook)
        text = execution.to_text(notebook)
        if text != path.read_text("utf-8"):
            files.write_atomically(path, text.encode())
            print(f"cleaned {path}")
    return 0


def _new(options: argparse.Namespace) -> int:
    from mnist_lib.pipeline import new_iteration

    path = new_iteration.new_iteration(options.name, options.source)
    print(f"wrote {path}: change it, then `mnist-lib train {options.name}` and `mnist-lib run {options.name}`")
    print("The pages that list all iterations are stale then, and `make book` executes them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
