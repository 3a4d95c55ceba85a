"""Does the report say what the numbers say, and nothing more?"""

import csv
import io
import math
import os
import re

import plotly.graph_objects as go
import pytest
from markupsafe import Markup
from synthetic_results import add_grid, add_rescaling, diverge, set_final, synthetic_run

from degeneracy.report import page as report
from degeneracy.report.page import series_csv, write_figs_to_html, write_report
from degeneracy.runs.results import CHAIN_SERIES, SERIES
from studies.ngd_sgd.verdict import verdicts

TITLE = "FFNN 2 HL, 256 HN"
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def run_with(sgd, ngd, **options):
    """A run whose final values are overwritten: `sgd` and `ngd` are (llc, std_error)."""
    results, traces = synthetic_run(**options)
    for optimizer, (llc, error) in (("sgd", sgd), ("ngd", ngd)):
        set_final(results, TITLE, optimizer, llc=llc, llc_std_error=error, llc_drift=0.1)
    return results, traces


def only_verdict(results):
    (verdict,) = verdicts(results)
    return verdict


# The verdict


@pytest.mark.parametrize(
    ("ngd", "direction", "words"),
    [
        (
            55.0,
            "higher",
            "is higher, i.e. its solution is less degenerate at these settings, as published.",
        ),
        (
            30.0,
            "lower",
            (
                "is lower, i.e. its solution is more degenerate at these settings, opposite to"
                " published."
            ),
        ),
        (43.0, "undetected", "No difference detected: its interval includes 0"),
        (42.0, "undetected", "No difference detected: its interval includes 0"),
    ],
)
def test_the_verdict_follows_the_numbers_whichever_way_they_fall(ngd, direction, words):
    verdict = only_verdict(run_with((42.5, 0.6), (ngd, 0.8))[0])
    assert verdict.direction == direction
    assert words in verdict.headline


def test_the_interval_by_hand():
    verdict = only_verdict(run_with((43.0, 0.3), (55.0, 0.4))[0])
    assert verdict.difference == pytest.approx(12.0)
    assert verdict.interval == pytest.approx(
        (12 - 1.96 * 0.5, 12 + 1.96 * 0.5)
    )  # hypot(0.3, 0.4) = 0.5


def test_an_interval_that_just_includes_zero_detects_nothing():
    error = 1 / (1.96 * math.sqrt(2))
    assert (
        only_verdict(run_with((40.0, error * 1.0001), (41.0, error * 1.0001))[0]).direction
        == "undetected"
    )
    assert (
        only_verdict(run_with((40.0, error * 0.9999), (41.0, error * 0.9999))[0]).direction
        == "higher"
    )
    assert (
        only_verdict(run_with((41.0, error * 0.9999), (40.0, error * 0.9999))[0]).direction
        == "lower"
    )


def test_the_interval_its_limits_and_the_losses_stand_in_one_sentence():
    results, _ = run_with((43.0, 0.3), (55.0, 0.4))
    set_final(results, TITLE, "sgd", llc_init_loss=0.3)
    set_final(results, TITLE, "ngd", llc_init_loss=0.1)
    (sentence,) = [text for text in only_verdict(results).text if "interval" in text]
    assert (
        sentence
        == "Difference NGD − SGD: +12.00, 95 % interval from 11.02 to 12.98 (sampling error only,"
        " one training seed), at final training losses of 0.300 (SGD) and 0.100 (NGD)."
    )


def test_each_llc_comes_with_its_error_drift_and_settings():
    text = only_verdict(run_with((43.0, 0.3), (55.0, 0.4))[0]).text[0]
    assert "SGD 43.00 ± 0.30 after epoch 20 (drift +0.10)" in text
    assert "SGLD, 2 chains × 200 draws, ε = 0.0001, γ = 100, nβ = 26.38" in text


def test_every_verdict_says_that_this_is_not_the_learning_coefficient():
    assert "not the learning coefficient" in only_verdict(synthetic_run()[0]).text[-1]


