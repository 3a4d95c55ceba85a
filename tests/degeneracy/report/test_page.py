"""Does the page show what a study gives it, once, in its order, and nothing that is not text?"""

import json
import os
import re

import plotly.graph_objects as go
import pytest
from markupsafe import Markup

from degeneracy.report import page
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

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def drawing(key, heading="Heading"):
    figure = empty_figure(heading, "a model")
    return Drawing(key, f"caption of {key}", figure.add_scatter(y=[1, 2], name="SGD"))


CARD = Card(
    "FFNN",
    "NGD's final LLC is higher.",
    [Tile("SGD", "43.6 ± 0.7", colour="#0072b2"), Tile("NGD − SGD", "+11.6", "9.1 to 14.1")],
    "llc",
    ["The first sentence behind it.", "The second."],
    [Note("Two chains had not settled", "Still rising at epoch 20."), Note("One seed")],
)
TABLE = Table("Final metrics", "after epoch 20", ["metric", "SGD"], [["loss", ("0.3", "nats")]])
CONTEXT = [("Config", [("alpha", "0.1")]), ("Time", [("total", "61.2 s")])]


@pytest.fixture
def write(tmp_path):
    """Writes a page of two sections and returns it as text; what is given stands in its place."""

    def write(findings=None, sections=None, **options):
        if findings is None:
            findings = Findings([CARD], [TABLE], "a,b\n1,2\n")
        if sections is None:
            more = Section("More", [drawing("norm")], [Table("Grid", "", ["γ"], [["10"]])])
            sections = [Section("Model", [drawing("loss"), drawing("llc")]), more]
        options = {"context": CONTEXT} | options
        return write_page(
            tmp_path / "page.html", "A run", findings, sections, **options
        ).read_text()

    return write


def body_of(text):
    return text[text.index("<body>") :]


def test_what_matters_most_comes_first(write):
    body = body_of(write())
    order = [
        "<h1>A run</h1>",
        "NGD&#39;s final LLC is higher.",
        "43.6\u00a0±\u00a00.7",
        "Two chains had not settled",
        'id="figure-llc"',
        "The numbers behind it",
        "The first sentence behind it.",
        "<h2>Model</h2>",
        'id="figure-loss"',
        "<h2>More</h2>",
        'id="figure-norm"',
        "Grid",
        "Final metrics",
        "<summary>Config</summary>",
        "<summary>Time</summary>",
    ]
    places = [body.index(text) for text in order]
    assert places == sorted(places)


def test_a_drawing_that_a_card_takes_is_not_drawn_again(write):
    body = body_of(write())
    assert body.count('id="figure-llc"') == 1
    assert body.count("<figure") == body.count('type="application/json"') == 3
    assert body.count("<script>drawNext();</script>") == 3


def test_a_section_that_a_card_emptied_is_not_shown(write):
    sections = [Section("Model", [drawing("llc")]), Section("More", [drawing("loss")])]
    text = write(sections=sections)
    assert "Model" not in body_of(text)
    assert '<a href="#section-1">More</a>' in text


def test_the_sentences_the_details_and_the_settings_are_closed_at_first(write):
    body = body_of(write())
    for inside in ("The second.", "Still rising at epoch 20.", "alpha"):
        before = body[: body.index(inside)]
        assert before.rindex("<details") > before.rfind("</details>")
    assert "<details open" not in body
    assert not re.search(r"<details>\s*<summary>One seed", body)


def test_every_plot_is_an_image_with_an_alternative_text(write):
    body = body_of(write())
    labels = re.findall(r'<div class="plot" role="img" aria-label="([^"]*)"', body)
    assert labels == ["Heading, a model. shown: SGD."] * 3


def test_every_link_leads_somewhere_and_plotly_is_in_the_page_once(write):
    text = write()
    assert text.count("* plotly.js v") == 1
    anchors = re.findall(r'<a href="#([^"]+)"', text)
    assert anchors == ["verdict", "section-1", "section-2", "tables", "context"]
    for anchor in anchors:
        assert f'id="{anchor}"' in text


def test_nothing_is_loaded_from_elsewhere(write):
    text = write()
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", text)
    policy = re.search(r'http-equiv="Content-Security-Policy"\s*content="([^"]*)"', text).group(1)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_colours_are_those_that_the_study_gives(write):
    body = body_of(write())
    assert re.findall(r"border-color: ([^\"]*)\"", body) == ["#0072b2"]
    with pytest.raises(ValueError, match="tile 'SGD': colour 'sgd' given; allowed: #rrggbb"):
        Tile("SGD", "1", colour="sgd")


