"""The page that compares any two experiments: it shows what the library computes, to every reader.

The page is that of the built book; see tests/site/test_book.py.
"""

import dataclasses
import io
import json
import re
from collections import Counter
from itertools import product
from math import ceil, floor

import numpy as np
import pytest
from PIL import Image

from mnist_lib import data
from mnist_lib.results.comparison import accuracy_difference, in_words, label
from mnist_lib.results.statistics import mean_interval
from mnist_lib.results.target import final_accuracy, reached
from mnist_lib.site import compare_page
from support import PAGES, ROOT, WIDTHS, put, run

PAGE = "book/compare"
LARGEST = 300_000
"""Bytes of the page's data."""


# -- what is exported


def test_nothing_published_is_nothing_to_compare():
    assert compare_page.published([]) == {}
    assert json.loads(assigned(compare_page.script({})))["experiments"] == []


def test_a_notebook_executed_with_other_parameters_publishes_nothing(tmp_path):
    source = ROOT / "notebooks" / "iteration_10_one_cycle.ipynb"
    notebook = json.loads(source.read_text("utf-8"))
    del notebook["metadata"]["mnist_lib"]
    rehearsed = tmp_path / source.name
    rehearsed.write_text(json.dumps(notebook), "utf-8")
    assert {name.partition("/")[0] for name in compare_page.published([source])} == {source.stem}
    assert compare_page.published([rehearsed]) == {}


@pytest.mark.parametrize("number", [1, 2])
def test_few_runs_have_no_interval(number):
    few = [[run(98.0, end, seed=seed) for seed in range(number)] for end in (99.0, 99.5)]
    content = compare_page.contents(dict(zip(("iteration_01_x", "iteration_02_y"), few, strict=True)))
    one, other = content["experiments"]
    assert one["interval"] == [99.0, None, None] and one["accuracy"] == "99.00 (too few runs for an interval)"
    assert (one["reached"], other["reached"]) == (0, number)
    interval, meaning = content["differences"][0][1]
    assert (interval, content["meanings"][meaning]) == (
        "+0.50 (too few runs for an interval)",
        "too few runs to tell it from the seeds' spread",
    )
    assert content["differences"][0][0] is None
    assert "2 experiments make 1 pairs" in content["chance"] and "0 have one" in content["chance"]


def test_answers_are_a_character_a_run_to_images_that_most_runs_of_an_experiment_misread():
    mistakes = [[[3, 5, 7], [9, 1, 2]], [[9, 1, 4], [12, 0, 6]], []]
    runs = [dataclasses.replace(run(99.0, seed=k), misclassified=each) for k, each in enumerate(mistakes)]
    content = compare_page.contents({"iteration_01_x": runs, "iteration_02_y": runs[:1]})
    assert [each["mistakes"] for each in content["experiments"]] == ["7,24", "7,2"]
    assert content["labels"] == {3: 5, 9: 1}


def test_pictures_are_those_that_most_runs_misread_if_mnist_is_there(root, small_files, tmp_path):
    mistakes = [[[3, 5, 7], [9, 1, 2]], [[9, 1, 4], [12, 0, 6]], [[9, 1, 2]]]
    runs = [dataclasses.replace(run(99.0, seed=k), misclassified=each) for k, each in enumerate(mistakes)]
    groups = {"iteration_01_x": runs, "iteration_02_y": runs[:1]}
    compare_page.write(groups, tmp_path)
    assert json.loads(assigned((tmp_path / "compare_data.js").read_text("utf-8")))["pictured"] == []
    assert not (tmp_path / "compare_images.png").exists()

    put(root, small_files)
    compare_page.write(groups, tmp_path)
    assert json.loads(assigned((tmp_path / "compare_data.js").read_text("utf-8")))["pictured"] == [3, 9]
    shown = np.asarray(Image.open(tmp_path / "compare_images.png"))
    np.testing.assert_array_equal(shown.reshape(2, 28, 28), data.load("mnist")[1].images[[3, 9]])


# -- what a reader gets


def assigned(script: str) -> str:
    """The JSON that a script of data assigns."""
    return script.removeprefix("globalThis.PUBLISHED = ").rstrip().removesuffix(";")


