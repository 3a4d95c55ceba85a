"""Which figures does the README show? Draws a finished run's figures and writes them as PNG into
`docs/`.

    .venv/bin/python benchmarks/readme_figures.py RUN_DIRECTORY

The directory is that of a run (`make run`) or of the study of phase transitions (`make
phase-transitions`), whose pictures are called phase-….png. Needs Chromium and `make venv-dev`; the
figures are those of the run's report, drawn by the same functions.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from degeneracy.report.page import write_figs_to_html
from degeneracy.report.run_figures import model_figures
from degeneracy.runs.store import RunStore
from studies.phase_transitions.figures import study_figures

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = ("loss", "llc", "running-mean", "hessian-trace", "llc-against-loss", "llc-grid")
SHOWN_OF_PHASES = ("llc", "developmental", "spectra")
WIDTH, MARGIN = 1000, 12  # pixels


def main(directory: Path) -> None:
    store = RunStore(directory, json.loads((directory / "config.json").read_text()))
    results, traces = store.read_results(), store.read_traces()
    title = next(iter(results["models"]))
    if "transitions" in results["config"]:
        figures = [entry for entry in study_figures(results) if entry[0] in SHOWN_OF_PHASES]
        figures = [(f"phase-{key}", caption, figure) for key, caption, figure in figures]
    else:
        figures = [entry for entry in model_figures(title, results, traces) if entry[0] in SHOWN]
    browser_path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if browser_path is None:
        sys.exit("no Chromium found: install one, or put it on PATH")
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        for key, caption, figure in figures:
            html = write_figs_to_html([(key, caption, figure)], Path(folder) / f"{key}.html", title)
            page.goto(html.as_uri())
            drawn = page.locator(".js-plotly-plot")
            drawn.scroll_into_view_if_needed()
            page.wait_for_selector(".js-plotly-plot .plot-container")
            page.wait_for_timeout(500)  # transitions
            box = drawn.bounding_box()
            margin = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN}
            size = {"width": box["width"] + 2 * MARGIN, "height": box["height"] + 2 * MARGIN}
            page.screenshot(path=DOCS / f"{key}.png", clip=margin | size)
            print(DOCS / f"{key}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
