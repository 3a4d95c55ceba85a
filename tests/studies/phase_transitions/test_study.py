"""The study of phase transitions: its notebook on a small deep network that has one, its directory,
its settings.
"""

import json

import numpy as np
import pytest
import torch
from executed_notebook import EXPERIMENTS, execute
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from degeneracy.config.reader import ConfigError
from degeneracy.device import DeviceError
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.models.networks import FFNN
from degeneracy.runs.measurements import measure_hessian_traces, measure_llcs
from degeneracy.runs.store import Point, RunStoreError
from studies.phase_transitions import measure as transition_study
from studies.phase_transitions.measure import (
    SERIES,
    curvature_at,
    finish,
    measure_curvature,
    open_study,
    train_models,
)
from studies.phase_transitions.phases import transitions_of
from studies.phase_transitions.settings import CurvatureSettings, Settings, load_settings
from utils_general import TensorData

TITLE = "FFNN 7 HL, 32 HN"
FIGURES = 9


def small(data_root, **experiment) -> dict:
    """Seven layers of 32 on 1,600 images: plateau and drop within seven epochs of 50 steps."""
    return {
        "experiment": {
            "hidden_nodes": [32],
            "hidden_layers": [7],
            "num_epochs": 7,
            "sgd_lr": 0.03,
            "ngd_lr": 0.03,
            **experiment,
        },
        "data": {
            "dataset": "fashion-mnist",
            "root": str(data_root),
            "batch_size": 32,
            "num_hessian_batches": 1,
            "num_train_images": 1600,
            "num_test_images": 300,
            "num_probes": 5,
        },
        "devinterp": {"num_draws": 30, "num_burnin_steps": 20},
        "curvature": {"num_probes": 2, "num_steps": 15, "num_eigenvalues": 3, "num_gap_probes": 2},
    }


@pytest.fixture(scope="module")
def executed(data_root, tmp_path_factory):
    """The notebook, executed; (its cells' outputs, its directory)."""
    return execute(
        "eval_mnist_phase_transitions", small(data_root), tmp_path_factory.mktemp("study")
    )


@pytest.fixture
def results(executed):
    return json.loads((executed[1] / "results.json").read_text())


# What is measured


def test_every_number_agrees_with_the_dense_hessian_and_fisher_matrix():
    torch.manual_seed(0)
    model, nbeta, localization = FFNN(5, 2, in_shape=(1, 3, 3)).double(), 50.0, 2.0
    images = TensorData(torch.randn(8, 1, 3, 3, dtype=torch.float64), torch.randint(10, (8,)))
    found = curvature_at(
        model, images, CurvatureSettings(num_probes=100, num_steps=40), nbeta, localization
    )
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def named(flat):
        return {
            name: piece.view_as(params[name])
            for name, piece in zip(params, flat.split(sizes), strict=True)
        }

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    dense = hessian(
        lambda w: cross_entropy(functional_call(model, named(w), images.inputs), images.labels)
    )(flat)
    jacobian = torch.func.jacrev(lambda w: functional_call(model, named(w), images.inputs))(
        flat
    )  # (n, classes, d)
    p = model(images.inputs).softmax(1).detach()
    fisher = (
        torch.einsum(
            "ncd,nce,nef->df", jacobian, torch.diag_embed(p) - p[:, :, None] * p[:, None], jacobian
        )
        / 8
    )
    residuals = p - torch.nn.functional.one_hot(images.labels, 10)
    empirical = torch.einsum("nc,ncd->nd", residuals, jacobian)
    empirical = empirical.T @ empirical / 8
    curvatures = torch.linalg.eigvalsh(dense).flip(0).numpy()
    gauss_newton = torch.linalg.eigvalsh(fisher).flip(0).numpy()

    np.testing.assert_allclose(found["top_eigenvalues"], curvatures[:5], rtol=1e-3)
    np.testing.assert_allclose(found["fisher_eigenvalues"][:20], gauss_newton[:20], rtol=1e-4)
    assert found["fisher_trace"] == pytest.approx(float(fisher.trace()))
    assert found["empirical_fisher_trace"] == pytest.approx(float(empirical.trace()), rel=1e-5)
    assert found["gauss_newton_rank"] == (gauss_newton > localization / nbeta).sum()
    expected = quadratic_llc(gauss_newton.clip(0).tolist(), nbeta, localization)
    assert found["gauss_newton_llc"] == pytest.approx(expected, rel=1e-4)
    for key, exact in (
        ("hessian_rank", (curvatures > localization / nbeta).sum()),
        ("quadratic_llc", quadratic_llc(curvatures.clip(0).tolist(), nbeta, localization)),
        ("hessian_fisher_distance", float((dense - fisher).norm() / dense.norm())),
        ("fisher_empirical_distance", float((fisher - empirical).norm() / fisher.norm())),
    ):
        assert abs(found[key] - exact) < 4 * found[f"{key}_std_error"], key
    assert found.keys() == set(SERIES)