@pytest.fixture(scope="module")
def groups():
    """The published runs of the notebooks in the book."""
    return compare_page.published(ROOT / f"{name}.ipynb" for name in PAGES if name.startswith("notebooks/"))


@pytest.fixture(scope="module")
def script(groups) -> str:
    """What the library writes of them: thousands of pairs."""
    return compare_page.script(groups)


@pytest.fixture(params=[("desk", "light"), ("phone", "dark")], ids="-".join)
def page(request, book, browser):
    """The page, opened as a file; nothing may go wrong, or be fetched from elsewhere."""
    screen, scheme = request.param
    opened = browser.new_page(viewport={"width": WIDTHS[screen], "height": 844}, color_scheme=scheme)
    problems = []
    loud = ("error", "warning")  # the theme logs what it does
    opened.on("console", lambda message: problems.append(message.text) if message.type in loud else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else problems.append(sent.url))
    opened.goto((book / f"{PAGE}.html").as_uri())
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= WIDTHS[screen]
    opened.close()
    assert not problems


def rows(page, table: str) -> list[list[str]]:
    """The words in the cells of a table's body."""
    words = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    return page.locator(f"#{table} tbody tr").evaluate_all(words)


def numbers(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"(?<=: )[\d,]+(?= image)", text)]


def test_the_data_are_light_and_those_of_the_records(book, script):
    file = book / "_static" / "compare_data.js"
    assert file.stat().st_size < LARGEST
    assert file.read_text("utf-8") == script


def test_the_table_shows_every_experiment(page, groups, script):
    shown = rows(page, "compare-all")
    assert [line[0] for line in shown] == [label(name) for name in groups]
    for line, (name, runs) in zip(shown, groups.items(), strict=True):
        accuracies = [each.test_accuracy[-1] for each in runs]
        assert line[1:] == [
            str(mean_interval(accuracies)),
            f"{runs[0].parameter_count:,}",
            f"{reached(accuracies)} of {len(runs)}",
            str(runs[0].parameters["epochs"]) + " after 20" * name.endswith("/continued"),
        ]
    assert page.locator("#compare-chance").inner_text() == json.loads(assigned(script))["chance"]


def test_the_table_is_sorted_by_its_heads(page, groups):
    """By keyboard, too; a screen reader is told how."""
    sizes = [f"{runs[0].parameter_count:,}" for runs in groups.values()]
    accuracies = [str(final_accuracy(runs)) for runs in groups.values()]
    for head, column, expected in (("parameters", 2, sizes), ("mean test accuracy, %", 1, accuracies)):
        button = page.get_by_role("button", name=head)
        for direction in ("ascending", "descending"):
            button.focus()
            page.keyboard.press("Enter")
            sorted_by = page.locator("#compare-all [aria-sort]")
            assert sorted_by.count() == 1
            assert sorted_by.get_attribute("aria-sort") == direction and head in sorted_by.inner_text()
            shown = [line[column] for line in rows(page, "compare-all")]
            numbers = [float(text.split()[0].replace(",", "")) for text in shown]
            assert sorted(shown) == sorted(expected)
            assert numbers == sorted(numbers, reverse=direction == "descending")  # the order of equal ones is open


def test_the_table_and_the_picture_are_filtered(page, groups):
    names = [label(name) for name in groups]
    page.get_by_label("Name contains").fill("DROPOUT")
    wanted = [name for name in names if "dropout" in name]
    assert 0 < len(wanted) < len(names)
    assert [line[0] for line in rows(page, "compare-all")] == wanted
    assert page.locator("#compare-count").inner_text() == f"{len(wanted)} of {len(names)} experiments shown"
    points = page.locator("#compare-accuracies g > title")
    assert [title.partition(":")[0] for title in points.all_text_contents()] == wanted
    page.get_by_label("Name contains").fill("")
    page.get_by_label("Parameters, at most").fill("8000")
    few = [label(name) for name, runs in groups.items() if runs[0].parameter_count <= 8000]
    assert [line[0] for line in rows(page, "compare-all")] == few
    page.get_by_label("Parameters, at most").fill("1")
    assert rows(page, "compare-all") == []