@pytest.mark.parametrize(
    ("sgd_loss", "warned"),
    [(0.1, False), (0.109, False), (0.091, False), (0.12, True), (0.05, True)],
)
def test_unequal_training_losses_are_said(sgd_loss, warned):
    results, _ = run_with((43.0, 0.3), (55.0, 0.4))
    set_final(results, TITLE, "ngd", llc_init_loss=0.1)
    set_final(results, TITLE, "sgd", llc_init_loss=sgd_loss)
    assert (
        any("not at equal loss" in warning for warning in only_verdict(results).warnings) == warned
    )


def equal_loss_run(ngd_llc, losses=(0.11, 0.1 * 0.1 / 0.11)):
    """SGD ends at loss 0.1 with 43 ± 1; NGD passes there midway between epochs 14 and 15 and ends
    at 0.02.
    """
    results, _ = run_with((43.0, 1.0), (55.0, 0.4))
    sgd, ngd = (results["models"][TITLE]["optimizers"][name] for name in ("sgd", "ngd"))
    sgd["llc_init_loss"][20], ngd["llc_init_loss"][20] = 0.1, 0.02
    for epoch in range(10, 20):
        ngd["llc_init_loss"][epoch] = 0.5 if epoch < 14 else 0.03
    ngd["llc_init_loss"][14:16] = losses
    ngd["llc"][14:16], ngd["llc_std_error"][14:16] = [ngd_llc - 2, ngd_llc + 2], [1.0, 1.0]
    return only_verdict(results)


@pytest.mark.parametrize(
    ("ngd_llc", "words"), [(44.0, "show no difference"), (50.0, "is higher"), (38.0, "is lower")]
)
def test_the_optimizers_are_compared_at_equal_loss_where_both_passed_it(ngd_llc, words):
    verdict = equal_loss_run(ngd_llc)
    assert verdict.direction == "higher"
    assert verdict.headline.endswith(f"{words}.")
    (sentence,) = [text for text in verdict.text if text.startswith("At equal training loss")]
    assert (
        f"SGD 43.0 ± 1.0 by epoch 20, NGD {ngd_llc:.2f} ± 0.71 by epoch 15" in sentence
    )  # halfway: 1/√2
    assert "sampling error only, one training seed" in sentence
    half = 1.96 * math.sqrt(1.5)
    low, high = ngd_llc - 43 - half, ngd_llc - 43 + half
    assert f"{ngd_llc - 43:+.1f}, 95 % interval from {low:.1f} to {high:.1f}" in sentence


@pytest.mark.parametrize("losses", [(0.16, 0.09), (0.09, 0.08)])
def test_without_two_near_epochs_around_the_loss_nothing_is_said_of_equal_loss(losses):
    verdict = equal_loss_run(44.0, losses)
    assert not any("At equal" in text for text in (verdict.headline, *verdict.text))
    assert any("not at equal loss" in warning for warning in verdict.warnings)


def test_drift_beyond_the_standard_error_is_said():
    results, _ = run_with((43.0, 0.5), (55.0, 0.5))
    set_final(results, TITLE, "sgd", llc_drift=-0.6)
    set_final(results, TITLE, "ngd", llc_drift=0.4)
    drifting = [
        warning for warning in only_verdict(results).warnings if "still drifting" in warning
    ]
    assert len(drifting) == 1
    assert drifting[0].startswith("SGD")
    assert "depends on the draws" in drifting[0]


def test_a_drift_as_large_as_the_difference_is_said():
    results, _ = run_with((43.0, 0.1), (44.0, 0.1))
    assert not any("change its sign" in warning for warning in only_verdict(results).warnings)
    set_final(results, TITLE, "ngd", llc_drift=1.5)
    assert any("change its sign" in warning for warning in only_verdict(results).warnings)


def test_one_optimizer_gets_its_number_and_no_comparison():
    results, _ = synthetic_run(kind="standard", optimizers=("ngd",))
    verdict = only_verdict(results)
    assert (verdict.direction, verdict.difference) == (None, None)
    assert "no final LLC of SGD" in verdict.headline
    assert "NGD 5" in verdict.text[0]


