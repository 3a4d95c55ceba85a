"""Are the yardsticks of the study of online NGD's directions right, and does the study keep what it
finds?
"""

import json
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch
from markupsafe import escape
from torch.nn.functional import avg_pool2d

from degeneracy.config.reader import ConfigError
from degeneracy.models.networks import FFNN
from degeneracy.optimizers.exact_ngd import KINDS, fisher_matrix, natural_gradient, smoothing
from degeneracy.runs.store import RunStoreError
from ngd import NGD
from studies.ngd_directions.figures import findings, study_figures
from studies.ngd_directions.measure import (
    COMPARED,
    finish,
    measure_dense,
    measure_exact,
    measure_float32,
    minibatch_gradients,
    open_study,
    training_steps,
)
from studies.ngd_directions.settings import Settings, load_settings
from studies.ngd_directions.yardsticks import (
    averaged_factors,
    dense_step,
    exact_directions,
    layerwise_directions,
    next_directions,
    stepped_directions,
    turned,
)
from utils_general import TensorData

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
TINY = {
    "exact": {
        "hidden_nodes": 6,
        "checkpoints": [3, 12],
        "alphas": [0.1, 10, 1e8],
        "num_fisher_samples": 200,
        "num_minibatches": 3,
        "num_averaged": 5,
    },
    "recorded": {"hidden_nodes": 16, "hidden_layers": 1, "num_steps": 12},
}


def tiny(data_root, **more):
    return Settings.model_validate(TINY | {"training": {"root": str(data_root)}} | more)


@pytest.fixture(scope="module")
def pooled(mnist):
    return TensorData(avg_pool2d(mnist.train.inputs, 4), mnist.train.labels)


@pytest.fixture(scope="module")
def trained(pooled):
    """A small network and its optimizer after 12 steps on MNIST, with gradients of five more
    minibatches.
    """
    torch.manual_seed(0)
    model = FFNN(6, 2, (1, 7, 7))
    optimizer = NGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, alpha=0.1, eta=0.9)
    for _ in zip(range(13), training_steps(model, optimizer, pooled, 64, seed=0), strict=False):
        pass
    return (
        model,
        optimizer,
        minibatch_gradients(model, pooled, 5, 64, torch.Generator().manual_seed(0)),
    )


@pytest.fixture(scope="module")
def study(data_root, tmp_path_factory):
    study = open_study(tiny(data_root), tmp_path_factory.mktemp("study"), "cpu")
    for measure in (measure_exact, measure_dense, measure_float32):
        measure(study)
    return study


# ------------------------------------------------------------------------------------------------------- directions


def flat(stacks):
    return torch.cat([stack.flatten(1) for stack in stacks], dim=1).double()


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_exact_directions_are_natural_gradients(trained, pooled, alpha):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:300]).double()
    kappa = smoothing(fisher, alpha)
    found = exact_directions(flat(gradients), fisher, kappa)
    right = torch.stack([natural_gradient(gradient, fisher, kappa) for gradient in flat(gradients)])
    torch.testing.assert_close(found, right, rtol=1e-9, atol=0)


def test_layerwise_directions_invert_the_blocks_of_layers(trained, pooled):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:300]).double()
    kappa, sizes = smoothing(fisher, 0.1), [49 * 6 + 6, 6 * 6 + 6, 6 * 10 + 10]
    layer = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    right = exact_directions(flat(gradients), fisher * (layer[:, None] == layer), kappa)
    torch.testing.assert_close(
        layerwise_directions(flat(gradients), fisher, kappa, sizes), right, rtol=1e-9, atol=1e-15
    )


