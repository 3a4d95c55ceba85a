"""Does a run measure its branches, keep them, and tell of them?"""

import json

import pytest
import torch
from executed_notebook import execute

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.models.balance import rescaled_units
from degeneracy.models.networks import FFNN, VisionTransformer
from degeneracy.study import measure, open_work, run_study
from studies.branches import STUDY
from studies.branches.findings import findings
from studies.branches.measure import curvature, gauge_free, in_gauge, relative_trace
from studies.branches.settings import MeasurementSettings, Settings, TrainingSettings


@pytest.fixture(scope="module")
def config(data_root):
    return {
        "training": {
            "root": str(data_root),
            "num_images": 640,
            "hidden_nodes": 8,
            "hidden_layers": 1,
            "look_every": 5,
            "late": "ngd",
            "early_lr": 0.02,
            "late_lr": 0.02,
            "switch_loss": 0.8,
            "branch_losses": [0.7, 0.5],
            "window": [0.6, 0.5],
            "max_epochs": 20,
        },
        "measurement": {
            "branches": "all",
            "thorough": False,
            "localization": 400.0,
            "num_chains": 2,
            "num_draws": 20,
            "hessian_images": 200,
        },
    }


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory, device):
    out = tmp_path_factory.mktemp("branches") / "run"
    run_study(STUDY, parse_config(config, Settings), out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


def test_a_transformer_is_measured_in_the_weights_as_given():
    training = TrainingSettings(architecture="vit", hidden_nodes=8, early="sgd", late="ngd")
    model = VisionTransformer(8, 1)
    state = model.state_dict()
    found = in_gauge(model, state, training)
    assert list(found) == list(state)
    assert all(found[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize(
    ("size", "optimizer"),
    [(("residual", 8, 3), "soap"), pytest.param(("vit", 8, 1), "adamw", marks=pytest.mark.slow)],
)
def test_a_network_whose_gauge_is_known_is_balanced(config, size, optimizer, tmp_path, device):
    given = json.loads(json.dumps(config))
    architecture, nodes, layers = size
    given["training"] |= {
        "architecture": architecture,
        "hidden_nodes": nodes,
        "hidden_layers": layers,
        "early": optimizer,
        "late": optimizer,
        "early_lr": 0.01,
        "late_lr": 0.01,
        "num_images": 320,
        "switch_loss": 1.8,
        "branch_losses": [1.5],
        "window": [1.4, 1.3],
    }
    given["measurement"] |= {"sampler_batch_size": 32, "hessian_images": 64, "num_probes": 4}
    run_study(STUDY, parse_config(given, Settings), tmp_path / "run", device)
    parts = json.loads((tmp_path / "run" / "results.json").read_text())["parts"]
    assert parts["training"]["branches"]["outcome"] == "reached"
    (point,) = parts["degeneracy"]["points"]["found"]
    is_same = architecture == "vit"
    assert (point["balanced"] == point["raw"]) is is_same
    assert (point["balanced_trace"] == point["raw_trace"]) is is_same
    assert min(point["balanced"]["llc"], point["balanced_trace"], point["balanced_norm"]) > 0
    assert point["relative_trace"] != point["raw_trace"]


def test_each_branch_has_its_measures(results):
    training = results["parts"]["training"]["branches"]
    points = results["parts"]["degeneracy"]["points"]
    assert training["outcome"] == "reached"
    assert points["branches"] == list(range(len(training["branches"])))
    for point in points["found"]:
        for gauge in ("raw", "balanced"):
            assert point[gauge]["llc"] > 0
            assert point[gauge]["verdict"]
            assert point[f"{gauge}_trace"] > 0
        assert point["relative_trace"] > 0
        assert point["published"] is None
        assert point["gauge_free"] is None
        assert point["balanced_norm"] > 0
    assert points["early"]["balanced_trace"] > 0


def test_the_page_tells_what_was_found(finished, results):
    page = (finished / "report.html").read_text()
    for key in ("losses", "degeneracy"):
        assert f'id="figure-{key}"' in page
    (card,) = findings(results).cards
    assert "ngd at 0.02" in card.headline
    assert card.headline in page.replace("\u00a0", " ")


def test_a_branch_that_is_not_finite_is_told_of(results):
    training = results["parts"]["training"]["branches"]
    training["branches"][0] |= {"train_loss": None, "val_loss": None}
    (table,) = findings(results).tables
    assert [text for text, _ in table.rows[0]][1:3] == ["–", "–"]


def test_a_kill_between_the_parts_loses_only_the_second(finished, results, config, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "run")
    work = open_work(STUDY, parse_config(config, Settings), tmp_path / "run", "cpu")
    del work.results["parts"]["degeneracy"]["points"]
    measure(work)
    again = work.results["parts"]["degeneracy"]["points"]["found"]
    for one, other in zip(again, results["parts"]["degeneracy"]["points"]["found"], strict=True):
        assert one["balanced_trace"] == pytest.approx(other["balanced_trace"], rel=1e-4)


def test_the_notebook_shows_both_figures(config, tmp_path):
    training = config["training"] | {"branch_losses": [0.75], "window": [0.7, 0.6]}
    measurement = config["measurement"] | {"branches": "window"}
    small = {"training": training, "measurement": measurement}
    outputs, out = execute("eval_branches", small, tmp_path)
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 2
    assert f"report: {out / 'report.html'}" in "".join(o.get("text", "") for o in outputs)


@pytest.fixture(scope="module")
def rescaled(mnist):
    """A network, two of its states that are the same function, data and settings."""
    torch.manual_seed(0)
    model = FFNN(8, 1)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = rescaled_units(model, state, torch.Generator().manual_seed(1))
    data = type(mnist.train)(*(part[:300].clone() for part in mnist.train))
    settings = Settings(
        measurement=MeasurementSettings(
            num_chains=2, relative_batch_size=64, relative_localization=100.0, num_probes=4
        )
    )
    return model, state, other, data, settings


def test_what_needs_no_gauge_is_the_same_in_every_one(rescaled):
    model, state, other, data, settings = rescaled
    how = settings.measurement
    one, two = (relative_trace(model, s, data, how)["relative_trace"] for s in (state, other))
    assert two == pytest.approx(one, rel=1e-3)
    given = [curvature(model, s, data, how, "raw")["raw_trace"] for s in (state, other)]
    assert abs(given[1] / given[0] - 1) > 0.1


@pytest.mark.slow
def test_the_gauge_free_estimate_is_the_same_in_every_gauge(rescaled):
    model, state, other, data, settings = rescaled
    one, two = gauge_free(model, [state, other], data, settings)
    assert two.llc == pytest.approx(one.llc, rel=1e-2)


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("training", {"window": [0.5, 0.1]}, "window"),
        ("training", {"branch_losses": [0.1, 0.2]}, "allowed: numbers that fall"),
        ("training", {"window": [0.02, 0.03]}, "allowed: numbers that fall"),
        ("training", {"late": "lbfgs"}, "late"),
        ("training", {"momentum": 0.0}, "nesterov"),
        ("training", {"early_lr": 0.0}, "early_lr"),
        ("training", {"hidden_node": 3}, "hidden_node"),
        ("measurement", {"num_chains": 1}, "num_chains"),
        ("measurement", {"branches": "some"}, "branches"),
    ],
)
def test_what_makes_no_sense_is_refused(section, given, said):
    with pytest.raises(ConfigError) as error:
        parse_config({section: given}, Settings)
    assert said in str(error.value)