def test_a_missing_standard_error_gives_the_difference_without_interval():
    verdict = only_verdict(run_with((43.0, None), (55.0, 0.4))[0])
    assert (verdict.direction, verdict.interval) == (None, None)
    assert verdict.difference == pytest.approx(12)
    assert "standard error is missing" in verdict.headline
    assert any("SGD's final LLC has no standard error" in warning for warning in verdict.warnings)


def test_nothing_measured_is_said():
    verdict = only_verdict(synthetic_run(measured=[])[0])
    assert verdict.headline == "No LLC was measured, so there is no verdict."


def test_a_diverged_optimizer_is_named_and_not_compared():
    results, _ = synthetic_run(kind="standard")
    diverge(results, TITLE, "sgd", 3)
    verdict = only_verdict(results)
    assert (
        verdict.warnings[0] == "SGD diverged in epoch 3; nothing was measured from that epoch on."
    )
    assert verdict.direction is None
    assert "epoch 2 for SGD, of epoch 20 for NGD" in verdict.headline


def test_ngd_that_never_started_is_not_called_diverged():
    results, _ = synthetic_run()
    diverge(results, TITLE, "sgd", 3)
    diverge(results, TITLE, "ngd", 3)
    warnings = only_verdict(results).warnings
    assert warnings[0].startswith("SGD diverged in epoch 3")
    assert warnings[1] == "NGD never started: the SGD run it was to go on from diverged in epoch 3."


def test_diverged_chains_are_counted_and_never_replaced_by_an_earlier_epoch():
    results, _ = synthetic_run()
    set_final(
        results, TITLE, "ngd", num_diverged_chains=2, llc=None, llc_std_error=None, llc_drift=None
    )
    verdict = only_verdict(results)
    assert verdict.direction is None
    assert "NGD: 2 of 2 chains diverged at epoch 20." in verdict.warnings
    assert "NGD has no LLC at epoch 20, the last one sampled." in verdict.warnings
    set_final(results, TITLE, "sgd", num_diverged_chains=2, llc=float("nan"))
    assert only_verdict(results).headline == "No LLC: every chain diverged."


def test_a_swap_run_is_not_judged_by_its_shared_checkpoint():
    results, _ = synthetic_run(measured=[10])
    verdict = only_verdict(results)
    assert verdict.direction is None
    assert "no LLC was measured after epoch 10, which both share" in verdict.headline


def test_a_standard_run_is_not_judged_by_its_shared_initial_weights():
    results, _ = synthetic_run(kind="standard", measured=[0])
    verdict = only_verdict(results)
    assert verdict.direction is None
    assert "no LLC was measured after epoch 0, which both share" in verdict.headline


def test_an_llc_of_an_earlier_epoch_is_not_called_final():
    results, _ = synthetic_run(measured=[15])
    verdict = only_verdict(results)
    assert "LLC after epoch 15 of 20" in verdict.headline
    assert not any(
        "final" in sentence for sentence in (verdict.headline, *verdict.text, *verdict.warnings)
    )


@pytest.mark.parametrize(("ess", "warned"), [(49.0, True), (51.0, False)])
def test_few_effective_draws_are_said(ess, warned):
    results, _ = synthetic_run()
    for optimizer in ("sgd", "ngd"):
        set_final(results, TITLE, optimizer, llc_ess=500.0)
    set_final(results, TITLE, "ngd", llc_ess=ess)
    assert (
        any("independent ones" in warning for warning in only_verdict(results).warnings) == warned
    )


def test_chains_that_had_not_settled_are_counted():
    results, _ = synthetic_run()
    set_final(results, TITLE, "sgd", num_unsettled_chains=1)
    set_final(results, TITLE, "ngd", num_unsettled_chains=0)
    said = [warning for warning in only_verdict(results).warnings if "settled" in warning]
    assert said == [
        "SGD: 1 of 2 chains had not settled at epoch 20 (still rising or still falling)."
    ]


def test_skipped_updates_are_said():
    results, _ = synthetic_run()
    set_final(results, TITLE, "ngd", num_skipped_updates=4)
    assert any("skipped 4 updates" in warning for warning in only_verdict(results).warnings)


