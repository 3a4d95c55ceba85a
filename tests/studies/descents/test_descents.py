"""Does a descent stop where the loss first is what was asked for, and is it measured there?"""

import json
import shutil

import pytest
import torch
from executed_notebook import execute

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.data.images import TensorData
from degeneracy.optimizers.kinds import KINDS
from degeneracy.study import measure, open_work, run_study
from degeneracy.training import evaluate
from studies.descents import STUDY
from studies.descents.descent import DIVERGED, REACHED, TIRED, Descent, network
from studies.descents.figures import descent_figures
from studies.descents.findings import findings
from studies.descents.measure import keys_of
from studies.descents.settings import Settings


@pytest.fixture(scope="module")
def config(data_root):
    return {
        "training": {
            "root": str(data_root),
            "num_images": 600,
            "pooled": 7,
            "hidden_nodes": 6,
            "hidden_layers": 1,
            "batch_size": 50,
            "optimizer": "ngd",
            "lr": 0.1,
            "losses": [1.5, 1.2],
            "max_steps": 400,
        },
        "measurement": {
            "num_chains": 2,
            "num_draws": 20,
            "sampler_batch_size": 100,
            "num_probes": 4,
            "hessian_images": 200,
        },
    }


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory, device):
    out = tmp_path_factory.mktemp("descents") / "run"
    run_study(STUDY, parse_config(config, Settings), out, device)
    return out


@pytest.fixture
def results(finished):
    return json.loads((finished / "results.json").read_text())


