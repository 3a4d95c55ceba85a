"""Does the atlas say in plain words what its numbers are, nothing as plainly as something?"""

import csv
import io
import math

import numpy as np
import pytest
from atlas_results import atlas_results

from degeneracy.report.page import write_page
from studies.atlas.contrasts import contrasts_of
from studies.atlas.figures import CAPTIONS, atlas_figures, band_of
from studies.atlas.findings import findings, percent
from studies.atlas.predictions import adjusted_r2, at_equal_rate, collapse, correlations, observed


@pytest.fixture(scope="module")
def results():
    return atlas_results(seeds=range(1, 6), noise=0.02)


def test_a_log_ratio_in_words():
    assert percent(0.0) == "+0.0 %"
    assert percent(math.log(1.123)) == "+12 %"
    assert percent(math.log(0.958)) == "−4.2 %"
    assert percent(math.log(3.14)) == "×3.1"
    assert percent(math.nan) == "–"
    assert percent(1e9) == "–"


def test_the_largest_sure_contrast_is_the_headline(results):
    card = findings(results).cards[0]
    (early,) = (c for c in contrasts_of(results) if c.name == "early")
    ratio = percent(early.test.mean.value)
    assert ratio in ("+49 %", "+50 %")  # e^0.4
    assert card.headline.startswith(
        f"At equal training loss starting with NGD instead of SGD changes λ̂ by {ratio}"
    )
    assert [tile.name for tile in card.tiles][:2] == ["early", "late"]


def test_a_null_result_is_said_as_plainly(results):
    texts = findings(results).cards[0].text
    (text,) = (t for t in texts if t.startswith("all networks: optimizer × learning rate"))
    assert text.endswith("equivalent to no change within 5%.")


def test_where_one_network_cannot_be_tested_the_other_answers():
    """As happened: at the smallest rate no run of the deep network came down to the window."""
    results = atlas_results(seeds=[1, 2, 3], noise=0.02)
    for group in results["parts"]["runs"].values():
        for row in group["rows"]:
            if row["model"] == "8×64" and row["fraction"] == 0.0625:
                row["training"]["outcome"] = "out of epochs"
    card = findings(results).cards[0]
    assert card.headline.startswith("2×256: At equal training loss starting with NGD")
    untested = [t for t in card.text if "not tested, for an arm has an endpoint in 0%" in t]
    assert {t.split(":")[0] for t in untested} == {"all networks", "8×64"}
    figure = next(
        d.figure for s in atlas_figures(results, {}) for d in s.drawings if d.key == "contrasts"
    )
    rows = [(c, network) for (c, _), (network, _), *_ in findings(results).tables[0].rows]
    together = "2×256 and 8×64"
    assert ("early × depth", together) in rows
    assert ("optimizer × learning rate", "2×256") in rows
    assert ("optimizer × learning rate", together) not in rows  # it would be of one network
    hollow = {t.name for t in figure.data if t.marker.symbol == "diamond-open"}
    assert hollow == {"all networks", "8×64"}
    measured = findings(results).tables[1]
    assert {(network, early != "–") for _, (network, _), (early, _), *_ in measured.rows} >= {
        ("2×256", True),
        ("8×64", True),
    }


def test_nothing_sure_is_said():
    weak = atlas_results(seeds=[1, 2], noise=3.0)
    assert "no contrast of λ̂ is sure" in findings(weak).cards[0].headline


def test_what_is_missing_is_said(results):
    note = findings(results).cards[0].notes[0].line
    assert note == (
        "Incomplete: 120 runs of 120 with an endpoint (2×256: 5 seeds and 8×64: 5 seeds); planned:"
        " 10 seeds."
    )


def test_one_seed_is_not_called_untrue():
    assert findings(atlas_results(seeds=[1])).cards[0].headline == (
        "No contrast of λ̂ can be tested yet."
    )


def test_a_page_names_the_optimizers_that_were_run():
    results = atlas_results(seeds=range(1, 5), noise=0.0)
    results["config"]["factorial"]["optimizers"] = ["ngd", "sgd"]
    headline = findings(results).cards[0].headline
    assert "starting with SGD instead of NGD changes λ̂ by −33 %" in headline


def test_the_markdown_keeps_its_cells():
    table = findings(atlas_results(seeds=[1, 2])).tables[1].markdown()
    assert "\\|w\\|" in table
    lines = [line.replace("\\|", "") for line in table.splitlines()]
    assert len({line.count("|") for line in lines}) == 1


def test_before_the_first_run_it_says_so():
    empty = atlas_results(seeds=[])
    assert findings(empty).cards[0].headline == "No run is finished yet."
    assert atlas_figures(empty, {}) == []


