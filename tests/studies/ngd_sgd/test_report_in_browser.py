"""Does a run's report work in a browser, with nothing overlapping, however many optimizers it has?

What the page does for every study is tested in `tests/degeneracy/report/test_page_in_browser.py`.
"""

import csv

import pytest
from browser import ARGS, CHROMIUM, needs_chromium, sync_api
from synthetic_results import (
    NOT_AT_MINIMUM,
    NOT_AT_REST,
    add_grid,
    add_local,
    add_rescaling,
    leave_unsampled,
    synthetic_run,
)

from degeneracy.report.page import write_page
from studies.ngd_sgd import title
from studies.ngd_sgd.figures import study_figures
from studies.ngd_sgd.findings import findings

pytestmark = needs_chromium
EVIL = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
FOUR = ("sgd", "ngd", "adamw", "my opt <b>")

# Pairs of parts of a figure that meet; a label with an arrow points at a curve, inside the plot.
OVERLAPS = """figure => {
    const boxes = (selector) => [...figure.querySelectorAll(selector)]
        .map((element) => element.getBoundingClientRect()).filter((box) => box.width && box.height);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const plot = ".nsewdrag", xtitle = ".xtitle, .x2title", ytitle = ".ytitle, .y2title";
    const note = ".annotation:not(:has(.annotation-arrow-g))", label = ".annotation-text-g";
    const xtick = ".xtick text, .x2tick text", ytick = ".ytick text, .y2tick text";
    const pairs = [[".legend", plot], [".legend", xtitle], [".legend", xtick], [".gtitle", plot],
        [".gtitle", ".annotation"], [note, plot], [xtitle, plot], [ytitle, plot], [xtitle, xtick],
        [ytitle, ytick]];
    const found = pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q))));
    const labels = boxes(label);
    if (labels.some((p, i) => labels.some((q, j) => i < j && meet(p, q)))) found.push([label]);
    return found.map(String);
}"""

# The share of its cell that each text of a grid takes, in width or height.
IN_CELLS = """figure => {
    const texts = [...figure.querySelectorAll(".textpoint")].map((e) => e.getBoundingClientRect());
    const plot = figure.querySelector(".nsewdrag").getBoundingClientRect();
    return texts.map((t) => Math.max(t.width / (plot.width / 4), t.height / (plot.height / 2)));
}"""


