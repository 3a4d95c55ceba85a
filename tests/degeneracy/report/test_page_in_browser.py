"""Does the page work in a browser: at once, offline, on a phone, on paper, and saved?"""

import shutil
import subprocess
from itertools import product

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import ARGS, CHROMIUM, needs_chromium, sync_api

from degeneracy.report.page import (
    Card,
    Drawing,
    Findings,
    Note,
    Section,
    Tile,
    write_figs_to_html,
    write_page,
)
from degeneracy.report.style import empty_figure
from degeneracy.report.tables import Table

pytestmark = needs_chromium
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
SCREENS = {"desktop": (1280, 800), "tablet": (800, 1000), "phone": (390, 844)}

# What collides or is cut in a figure, as pairs of names. An annotation with an arrow points at a
# curve inside the plot.
FAULTS = """figure => {
    const boxes = (selector) => [...figure.querySelectorAll(selector)]
        .map((element) => element.getBoundingClientRect()).filter((box) => box.width && box.height);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const plot = ".nsewdrag", title = ".gtitle", legend = ".legend", slider = ".slider-container";
    const bar = ".cbfills, .cbaxis text", axis = "[class^=g-x] text, [class^=g-y] text";
    const note = ".annotation:not(:has(.annotation-arrow-g))", tick = ".xaxislayer-above text, "
        + ".yaxislayer-above text, .xaxislayer-below text, .yaxislayer-below text";
    const pairs = [[title, plot], [title, legend], [title, note], [title, bar], [title, axis],
        [legend, plot], [legend, axis], [legend, tick], [legend, slider], [bar, plot], [axis, plot],
        [axis, tick], [note, plot], [note, legend], [slider, axis], [slider, plot], [slider, tick]];
    const faults = pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q))));
    for (const one of [axis, note, plot]) {  // none may collide with another of its own
        const own = boxes(one);
        if (own.some((p, i) => own.some((q, j) => i < j && meet(p, q)))) faults.push([one, one]);
    }
    const all = figure.querySelector(".plot").getBoundingClientRect();
    for (const one of [title, legend, bar, axis, tick, note, slider, ".legendtext"]) {
        const cut = (box) => box.left < all.left - 1 || box.right > all.right + 1
            || box.top < all.top - 1 || box.bottom > all.bottom + 1;
        if (boxes(one).some(cut)) faults.push([one, "cut"]);
    }
    return faults.map(String);
}"""

# Waits until every figure has the width of its place.
FITS = """async () => {
    const width = (element) => element?.getBoundingClientRect().width;
    const fits = (figure) => width(figure.querySelector(".main-svg")) === width(figure);
    for (let i = 0; i < 100; i++) {
        if ([...document.querySelectorAll("figure")].every(fits)) return true;
        await new Promise((resume) => setTimeout(resume, 100));
    }
    return false;
}"""

# Left and top ends of a figure's plots.
PLACES = """figure => [...figure.querySelectorAll(".nsewdrag")].map((plot) => {
    const { left, top } = plot.getBoundingClientRect(); return [left, top]; })"""


def panels(count):
    """`count` panels over epochs, with a mark at the swap above each, as the report has them."""
    figure = empty_figure("LLC and validation loss of it", "FFNN 2 HL, 256 HN", columns=count)
    for column in range(1, count + 1):
        axis = "" if column == 1 else column
        for name, colour in (("SGD, training", "#0072b2"), ("NGD, validation", "#cc3311")):
            line = go.Scatter(y=np.arange(21) + column, name=name, line_color=colour)
            figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)
        figure.add_annotation(
            x=10, y=1, xref=f"x{axis}", yref=f"y{axis} domain", text="swap after epoch 10"
        )
    figure.update_annotations(showarrow=False, xanchor="left", yanchor="bottom")
    figure.update_xaxes(title_text="epoch")
    return figure.update_yaxes(title_text="validation loss (nats, mean cross-entropy)")


