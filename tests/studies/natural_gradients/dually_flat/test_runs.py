"""Do the passes do what is published, and how near to the floor do they come?"""

import numpy as np
import pytest

from studies.natural_gradients.dually_flat.measure import one_method, problem
from studies.natural_gradients.dually_flat.model import (
    Model,
    check_samples,
    conditional_kl,
    natural_gradient,
    reduced,
    table_of,
)
from studies.natural_gradients.dually_flat.runs import (
    METHODS,
    Batch,
    adagrad,
    batches,
    dsngd,
    run,
    sgd,
    sngd,
)
from studies.natural_gradients.dually_flat.settings import Case, Settings

DEFAULTS = Settings()


def samples_of(small):
    model, _, _, features, labels = small
    return model, features, labels, check_samples(model, features, labels)


def assert_same(model, table, alpha, beta):
    for found, expected in zip(reduced(model, table), (alpha, beta), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_a_batch_of_one_is_dsngd_as_published(small):
    """(α, β) stepped one sample at a time with the public closed form, μ from running counts."""
    model, features, labels, cells = samples_of(small)
    total = (sum(model.sizes) - len(model.sizes) + 1) * model.classes
    counts = np.full((model.rows, model.classes), total / model.classes)
    for block, size in zip(model.blocks, model.sizes, strict=True):
        counts[block] /= size
    alpha, beta = reduced(model, np.zeros_like(counts))
    for t in range(100):
        counts[:, labels[t]] += model.design[cells[t]]
        step = natural_gradient(
            model, alpha, beta, features[t : t + 1], labels[t : t + 1], counts / (total + t + 1)
        )
        rate = 0.02 / (1 + 0.01 * t)
        alpha, beta = alpha - rate * step[0], beta - rate * step[1]
    found = run(model, dsngd(model), cells[:100], labels[:100], [(0.02, 0.01)], most=1)
    assert_same(model, found[-1, :, 0], alpha, beta)


def test_a_batch_of_one_is_sngd_as_published(small):
    model, features, labels, cells = samples_of(small)
    alpha, beta = reduced(model, np.zeros((model.rows, model.classes)))
    for t in range(100):
        step = natural_gradient(model, alpha, beta, features[t : t + 1], labels[t : t + 1])
        alpha, beta = alpha - 1e-3 * step[0], beta - 1e-3 * step[1]
    found = run(model, sngd(model), cells[:100], labels[:100], [(1e-3, 0.0)], most=1)
    assert_same(model, found[-1, :, 0], alpha, beta)


@pytest.mark.parametrize("method", [sgd, adagrad])
def test_the_gradients_are_by_the_free_coordinates_alone(small, method):
    model, _, labels, cells = samples_of(small)
    found = run(model, method(model), cells, labels, [(0.1, 0.0)])[-1, :, 0]
    assert (found[model.free == 0] == 0).all()
    assert np.abs(found[model.free > 0]).min() > 0
    np.testing.assert_allclose(table_of(model, *reduced(model, found)), found, atol=1e-15)


def test_adagrad_sums_the_squares_of_single_samples(small):
    """In one batch from θ = 0, where every sample's gradient is known."""
    model, _, labels, cells = samples_of(small)
    gaps = 1 / model.classes - np.eye(model.classes)[labels]
    each = model.design[cells][:, :, None] * gaps[:, None]
    stepped = -0.1 * model.free * each.sum(axis=0) / np.sqrt((each**2).sum(axis=0))
    direction = adagrad(model)
    at = model.design[cells]
    moments = (at.T @ gaps)[:, None]
    batch = Batch(at, labels, gaps[:, None], moments)
    found = -0.1 * direction(np.zeros_like(moments), batch)[:, 0]
    np.testing.assert_allclose(found, stepped, rtol=1e-12, atol=1e-15)


def test_runs_side_by_side_are_each_its_own(small):
    model, _, labels, cells = samples_of(small)
    rates = [(0.02, 0.01), (0.005, 0.0)]
    for make in METHODS.values():
        both = run(model, make(model), cells, labels, rates, shown=[50])
        assert both.shape[0] == 2
        for i, one in enumerate(rates):
            alone = run(model, make(model), cells, labels, [one], shown=[50])
            np.testing.assert_allclose(both[:, :, i], alone[:, :, 0], rtol=1e-9, atol=1e-12)


def test_batches_cover_the_samples_once_and_grow():
    for count, most in ((1, 5), (99, 1), (10_000, 64)):
        ends = list(batches(count, most))
        assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]
        assert ends[-1][1] == count
        sizes = [stop - start for start, stop in ends]
        assert max(sizes) <= most
        assert all(b <= max(1, 0.02 * a) for (a, _), b in zip(ends, sizes, strict=True))


def test_dsngd_ends_near_the_floor():
    """At most 1.5 times d/2N in the median of three, s = 10, m = [10, 5], σ = 0.7.

    Its rate is chosen on held-out samples, as those of its rivals are.
    """
    ratios, count = [], DEFAULTS.num_samples
    for seed in DEFAULTS.seeds:
        made = problem(Case(), seed, count, DEFAULTS.num_heldout)
        found = one_method(made, "DSNGD", [count], DEFAULTS.batch_size)
        ratios.append(found["ratio"][-1])
    assert np.median(ratios) <= 1.5


def test_a_batch_of_64_ends_where_single_samples_do():
    """Batches change KL by less than what samples change it by, from seed to seed."""
    ends = {1: [], 64: []}
    for seed in (1, 2, 3):
        made = problem(Case(classes=4, sizes=[4, 3]), seed, 10_000, 1)
        for most, found in ends.items():
            table = run(
                made.model, dsngd(made.model), made.cells, made.labels, [(0.02, 0.0133)], most
            )
            found.append(float(conditional_kl(made.model, made.truth, table[-1, :, 0])))
    one, many = np.array(ends[1]), np.array(ends[64])
    assert np.abs(many - one).max() < one.std(ddof=1)


# ---- refusals ------------------------------------------------------------------------------------


def test_pseudo_counts_of_zero_are_refused():
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"pseudo_counts = .* given; allowed: > 0"):
            dsngd(Model((3, 2), 2), wrong)


def test_rates_batches_and_streams_that_are_none_are_refused(small):
    model, _, labels, cells = samples_of(small)
    with pytest.raises(ValueError, match="a > 0, b >= 0"):
        run(model, sgd(model), cells, labels, [(0.0, 0.0)])
    with pytest.raises(ValueError, match="a > 0, b >= 0"):
        run(model, sgd(model), cells, labels, [(0.1, -1.0)])
    with pytest.raises(ValueError, match="allowed: >= 1 of each"):
        run(model, sgd(model), cells[:0], labels[:0], [(0.1, 0.0)])
    with pytest.raises(ValueError, match="allowed: >= 1 of each"):
        run(model, sgd(model), cells, labels, [(0.1, 0.0)], most=0)
