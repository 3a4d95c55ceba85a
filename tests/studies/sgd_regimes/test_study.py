"""Does the study keep what it finds, show all of it, and say what may be said?"""

import json
import shutil

import numpy as np
import pytest
from executed_notebook import execute
from markupsafe import escape

from degeneracy.study import measure, open_work
from studies.sgd_regimes import STUDY
from studies.sgd_regimes.figures import spectrum_figure, study_figures
from studies.sgd_regimes.findings import (
    asymptotics_card,
    findings,
    order_sentence,
    regimes_card,
    spectrum_card,
)
from studies.sgd_regimes.measure import stability_map


def drawings_of(results):
    return {d.key: d for section in study_figures(results, {}) for d in section.drawings}


def test_the_report_holds_every_figure_and_sentence(finished, results):
    page = (finished / "report.html").read_text().replace("\u00a0", " ")
    for key in drawings_of(results):
        assert f'id="figure-{key}"' in page
    for card in findings(results).cards:
        assert str(escape(card.headline)) in page


def test_every_figure_has_its_axes_named(results):
    drawn = drawings_of(results)
    kinds = {key.split("-")[0] for key in drawn}
    assert kinds == {
        *("regimes", "stability", "asymptotics", "momentum", "condition", "budget", "spectrum")
    }
    for drawing in drawn.values():
        assert drawing.caption
        axes = [*drawing.figure.select_xaxes(), *drawing.figure.select_yaxes()]
        assert all(axis.title.text for axis in axes)


def test_what_is_there_of_an_unfinished_study_is_shown(results):
    for part in STUDY.parts:
        some = results | {"parts": {part: results["parts"][part]}}
        study_figures(some, {})
        assert findings(some).cards
    assert study_figures(results | {"parts": {}}, {}) == []
    assert findings(results | {"parts": {}}).cards[0].headline == "Nothing has been measured yet."


def test_a_setting_that_diverges_says_so(results):
    diverged = results["parts"]["regimes"]["α = 6, β = 0, b = 10"]
    assert "overflows at step" in diverged["overflow"]["averaged"]
    assert "overflows at step" in diverged["overflow"]["1"]
    assert diverged["lr"] > diverged["boundary"]["averaged"]
    assert "refused" in diverged["asymptote"]
    notes = findings(results).cards[0].notes
    assert any("α = 6" in note.line and "averaged" in note.line for note in notes)


def test_averaged_and_tau_one_are_near_each_other(results):
    found = results["parts"]["regimes"]["α = 0.5, β = 0, b = 10"]
    one, other = found["regimes"]["averaged"]["loss"], found["spectral"]["1"]["loss"]
    np.testing.assert_allclose(one, other, rtol=0.2)


def test_theory_and_simulation_agree_away_from_the_boundary(results):
    found = results["parts"]["stability"]["map"]
    near = np.abs(np.log(np.array(found["lrs"])[:, None] / np.array(found["spectral"]))) < 0.2
    agree = np.array(found["converges"]) == np.array(found["falls"])
    assert (agree | near).all()


def test_a_law_without_prediction_says_why(results):
    laws = results["parts"]["asymptotics"]
    refused = [found["refused"] for found in laws.values() if "refused" in found]
    assert len(refused) == 1
    texts = " ".join(findings(results).cards[2].text)
    assert "α = 3: " in texts


def test_before_the_transition_no_exponent_is_read_off(results):
    law = results["parts"]["asymptotics"]["ν = 1.5, ϰ = 3, b = 10, α = 0.5"]
    assert not law["holds"][0]
    law["holds"][-1] = False
    assert "no one exponent may be read off" in " ".join(findings(results).cards[2].text)


def test_formulas_are_in_a_table_without_residue(results):
    (table,) = [t for t in findings(results).tables if t.caption == "Derived by SymPy"]
    assert {row[2][0] for row in table.rows} == {"0"}


def test_without_runs_of_the_main_experiment_the_report_says_so(results):
    assert results["parts"]["bridge"] == {}
    assert findings(results).cards[-1].headline.startswith("No finished run")


def checkpoint(lr, llc, **changed):
    """A trained checkpoint at ten times its learning rate of the boundary."""
    settings = {"momentum": 0.9, "batch_size": 8, "epoch": 2, "run": "r", "seed": 1}
    alike = {"model": "m", "dataset": "d", "nbeta_choice": "1", "sampler": "sgld"}
    return {**settings, **alike, "lr": lr, "closeness": 10 * lr, "llc": llc, **changed}