def test_a_small_deep_network_leaves_its_plateau_with_both_optimizers(results):
    found = transitions_of(results, TITLE)
    for name, series in results["models"][TITLE]["optimizers"].items():
        (transition,) = found[name]
        assert transition.plateau_end - transition.plateau_start >= 2
        assert abs(transition.loss_before - np.log(10)) < 0.05
        assert transition.loss_after < 1.2
        curved = [values[0] for values in series["top_eigenvalues"]]
        assert curved[transition.end] > 10 * curved[transition.plateau_start]
        assert (
            series["gauss_newton_rank"][transition.end]
            > series["gauss_newton_rank"][transition.plateau_start]
        )


def test_every_series_is_there_at_every_epoch_and_shared_at_the_first(results):
    optimizers = results["models"][TITLE]["optimizers"]
    for key in ("llc", "hessian_trace", *SERIES):
        for name in optimizers:
            assert all(value is not None for value in optimizers[name][key]), key
            assert len(optimizers[name][key]) == 8
        assert optimizers["sgd"][key][0] == optimizers["ngd"][key][0]
    assert results["train_size"] == 1600
    assert results["status"] == "complete"


# Directory, report, notebook


def test_the_notebook_shows_every_figure_and_writes_the_report(executed, results):
    outputs, directory = executed
    assert (
        sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
        == FIGURES
    )
    text = "".join(output.get("text", "") for output in outputs)
    assert f"report: {directory / 'report.html'}" in text
    page = (directory / "report.html").read_text()
    assert len(page) > 1_000_000  # plotly.js is inside
    assert page.count("<figure") == FIGURES
    assert "src=" not in page.split("<body>")[1]


def test_what_is_there_is_not_measured_again_and_what_is_missing_is(
    executed, results, data_root, monkeypatch
):
    """As after a kill: one epoch's curvature is gone, and everything else stays as it was."""
    path = executed[1] / "results.json"
    kept = path.read_text()
    broken = json.loads(kept)
    broken["models"][TITLE]["optimizers"]["ngd"]["spectrum"][3] = None
    broken["status"] = "running"
    path.write_text(json.dumps(broken))
    measured = []
    measure = curvature_at
    monkeypatch.setattr(
        transition_study, "curvature_at", lambda *given: measured.append(1) or measure(*given)
    )
    run = open_study(Settings.model_validate(small(data_root)), executed[1], "cpu")
    for step in (train_models, measure_llcs, measure_hessian_traces, measure_curvature, finish):
        step(run)
    assert len(measured) == 1
    again = json.loads(path.read_text())
    for name in ("sgd", "ngd"):
        one, other = (r["models"][TITLE]["optimizers"][name] for r in (again, results))
        assert one.keys() == other.keys()
        assert all(one[key] == other[key] for key in one if key != "spectrum")
        np.testing.assert_allclose(
            one["spectrum"][3]["diagonals"], other["spectrum"][3]["diagonals"], rtol=1e-4
        )


