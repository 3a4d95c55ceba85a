"""How do a report's figures become pictures for docs/? Drawn by Chromium, as the report shows them.

Needs Chromium on PATH, and Playwright, of requirements-dev.txt.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from degeneracy.report.page import Drawing, write_figs_to_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1000  # pixels
TRANSITIONS_MS = 500


def draw(drawings: Sequence[Drawing], folder: Path, prefix: str = "") -> list[Path]:
    """Writes each drawing as `<prefix><key>.png` into a folder, and returns the paths.

    Raises:
        FileNotFoundError: There is no Chromium on PATH.
    """
    from playwright.sync_api import sync_playwright

    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        raise FileNotFoundError("no Chromium found: install one, or put it on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as pages, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        for drawing in drawings:
            path = Path(pages) / f"{drawing.key}.html"
            figure = drawing.key, drawing.caption, drawing.figure
            page.goto(write_figs_to_html([figure], path, "figures").as_uri())
            drawn = page.locator(".js-plotly-plot")
            drawn.scroll_into_view_if_needed()
            page.wait_for_selector(".js-plotly-plot .plot-container")
            page.wait_for_timeout(TRANSITIONS_MS)
            written.append(folder / f"{prefix}{drawing.key}.png")
            drawn.screenshot(path=written[-1])
        browser.close()
    return written
