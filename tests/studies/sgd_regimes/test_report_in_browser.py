"""Does the report work in Chromium, wide and narrow, with nothing overlapping?"""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"
)
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

# Pairs of parts of a figure that meet.
OVERLAPS = """figure => {
    const boxes = (selector) => [...figure.querySelectorAll(selector)]
        .map((element) => element.getBoundingClientRect()).filter((box) => box.width && box.height);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const plot = ".nsewdrag", xtitle = "[class^=g-x] text", ytitle = "[class^=g-y] text";
    const tick = ".xtick text, .x2tick text", ytick = ".ytick text, .y2tick text";
    const pairs = [[".legend", plot], [".legend", xtitle], [".legend", tick], [".gtitle", plot],
        [xtitle, plot], [ytitle, plot], [xtitle, tick], [ytitle, ytick], [".cbaxis text", plot]];
    return pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q))))
        .map(String);
}"""


@pytest.mark.parametrize("width", [1280, pytest.param(800, marks=pytest.mark.slow)])
def test_every_figure_is_drawn_and_nothing_overlaps(finished, width):
    problems = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((finished / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        figures = page.query_selector_all("figure")
        assert len(figures) == 8
        for figure in figures:
            figure.scroll_into_view_if_needed()
            figure.wait_for_selector(".nsewdrag", state="attached")
            assert figure.evaluate(OVERLAPS) == [], figure.get_attribute("id")
        browser.close()
    assert problems == []