def test_an_order_takes_several_learning_rates():
    same_rate = [checkpoint(0.1, float(e), closeness=0.1 * e, epoch=e) for e in range(1, 6)]
    assert "cannot be said: 5 trained checkpoints at 1 learning rate" in order_sentence(same_rate)
    rates = [checkpoint(r, -r) for r in (0.1, 0.2, 0.3, 0.4)]
    assert "Over 4 trained checkpoints (m, d) the rank" in order_sentence(rates)
    assert "is -1.00" in order_sentence(rates)


def test_runs_seeds_and_data_sets_are_checkpoints_of_their_own():
    pair = [checkpoint(0.1, 2.0), checkpoint(0.2, 1.0)]
    for key in ("run", "seed"):
        more = [{**one, key: f"other {key}"} for one in pair]
        assert "Over 4 trained checkpoints" in order_sentence([*pair, *more])


@pytest.mark.parametrize("key", ["model", "dataset", "nbeta_choice", "sampler"])
def test_what_is_not_alike_is_not_put_in_one_order(key):
    some = [checkpoint(r, -r) for r in (0.1, 0.2, 0.3)]
    others = [{**one, "run": "another", key: "other"} for one in some]
    found = order_sentence([*some, *others])
    assert "cannot be said: 6 trained checkpoints at 3 learning rates, in 2 groups" in found


def test_an_equal_llc_has_no_order():
    found = order_sentence([checkpoint(r, 1.0) for r in (0.1, 0.2, 0.3, 0.4)])
    assert "so that they have no correlation" in found


def test_a_law_whose_tail_is_cut_off_gets_no_verdict(results):
    laws = results["parts"]["asymptotics"]
    key = "ν = 1.5, ϰ = 3, b = 10, α = 0.5"
    laws = {key: laws[key] | {"tail": 0.01}}
    card = asymptotics_card(laws)
    assert card.text == [f"{key}: the tail beyond 2,000 modes is 1 % of L; no verdict"]
    assert "for 0 of 0 laws with a prediction; of 1 more nothing can be said" in card.headline


def test_a_kernel_whose_exponents_are_in_no_phase_says_so(results):
    part = results["parts"]["spectrum"]
    assert "divergent" not in spectrum_card(part).headline
    found = part["digits"]
    found["fit"] |= {"nu": 0.9}
    assert "no phase, for at ν <= 1" in spectrum_card(part).headline
    found["fit"] |= {"nu": 1.5, "kappa": -0.1}
    assert "has no phase" in spectrum_card(part).headline
    found |= {"fit": None, "refused": "modes 5 to 30 given"}
    assert "digits: no power law fitted, modes 5 to 30 given" in spectrum_card(part).headline
    assert len(spectrum_figure(part).data) == 2


def test_only_settings_that_ran_are_counted(results):
    part = results["parts"]["regimes"]
    headline = regimes_card(part).headline
    assert headline.startswith("Over 1 setting that ran the network stays within")
    assert "the best τ is 1" in headline
    first, _ = part.values()
    del first["spectral"]["1"]
    assert "the best τ is 2" in regimes_card(part).headline


def test_a_run_that_reached_zero_converges(tiny_settings):
    settings = tiny_settings.stability.model_copy(
        update={"nu": 1e-9, "size": 10, "batch_size": 10, "num_steps": 20_000, "num_lrs": 5}
    )
    found = stability_map(settings)
    reached = np.array(found["converges"])
    np.testing.assert_array_equal(np.array(found["falls"])[reached], True)


def test_what_was_found_is_taken_from_the_directory(finished, results, tiny_settings, tmp_path):
    assert results["status"] == "complete"
    shutil.copytree(finished, tmp_path / "run")
    work = open_work(STUDY, tiny_settings, tmp_path / "run", "cpu")
    measure(work, "regimes", "budget")
    assert work.results["parts"] == results["parts"]
    work.store.close()


def test_what_is_missing_is_measured_again_to_the_same_numbers(
    finished, results, tiny_settings, tmp_path
):
    shutil.copytree(finished, tmp_path / "run")
    left = json.loads((tmp_path / "run" / "results.json").read_text()) | {"status": "running"}
    del left["sha256"]  # what is edited is then taken as it is
    left["parts"]["budget"].popitem()
    left["parts"]["regimes"].popitem()
    (tmp_path / "run" / "results.json").write_text(json.dumps(left))
    with pytest.warns(UserWarning, match="has no sha256"):
        work = open_work(STUDY, tiny_settings, tmp_path / "run", "cpu")
    measure(work, "regimes", "budget")
    work.store.close()
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["parts"] == results["parts"]


def test_the_notebook_shows_every_figure_and_writes_the_report(finished, tiny_config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    outputs, out = execute("eval_sgd_regimes", tiny_config, tmp_path)
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 8
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {out / 'report.html'}" in text
    assert "residue 0" in text