def test_every_mark_is_drawn_where_its_number_is(page, groups):
    """The places of marks and lines, read by the numbers on the axis, are the means and the ends of their intervals."""
    axis = page.locator("#compare-accuracies > text[text-anchor=middle]")
    ticks = axis.evaluate_all("all => all.map(e => [+e.textContent, +e.getAttribute('x')])")
    (first, start), (last, end) = min(ticks), max(ticks)

    def number(place: float) -> float:
        return first + (place - start) * (last - first) / (end - start)

    drawn = page.locator("#compare-accuracies g").all()
    assert len(drawn) == len(groups)
    for row, (name, runs) in zip(drawn, groups.items(), strict=True):
        accuracy, words = final_accuracy(runs), " ".join(row.locator("text").all_text_contents())
        assert label(name) in words and f"{runs[0].parameter_count:,}" in words
        place = re.search(r"translate\((\S+) (\S+)\)", row.locator(".point").get_attribute("transform"))
        assert number(float(place[1])) == pytest.approx(accuracy.center, abs=0.003)
        if line := re.fullmatch(r"M(\S+) (\S+)H(\S+)", row.locator(".line").get_attribute("d") or ""):
            assert line[2] == place[2], "in its own row"
            found = [number(float(line[side])) for side in (1, 3)]
            assert found == pytest.approx([accuracy.low, accuracy.high], abs=0.003)
    heights = [float(row.locator(".point").get_attribute("transform").split()[1][:-1]) for row in drawn]
    assert heights == sorted(heights) and min(np.diff(heights)) > 20


def choose(page, before: str, after: str) -> None:
    page.get_by_label("X (").select_option(label=label(before))
    page.get_by_label("Y (").select_option(label=label(after))


def check_difference(page, groups, before: str, after: str) -> None:
    """What the page says of two experiments is what the library computes."""
    difference = accuracy_difference(groups[before], groups[after])
    assert page.locator("#compare-interval").inner_text() == f"{difference:+.2f}"
    assert page.locator("#compare-meaning").inner_text() == in_words(difference)
    said = page.locator("#compare-difference").inner_text()
    assert f"From X, {label(before)}, to Y, {label(after)}: " in said
    for kind, name in (("X", before), ("Y", after)):
        runs = groups[name]
        size = f"{len(runs)} runs, {runs[0].parameter_count:,} parameters"
        assert f"{kind}: {final_accuracy(runs)} %, {size}." in said


def test_the_difference_of_any_two_is_the_librarys(page, groups):
    names = list(groups)
    by_label = {label(name): name for name in names}
    chosen = [by_label[page.locator(f"#compare-{side} option:checked").inner_text()] for side in "ab"]
    assert chosen == [next(name for name in names if name.startswith(f"iteration_{number}")) for number in ("09", "10")]
    check_difference(page, groups, *chosen)
    for before, after in ((0, -1), (-1, 0), (1, 2), (5, 6), (6, 3)):
        choose(page, names[before], names[after])
        check_difference(page, groups, names[before], names[after])


def test_two_can_be_swapped_and_passed_on(page, groups):
    first, second, third = list(groups)[:3]
    choose(page, first, second)
    page.get_by_role("button", name="Swap X and Y").press("Enter")
    check_difference(page, groups, second, first)
    page.get_by_label("X (").select_option(label=label(first))
    check_difference(page, groups, first, second)
    assert page.evaluate("location.hash") == f"#{first}+{second}"
    page.evaluate(f"location.hash = '#{third}+{first}'")
    page.wait_for_function("document.getElementById('compare-a').value === '2'")
    check_difference(page, groups, third, first)
    page.reload()
    check_difference(page, groups, third, first)
    page.evaluate("location.hash = '#what-the-interval-says'")
    check_difference(page, groups, third, first)