def test_one_verdict_a_model():
    titles = ("FFNN 2 HL, 64 HN", "CNN 2 HCL")
    assert tuple(verdict.title for verdict in verdicts(synthetic_run(titles=titles)[0])) == titles


# The series as CSV


def test_the_csv_equals_the_results():
    results, _ = synthetic_run(titles=("model, with a comma", 'and "quotes"'))
    rows = list(csv.DictReader(io.StringIO(series_csv(results))))
    assert len(rows) == 2 * 2 * 21
    for row in rows:
        series = results["models"][row["title"]]["optimizers"][row["optimizer"]]
        for key in SERIES:
            expected = series[key][int(row["epoch"])]
            assert row[key] == "" if expected is None else float(row[key]) == expected
        chains = series["llc_chains"][int(row["epoch"])] or ()
        assert row["llc_chains"] == "; ".join(chain["verdict"] for chain in chains)
    assert set(rows[0]) == {"title", "optimizer", "epoch", *SERIES, "llc_chains"}


# The page


def test_the_page_is_whole_and_plotly_is_in_it_once(tmp_path):
    results, traces = synthetic_run(titles=("A", "B"))
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert page.count("* plotly.js v") == 1
    assert page.count('<script type="application/json">') == 18
    for anchor in re.findall(r'<a href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    assert '<a href="#figures-2">B</a>' in page
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_every_value_is_escaped_in_text_and_in_scripts(tmp_path):
    results, traces = synthetic_run(titles=(EVIL,))
    results["config"]["data"]["root"] = EVIL
    results["environment"][EVIL] = EVIL
    kappa = results["models"][EVIL]["optimizers"]["ngd"]["kappa"]
    kappa[EVIL] = kappa.pop("layers.0.weight")
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert "<script>window.hacked" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;window.hacked" in page
    assert (
        page.count("<script") == page.count("</script>") == 11
    )  # plotly.js, nine figures, the drawing


def test_a_run_that_is_still_going_says_so(tmp_path):
    results, traces = synthetic_run()
    assert "not finished" not in write_report(results, traces, tmp_path / "report.html").read_text()
    results["status"] = "running"
    results["timing_s"]["total"] = None
    for series in results["models"][TITLE]["optimizers"].values():
        for key in (*SERIES, *CHAIN_SERIES):
            series[key][12:] = [None] * 9
    assert (
        "This run is not finished."
        in write_report(results, traces, tmp_path / "report.html").read_text()
    )


def test_the_table_says_when_a_number_is_of_an_earlier_epoch(tmp_path):
    results, traces = synthetic_run(kind="standard")
    diverge(results, TITLE, "sgd", 3)
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert "<small>epoch 2</small>" in page


def rows_of(page, caption):
    """The rows of the table with that caption, each cell as text, what is small in it behind a bar."""
    table = re.search(rf"<table[^>]*>\s*<caption>{caption}.*?</table>", page, re.DOTALL).group(0)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]*>", "", cell.replace("<small>", "|")) for cell in row] for row in cells]


def test_the_table_of_chains_shows_each_chain_diverged_ones_too(tmp_path):
    results, traces = synthetic_run()
    chains = [{"llc": None, "verdict": "diverged"}, {"llc": 43.21, "verdict": "still rising"}]
    set_final(results, TITLE, "sgd", llc_chains=chains)
    set_final(results, TITLE, "ngd", llc_chains=[{"llc": 55.0, "verdict": "steady"}] * 2)
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert rows_of(page, "Chains") == [
        ["chain", "SGD λ̂, epoch 20", "verdict", "NGD λ̂, epoch 20", "verdict"],
        ["1", "–", "diverged", "55.00", "steady"],
        ["2", "43.21", "still rising", "55.00", "steady"],
    ]
    assert "SGD 1 diverged, 1 still rising; NGD 2 steady" in page


def test_the_table_of_many_chains_is_short_and_counts_all(tmp_path):
    results, traces = synthetic_run(num_chains=25, num_draws=10, measured="final")
    set_final(results, TITLE, "sgd", llc_chains=[{"llc": 43.2, "verdict": "steady"}] * 25)
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert len(rows_of(page, "Chains")) == 1 + report.MAX_CHAINS
    assert "SGD 25 steady" in page


