"""Sentences with numbers, as outputs of a notebook: they speak of the runs that the page shows, whichever these are.

A cell with the tag ``prose`` calls `prose`. The other functions give clauses, because "all 5 seeds end" and "the one
seed ends" differ in more than a number.
"""

import dataclasses
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence

from IPython.display import display

from mnist_lib import cells, experiments, records
from mnist_lib.base.digests import code_digest
from mnist_lib.parameters import Checked, NotebookParameters, ParameterError, has_effect
from mnist_lib.records import Record
from mnist_lib.results.comparison import accuracy_difference, in_brief, in_words, label
from mnist_lib.results.show import as_text
from mnist_lib.results.statistics import Interval
from mnist_lib.results.target import Target, final_accuracy, in_percent, train_accuracy


def prose(*paragraphs: str | bool | None) -> None:
    """Show paragraphs as one output in Markdown; those that are None, False or empty are left out."""
    text = "\n\n".join(_tidy(each) for each in paragraphs if each)
    if text:
        display({"text/markdown": text}, raw=True)


def _tidy(text: str) -> str:
    """Return a paragraph without its indentation, and without blanks around parts that are empty."""
    lines = re.sub(r"^ (?=\S)| +$", "", inspect.cleandoc(text), flags=re.MULTILINE)
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", re.sub(r"(?<=\S)  +(?=\S)", " ", lines))


def accuracy(runs: Sequence[Record]) -> str:
    """Say what the runs' accuracy is after the last epoch: "The mean … is 99.42 %, with a 95 % interval from …"."""
    mean, ends = final_accuracy(runs), [run.test_accuracy[-1] for run in runs]
    images = evaluated_on(runs)
    if len(runs) == 1:
        return f"The {images} accuracy after the last epoch is {mean.center:.2f} % (one run, so no interval)"
    said = f"The mean {images} accuracy after the last epoch is {mean.center:.2f} %"
    if len(runs) == 2:
        return f"{said}, of two runs at {min(ends):.2f} % and {max(ends):.2f} %"
    return f"{said}, with a 95 % interval from {mean.low:.2f} to {mean.high:.2f} over {len(runs)} seeds"


def box(
    parameters: NotebookParameters,
    target: Target,
    runs: Sequence[Record],
    before: Sequence[Record],
    *,
    question: str,
    expected: str,
    meaning: str,
) -> str:
    """Say first what a page is about: question, expectation, result, verdict and what it means, as a quotation.

    Arguments:
        parameters: of the page, which name the baseline.
        target: what the page sets out to reach.
        runs: the page's.
        before: its baseline's, if there is one.
        question: what is asked.
        expected: what is expected, and why.
        meaning: of what was found, which is said before it.
    """
    many = f", over {len(runs)} seeds" if len(runs) > 1 else ""
    result = f"{in_percent(runs)} of the {evaluated_on(runs)} images are right{many}."
    if before:
        result += f" Against {baseline(parameters).partition(' (')[0]}: {change(before, runs, in_brief)}."
    result += f" {verdict(target, runs, brief=True)}."
    said = {"Question": question, "We expect": expected, "Result": result}
    said["What it means"] = meaning
    lines = (f"> **{name}.** {' '.join(text.split())}" for name, text in said.items() if text)
    return "\n>\n".join(lines)


def answer(text: str) -> str:
    """Return an answer that is folded away until the reader wants to see it."""
    said = " ".join(text.split())
    return f"<details><summary>The answer, measured</summary>\n\n{said[:1].upper()}{said[1:]}\n\n</details>"


def mistakes(runs: Sequence[Record], before: Sequence[Record] = ()) -> str:
    """Say what the runs' mistakes have in common: the most frequent pairs, the images that nearly all get wrong."""
    pairs = Counter((label, taken) for run in runs for _, label, taken in run.misclassified)
    if not pairs:
        return "The runs make no mistake."
    images = Counter(index for run in runs for index, _, _ in run.misclassified)
    often = [f"{label} for {taken} ({number})" for (label, taken), number in pairs.most_common(3)]
    said = f"The mistakes, {count(pairs.total() / len(runs), 'of them', 'of them')} per run, are not spread evenly. "
    said += f"Most often the network takes {', '.join(often[:-1])}{' and ' * (len(often) > 1)}{often[-1]}."
    if len(runs) > 1:
        every = sum(number == len(runs) for number in images.values())
        said += f" Of {count(len(images), 'image')} that some seed misreads, {every} {'is' if every == 1 else 'are'}"
        said += " wrong for every seed: these are hard whatever the start. The others depend on the seed."
    if before:
        earlier = Counter(index for run in before for index, _, _ in run.misclassified)
        often_now, often_then = (
            {index for index, number in each.items() if number > len(group) / 2}
            for each, group in ((images, runs), (earlier, before))
        )
        now, both = len(often_now), len(often_now & often_then)
        said += f" {count(now, 'image').capitalize()} {'is' if now == 1 else 'are'} misread by most seeds;"
        said += f" {both} of them {'was' if both == 1 else 'were'} before the change, too."
    return said