def grid():
    """A heatmap with texts in its cells and a long name in its legend."""
    figure = empty_figure("LLC at other γ and nβ: NGD − SGD", "FFNN 2 HL, 256 HN")
    bar = {"title": {"text": "NGD − SGD,<br>standard errors"}, "y": 0, "yanchor": "bottom"}
    figure.add_heatmap(z=np.arange(8).reshape(2, 4), colorbar=bar, name="NGD − SGD")
    cells = [(x, y) for y in range(2) for x in range(4)]
    texts = go.Scatter(x=[x for x, _ in cells], y=[y for _, y in cells], mode="text")
    figure.add_trace(texts.update(text=["<b>+570</b><br>−0.065 to 0.045"] * 8, showlegend=False))
    name = "hatched: SGD's or NGD's estimate has not settled, not counted"
    figure.add_scatter(x=[0, 1], y=[0, 1], name=name)
    figure.update_xaxes(title_text="localization γ (per weight²); ε = 0.2/(nβ h_max + γ), h = 81")
    return figure.update_yaxes(title_text="nβ")


def slider():
    """Three lines an epoch, those of one shown, a legend above the plot and a slider below."""
    figure = empty_figure("Diagonal of the Fisher information", "FFNN 2 HL, 256 HN")
    for epoch, name in product(range(6), ("SGD", "NGD", "a third one")):
        name = f"{name} (12 % are exactly 0)"
        figure.add_scatter(y=[epoch, len(name)], name=name, visible=epoch == 5)
    shown = np.repeat(np.eye(6, dtype=bool), 3, axis=1)
    steps = [
        {"method": "restyle", "label": str(epoch), "args": [{"visible": list(visible)}]}
        for epoch, visible in enumerate(shown)
    ]
    place = {"x": 0, "len": 1, "y": 0, "yanchor": "top", "pad": {"t": 56, "b": 8}}
    figure.update_layout(sliders=[{"steps": steps, "active": 5, **place}], height=520)
    legend = {"yref": "paper", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
    figure.update_layout(legend=legend)
    title = "eigenvalue of the Gauss-Newton matrix (nats / weight²), linear below 0.01"
    return figure.update_xaxes(title_text=title).update_yaxes(title_text="share (%)")


def curves():
    """LLC against loss: coloured by epoch, labelled at both ends, with a title that must break."""
    figure = empty_figure("LLC against the training loss, of both", "A model of a long name " * 4)
    marker = {"color": np.arange(5), "coloraxis": "coloraxis"}
    figure.add_scatter(x=np.arange(5), y=np.arange(5), marker=marker, name="NGD")
    bar = {"title": {"text": "epoch"}, "thickness": 12}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "colorbar": bar})
    for x, text in ((0, "SGD before the drop, epoch 3"), (4, "SGD after the drop, epoch 9")):
        figure.add_annotation(x=x, y=x, text=text, ay=56 if x else -56)
    return figure.update_xaxes(title_text="loss").update_yaxes(title_text="LLC λ̂")


def many():
    """More names in the legend than there is room for beside a plot."""
    figure = empty_figure("Smoothing κ of NGD", "FFNN 2 HL, 256 HN")
    for place in range(12):
        figure.add_scatter(y=[place, 1], name=f"blocks.{place}.attention.projection.weight")
    return figure.update_xaxes(title_text="epoch").update_yaxes(title_text="κ")


FIGURES = {
    "llc": panels(1),
    "two": panels(2),
    "three": panels(3),
    "four": panels(4),
    "grid": grid(),
    "slider": slider(),
    "curves": curves(),
    "many": many(),
}


@pytest.fixture(scope="module")
def study_page(tmp_path_factory):
    tiles = [Tile(f"optimizer {i}, after epoch 20", "43.6 ± 0.7", "", "#0072b2") for i in range(4)]
    tiles += [Tile(f"{i} − 0, 95 % interval", "+11.6", "9.1 to 14.1") for i in range(1, 4)]
    headline = "NGD's final LLC is higher, as published. At equal training loss it is lower."
    notes = [Note("Two chains had not settled", "They were still rising."), Note("One seed")]
    card = Card("FFNN 2 HL", headline, tiles, "llc", ["The sentence behind it."], notes)
    wide = Table("All cases", "", [f"column {i}" for i in range(14)], [["0.4811 ± 0.0021"] * 14])
    findings = Findings([card], [wide], "epoch,λ̂\n1,43.6\n")
    sections = [Section("A model", [Drawing(*one) for one in captioned(FIGURES)])]
    dest = tmp_path_factory.mktemp("study") / "page.html"
    return write_page(dest, "A run", findings, sections, context=[("Config", [("alpha", "0.1")])])


