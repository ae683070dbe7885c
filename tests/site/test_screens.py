"""The built book on any screen and for everyone: light and dark, by keyboard, and with what axe knows of WCAG."""

import pytest

from support import PAGES, WIDTHS


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_shows_one_rendering_of_each_figure(book, browser, scheme):
    """The one for its ground, drawn for it and not dimmed; the other is not displayed, so it is not read out."""
    page = browser.new_page(color_scheme=scheme)
    page.goto((book / "notebooks" / "iterations_compared.html").as_uri())
    figures = page.locator(".cell_output img")
    for number in range(0, figures.count(), 2):
        light, dark = figures.nth(number), figures.nth(number + 1)
        assert light.get_attribute("alt") == dark.get_attribute("alt")
        assert dark.get_attribute("src") == light.get_attribute("src").replace(".png", "_dark.png")
        assert (light.is_visible(), dark.is_visible()) == (scheme == "light", scheme == "dark")
    shown = page.locator(f".cell_output img.only-{scheme}")
    assert figures.count() == 2 * shown.count() > 0
    assert shown.first.evaluate("image => getComputedStyle(image).filter") == "none"
    page.close()


@pytest.mark.parametrize("screen", WIDTHS)
def test_the_text_does_not_jump_when_figures_are_loaded(book, browser, screen):
    """Each figure has its place before it is there, so whoever follows a link into the page stays where it leads."""
    page = browser.new_page(viewport={"width": WIDTHS[screen], "height": 844})
    page.goto((book / "notebooks" / "iteration_05_global_average_pooling.html").as_uri())
    images = "[...document.querySelectorAll('.cell_output img.only-light')]"
    heights = f"[document.documentElement.scrollHeight, ...{images}.map(image => image.offsetHeight)]"
    assert not page.evaluate(f"{images}.every(image => image.complete)")  # those far down wait for the reader
    before = page.evaluate(heights)
    page.evaluate(f"{images}.forEach(image => image.loading = 'eager')")
    page.wait_for_function(f"{images}.every(image => image.complete && image.naturalHeight)")
    assert page.evaluate(heights) == before and all(before)
    page.close()


def test_the_icons_of_the_theme_are_drawn(book, browser):
    """The build leaves out the icons that no page shows, and no other."""
    page = browser.new_page()
    page.goto((book / "notebooks" / "iteration_05_global_average_pooling.html").as_uri())
    page.wait_for_selector("svg.svg-inline--fa path", state="attached")
    drawn = page.evaluate("[...document.querySelectorAll('svg[data-icon]')].map(svg => svg.dataset.icon)")
    assert {"bars", "magnifying-glass", "github", "circle-half-stroke", "angle-left"} <= set(drawn)
    assert not page.locator("svg.svg-inline--fa:not(:has(path))").count()
    page.close()


WAYS = [(screen, scheme) for screen in WIDTHS for scheme in ("light", "dark")]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}