def test_next_directions_are_those_of_the_coming_step_and_change_nothing(trained):
    model, optimizer, gradients = trained
    before = [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]
    weights = [param.clone() for param in model.parameters()]
    ours = [stack[0] for stack in gradients]
    found = next_directions(optimizer, ours)
    after = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    for param, gradient, direction in zip(model.parameters(), ours, found, strict=True):
        param.grad = gradient.clone()
        cosine = torch.cosine_similarity(direction.flatten(), gradient.flatten(), dim=0).item()
        assert cosine == pytest.approx(optimizer.cosine(param).item(), abs=1e-5)
        assert direction.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_averaged_factors_are_second_moments_along_each_axis(trained):
    gradients = trained[2][0].double()  # (5, 6, 49)
    factors = averaged_factors(gradients, alpha=0.5)
    first = sum(g @ g.T / 49 for g in gradients) / 5
    torch.testing.assert_close(factors[0], first, rtol=1e-12, atol=1e-18)
    smoothed = first + 0.5 * first.trace() / 6 * torch.eye(6, dtype=torch.float64)
    passed_on = [torch.linalg.inv(smoothed) @ g for g in gradients]
    passed_on = [x * g.norm() / x.norm() for x, g in zip(passed_on, gradients, strict=True)]
    torch.testing.assert_close(
        factors[1], sum(x.T @ x / 6 for x in passed_on) / 5, rtol=1e-9, atol=1e-18
    )