def test_the_curves_are_those_of_the_two(page, groups):
    """In words, and as lines and bands that differ in more than their colours."""
    names = list(groups)
    choose(page, names[2], names[9])
    words = page.locator("#compare-curves > desc").text_content()
    for kind, name in zip("XY", (names[2], names[9]), strict=True):
        means, ends = curves(groups[name]).mean(0), curves(groups[name])[:, -1]
        assert f"{kind}, {label(name)}: mean test accuracy from {means[0]:.2f} % after the first epoch to " in words
        assert f"to {means[-1]:.2f} % after the last of {len(means)}" in words
        assert f"reach from {ends.min():.2f} to {ends.max():.2f} %" in words
    drawn = [page.locator(f"#compare-curves .{kind}") for kind in "ab"]
    assert all(each.locator(f".{part}").count() == 1 for each in drawn for part in ("line", "band"))
    epochs = [curves(groups[name]).shape[1] for name in (names[2], names[9])]
    assert [each.locator(".point").count() for each in drawn] == epochs
    dashes = [each.locator(".line").evaluate("e => getComputedStyle(e).strokeDasharray") for each in drawn]
    shapes = {each.locator(".point").first.get_attribute("d") for each in drawn}
    assert dashes[0] == "none" != dashes[1] and len(shapes) == 2


def curves(runs) -> np.ndarray:
    return np.array([each.test_accuracy for each in runs])


def test_the_images_that_two_disagree_on(page, groups):
    names = list(groups)
    choose(page, names[0], names[4])
    answers = [taken_for(groups[name]) for name in (names[0], names[4])]
    sizes = [len(groups[name]) for name in (names[0], names[4])]
    most = [{i for i, counts in each.items() if counts.total() > n / 2} for each, n in zip(answers, sizes, strict=True)]
    digits = {i: digit for name in (names[0], names[4]) for each in groups[name] for i, digit, _ in each.misclassified}
    assert numbers(page.locator("#compare-agreement").inner_text()) == [
        len(most[0] - most[1]),
        len(most[1] - most[0]),
        len(most[0] & most[1]),
    ]
    shown = rows(page, "compare-images")
    assert len(shown) == len(most[0] ^ most[1]) > 0
    assert {int(line[0]) for line in shown} == most[0] ^ most[1]
    gaps = []
    has_pictures = page.locator("#compare-images .picture").count() == len(shown)
    for index, *cells in shown:
        digit, *sides = cells[has_pictures:]
        assert int(digit) == digits[int(index)]
        counts = [each.get(int(index), Counter()) for each in answers]
        for number, words, found, n in zip(sides[::2], sides[1::2], counts, sizes, strict=True):
            assert number == f"{found.total()} of {n}"
            assert {int(d): int(k) for d, k in re.findall(r"(\d) \((\d+)\)", words)} == dict(found)
        gaps.append(abs(counts[0].total() / sizes[0] - counts[1].total() / sizes[1]))
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.needs_mnist
def test_the_images_of_the_first_two_are_pictures(page):
    """Of the right images, as they are drawn on the screen; a book compiled without MNIST is another test."""
    images = data.load("mnist")[1]
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 8000})  # nothing covers the table,
    page.add_style_tag(content=".scrolling { max-height: none !important; }")  # and it is seen at once
    table, shown = page.locator("#compare-images"), [int(row[0]) for row in rows(page, "compare-images")]
    screen, whole = Image.open(io.BytesIO(table.screenshot())).convert("L"), table.bounding_box()
    boxes = table.locator(".picture").evaluate_all("all => all.map(each => each.getBoundingClientRect().toJSON())")
    names = [f"Test image {index}, a {images.labels[index]}" for index in shown]
    assert re.findall('img "(.*)"', table.aria_snapshot()) == names
    assert len(boxes) == len(shown) > 5
    for place, (box, name) in enumerate(zip(boxes, names, strict=True)):
        left, top = (floor(box[axis]) - floor(whole[axis]) for axis in "xy")
        drawn = screen.crop((left, top, left + ceil(box["width"]) + 1, top + ceil(box["height"]) + 1))
        alike = np.zeros(len(shown))
        for right, down in product((0, 1), repeat=2):  # a screenshot may begin between two pixels
            part = drawn.crop((right, down, drawn.width - 1 + right, drawn.height - 1 + down))
            small = np.asarray(part.resize((28, 28), Image.Resampling.BOX)).flatten()
            alike = np.maximum(alike, np.corrcoef(small, images.images[shown].flatten(1))[0, 1:])
        assert alike.argmax() == place and alike[place] > 0.7, name
    assert not page.get_by_text("There are no pictures").is_visible()