def test_the_metrics_name_what_chains_did_and_that_r_hat_is_blind(tmp_path):
    results, traces = synthetic_run()
    set_final(
        results, TITLE, "sgd", llc_acceptance=0.931, num_unsettled_chains=2, num_diverged_chains=1
    )
    set_final(results, TITLE, "ngd", llc_acceptance=None)
    for series in results["models"][TITLE]["optimizers"].values():
        series["llc_acceptance"][:20] = [None] * 20
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    rows = {row[0].split("|")[0]: row for row in rows_of(page, TITLE)}
    assert rows["MALA acceptance"][1:] == ["0.931", "–"]
    assert rows["Unsettled chains"][1] == "2"
    assert rows["Diverged chains"][1] == "1"
    assert "blind here, because all chains start at w*" in rows["R-hat"][0]


def test_the_robustness_has_a_section_with_the_numbers_of_every_cell(tmp_path):
    results, traces = synthetic_run()
    before = write_report(results, traces, tmp_path / "report.html").read_text()
    assert ">Robustness:" not in before
    add_grid(results)
    add_rescaling(results)
    page = write_report(results, traces, tmp_path / "report.html").read_text()
    assert f'<a href="#figures-2">Robustness: {TITLE}</a>' in page
    assert 'id="2-llc-grid"' in page
    assert 'id="2-rescaling"' in page
    head, *rows = rows_of(page, "LLC on the grid")
    assert head == ["nβ", "γ", "ε", "SGD λ̂", "NGD λ̂", "NGD − SGD, 95 % interval", "order"]
    assert len(rows) == 8
    assert rows[1] == [
        "26.38|m/ln m",
        "100",
        "8.91e-05",
        "43.50 ± 0.80|drift +0.24; acceptance 0.93; 4 steady",
        "55.30 ± 0.80|drift +0.24; acceptance 0.93; 4 steady",
        "+11.8|9.6 to 14.0",
        "higher",
    ]
    assert rows[4][3].endswith("3 steady, 1 diverged")
    assert rows[4][-1] == "not settled"
    assert (
        page.replace("\u00a0", " ").count("ε = 0.2/(nβ h_max + γ)") == 2
    )  # in the figure's caption and the table's


@pytest.mark.parametrize("optimizers", [("sgd",), ("ngd",), ("sgd", "adamw")])
def test_any_set_of_optimizers_has_a_report(tmp_path, optimizers):
    results, traces = synthetic_run(kind="standard", optimizers=optimizers, measured="final")
    assert write_report(results, traces, tmp_path / "report.html").stat().st_size > 4e6


def test_the_old_page_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    dest = write_figs_to_html([go.Figure()], tmp_path / "page.html", "first")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_figs_to_html([go.Figure()], dest, "second")
    assert "<h1>first</h1>" in dest.read_text()
    assert list(tmp_path.iterdir()) == [dest]


def test_own_figures_with_a_summary_as_text_or_as_html(tmp_path):
    figs = [go.Figure(go.Scatter(y=[1, 2])), ("mine", "What to <look> for", go.Figure())]
    page = write_figs_to_html(
        figs, tmp_path / "a.html", "My <figures>", summary="1 < 2"
    ).read_text()
    assert "1 &lt; 2" in page
    assert "My &lt;figures&gt;" in page
    assert "What to &lt;look&gt; for" in page
    assert 'id="1-mine"' in page
    assert "Verdict" not in page
    page = write_figs_to_html(
        figs, tmp_path / "a.html", "Mine", summary=Markup("<em>so</em>")
    ).read_text()
    assert "<em>so</em>" in page


def test_no_markup_survives_in_inline_json():
    figure = go.Figure(layout={"title": {"text": EVIL + "\u2028"}})
    text = report._inline_json(figure)
    assert not set("<>&\u2028\u2029") & set(text)
    assert go.Figure(report.json.loads(text)).layout.title.text == EVIL + "\u2028"