def test_a_checkpoint_without_curvature_or_of_another_model_ends_nothing_silently(
    data_root, tmp_path, capsys
):
    config = small(data_root, num_epochs=1, optimizer="sgd", measure_epochs=[0, 1])
    run = open_study(Settings.model_validate(config), tmp_path / "run", "cpu")
    train_models(run)
    point = Point(TITLE, "sgd", 1)
    checkpoint = run.store.load_checkpoint(point)
    huge = {
        name: 1e30 * tensor if name.startswith("model.") else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    run.store.save_checkpoint(point, checkpoint._replace(tensors=huge))
    measure_curvature(run)
    series = run.results["models"][TITLE]["optimizers"]["sgd"]
    assert [one is not None for one in series["spectrum"]] == [True, False]
    assert "SGD epoch 1: no curvature, " in capsys.readouterr().out
    other = {f"model.{name}": tensor for name, tensor in FFNN(5, 1).state_dict().items()}
    run.store.save_checkpoint(point, checkpoint._replace(tensors=other))
    with pytest.raises(
        RunStoreError, match=r"(?s)sgd-0001.safetensors does not fit FFNN 7 HL, 32 HN .*remove it"
    ):
        measure_curvature(run)


def test_too_few_images_or_too_many_for_the_memory_are_refused_before_training(data_root, tmp_path):
    few = small(data_root)
    few["data"] |= {"dataset": "mnist", "num_train_images": 2, "batch_size": 2}  # a five and a zero
    with pytest.raises(
        ValueError, match=r"num_train_images: the first 2 training images .*allowed: enough of them"
    ):
        open_study(Settings.model_validate(few), tmp_path / "study", "cpu")
    many = small(data_root, model_type="cnn")
    many["data"] |= {"num_train_images": 6400, "num_hessian_batches": 200}
    with pytest.raises(ValueError, match=r"64,000 gradients of .*give fewer samples"):
        open_study(Settings.model_validate(many), tmp_path / "study", "cpu")
    assert not (tmp_path / "study").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_finds_what_the_cpu_finds():
    torch.manual_seed(0)
    model = FFNN(8, 3, in_shape=(1, 6, 6)).double()
    images = TensorData(torch.randn(20, 1, 6, 6, dtype=torch.float64), torch.randint(10, (20,)))
    found = [
        curvature_at(
            model.to(device),
            TensorData(*(t.to(device) for t in images)),
            CurvatureSettings(),
            50.0,
            2.0,
        )
        for device in ("cpu", "cuda")
    ]
    for key in (
        "top_eigenvalues",
        "fisher_trace",
        "gauss_newton_llc",
        "hessian_fisher_distance",
        "quadratic_llc",
    ):
        np.testing.assert_allclose(found[1][key], found[0][key], rtol=1e-4)


def test_the_report_can_be_written_before_anything_is_measured(data_root, tmp_path):
    run = open_study(Settings.model_validate(small(data_root)), tmp_path / "run", "cpu")
    report = finish(run)
    assert report.stat().st_size > 1_000_000


def test_another_config_in_the_same_directory_is_refused(executed, data_root):
    settings = Settings.model_validate(small(data_root, num_epochs=8))
    with pytest.raises(RunStoreError, match="another config"):
        open_study(settings, executed[1], "cpu")


# Settings


def test_the_shipped_config_is_the_default_and_deep():
    assert load_settings(EXPERIMENTS / "args_phase_transitions.json") == Settings()
    assert Settings().experiment.hidden_layers == [8]


def test_the_convolutional_config_is_one(tmp_path):
    settings = load_settings(EXPERIMENTS / "args_phase_transitions_cnn.json")
    assert settings.experiment.model_type == "cnn"
    assert min(settings.experiment.hidden_conv_layers) >= 4


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"data": {"num_train_images": 60_001}},
            "num_train_images: 60001 given; allowed: at most 60000, or null",
        ),
        (
            {"data": {"num_train_images": 100}},
            "num_train_images: 100 given; allowed: at least batch_size",
        ),
        ({"transitions": {"flat": 0.2}}, "flat: 0.2 given; allowed: below steep, 0.1"),
        (
            {"transitions": {"step": 0.2}},
            "transitions.step: unknown key, 0.2 given; allowed: flat, steep, min_plateau",
        ),
        (
            {"curvature": {"num_probes": 0}},
            "curvature.num_probes: 0 given; allowed: greater than or equal to 2",
        ),
        ({"curvature": {"num_steps": 3}}, "num_eigenvalues: 5 given; allowed: at most num_steps"),
        ({"devinterp": {"localization": 0}}, "devinterp.localization: 0 given; allowed: above 0"),
        ({"devinterp": {"sampler": "sgnht"}}, 'devinterp.sampler: "sgnht" given; allowed: others'),
        ({"experiment": {"robustness": True}}, "experiment.robustness: true given; allowed: false"),
        (
            {"data": {"num_test_images": 10_001}},
            "data.num_test_images: 10001 given; allowed: less than or equal to",
        ),
        ({"experiment": {"nesterov": True, "momentum": 0}}, "experiment.nesterov: true given"),
        ({"experiment": []}, "experiment: "),
        (
            {"phases": {}},
            (
                "phases: unknown key, {} given; allowed: experiment, data, devinterp, transitions,"
                " curvature"
            ),
        ),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(tmp_path, config, problem):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as refused:
        load_settings(tmp_path / "config.json")
    assert problem in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(DeviceError, match="use cpu or auto"):
        open_study(Settings(), tmp_path / "study", "cuda")
    assert not (tmp_path / "study").exists()
