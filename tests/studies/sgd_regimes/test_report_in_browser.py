"""Does the report work in Chromium, wide and narrow, with nothing overlapping?"""

import pytest
from browser import ARGS, CHROMIUM, OVERLAPS, needs_chromium, sync_api

pytestmark = needs_chromium


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