FIVE_OF_A_KIND = """seen => {
  [...document.querySelectorAll('.katex')].slice(5).forEach(formula => formula.remove());
  const parents = 'pre, ul, dl, tbody, tr, section section';
  for (const parent of document.querySelectorAll(parents)) {
    const alike = {};
    for (const child of [...parent.children]) {
      const kind = `${child.tagName} ${child.className}`;
      alike[kind] = (alike[kind] ?? 0) + 1;
      if (alike[kind] > 5) child.remove();
    }
  }
  const names = 'button, label, summary, caption, legend, svg, select, [role=img], [role=status], [role=group], '
    + 'span[id], p[id]';
  const kind = each => each === document.body ? ''
    : `${kind(each.parentElement)} ${each.tagName}.${each.className}.${each.style.cssText}`;
  for (const each of document.querySelectorAll('body *')) {
    if (!each.isConnected || each.children.length || each.closest(names)) continue;
    const place = kind(each);
    seen[place] = (seen[place] ?? 0) + 1;
    if (seen[place] > 5) (each.closest('a') ?? each).remove();
  }
  return seen;
}"""
"""Leaves five of what is alike and side by side on a page; and of words that stand in the same kind of box, of the same
kinds of boxes up to the page, five on all pages together. What gives something else its name stays."""


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (1, 2, 3))])
def test_axe_finds_nothing_serious(book, browser, turn):
    """WCAG 2.1, levels A and AA. Each page is looked at in one of four ways; the slow turns add the other three.

    Of what is alike, such as rows, words in a listing, links and entries of the reference, the fast turn looks at the
    first five.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    screens = [
        browser.new_page(viewport={"width": WIDTHS[screen], "height": 844}, color_scheme=scheme)
        for screen, scheme in WAYS
    ]
    findings, seen = [], [{} for _ in WAYS]
    for number, name in enumerate([*PAGES, "search", "genindex", "py-modindex"]):
        way = (number + turn) % len(WAYS)
        page = screens[way]
        page.goto((book / f"{name}.html").as_uri(), wait_until="load")
        page.evaluate("Promise.allSettled(document.getAnimations().map(a => a.finished))")  # colours fade in
        if turn == 0:
            seen[way] = page.evaluate(FIVE_OF_A_KIND, seen[way])
        for found in axe.run(page, options=RULES).response["violations"]:
            if found["impact"] in ("serious", "critical"):
                places = [node["html"][:150] for node in found["nodes"][:3]]
                findings.append(f"{name}, {WAYS[way]}: {found['id']}: {places}")
    for page in screens:
        page.close()
    assert not findings, "\n".join(findings)


def test_a_page_can_be_used_by_keyboard(book, browser):
    """Tab reaches search, theme, contents and the slider; arrow keys move the slider and its words follow."""
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.goto((book / "notebooks" / "learning_rate_sweep.html").as_uri())
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(WHAT_HAS_FOCUS))
        if "slider" in reached:
            break
    assert {"search", "theme", "contents", "slider"} <= reached
    status = page.locator(".training-figure [role=status]").first
    before = status.inner_text()
    page.keyboard.press("ArrowRight")
    changed = "before => document.querySelector('.training-figure [role=status]').innerText != before"
    page.wait_for_function(changed, arg=before)
    page.close()


WHAT_HAS_FOCUS = """() => {
  const kinds = {slider: "input[type=range]", theme: ".theme-switch-button",
                 search: ".search-button, .search-button-field, .search-button__button",
                 contents: "nav.bd-links a"};
  return Object.keys(kinds).find(kind => document.activeElement.matches(kinds[kind]));
}"""


def test_what_scrolls_can_be_scrolled_by_keyboard(book, browser):
    """On a phone, wide tables, formulas and listings scroll in boxes that Tab reaches."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    found = 0
    for name in ("notebooks/iteration_05_global_average_pooling", "notebooks/backprop_derivation", "book/reproduce"):
        page.goto((book / f"{name}.html").as_uri(), wait_until="load")
        page.evaluate(SETTLED)
        boxes = page.evaluate(BOXES_THAT_SCROLL)
        assert not [html for html, reachable in boxes if not reachable], name
        found += len(boxes)
    assert found > 3
    page.close()


SETTLED = """async () => {
  await document.fonts.ready;
  await new Promise(drawn => requestAnimationFrame(() => setTimeout(drawn)));
}"""

BOXES_THAT_SCROLL = """() => [...document.querySelectorAll("article *:not(.katex *)")]
  .filter(box => box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX))
  .map(box => [box.outerHTML.slice(0, 150), box.tabIndex >= 0 || !!box.querySelector("a[href], button, input")])"""


def test_what_scrolls_fades_at_its_edge_until_the_end(book, browser):
    """A box that was hidden when the page was loaded, too: the table behind the mark of a result."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((book / "notebooks" / "iteration_05_global_average_pooling.html").as_uri(), wait_until="load")
    page.locator(".cell_output button.origin").last.press("Enter")
    for box in ("aside#origin .scrolling", "div.highlight pre"):
        fades = f"document.querySelector({box!r}).classList.contains('more')"
        page.wait_for_function(fades)
        page.evaluate(f"document.querySelector({box!r}).scrollLeft = 10_000")
        page.wait_for_function(f"!{fades}")
    page.close()