def evaluated_on(runs: Sequence[Record]) -> str:
    """Say on which images the runs were evaluated: "test" or "validation"."""
    return str(runs[0].parameters.get("evaluate_on", "test"))


def fit(before: Sequence[Record], runs: Sequence[Record]) -> str:
    """Say how well the training images are known, and the unseen ones: "The final weights get 99.41 % of …".

    It is counted after training, with unchanged images and nothing dropped; before, where there is a baseline.
    """
    (train, gap), *was = ((train_accuracy(each), round(overfitting(each), 2) + 0.0) for each in (runs, before) if each)
    known = f"The final weights get {train:.2f} % of the training images right"
    more = f"{abs(gap):.2f} points {'more' if gap >= 0 else 'less'} than of the {evaluated_on(runs)} images"
    return f"{known}, {more}" + "".join(f" (before: {old:.2f} %, a gap of {old_gap:.2f})" for old, old_gap in was)


def overfitting(runs: Sequence[Record]) -> float:
    """Return how much better the final weights know the training images than unseen ones, in points, on average."""
    return train_accuracy(runs) - final_accuracy(runs).center


def verdict(target: Target, runs: Sequence[Record], brief: bool = False) -> str:
    """Say whether the accuracy that was aimed at is reached: "The target of at least 99.40 % is met".

    In brief, "Target, 99.40 %: met"; then there is a reason only for a miss that two decimals hide.
    """
    aim = f"target of at least {target.accuracy:.2f} %"
    if len(runs) < target.seeds:
        words = {1: "One run does", 2: "Two runs do", 3: "Three runs do", 4: "Four runs do"}
        few = words.get(len(runs), f"{len(runs)} runs do")
        return f"{few} not decide on the {aim}; that takes {target.seeds}"
    found, interval = target.verdicts(runs)[-1], final_accuracy(runs)
    reason = "" if brief or found != "undecided" else ", because the interval contains it"
    which, end = ("ends", interval.high) if found == "missed" else ("begins", interval.low)
    is_hidden = found != "met" and round(end, 2) == target.accuracy
    if is_hidden and not (brief and found == "undecided"):
        reason = f", because the interval {which} at {end:.3f}"
    return f"Target, {target.accuracy:.2f} %: {found}{reason}" if brief else f"The {aim} is {found}{reason}"


def change(before: Sequence[Record], after: Sequence[Record], words: Callable[[Interval], str] = in_words) -> str:
    """Say by how much the mean accuracy differs: "+0.13 points [+0.05, +0.21]: a gain that …"."""
    difference = accuracy_difference(before, after)
    _, bracket, interval = f"{difference:+.2f}".partition("[")
    return f"{difference.center:+z.2f} points{f' [{interval}' if bracket else ''}: {words(difference)}"


def share(part: int, whole: int, noun: str, singular: str, plural: str) -> str:
    """Say how many of how many: "all 5 seeds end", "2 of 5 seeds end", "none of 5 seeds ends", "the one seed ends".

    The noun is given in the singular, the verb in both numbers.
    """
    if whole == 1:
        return f"the one {noun} {singular if part else _negated(singular, plural)}"
    if part == whole:
        return f"both {noun}s {plural}" if whole == 2 else f"all {whole} {noun}s {plural}"
    if part == 0:
        return f"neither of the two {noun}s {singular}" if whole == 2 else f"none of {whole} {noun}s {singular}"
    if whole == 2:
        return f"one of the two {noun}s {singular}"
    return f"{part} of {whole} {noun}s {singular if part == 1 else plural}"


def _negated(singular: str, plural: str) -> str:
    """Return the verb of one that does not: "does not end", "is not at", "has not reached", "never ended"."""
    verb, _, rest = singular.partition(" ")
    if verb in ("is", "was") or re.match(r"has \w+e[dn]\b", singular):
        return f"{verb} not {rest}".rstrip()
    return f"never {singular}" if singular == plural else f"does not {plural}"


