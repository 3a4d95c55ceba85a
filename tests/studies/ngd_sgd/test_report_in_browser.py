"""Does the report work in a browser, offline, with nothing overlapping and nothing running that
should not?
"""

import csv
import shutil

import plotly.graph_objects as go
import pytest
from synthetic_results import add_grid, add_rescaling, synthetic_run

from degeneracy.report.page import write_figs_to_html, write_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"
)
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LONG = "encoder.blocks.{}.self_attention.output_projection.dense.weight"

OVERLAPS = """figure => {
    const boxes = (selector) => [...figure.querySelectorAll(selector)].map((e) => e.getBoundingClientRect())
        .filter((b) => b.width && b.height);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const plot = ".nsewdrag", xtitle = ".xtitle, .x2title", ytitle = ".ytitle, .y2title";
    const note = ".annotation:not(:has(.annotation-arrow-g))";  // one with an arrow points at a curve, inside the plot
    const xtick = ".xtick text, .x2tick text", ytick = ".ytick text, .y2tick text";
    const pairs = [[".legend", plot], [".legend", xtitle], [".legend", xtick], [".gtitle", plot],
        [".gtitle", ".annotation"], [note, plot], [xtitle, plot], [ytitle, plot], [xtitle, xtick],
        [ytitle, ytick]];
    return pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q)))).map(String);
}"""

FITS = """async () => {  // waits until every figure has the page's width; the page forbids wait_for_function's eval
    const width = (element) => element.getBoundingClientRect().width;
    const fits = (figure) => width(figure.querySelector(".main-svg")) === width(figure);
    for (let i = 0; i < 100; i++) {
        if ([...document.querySelectorAll("figure")].every(fits)) return true;
        await new Promise((resume) => setTimeout(resume, 100));
    }
    return false;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file at a width; afterwards nothing may have been logged as an error or asked of the
    network.
    """
    problems, contexts = [], []

    def open_page(path, width=1280):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        )
        page = contexts[-1].new_page()
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: problems.append(request.url) if not _is_local(request.url) else None,
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _is_local(url):
    return url.startswith(("file://", "data:", "blob:"))


def draw_all(page):
    """Scrolls through the page as a reader does; figures are drawn as they come near."""
    for figure in page.query_selector_all("figure"):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".scatterlayer .trace", state="attached")
    return page.query_selector_all("figure")


@pytest.fixture(scope="module")
def swap_report(tmp_path_factory):
    return write_report(*synthetic_run(), tmp_path_factory.mktemp("swap") / "report.html")


@pytest.fixture(scope="module")
def hard_report(tmp_path_factory):
    """One epoch measured, still running, a swap near the end, long names, many parameters."""
    title = "A model with a very long name " * 5
    results, traces = synthetic_run(titles=(title,), measured="final", num_epochs=8, cut_off=7)
    results["status"] = "running"
    kappa = results["models"][title]["optimizers"]["ngd"]["kappa"]
    kappa |= {
        LONG.format(i): {str(axis): [None] * 8 + [10.0 ** (-i - axis)] for axis in range(4)}
        for i in range(8)
    }
    return write_report(results, traces, tmp_path_factory.mktemp("hard") / "report.html")


@pytest.fixture(scope="module")
def robust_report(tmp_path_factory):
    """With the grid of γ × nβ, some of it not settled, rescaled layers, and chains that diverged."""
    results, traces = synthetic_run(measured="final")
    add_grid(results)
    add_rescaling(results)
    for (title, optimizer, epoch), trace in traces.items():
        trace[0, 100:] = float("nan")
        results["models"][title]["optimizers"][optimizer]["llc_chains"][epoch][0] = {
            "llc": None,
            "verdict": "diverged",
        }
    return write_report(results, traces, tmp_path_factory.mktemp("robust") / "report.html")


@pytest.mark.parametrize(
    ("name", "count"), [("swap_report", 9), ("hard_report", 9), ("robust_report", 11)]
)
def test_every_figure_is_drawn_and_nothing_overlaps_at_two_widths(open_page, request, name, count):
    page = open_page(request.getfixturevalue(name), width=1280)
    figures = draw_all(page)
    assert len(figures) == count
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(FITS)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for figure in figures:
            assert figure.evaluate(OVERLAPS) == [], figure.get_attribute("id")
            assert figure.query_selector_all(".scatterlayer .trace path")


IN_CELLS = """figure => {
    const texts = [...figure.querySelectorAll(".textpoint")].map((e) => e.getBoundingClientRect());
    const plot = figure.querySelector(".nsewdrag").getBoundingClientRect();
    return texts.map((t) => Math.max(t.width / (plot.width / 4), t.height / (plot.height / 2)));
}"""


def test_the_grids_texts_stay_in_their_cells_and_a_hatched_cell_can_be_hovered(
    open_page, robust_report
):
    page = open_page(robust_report, width=800)
    draw_all(page)
    figure = page.query_selector("[id='2-llc-grid']")
    shares = figure.evaluate(IN_CELLS)
    assert len(shares) == 8
    assert max(shares) < 0.96
    plot = figure.query_selector(".nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 4)
    page.wait_for_selector(".hoverlayer .hovertext")
    hover = page.text_content("[id='2-llc-grid'] .hoverlayer")
    assert "γ = 10, nβ = 5454" in hover
    assert "3 steady, 1 diverged" in hover


def test_own_figures_are_drawn_and_a_legend_over_data_would_be_seen(open_page, tmp_path):
    figure = go.Figure(
        [go.Scatter(y=[1, 2]), go.Scatter(y=[2, 1])], {"legend": {"x": 0.2, "y": 0.5}}
    )
    page = open_page(write_figs_to_html([figure], tmp_path / "bad.html", "Bad"))
    (drawn,) = draw_all(page)
    assert drawn.evaluate(OVERLAPS) == [".legend,.nsewdrag"]


def test_a_value_with_markup_shows_as_text_and_does_not_run(open_page, tmp_path):
    results, traces = synthetic_run(titles=(EVIL,), measured="final")
    results["config"]["data"]["root"] = EVIL
    kappa = results["models"][EVIL]["optimizers"]["ngd"]["kappa"]
    kappa["<b>w</b>"] = kappa.pop("layers.0.weight")
    page = open_page(write_report(results, traces, tmp_path / "report.html"))
    draw_all(page)
    assert page.evaluate("window.hacked") is None
    assert EVIL in page.inner_text("#settings")
    assert EVIL in page.inner_text("#verdict")
    assert "<b>w</b>" in page.evaluate(
        "document.querySelector('[id=\"1-kappa\"] .legend').textContent"
    )
    assert "</script><script>" in page.evaluate("document.querySelector('.gtitle').textContent")


def test_the_csv_button_downloads_every_row(open_page, swap_report, tmp_path):
    page = open_page(swap_report)
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "series.csv"
    download.value.save_as(tmp_path / "series.csv")
    with open(tmp_path / "series.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [(optimizer, str(epoch)) for optimizer in ("sgd", "ngd") for epoch in range(21)]
    assert [(row["optimizer"], row["epoch"]) for row in rows] == epochs
    results, _ = synthetic_run()
    (model,) = results["models"].values()
    assert [float(row["llc"]) for row in rows if row["optimizer"] == "sgd"] == model["optimizers"][
        "sgd"
    ]["llc"]


def test_printing_draws_the_figures_not_yet_seen(open_page, swap_report):
    page = open_page(swap_report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("figure:last-of-type .scatterlayer .trace", state="attached")
    assert len(page.query_selector_all("figure .js-plotly-plot")) == 9
