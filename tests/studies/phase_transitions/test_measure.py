"""Does every number agree with dense matrices, and is it measured where it belongs?"""

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from degeneracy.data.images import TensorData
from degeneracy.models.coefficients import quadratic_llc
from degeneracy.models.networks import FFNN
from degeneracy.runs.store import Point, RunStoreError
from degeneracy.study import measure, open_work
from studies.phase_transitions import STUDY
from studies.phase_transitions.measure import SERIES, curvature_at
from studies.phase_transitions.phases import transitions_of
from studies.phase_transitions.settings import CurvatureSettings

TITLE = "FFNN 7 HL, 32 HN"


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


def test_a_small_deep_network_leaves_its_plateau_with_both_optimizers(trained):
    found = transitions_of(trained, TITLE)
    for name, series in trained["models"][TITLE]["optimizers"].items():
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


def test_every_series_is_there_at_every_epoch_and_shared_at_the_first(trained):
    optimizers = trained["models"][TITLE]["optimizers"]
    for key in ("llc", "hessian_trace", *SERIES):
        for name in optimizers:
            assert all(value is not None for value in optimizers[name][key]), key
            assert len(optimizers[name][key]) == 8
        assert optimizers["sgd"][key][0] == optimizers["ngd"][key][0]
    assert trained["train_size"] == 1600
    assert trained["status"] == "complete"


def test_a_checkpoint_without_curvature_or_of_another_model_ends_nothing_silently(
    small_settings, tmp_path, capsys
):
    settings = small_settings(num_epochs=1, optimizer="sgd", measure_epochs=[0, 1])
    run = open_work(STUDY, settings, tmp_path / "run", "cpu")
    measure(run, "train")
    point = Point(TITLE, "sgd", 1)
    checkpoint = run.store.load_checkpoint(point)
    huge = {
        name: 1e30 * tensor if name.startswith("model.") else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    run.store.save_checkpoint(point, checkpoint._replace(tensors=huge))
    measure(run, "curvature")
    series = run.results["models"][TITLE]["optimizers"]["sgd"]
    assert [one is not None for one in series["spectrum"]] == [True, False]
    assert "SGD epoch 1: no curvature, " in capsys.readouterr().out
    other = {f"model.{name}": tensor for name, tensor in FFNN(5, 1).state_dict().items()}
    run.store.save_checkpoint(point, checkpoint._replace(tensors=other))
    with pytest.raises(
        RunStoreError, match=r"(?s)sgd-0001.safetensors does not fit FFNN 7 HL, 32 HN .*remove it"
    ):
        measure(run, "curvature")