def count(number: float, noun: str, plural: str = "") -> str:
    """Say a number, rounded, with its noun: "one seed", "5 seeds", "no mistakes", "1,200 parameters"."""
    rounded = f"{number:,.0f}"
    if rounded == "1":
        return f"one {noun}"
    return f"{'no' if number == 0 else rounded} {plural or noun + 's'}"


def are_published(*groups: Sequence[Record]) -> bool:
    """Tell whether these are the published runs, all of them: then sentences about those alone may stand beside them.

    Arguments:
        groups: the runs of each experiment, the page's own first. Where that page publishes fewer runs than another,
            as many of the other are enough. A group without runs is not published.
    """
    if not groups or not all(groups):
        return False
    own, published = len(groups[0]), [_published_number(runs) for runs in groups]
    enough = [own >= published[0], *(len(runs) >= min(own, n) for runs, n in zip(groups, published, strict=True))]
    return all(enough) and all(is_published(run) for runs in groups for run in runs)


def is_published(run: Record) -> bool:
    """Tell whether a record was read from the published ones."""
    return run.path is not None and run.path.is_relative_to(experiments.published_records())


def yours(parameters: Checked) -> str:
    """Say what differs from the published notebook: "Your run: epochs 1 (published 15), …"; nothing if nothing does."""
    said = [
        f"{name} {_value(here)} ({'published ' * (number == 0)}{_value(there)}{_idle(parameters, name)})"
        for number, (name, (here, there)) in enumerate(changed(parameters).items())
    ]
    said += ["another network"] * has_another_network(parameters)
    return f"**Your run:** {', '.join(said)}." if said else ""


def _idle(parameters: Checked, name: str) -> str:
    """Say of a parameter that the others leave it without effect; nothing if they do not."""
    return "" if has_effect(parameters, name) else ", without effect beside the others"


def changed(parameters: Checked) -> dict[str, tuple[object, object]]:
    """Return the parameters that differ from the published notebook's: here and there, by name; not the device."""
    published = published_parameters(parameters)
    names = [f.name for f in dataclasses.fields(parameters) if f.name not in ("device", "network")]
    pairs = {name: (getattr(parameters, name), getattr(published, name, "without")) for name in names}
    return {} if published is None else {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def has_another_network(parameters: Checked) -> bool:
    """Tell whether the network cell is another than that of the published notebook, apart from comments and layout."""
    mine, published = (getattr(each, "network", None) for each in (parameters, published_parameters(parameters)))
    return bool(mine and published and code_digest(mine.source) != code_digest(published.source))


def published_parameters(parameters: Checked) -> Checked | None:
    """Return the parameters of the published notebook of that name; None if there is none, or it cannot be read."""
    name = getattr(parameters, "name", "")
    path = experiments.root() / "notebooks" / f"{name}.ipynb"
    try:
        is_ours = isinstance(parameters, NotebookParameters)  # or a class with the network's arguments
        schema = NotebookParameters if is_ours else type(parameters)
        return cells.of_file(path, schema) if name and path.exists() else None
    except ParameterError:
        return None


def baseline(parameters: NotebookParameters) -> str:
    """Name what the page compares with: "iteration 9 (augmentation)", "report C (strided)".

    Where that is the page itself: "the published recipe of iteration 9 (augmentation)".
    """
    own = "the published recipe of " * (parameters.baseline == parameters.name)
    kind, _, rest = parameters.baseline.partition("_")
    number, _, words = rest.partition("_")
    known = {"iteration": f"iteration {number.lstrip('0')}", "reported": f"report {number.upper()}"}
    if kind not in known or not words:
        return own + as_text(label(parameters.baseline))
    return f"{own}{known[kind]} ({words.replace('_', ' ')})"


def _published_number(runs: Sequence[Record]) -> int:
    """How many runs of an experiment its notebook publishes; of a variant, how many there are."""
    if runs[0].path is None:
        return len(runs)
    there = len(records.published_seeds(runs[0].path.parent))
    path = experiments.root() / "notebooks" / f"{runs[0].path.parent.name}.ipynb"
    return min(there, cells.of_file(path).seeds) if path.exists() else there


def _value(value: object) -> str:
    return ", ".join(map(as_text, value)) if isinstance(value, tuple) else as_text(value)