def blobs(count: int = 200) -> TensorData:
    """Images of 4 × 4 pixels in ten classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    centres = torch.randn(10, 1, 4, 4, generator=generator)
    noise = torch.randn(count, 1, 4, 4, generator=generator)
    return TensorData(centres[labels] + 0.3 * noise, labels)


def small(**training) -> Settings:
    given = {"hidden_nodes": 5, "hidden_layers": 1, "batch_size": 20, "losses": [2.0, 1.5]}
    return parse_config({"training": given | {"max_steps": 300} | training}, Settings)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_comes_down_and_weights_are_those_of_the_passage(kind):
    settings, data = small(optimizer=kind, lr=0.02, losses=[2.2, 2.0], max_steps=800), blobs()
    under_way = Descent(settings, data)
    model = network(settings.training, data)
    for passage in under_way.passages():
        model.load_state_dict(passage.weights)
        assert evaluate(model, data)[0] == pytest.approx(passage.loss, rel=1e-6)
        assert passage.loss <= passage.targets[-1]
    assert under_way.outcome == REACHED


def test_a_passage_is_the_first_look_at_or_below_a_loss_and_near_it_every_step_is_one():
    settings, data = small(optimizer="sgd", lr=0.02, losses=[1.8], look_every=7), blobs()
    under_way = Descent(settings, data)
    (passage,) = under_way.passages()
    steps, _, losses = zip(*under_way.looks, strict=True)
    assert steps[-1] == passage.step
    assert losses[-1] == passage.loss <= 1.8
    assert min(losses[:-1]) > 1.8
    near = [step for step, loss in zip(steps, losses, strict=True) if loss <= 1.05 * 1.8]
    assert near == list(range(near[0], near[-1] + 1))
    assert all(b % 7 == 0 for b in steps if b < near[0])


def test_the_same_seed_gives_the_same_descent_whatever_is_looked_at():
    """Losses at the steps that both look at, on the way to the passage."""
    data, seen = blobs(), []
    for every in (1, 7):
        under_way = Descent(small(lr=0.005, losses=[1.8], look_every=every), data)
        (passage,) = under_way.passages()
        seen.append({step: loss for step, _, loss in under_way.looks if step < passage.step})
    common = seen[0].keys() & seen[1].keys()
    assert len(common) > 3
    assert [seen[0][step] for step in common] == [seen[1][step] for step in common]


def test_a_training_that_diverges_or_does_not_arrive_is_said_to():
    data = blobs()
    wild = Descent(small(lr=1e6), data)
    assert list(wild.passages()) == []
    assert wild.outcome == DIVERGED
    short = Descent(small(lr=1e-5, max_steps=5), data)
    assert list(short.passages()) == []
    assert (short.outcome, short.looks[-1][0]) == (TIRED, 5)


def test_each_loss_that_was_passed_has_its_measures(results):
    training = results["parts"]["training"]["descent"]
    assert training["outcome"] == REACHED
    assert [one["targets"] for one in training["passages"]] == [[1.5], [1.2]]
    assert training["num_weights"] == 16 * 6 + 6 + 6 * 10 + 10
    points = results["parts"]["degeneracy"]
    assert list(points) == ["1.5", "1.2"]
    for point in points.values():
        assert point["llc"]["verdict"]
        assert point["trace"] > point["largest"] > 0


def test_the_page_tells_what_was_found(finished, results):
    page = (finished / "report.html").read_text()
    for key in ("descent", "degeneracy"):
        assert f'id="figure-{key}"' in page
    (card,) = findings(results).cards
    assert "NGD at 0.1, 1×6, seed 1: 2 of 2 losses passed" in card.headline


def test_a_kill_between_the_parts_loses_only_the_second(finished, results, config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    work = open_work(STUDY, parse_config(config, Settings), tmp_path / "run", "cpu")
    del work.results["parts"]["degeneracy"]["1.2"]
    measure(work)
    again = work.results["parts"]["degeneracy"]["1.2"]
    work.store.close()
    assert again["trace"] == pytest.approx(results["parts"]["degeneracy"]["1.2"]["trace"], rel=1e-4)


def test_a_descent_that_passes_nothing_is_told_of():
    training = {"outcome": DIVERGED, "looks": [[0, 0.0, 2.3], [10, 0.1, None]], "passages": []}
    results = {"parts": {"training": {"descent": training}, "degeneracy": {}}}
    results["config"] = Settings().model_dump(mode="json")
    assert "0 of 3 losses passed after 10 steps" in findings(results).cards[0].headline
    assert len(descent_figures(results, {})[0].drawings) == 1
    nothing = {"parts": {}, "config": results["config"]}
    assert findings(nothing).cards[0].headline == "Nothing has been trained yet."
    assert descent_figures(nothing, {}) == []


def test_losses_that_one_look_passed_are_measured_once():
    training = {"passages": [{"targets": [0.3, 0.25]}, {"targets": [0.2]}]}
    for which, expected in (("all", ["0.3", "0.2"]), ("last", ["0.2"]), ("none", [])):
        settings = parse_config({"measurement": {"losses": which}}, Settings)
        assert keys_of(settings, training) == expected


def test_a_minibatch_of_the_sampler_has_no_image_twice():
    given = {"training": {"num_images": 100}, "measurement": {"sampler_batch_size": 101}}
    with pytest.raises(ConfigError, match=r"101 given with training\.num_images 100"):
        parse_config(given, Settings)


def test_a_kind_is_told_what_its_section_says():
    given = {"training": {"optimizer": "seng", "lr": 0.3}, "optimizers": {"seng": {"damping": 2.0}}}
    settings = parse_config(given, Settings).optimizer()
    assert (settings.lr, settings.damping, settings.sketch) == (0.3, 2.0, None)
    for kind in KINDS:
        own = parse_config({"training": {"optimizer": kind, "lr": 0.1}}, Settings).optimizer()
        assert own == KINDS[kind].settings(lr=0.1)


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("training", {"losses": [0.1, 0.2]}, "allowed: numbers that fall"),
        ("training", {"optimizer": "lbfgs"}, "optimizer"),
        ("training", {"pooled": 3}, "pooled"),
        ("training", {"lr": 0.0}, "lr"),
        ("optimizers", {"sgd": {"momentum": 0.0}}, "nesterov"),
        ("optimizers", {"sgd": {"lr": 0.1}}, "lr"),
        ("measurement", {"num_chains": 1}, "num_chains"),
    ],
)
def test_what_makes_no_sense_is_refused(section, given, said):
    with pytest.raises(ConfigError, match=said):
        parse_config({section: given}, Settings)


def test_the_notebook_shows_both_figures(config, tmp_path):
    training = config["training"] | {"losses": [1.5]}
    outputs, out = execute("eval_descents", config | {"training": training}, tmp_path)
    shown = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
    assert sum(shown) == 2
    assert f"report: {out / 'report.html'}" in "".join(o.get("text", "") for o in outputs)