def test_every_run_is_a_line_of_the_csv(results):
    rows = list(csv.DictReader(io.StringIO(findings(results).csv)))
    assert len(rows) == 120
    assert {"seed", "early", "late", "fraction", "model", "balanced", "raw"} <= rows[0].keys()


@pytest.mark.parametrize("seeds", [[1], range(1, 6)])
def test_figures_and_page_at_any_number_of_seeds(seeds, tmp_path):
    results = atlas_results(seeds=seeds)
    sections = atlas_figures(results, {})
    drawn = {drawing.key for section in sections for drawing in section.drawings}
    assert drawn == set(CAPTIONS) - ({"variance"} if len(seeds) == 1 else set())
    page = write_page(tmp_path / "report.html", "Atlas", findings(results), sections).read_text()
    assert all(f'id="figure-{key}"' in page for key in drawn)


def test_many_optimizers_have_a_panel_each_and_one_of_lines(tmp_path):
    results = atlas_results(
        seeds=[1, 2, 3], models=((256, 2),), throughout=("sgd", "ngd", "adamw", "muon")
    )
    found, sections = findings(results), atlas_figures(results, {})
    figures = {d.key: d.figure for section in sections for d in section.drawings}
    assert {t.name for t in figures["rates"].data} == {"SGD", "NGD", "AdamW", "Muon"}
    assert len({t.xaxis for t in figures["measures"].data}) == 3
    assert len({t.xaxis for t in figures["llc-against-loss"].data}) == 1
    assert "AdamW instead of SGD changes λ̂ by" in found.cards[0].headline
    head = [text for text, _ in found.tables[1].head]
    assert head == ["measure", "network", "NGD", "AdamW", "Muon", "seeds"]
    write_page(tmp_path / "report.html", "Atlas", found, sections)


def test_a_band_is_over_losses_that_all_runs_have():
    lines = [([0.1, 0.01], [2.0, 1.0]), ([0.05, 0.005], [2.0, 1.0]), ([0.08, 0.005], [2.0, 1.0])]
    grid, mean, low, high = band_of(lines)
    assert (grid[0], grid[-1]) == pytest.approx((0.01, 0.05))
    assert all(low <= mean)
    assert all(mean <= high)
    assert len(band_of(lines[:2])[0]) == 0
    assert len(band_of([*lines, ([0.009, 0.006], [1, 1])])[0]) == 0


def test_a_perfect_order_has_correlation_one(results):
    found = {(c.name, c.model): c for c in correlations(results)}
    one = found["curvature after epoch 2 → final λ̂", "2×256"]
    assert one.value == pytest.approx(1.0, abs=1e-3)
    assert one.low <= one.value <= one.high
    assert one.count == 60


def test_a_temperature_is_rate_over_batch_with_momentum(results):
    table = observed(results)
    row = table[table["fraction"] == 0.25].iloc[0]
    assert row["temperature"] == pytest.approx(0.25 * 0.1 / (64 * 0.1))


def test_explained_variance_by_hand():
    x, y = [0.0, 1.0, 2.0, 3.0], [0.0, 1.1, 1.9, 3.0]
    value = adjusted_r2(np.array(y), np.array(x)[:, None])
    slope, _ = np.polyfit(x, y, 1)
    rest = np.array(y) - np.polyval(np.polyfit(x, y, 1), x)
    assert slope > 0
    assert value == pytest.approx(1 - (rest @ rest / 2) / np.var(y, ddof=1))
    assert math.isnan(adjusted_r2(np.array([1.0]), np.array([[1.0]])))


def test_cells_account_for_more_than_temperature(results):
    for row in collapse(results).to_dict("records"):
        assert row["cells"] > row["temperature"]


def test_at_equal_rates_a_law_of_the_rate_alone_has_no_contrast():
    results = atlas_results(seeds=[1, 2, 3], noise=0.0)
    rates = results["parts"]["rates"]
    rates["ngd, 2×256"]["rate"] = 0.5 * rates["sgd, 2×256"]["rate"]
    for group in results["parts"]["runs"].values():
        for row in group["rows"]:
            rate = row["fraction"] * rates[f"{row['late']}, {row['model']}"]["rate"]
            for point in row["points"]["found"]:
                point["balanced"] = {**point["balanced"], "llc": rate**-0.6}
    found = at_equal_rate(results, "2×256")
    assert found["late"].value == pytest.approx(0.0, abs=1e-9)
    assert found["rate"].value == pytest.approx(-0.6)
    assert found["rate"].count == 3
