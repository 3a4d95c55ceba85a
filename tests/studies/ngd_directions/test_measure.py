"""Are the parts' numbers what the mathematics says they should be?"""

import numpy as np
import pytest

from degeneracy.optimizers.exact_ngd import KINDS
from studies.ngd_directions.comparison import COMPARED
from studies.ngd_directions.records import cosine_pairs, exact_part, recorded_part


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_of_the_exact_part(results, kind):
    part = exact_part(results)
    for name in COMPARED:
        assert list(part["cosines"][kind][name]) == ["layers.1", "layers.3", "layers.5", ""]
        layers = [cosine_pairs(part, name, kind, of) for of in part["cosines"][kind][name]]
        assert np.shape(layers) == (4, 2, 3, 2)  # (layer, checkpoint, alpha, mean and error)
        assert np.all(np.abs(np.array(layers)[..., 0]) <= 1)
        assert np.all(np.array(layers)[..., 1] >= 0)


@pytest.mark.parametrize("kind", KINDS)
def test_at_large_smoothing_the_exact_direction_is_the_gradient(results, kind):
    for name in ("gradient", "layerwise"):
        at_infinity = cosine_pairs(exact_part(results), name, kind)[:, -1, 0]
        assert at_infinity == pytest.approx([1, 1], abs=1e-4)  # α = 1e8, where λ_max/κ < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_alpha_is_at_least_as_good_as_online_ngds_own(results, kind):
    best, same = (
        cosine_pairs(exact_part(results), name, kind)[..., 0]
        for name in ("averaged_best", "averaged")
    )
    assert np.all(best >= same - 1e-12)


def test_the_network_learns_between_the_checkpoints(results):
    first, last = exact_part(results)["train_loss"]
    assert last < first


def test_the_low_rank_costs_little_where_the_smoothing_is_large(results):
    part = recorded_part(results, "dense")
    small, large = (np.array(list(online.values())) for online in part["cosines"]["online"])
    assert part["alphas"] == [0.1, 4]
    assert np.abs(small).max() <= 1 + 1e-12
    assert large.shape == (5, 12)  # four tensors and all of them, 12 steps
    assert large[-1].mean() > small[-1].mean()
    assert large[-1].mean() > np.mean(part["cosines"]["gradient"][1][""])


def test_the_stable_arithmetic_stays_orthonormal_where_the_published_one_does_not(results):
    part = recorded_part(results, "float32")
    runs = {(run["arithmetic"], run["alpha"]): run for run in part["runs"]}
    assert set(runs) == {(name, alpha) for name in ("stable", "published") for alpha in (0.1, 4)}
    for alpha in (0.1, 4):
        stable, published = runs["stable", alpha], runs["published", alpha]
        assert max(stable["orthonormality_error"]) < 1e-4 < min(published["orthonormality_error"])
        assert np.median(stable["direction_error"]) < 1e-2 * np.median(published["direction_error"])