def write_report(results, traces, folder):
    """The page of a run, as the study writes it."""
    drawings = study_figures(results, traces)
    return write_page(folder / "report.html", title(results), findings(results), drawings)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file at a width; afterwards nothing may have been logged as an error."""
    problems, contexts = [], []

    def note(message):
        if message.type == "error":
            problems.append(message.text)

    def open_page(path, width=1280, height=800):
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, accept_downloads=True))
        page = contexts[-1].new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def robust_report(tmp_path_factory):
    """Two optimizers, every epoch, grid and rescaling, some not settled, a chain that diverged."""
    results, traces = synthetic_run()
    add_grid(results)
    add_rescaling(results)
    for (model, optimizer, epoch), trace in traces.items():
        trace[0, 100:] = float("nan")
        chains = results["models"][model]["optimizers"][optimizer]["llc_chains"][epoch]
        chains[0] = {"llc": None, "verdict": "diverged"}
    return write_report(results, traces, tmp_path_factory.mktemp("robust"))


@pytest.fixture(scope="module")
def local_report(tmp_path_factory):
    """Two optimizers with local estimates, one of them of no minimum; a grid with cells of which no
    chain could be sampled.
    """
    results, traces = synthetic_run(num_chains=8)
    add_grid(results)
    add_local(results, {"sgd": (-30.0, -22.0), "ngd": (60.0, 71.0)}, sgd=NOT_AT_MINIMUM)
    leave_unsampled(results)
    return write_report(results, traces, tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def four_local_report(tmp_path_factory):
    """Four optimizers with local estimates, one of them not at rest."""
    results, traces = synthetic_run(optimizers=FOUR, num_chains=8, hessian=False)
    add_local(results, adamw=NOT_AT_REST)
    return write_report(results, traces, tmp_path_factory.mktemp("four_local"))


@pytest.fixture(scope="module")
def four_report(tmp_path_factory):
    results, traces = synthetic_run(optimizers=FOUR, num_chains=4)
    add_grid(results)
    add_rescaling(results)
    return write_report(results, traces, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def one_report(tmp_path_factory):
    """One optimizer, one epoch measured, long names, many parameters."""
    model = "A model with a very long name " * 5
    name = "an_optimizer_with_a_name_of_forty_letter"
    run = {"titles": (model,), "optimizers": (name,), "kind": "standard", "measured": "final"}
    results, traces = synthetic_run(**run, num_epochs=8)
    long = "encoder.blocks.{}.self_attention.output_projection.dense.weight"
    results["models"][model]["optimizers"][name]["kappa"] = {
        long.format(i): {str(axis): [None] * 8 + [10.0 ** (-i - axis)] for axis in range(4)}
        for i in range(8)
    }
    return write_report(results, traces, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("robust_report", 11),
        ("four_report", 13),
        ("one_report", 8),
        ("local_report", 11),
        ("four_local_report", 9),
    ],
)
def test_every_figure_is_drawn_and_nothing_overlaps(open_page, request, name, count, width):
    page = open_page(request.getfixturevalue(name), width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    figures = page.query_selector_all("figure")
    assert len(figures) == count
    for figure in figures:
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".scatterlayer .trace path", state="attached")
        assert figure.evaluate(OVERLAPS) == [], figure.get_attribute("id")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("robust_report", "llc-against-loss"),
        ("four_report", "llc-against-loss"),
        ("one_report", "llc-against-loss"),
        ("local_report", "local-llc"),
        ("four_local_report", "local-llc"),
    ],
)
def test_the_first_screen_has_headline_tiles_and_the_verdicts_figure(open_page, request, name, key):
    page = open_page(request.getfixturevalue(name), 1280, 800)
    card = page.query_selector(".card")
    for selector in (".headline", ".tiles", f"#figure-{key} .plot"):
        box = card.query_selector(selector).bounding_box()
        assert box["y"] + box["height"] <= 800, selector


def test_the_grids_texts_stay_in_their_cells_and_a_hatched_cell_can_be_hovered(
    open_page, robust_report
):
    page = open_page(robust_report, width=800)
    figure = page.query_selector("#figure-llc-grid")
    figure.scroll_into_view_if_needed()
    shares = figure.evaluate(IN_CELLS)
    assert len(shares) == 8
    assert max(shares) < 0.96
    box = figure.query_selector(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 4)
    page.wait_for_selector(".hoverlayer .hovertext")
    hover = page.text_content("#figure-llc-grid .hoverlayer")
    assert "γ = 10, nβ = 5454" in hover
    assert "3 steady, 1 diverged" in hover


def test_a_value_with_markup_shows_as_text_and_does_not_run(open_page, tmp_path):
    names = ("sgd", EVIL, "ngd")
    results, traces = synthetic_run(titles=(EVIL,), optimizers=names, measured="final")
    add_grid(results)
    add_rescaling(results)
    kappa = results["models"][EVIL]["optimizers"]["ngd"]["kappa"]
    kappa["<b>w</b>"] = kappa.pop("layers.0.weight")
    page = open_page(write_report(results, traces, tmp_path))
    assert page.evaluate("window.hacked") is None
    assert page.text_content("#verdict").count(EVIL) > 3
    assert EVIL in page.text_content("#tables")
    legend = "document.querySelector('#figure-kappa .legend').textContent"
    assert "<b>w</b>" in page.evaluate(legend)
    assert "</script><script>" in page.evaluate("document.querySelector('.gtitle').textContent")


def test_the_csv_button_downloads_every_row(open_page, four_report, tmp_path):
    page = open_page(four_report)
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "series.csv")
    with open(tmp_path / "series.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [(optimizer, str(epoch)) for optimizer in FOUR for epoch in range(21)]
    assert [(row["optimizer"], row["epoch"]) for row in rows] == epochs
