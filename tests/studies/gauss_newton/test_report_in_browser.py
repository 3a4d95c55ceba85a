"""Does the report work in a browser, offline, with nothing overlapping?"""

import pytest
from browser import ARGS, CHROMIUM, OVERLAPS, needs_chromium, sync_api

pytestmark = needs_chromium


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