def taken_for(runs) -> dict[int, Counter]:
    """How many of the runs take each misread image for which digit."""
    found: dict[int, Counter] = {}
    for each in runs:
        for index, _, prediction in each.misclassified:
            found.setdefault(index, Counter())[prediction] += 1
    return found


def test_everything_has_a_name_and_can_be_reached_by_keyboard(page):
    for control in page.locator(".compare :is(input, select)").all():
        assert control.evaluate("e => e.labels.length == 1 && e.labels[0].innerText.trim().length > 0")
    for table in page.locator(".compare table").all():
        assert table.locator("caption").inner_text().strip()
    for picture in page.locator("svg.plot").all():
        named_by = picture.get_attribute("aria-labelledby").split()
        assert len(named_by) == 2 and all(picture.locator(f"> #{name}").text_content() for name in named_by)
        assert re.search(r"\d", picture.locator("> desc").text_content()), "numbers are what it shows"
    page.get_by_label("Name contains").focus()
    reached = []
    for _ in range(13):
        reached.append(
            page.evaluate(
                "document.activeElement.closest('.compare') ? document.activeElement.id || "
                "document.activeElement.tagName : ''"
            )
        )
        page.keyboard.press("Tab")
    assert reached[:2] == ["compare-name", "compare-most"]
    assert reached.count("BUTTON") == 5


def test_colours_stand_out_from_the_ground(page):
    """3:1 for lines and marks, 4.5:1 for words (WCAG 2.1, 1.4.3 and 1.4.11), in light and in dark."""
    ground = colour(page, "body", "backgroundColor")
    for selector, name, least in (
        ("#compare-curves .a .line", "stroke", 3),
        ("#compare-curves .b .line", "stroke", 3),
        ("#compare-accuracies .other .point", "stroke", 3),
        ("#compare-accuracies .a text", "fill", 4.5),
        ("#compare-accuracies .b text", "fill", 4.5),
        ("#compare-accuracies > text", "fill", 4.5),
        ("#compare-all caption", "color", 4.5),
        ("#compare-all th button", "color", 4.5),
        ("#compare-a", "borderTopColor", 3),
    ):
        assert contrast(colour(page, selector, name), ground) >= least, selector


def colour(page, selector: str, name: str) -> list[float]:
    """An element's colour as it is computed, red, green and blue from 0 to 1."""
    words = page.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name)
    return [float(part) / 255 for part in re.findall(r"[\d.]+", words)[:3]]


def contrast(one: list[float], other: list[float]) -> float:
    """The contrast ratio of WCAG 2.1."""
    linear = [[c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in each] for each in (one, other)]
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (high + 0.05) / (low + 0.05)


def test_without_script_the_page_names_another(book, browser):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto((book / f"{PAGE}.html").as_uri())
    assert "need JavaScript" in opened.locator("main").inner_text()
    assert not opened.locator("#compare-all").is_visible()
    context.close()


def test_without_pictures_the_page_says_so(book, browser):
    opened, problems = browser.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    content = json.loads(assigned((book / "_static" / "compare_data.js").read_text("utf-8"))) | {"pictured": []}
    script = {"body": f"globalThis.PUBLISHED = {json.dumps(content)};", "content_type": "text/javascript"}
    opened.route("**/compare_data.js*", lambda route: route.fulfill(**script))
    opened.goto((book / f"{PAGE}.html").as_uri())
    assert opened.get_by_text("There are no pictures of these images").is_visible()
    assert opened.locator("#compare-images .picture").count() == 0
    assert len(rows(opened, "compare-images")) > 5
    opened.close()
    assert not problems


def test_without_records_the_page_says_so(book, browser):
    opened, problems = browser.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    empty = {"body": compare_page.script({}), "content_type": "text/javascript"}
    opened.route("**/compare_data.js*", lambda route: route.fulfill(**empty))
    opened.goto((book / f"{PAGE}.html").as_uri())
    assert opened.get_by_text("compiled without published records").is_visible()
    assert not opened.locator("#compare-all").is_visible()
    opened.close()
    assert not problems
