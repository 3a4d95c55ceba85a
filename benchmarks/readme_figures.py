"""Which figures do the README and docs/ show? Draws those of a finished run into `docs/*.png`.

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

import studies
from degeneracy.report.page import write_figs_to_html
from degeneracy.runs.store import RunStore

DOCS = Path(__file__).parent.parent / "docs"
SHOWN = {  # study → (keys of its drawings, what stands before them in a file's name)
    "ngd_sgd": (
        (
            "local-llc",
            "loss",
            "llc",
            "running-mean",
            "hessian-trace",
            "llc-against-loss",
            "llc-grid",
        ),
        "",
    ),
    "phase_transitions": (("llc", "developmental", "spectra"), "phase-"),
}
WIDTH = 1000  # pixels


def main(directory: Path) -> None:
    store = RunStore(directory, json.loads((directory / "config.json").read_text()))
    results, traces = store.read_results(), store.read_traces()
    shown, prefix = SHOWN[results["study"]]
    sections = studies.find(results["study"]).figures(results, traces)
    drawings = [one for section in sections for one in section.drawings if one.key in shown]
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
        for drawing in drawings:
            path, name = Path(folder) / f"{drawing.key}.html", f"{prefix}{drawing.key}.png"
            figure = drawing.key, drawing.caption, drawing.figure
            html = write_figs_to_html([figure], path, results["study"])
            page.goto(html.as_uri())
            drawn = page.locator(".js-plotly-plot")
            drawn.scroll_into_view_if_needed()
            page.wait_for_selector(".js-plotly-plot .plot-container")
            page.wait_for_timeout(500)  # transitions
            drawn.screenshot(path=DOCS / name)
            print(DOCS / name)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