def captioned(figures):
    return [(key, f"What {key} shows.", figure) for key, figure in figures.items()]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file on a screen. Afterwards nothing may have been logged as an error or asked of the
    network.
    """
    problems, contexts = [], []

    def local(url):
        return url.startswith(("file://", "data:", "blob:"))

    def open_page(path, screen="desktop", **options):
        width, height = SCREENS[screen]
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda r: problems.append(r.url) if not local(r.url) else None)
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def plot(key):
    return f'document.querySelector("#figure-{key} .plot")'


def test_every_figure_is_drawn_before_the_page_has_loaded(open_page, study_page):
    tab = open_page(study_page)
    for key in FIGURES:
        assert tab.query_selector(f"#figure-{key} .main-svg .trace"), key
    assert tab.evaluate("scrollY") == 0


def test_the_verdict_its_numbers_and_its_figure_are_on_the_first_screen(open_page, study_page):
    tab = open_page(study_page)
    for part in ("h1", ".headline", ".tiles", ".notes", "#figure-llc .plot"):
        box = tab.query_selector(part).bounding_box()
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= 800, part
    assert not tab.is_visible("text=They were still rising.")
    tab.click("text=Two chains had not settled")
    assert tab.is_visible("text=They were still rising.")


@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_overlaps_or_is_cut_on_any_screen(open_page, study_page, screen):
    tab = open_page(study_page, screen)
    assert tab.evaluate(FITS)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    faults = {key: tab.query_selector(f"#figure-{key}").evaluate(FAULTS) for key in FIGURES}
    assert {key: found for key, found in faults.items() if found} == {}


def test_what_overlaps_or_is_cut_would_be_seen(open_page, tmp_path):
    figure = go.Figure([go.Scatter(y=[1, 2]), go.Scatter(y=[2, 1])])
    figure.update_layout(legend={"x": 0.2, "y": 0.5}, title="wide " * 100)
    tab = open_page(write_figs_to_html([figure], tmp_path / "bad.html", "Bad"))
    faults = tab.query_selector("figure").evaluate(FAULTS)
    assert ".legend,.nsewdrag" in faults
    assert any(fault.endswith(",cut") for fault in faults)


def test_panels_stand_below_each_other_on_a_phone_and_return(open_page, study_page):
    tab = open_page(study_page, "phone")
    rows_and_columns = {"two": (1, 2), "three": (1, 3), "four": (2, 2)}
    for width in (390, 1280, 390):
        tab.set_viewport_size({"width": width, "height": 844})
        assert tab.evaluate(FITS)
        for key, (rows, columns) in rows_and_columns.items():
            places = tab.query_selector(f"#figure-{key}").evaluate(PLACES)
            shape = len({round(top) for _, top in places}), len({round(left) for left, _ in places})
            assert shape == ((rows * columns, 1) if width == 390 else (rows, columns))


def test_a_figure_of_rows_keeps_its_arrangement(open_page, tmp_path):
    figure = go.Figure([go.Scatter(y=[1]), go.Scatter(y=[1], xaxis="x2", yaxis="y2")])
    figure.update_layout(grid={"rows": 2, "columns": 1, "pattern": "independent"})
    tab = open_page(write_figs_to_html([figure], tmp_path / "rows.html", "Rows"), "phone")
    (left, top), (other_left, other_top) = tab.query_selector("figure").evaluate(PLACES)
    assert left == other_left
    assert top < other_top


def test_the_readers_choices_survive_another_width(open_page, study_page):
    tab = open_page(study_page)
    tab.evaluate(f"Plotly.relayout({plot('two')}, {{'xaxis.range': [3, 7]}})")
    tab.click("#figure-slider .slider-tick-group, #figure-slider .slider-rail-touch-rect")
    shown = f"{plot('slider')}.data.findIndex((trace) => trace.visible === true) / 3"
    tab.wait_for_function(f"{shown} !== 5")
    chosen = tab.evaluate(shown)
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate(FITS)
    assert tab.evaluate(shown) == chosen
    assert tab.evaluate(f"{plot('slider')}._fullLayout.sliders[0].active") == chosen


def test_a_finger_on_a_figure_scrolls_a_phones_page(open_page, study_page):
    tab = open_page(study_page, "phone", has_touch=True, is_mobile=True)
    tab.evaluate(f"{plot('two')}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    before, client = tab.evaluate("scrollY"), tab.context.new_cdp_session(tab)
    for place in range(12):
        kind = "touchMove" if place else "touchStart"
        touch = [{"x": 200, "y": 500 - 20 * place}]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touch})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tab.wait_for_timeout(300)
    assert tab.evaluate("scrollY") > before + 100


# On paper

WATCH = """() => addEventListener("beforeprint", () => { window.printed = {
    open: [...document.querySelectorAll("details")].every((details) => details.open),
    widths: [...document.querySelectorAll("figure .main-svg")].map((svg) => svg.clientWidth),
    heights: [...document.querySelectorAll(".plot")].map((plot) => plot._fullLayout._size.h),
}; })"""


@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_all_is_open_and_drawn_for_paper_and_then_as_before(open_page, study_page, screen):
    tab = open_page(study_page, screen)
    before = tab.query_selector("#figure-two").evaluate(PLACES)
    tab.evaluate(WATCH)
    tab.pdf()
    printed = tab.evaluate("printed")
    assert printed["open"]
    assert set(printed["widths"]) == {700}
    assert len(printed["widths"]) == 3 * len(FIGURES)
    assert min(printed["heights"]) > 150  # of the plots: no colour bar pushes one flat
    assert tab.evaluate(FITS)
    assert tab.query_selector("#figure-two").evaluate(PLACES) == before
    assert not tab.is_visible("text=The sentence behind it.")


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext on the path")
def test_a_pdf_made_without_a_window_has_everything(study_page, tmp_path):
    pdf = tmp_path / "page.pdf"
    command = [CHROMIUM, "--headless", *ARGS, f"--print-to-pdf={pdf}", study_page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    text = subprocess.run(["pdftotext", pdf, "-"], check=True, capture_output=True, text=True)
    words = " ".join(text.stdout.split())
    for key, figure in FIGURES.items():
        assert f"What {key} shows." in words
        assert figure.data[0].name in words
    for closed in ("They were still rising.", "The sentence behind it.", "alpha"):
        assert closed in words
    assert words.count("swap after epoch 10") == 1 + 2 + 3 + 4


# Saved and opened again


def test_a_saved_page_shows_every_figure_once_and_alive(open_page, study_page, tmp_path):
    saved = tmp_path / "saved.html"
    saved.write_text(open_page(study_page).content())
    tab = open_page(saved)
    assert tab.evaluate(FITS)
    for key in FIGURES:
        for part in (".svg-container", ".modebar-container"):
            assert len(tab.query_selector_all(f"#figure-{key} {part}")) == 1
        assert tab.query_selector(f"#figure-{key}").evaluate(FAULTS) == []
    tab.click("#figure-two .legendtoggle >> nth=0", force=True)
    tab.wait_for_timeout(600)  # Plotly waits whether a second click follows
    assert tab.evaluate(f"{plot('two')}.data[0].visible") == "legendonly"


# What must not run, and what must work


def test_a_value_with_markup_shows_as_text_and_does_not_run(open_page, tmp_path):
    figure = empty_figure("Heading", EVIL).add_scatter(y=[1, 2], name="NGD")
    card = Card(EVIL, EVIL, [Tile(EVIL, EVIL, EVIL)], "llc", [EVIL], [Note(EVIL, EVIL)])
    table = Table(EVIL, EVIL, [EVIL], [[(EVIL, EVIL)]])
    sections = [Section(EVIL, [Drawing("llc", EVIL, figure)], [table])]
    path = write_page(tmp_path / "evil.html", EVIL, Findings([card], [table], EVIL), sections)
    tab = open_page(path)
    assert tab.evaluate("window.hacked") is None
    assert tab.inner_text("h1") == tab.title() == EVIL
    assert tab.text_content(".notes p").replace("\u00a0", " ") == EVIL
    assert "</script><script>" in tab.text_content(".gtitle")


def test_the_page_can_ask_nothing_of_the_network(browser, tmp_path):
    tab = browser.new_page()
    tab.goto(write_figs_to_html([go.Figure()], tmp_path / "page.html", "Page").as_uri())
    blocked = tab.evaluate("""() => new Promise((resolve) => {
        addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
    })""")
    assert blocked == "img-src"
    tab.close()


def test_the_csv_button_downloads_the_numbers(open_page, study_page, tmp_path):
    tab = open_page(study_page, accept_downloads=True)
    with tab.expect_download() as download:
        tab.click("#csv")
    assert download.value.suggested_filename == "series.csv"
    download.value.save_as(tmp_path / "series.csv")
    assert (tmp_path / "series.csv").read_text(encoding="utf-8") == "epoch,λ̂\n1,43.6\n"
