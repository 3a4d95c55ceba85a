"""Does the report work in a browser, offline, with nothing overlapping?"""

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
    const plot = ".nsewdrag", xtitle = ".xtitle, .x2title", ytitle = ".ytitle, .y2title";
    const xtick = ".xtick text, .x2tick text", ytick = ".ytick text, .y2tick text";
    const pairs = [[".legend", plot], [".legend", xtitle], [".legend", xtick], [".gtitle", plot],
        [xtitle, plot], [ytitle, plot], [ytick, plot], [ytitle, ytick]];
    return pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q))))
        .map(String);
}"""


@pytest.mark.parametrize("width", [1200, 760])
def test_figures_are_drawn_without_errors_and_nothing_overlaps(finished, width):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.context.set_offline(True)
        page.goto((finished / "report.html").as_uri())
        figures = page.locator(".js-plotly-plot")
        sync_api.expect(page.locator(".plot-container")).to_have_count(10, timeout=60_000)
        found = {
            figures.nth(i).locator(".gtitle").first.text_content(): figures.nth(i).evaluate(
                OVERLAPS
            )
            for i in range(figures.count())
        }
        browser.close()
    assert errors == []
    assert {title: pairs for title, pairs in found.items() if pairs} == {}