def test_the_numbers_can_be_downloaded_where_there_are_any(write):
    assert 'href="data:text/csv;charset=utf-8,a%2Cb%0A1%2C2%0A"' in write()
    assert "download=" not in body_of(write(Findings([CARD])))


def test_a_run_that_still_goes_on_says_so(write):
    assert "not finished" not in write()
    assert "This run is not finished." in write(running=True)


def test_a_study_that_found_nothing_yet_has_a_page(write):
    text = write(Findings(), [], context=())
    assert "Nothing to draw yet." in text
    assert "<nav" not in text


def test_a_row_header_is_marked_as_one(write):
    head, rows = ["metric", ("SGD", "#0072b2")], [[("loss", "nats"), ("0.3", "epoch 2")]]
    plain, headed = Table("T", "", head, rows), Table("T", "", head, rows, row_headers=True)
    assert "<td>loss<small>nats</small></td>" in write(Findings(tables=[plain]))
    text = write(Findings(tables=[headed]))
    assert '<th scope="row">loss<small>nats</small></th>' in text
    assert "<td>0.3<small>epoch 2</small></td>" in text
    assert '<th scope="col" style="text-decoration-color: #0072b2">SGD</th>' in text


def test_two_drawings_with_one_key_are_refused(write):
    twice = [Section("A", [drawing("loss")]), Section("B", [drawing("loss"), drawing("llc")])]
    with pytest.raises(ValueError, match="more than one drawing given with the key loss"):
        write(sections=twice)


@pytest.mark.parametrize("cards", [[Card("A", "So.", drawing="lcl")], [CARD, CARD]])
def test_a_card_takes_a_drawing_that_is_there_and_free(write, cards):
    with pytest.raises(ValueError, match=r"drawing '\w+' given; allowed: .*: loss, (llc, )?norm"):
        write(Findings(cards))


@pytest.mark.parametrize("key", ["", "two words", 'a"b', "<b>", "a/b"])
def test_a_key_that_is_no_anchor_is_refused(key):
    with pytest.raises(ValueError, match=r"allowed: letters, digits, _ \. and -"):
        Drawing(key, "", go.Figure())


def test_every_value_is_escaped_in_text_in_attributes_and_in_scripts(write):
    figure = go.Figure(go.Scatter(y=[1], name=EVIL), {"title": {"text": EVIL}})
    card = Card(EVIL, EVIL, [Tile(EVIL, EVIL, EVIL)], "llc", [EVIL], [Note(EVIL, EVIL), Note(EVIL)])
    table = Table(EVIL, EVIL, [EVIL], [[(EVIL, EVIL)]])
    sections = [Section(EVIL, [Drawing("llc", EVIL, figure)], [table])]
    text = write(Findings([card], [table], EVIL), sections, context=[(EVIL, [(EVIL, EVIL)])])
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.hacked" in text
    # plotly.js, the figure, the script of the page, the call that draws
    assert text.count("<script") == text.count("</script>") == 4


def test_no_markup_survives_in_inline_json():
    figure = go.Figure(layout={"title": {"text": EVIL + "\u2028"}})
    text = page._inline_json(figure)
    assert not set("<>&\u2028\u2029") & set(text)
    assert go.Figure(json.loads(text)).layout.title.text == EVIL + "\u2028"


def test_own_figures_with_a_summary_as_text_or_as_html(tmp_path):
    figs = [go.Figure(go.Scatter(y=[1, 2])), ("mine", "What to <look> for", go.Figure())]
    dest = tmp_path / "a.html"
    text = write_figs_to_html(figs, dest, "My <figures>", summary="1 < 2").read_text()
    assert "1 &lt; 2" in text
    assert "My &lt;figures&gt;" in text
    assert "What to &lt;look&gt; for" in text
    assert 'id="figure-1"' in text
    assert 'id="figure-mine"' in text
    assert "Verdict" not in body_of(text)
    text = write_figs_to_html(figs, dest, "Mine", summary=Markup("<em>so</em>")).read_text()
    assert "<em>so</em>" in text
    with pytest.raises(ValueError, match="more than one drawing given with the key mine"):
        write_figs_to_html([figs[1], figs[1]], dest, "Twice")


def test_the_old_page_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    dest = write_figs_to_html([go.Figure()], tmp_path / "page.html", "first")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_figs_to_html([go.Figure()], dest, "second")
    assert "<h1>first</h1>" in dest.read_text()
    assert list(tmp_path.iterdir()) == [dest]
