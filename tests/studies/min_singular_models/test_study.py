"""Known learning coefficients: expected values against integrals and chains; resuming, refusals,
notebook, report.
"""

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from executed_notebook import EXPERIMENTS, execute

from degeneracy.config.reader import ConfigError
from degeneracy.curvature.largest import eigenvalues_of
from degeneracy.device import DeviceError
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.runs.store import RunStoreError
from studies.min_singular_models.figures import (
    CROSSING,
    POPULATION,
    SAMPLE,
    findings,
    results_table,
    study_figures,
)
from studies.min_singular_models.measure import (
    SparseLinear,
    cases,
    finish,
    gaussian_llc,
    half_squared_error,
    langevin_step,
    linear_data,
    measure_crossings,
    measure_deep_linear,
    measure_linear,
    open_study,
    population_hessian,
    principal_axes,
)
from studies.min_singular_models.settings import LinearSettings, Settings, load_settings

ERRORS = (
    4.0  # standard errors that an estimate may be away: one estimate in ten thousand is further
)
BIAS = 0.06  # of λ, in the small deep linear network: finite nβ, γ and ε together
STEP_BIAS = 0.06  # ε A ≤ 0.2 where w_i² ≤ 1/γ: at most 1/(1 − 0.05) − 1 a direction

SMALL = {
    "linear": {
        "num_weights": 40,
        "ranks": [10, 25],
        "num_samples": 150,
        "num_chains": 32,
        "num_draws": 600,
        "num_burnin_steps": 600,
    },
    "normal_crossings": {
        "exponents": [[1], [1, 1]],
        "nbeta": 30,
        "localization": 3,
        "num_chains": 128,
        "num_draws": 1000,
        "num_burnin_steps": 600,
    },
    "deep_linear": {
        "networks": [{"widths": [4, 2, 4], "rank": 2}],
        "nbeta_ratio": 100,
        "num_chains": 16,
        "num_draws": 800,
        "num_burnin_steps": 600,
    },
    "spectrum": {"num_probes": 20, "num_steps": 40},
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, executed on a small config; (its cells' outputs, its directory)."""
    return execute("eval_min_singular_models", SMALL, tmp_path_factory.mktemp("study"))


@pytest.fixture
def results(executed):
    return json.loads((executed[1] / "results.json").read_text())


def of_family(results, family):
    return [record for record in results["cases"].values() if record["family"] == family]


# What is expected


def test_expected_value_of_a_sample_is_the_gaussian_integral():
    """With noise, so that w* = 0 is not the minimum; against E[wᵀHw/2 − bᵀw] from mean and
    covariance as matrices.
    """
    settings = LinearSettings(num_weights=6, ranks=[4], num_samples=9, noise=1.0)
    inputs, targets = linear_data(settings)
    x, y = inputs[:, :4].double(), targets.double()
    nbeta, localization = 7.0, 0.3
    hessian, slope = x.T @ x / 9, x.T @ y / 9
    covariance = torch.linalg.inv(
        nbeta * hessian + localization * torch.eye(4, dtype=torch.float64)
    )
    mean = nbeta * covariance @ slope
    rise = ((hessian @ covariance).trace() + mean @ hessian @ mean) / 2 - slope @ mean
    found = gaussian_llc(*principal_axes(inputs[:, :4], targets), nbeta, localization)
    assert found == pytest.approx(float(nbeta * rise), rel=1e-9)
    at_truth, below = half_squared_error(torch.zeros(9), y), half_squared_error(x @ mean, y)
    assert below < at_truth  # the posterior's mean fits the noise
    assert found < quadratic_llc(torch.linalg.eigvalsh(hessian).tolist(), nbeta, localization)


def test_only_the_first_weights_of_the_linear_model_matter():
    model = SparseLinear(5, 2)
    inputs, weights = torch.randn(7, 5), torch.randn(5)
    with torch.no_grad():
        model.weight.copy_(weights)
    torch.testing.assert_close(model(inputs), inputs[:, :2] @ weights[:2])
    (gradient,) = torch.autograd.grad(model(inputs).square().sum(), model.weight)
    assert (gradient[:2] != 0).all()
    assert (gradient[2:] == 0).all()


def test_hessians_of_population_losses_and_the_steps_they_allow():
    by_name = {case.name: case for case in cases(Settings.model_validate(SMALL))}
    spectra = {
        name: eigenvalues_of(population_hessian(by_name[name].model), dim)
        for name, dim in (("population, r = 10", 40), ("w₁² w₂²", 2), ("(4, 2, 4), r = 2", 16))
    }
    np.testing.assert_allclose(spectra["population, r = 10"], [1.0] * 10 + [0.0] * 30, atol=1e-6)
    np.testing.assert_allclose(spectra["w₁² w₂²"], 0)
    np.testing.assert_allclose(
        spectra["(4, 2, 4), r = 2"], [2.0] * 4 + [1.0] * 8 + [0.0] * 4, atol=1e-5
    )
    assert langevin_step(by_name["population, r = 10"].model, 9.0, 1.0, 0.1) == pytest.approx(
        0.1 / 10, rel=0.02
    )
    crossing = langevin_step(by_name["w₁² w₂²"].model, 30.0, 3.0, 0.1)
    assert crossing < 0.1 / 3  # no curvature at w*, but away from it


# What chains find


def test_linear_models_agree_with_the_law_of_their_langevin_steps(results):
    records = of_family(results, POPULATION) + of_family(results, SAMPLE)
    assert len(records) == 4
    for record in records:
        assert abs(record["llc"] - record["expected_with_step"]) < ERRORS * record["std_error"]
        assert (
            record["std_error"] < 0.03 * record["expected"]
        )  # so that the sentence above says something
        assert record["num_diverged_chains"] == 0
        assert record["expected"] < record["expected_with_step"] < 1.03 * record["expected"]


def test_the_hessians_rank_is_the_number_of_weights_that_matter(results):
    for record in of_family(results, POPULATION) + of_family(results, SAMPLE):
        assert record["hessian_rank"]["value"] == pytest.approx(2 * record["lambda"], abs=1e-3)


def test_singular_models_agree_with_quadrature_and_with_aoyagi(results):
    for record in of_family(results, CROSSING):
        allowed = ERRORS * record["std_error"] + STEP_BIAS * record["expected"]
        assert abs(record["llc"] - record["expected"]) < allowed
    deep = results["cases"]["(4, 2, 4), r = 2"]
    assert deep["lambda_exact"] == "6"
    assert abs(deep["llc"] - deep["lambda"]) < ERRORS * deep["std_error"] + BIAS * deep["lambda"]
    crossing = results["cases"]["w₁² w₂²"]
    assert crossing["multiplicity"] == 2
    assert crossing["hessian_rank"]["value"] == 0
    assert crossing["expected"] < crossing["lambda"]  # −(m − 1)/ln nβ


# Directory, report, notebook


def test_the_notebook_shows_every_figure_and_writes_the_report(executed, results):
    outputs, directory = executed
    assert (
        sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 5
    )
    assert f"report: {directory / 'report.html'}" in "".join(
        output.get("text", "") for output in outputs
    )
    page = (directory / "report.html").read_text()
    assert len(page) > 1_000_000  # plotly.js is inside
    assert "src=" not in page.split("<body>")[1]
    assert len(results["cases"]) == 7
    table = results_table(results)
    assert table.count("<tr>") == 1 + len(results["cases"])
    for name in results["cases"]:
        assert name in table
        assert name in page
    text = " ".join(findings(results))
    assert "Deep linear networks (1 case)" in text
    assert "Not settled" in text


def test_a_stopped_study_goes_on_and_another_config_is_refused(executed, results, tmp_path):
    """What is missing is measured again, to the same numbers, whatever is beside it; what is there
    is not touched.
    """
    shutil.copytree(executed[1], tmp_path / "run")
    stopped = copy.deepcopy(results)
    gone, kept = "sample, r = 25", "sample, r = 10"
    del stopped["cases"][gone]
    stopped["cases"][kept]["llc"] = 123.0
    (tmp_path / "run" / "results.json").write_text(json.dumps(stopped))
    study = open_study(Settings.model_validate(SMALL), tmp_path / "run", "cpu")
    measure_linear(study)
    found = study.store.read_results()["cases"]
    assert found[kept]["llc"] == 123.0
    before = results["cases"][gone]
    assert {k: v for k, v in found[gone].items() if k != "seconds"} == {
        k: v for k, v in before.items() if k != "seconds"
    }
    measure_crossings(study)
    measure_deep_linear(study)
    assert study.store.read_results()["cases"] == found
    assert finish(study) == tmp_path / "run" / "report.html"
    other = Settings.model_validate(SMALL | {"linear": SMALL["linear"] | {"noise": 0.25}})
    with pytest.raises(RunStoreError, match="another config"):
        open_study(other, tmp_path / "run", "cpu")


def test_figures_show_what_was_measured(results):
    figures = {key: figure for key, _, figure in study_figures(results)}
    llc = {trace.name: trace for trace in figures["llc"].data}
    records = of_family(results, SAMPLE)
    np.testing.assert_allclose(llc[SAMPLE].x, [5, 12.5])
    np.testing.assert_allclose(llc[SAMPLE].y, [record["llc"] for record in records])
    np.testing.assert_allclose(
        llc[SAMPLE].error_y.array, [1.96 * record["std_error"] for record in records]
    )
    assert figures["llc"].layout.xaxis.type == figures["llc"].layout.yaxis2.type == "log"
    means = {trace.name: trace for trace in figures["running-mean"].data}
    for name, record in results["cases"].items():
        assert means[name].x[-1] == record["num_draws"]
        assert means[name].y[-1] == pytest.approx(record["llc"] / record["expected"], rel=1e-6)


def test_figures_and_sentences_survive_a_case_that_diverged(results):
    gone = {
        "llc": None,
        "std_error": None,
        "drift": None,
        "verdict": "diverged",
        "running_mean": {"draw": [], "llc": []},
    }
    results["cases"]["w₁²"] |= gone
    assert len(study_figures(results)) == 5
    assert "w₁² (diverged)" in findings(results)[-1]
    assert "diverged" in results_table(results)


# Settings


def test_the_default_config_is_the_file_that_is_shipped():
    assert load_settings(EXPERIMENTS / "args_min_singular_models.json") == Settings()
    assert Settings().linear.resolved_nbeta == pytest.approx(3000 / math.log(3000))


def test_every_problem_is_listed_with_key_given_and_allowed(tmp_path):
    config = {
        "linear": {"ranks": [5, 5], "num_samples": 2, "noise": -1, "nbta": 3},
        "normal_crossings": {"exponents": [[0]]},
        "deep_linear": {
            "networks": [{"widths": [4, 2, 4], "rank": 3}, {"widths": [4], "rank": 0, "depth": 1}]
        },
        "spectra": {},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError) as refused:
        load_settings(path)
    problems = "\n".join(refused.value.problems)
    for expected in (
        "linear.ranks: [5, 5] given; allowed: each once, but 5 is there twice",
        "linear.num_samples: 2 given; allowed: greater than or equal to 3",
        "linear.noise: -1 given; allowed: greater than or equal to 0",
        "linear.nbta: unknown key, 3 given; allowed: step,",
        "normal_crossings.exponents.0.0: 0 given; allowed: greater than or equal to 1",
        "deep_linear.networks.0.rank: 3 given; allowed: at most the smallest width, 2",
        "deep_linear.networks.1.depth: unknown key, 1 given; allowed: widths, rank",
        "spectra: unknown key, {} given; allowed: linear, normal_crossings, deep_linear, spectrum",
    ):
        assert expected in problems
    assert len(refused.value.problems) == 9  # and the list of one width


@pytest.mark.parametrize(
    ("linear", "allowed"),
    [
        (
            {"num_weights": 10, "ranks": [11]},
            "linear.ranks: [11] given; allowed: at most linear.num_weights, 10",
        ),
        (
            {"ranks": [20], "num_samples": 20},
            "linear.num_samples: 20 given; allowed: more than the largest of",
        ),
    ],
)
def test_ranks_must_fit_weights_and_samples(tmp_path, linear, allowed):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"linear": linear}))
    with pytest.raises(ConfigError, match=r"1 problem") as refused:
        load_settings(path)
    assert refused.value.problems[0].startswith(allowed)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_what_is_not_a_config_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_settings(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(DeviceError, match="use cpu or auto"):
        open_study(Settings(), tmp_path / "study", "cuda")
    assert not (tmp_path / "study").exists()