def test_dense_steps_follow_the_definition(trained):
    """T = η XᵀX/N + (1 − η) F, X G⁻¹ with G = F + κI inverted as it stands, written out in NumPy."""
    alpha, eta, epsilon = 0.3, 0.6, 1e-6
    fishers, factors = {}, {}
    for step, gradient in enumerate(trained[2][0].double()):
        direction, factors = dense_step(
            gradient, factors, step, alpha=alpha, eta=eta, epsilon=epsilon
        )
        x = gradient.numpy()
        for axis in (0, 1):
            rows = x.T if axis == 0 else x
            moment, identity = rows.T @ rows / len(rows), np.eye(rows.shape[1])
            if step == 0:
                fishers[axis] = (
                    eta * moment * (1 + (1 - eta) + (1 - eta) ** 2)
                    + (1 - eta) ** 3 * epsilon * identity
                )
            fisher = fishers[axis]
            turned_rows = rows @ np.linalg.inv(
                fisher + alpha * np.trace(fisher) / len(fisher) * identity
            )
            turned_rows *= np.linalg.norm(rows) / np.linalg.norm(turned_rows)
            fishers[axis] = eta * moment + (1 - eta) * fisher
            x = turned_rows.T if axis == 0 else turned_rows
        np.testing.assert_allclose(direction.numpy(), x, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("parameter", [2, 4])
@pytest.mark.parametrize("alpha", [0.1, 4.0])
def test_dense_steps_agree_with_online_ngd_where_its_rank_leaves_nothing_out(
    trained, parameter, alpha
):
    """With a dead row and a dead column, rank D − 1 holds all that the gradients span: without the
    floor δ what is left between the recursions is ε, below which NGD lets no eigenvalue fall,
    against tr F."""
    gradients = torch.nn.functional.pad(trained[2][parameter].double(), (0, 1, 0, 1))
    weight = torch.zeros_like(gradients[0])
    how = {"alpha": alpha, "eta": 0.3, "epsilon": 1e-14}
    optimizer, factors = NGD([weight], lr=1.0, delta=0.0, rank=100, **how), {}
    for step in range(30):
        gradient = gradients[step % 5]
        dense, factors = dense_step(gradient, factors, step, **how)
        (online,) = stepped_directions(optimizer, [gradient])
        assert (dense - online).norm() < 1e-7 * gradient.norm()
        assert (dense - gradient).norm() > 0.1 * gradient.norm()  # there was something to turn


def test_large_smoothing_leaves_every_direction_the_gradient(trained, pooled):
    model, _, gradients = trained
    fisher = fisher_matrix(model, pooled.inputs[:100]).double()
    directions = exact_directions(flat(gradients), fisher, smoothing(fisher, 1e12))
    kappas = flat(gradients).norm(dim=1, keepdim=True) / directions.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions * kappas, flat(gradients), rtol=1e-6, atol=1e-12)
    stack = gradients[0].double()
    found = turned(stack, averaged_factors(stack, 1e12), 1e12)
    torch.testing.assert_close(found, stack, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- study


def test_cosines_of_the_exact_part(study):
    part = study.results["parts"]["exact"]
    for kind in KINDS:
        for name in COMPARED:
            by_part = part["cosines"][kind][name]
            assert list(by_part) == ["layers.1", "layers.3", "layers.5", ""]
            values = np.array(list(by_part.values()))  # (part, checkpoint, alpha, 2)
            assert values.shape == (4, 2, 3, 2)
            assert np.all(np.abs(values[..., 0]) <= 1)
            assert np.all(values[..., 1] >= 0)
        at_infinity = {
            name: np.array(part["cosines"][kind][name][""])[:, -1, 0] for name in COMPARED
        }
        assert at_infinity["gradient"] == pytest.approx(
            [1, 1], abs=1e-4
        )  # α = 1e8, where λ_max/κ < 1e-5
        assert at_infinity["layerwise"] == pytest.approx([1, 1], abs=1e-4)
        best, same = (
            np.array(part["cosines"][kind][name][""])[..., 0]
            for name in ("averaged_best", "averaged")
        )
        assert np.all(best >= same - 1e-12)
    assert part["train_loss"][1] < part["train_loss"][0]


def test_the_low_rank_costs_little_where_the_smoothing_is_large(study):
    part = study.results["parts"]["dense"]
    values = {
        alpha: np.array(list(online.values()))
        for alpha, online in zip((0.1, 4), part["cosines"]["online"], strict=True)
    }
    assert np.abs(values[0.1]).max() <= 1 + 1e-12
    assert values[4].shape == (5, 12)  # four tensors and all of them, 12 steps
    assert values[4][-1].mean() > values[0.1][-1].mean()
    assert values[4][-1].mean() > np.mean(part["cosines"]["gradient"][1][""])


def test_the_stable_arithmetic_stays_orthonormal_where_the_published_one_does_not(study):
    runs = {
        (run["arithmetic"], run["alpha"]): run for run in study.results["parts"]["float32"]["runs"]
    }
    assert set(runs) == {
        (arithmetic, alpha) for arithmetic in ("stable", "published") for alpha in (0.1, 4)
    }
    for alpha in (0.1, 4):
        stable, published = runs["stable", alpha], runs["published", alpha]
        assert max(stable["orthonormality_error"]) < 1e-4 < min(published["orthonormality_error"])
        assert np.median(stable["direction_error"]) < 1e-2 * np.median(published["direction_error"])


def test_finished_parts_are_taken_from_the_directory(study, data_root):
    directory = study.store.directory
    written = json.loads((directory / "results.json").read_text())
    assert set(written["parts"]) == {"exact", "dense", "float32"}
    again = open_study(tiny(data_root), directory, "cpu")
    for measure in (measure_exact, measure_dense, measure_float32):
        measure(again)
    assert again.results == written  # seconds included: nothing was measured again
    page = finish(again).read_text()
    assert all(escape(text) in page for text in findings(written).values())
    with pytest.raises(RunStoreError, match=r"recorded\.num_steps: 12 there, 13 now"):
        open_study(tiny(data_root, recorded=TINY["recorded"] | {"num_steps": 13}), directory, "cpu")


def test_a_part_is_kept_as_soon_as_it_is_done(data_root, tmp_path):
    study = open_study(
        tiny(data_root, recorded={"hidden_nodes": 4, "num_steps": 2}), tmp_path / "study", "cpu"
    )
    measure_float32(study)
    assert list(json.loads((tmp_path / "study" / "results.json").read_text())["parts"]) == [
        "float32"
    ]
    assert [key for key, _, _ in study_figures(study.results)] == ["float32"]


def test_the_same_settings_give_the_same_numbers(study, data_root, tmp_path):
    again = open_study(tiny(data_root), tmp_path / "study", "cpu")
    measure_exact(again)
    assert again.results["parts"]["exact"]["cosines"] == study.results["parts"]["exact"]["cosines"]


def test_every_figure_has_its_axes_named_and_its_data_finite(study):
    figures = study_figures(study.results)
    assert [key for key, _, _ in figures] == [
        "exact-smoothing",
        "exact-training",
        "dense",
        "float32",
    ]
    for _, caption, figure in figures:
        assert caption
        layout = figure.layout
        assert all(
            axis.title.text for axis in (layout.xaxis, layout.yaxis, layout.xaxis2, layout.yaxis2)
        )
        assert all(np.isfinite(np.array(trace.y, dtype=float)).all() for trace in figure.data)


# ---------------------------------------------------------------------------------------------------------- settings


def test_the_shipped_settings_are_the_defaults():
    assert load_settings(EXPERIMENTS / "args_ngd_directions.json") == Settings()


WRONG = {
    "training": {"alpha": 0, "momentum": 0, "eta": 1, "sgd_lr": 0.1, "dataset": "cifar10"},
    "exact": {"alphas": [1, 0.1], "num_minibatches": 1, "hidden_nodes": 2.5},
    "recorded": {"alphas": [], "num_steps": True},
    "swap": {},
}


def test_every_problem_of_the_settings_is_listed(tmp_path):
    (tmp_path / "args.json").write_text(json.dumps(WRONG))
    with pytest.raises(ConfigError) as refused:
        load_settings(tmp_path / "args.json")
    problems = sorted(refused.value.problems)
    starts = [
        "exact.alphas: [1, 0.1] given; allowed: numbers that increase",
        "exact.hidden_nodes: 2.5 given; ",
        "exact.num_minibatches: 1 given; allowed: greater than or equal to 2",
        "recorded.alphas: [] given; ",
        "recorded.num_steps: true given; ",
        "swap: unknown key, {} given; allowed: training, exact, recorded",
        "training.alpha: 0 given; allowed: greater than 0",
        "training.dataset: \"cifar10\" given; allowed: 'mnist' or 'fashion-mnist'",
        "training.eta: 1 given; allowed: less than 1",
        "training.nesterov: true given; allowed with momentum 0: false",
        "training.sgd_lr: unknown key, 0.1 given; allowed: dataset, root, batch_size, lr, ",
    ]
    assert len(problems) == len(starts)
    assert all(
        problem.startswith(start) for problem, start in zip(problems, starts, strict=True)
    ), problems


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ("[]", r"the file: \[\] given"),
        (
            '{"training": {"momentum": 0}}',
            "training.nesterov: true given; allowed with momentum 0: false",
        ),
        (
            '{"exact": {"pooling": 2, "hidden_nodes": 100}}',
            "exact: .* 30,810 weights; allowed: at most 20,000",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, content, problem):
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(ConfigError, match=problem):
        load_settings(tmp_path / "args.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "nothing.json")


# ---------------------------------------------------------------------------------------------------------- notebook


def test_the_notebook_runs_on_tiny_settings(data_root, tmp_path):
    small = TINY | {
        "training": {"root": str(data_root)},
        "recorded": {"hidden_nodes": 4, "num_steps": 3},
    }
    (tmp_path / "args.json").write_text(json.dumps(small))
    executed = papermill.execute_notebook(
        EXPERIMENTS / "eval_ngd_directions.ipynb",
        tmp_path / "executed.ipynb",
        cwd=EXPERIMENTS,
        progress_bar=False,
        parameters={
            "config_path": str(tmp_path / "args.json"),
            "out": str(tmp_path / "study"),
            "device": "cpu",
        },
    )
    outputs = [
        output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert (
        sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 4
    )
    assert f"report: {tmp_path / 'study' / 'report.html'}" in "".join(
        output.get("text", "") for output in outputs
    )
    assert (tmp_path / "study" / "report.html").stat().st_size > 1_000_000  # plotly.js is inside
