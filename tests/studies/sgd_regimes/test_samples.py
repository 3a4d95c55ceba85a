"""Are samples those that a name means, drawn evenly and scaled; and are bad tables refused?"""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from degeneracy.data.files import DataError
from studies.sgd_regimes.samples import cosine_basis, load_samples, stratified, synthetic


def test_digits_are_standardised_and_stratified():
    samples = load_samples("digits", 100, seed=3, num_others=50)
    assert samples.inputs.shape == (100, 64)
    assert samples.other_inputs.shape == (50, 64)
    assert samples.targets.mean() == pytest.approx(0, abs=1e-12)
    assert samples.targets.std() == pytest.approx(1)
    assert abs(samples.inputs.mean()) < 0.05  # the whole set's mean and deviation
    assert samples.inputs.std() == pytest.approx(1, abs=0.05)


def test_both_the_training_subset_and_the_others_are_stratified():
    """Digits have ten classes of a tenth each, to 4 %; the targets are the digit, standardised."""
    samples = load_samples("digits", 50, seed=3, num_others=30)
    for targets, count in ((samples.targets, 5), (samples.other_targets, 3)):
        _, counts = np.unique(targets.round(9), return_counts=True)
        assert len(counts) == 10
        assert abs(counts - count).max() <= 1
    both = np.concatenate([samples.inputs, samples.other_inputs])
    assert len(np.unique(both, axis=0)) == 80  # no sample is in both


def test_images_come_from_training_and_test_set(data_root):
    samples = load_samples("mnist", 60, data_root, seed=0, num_others=20)
    assert samples.inputs.shape == (60, 784)
    assert samples.other_targets.shape == (20,)
    assert samples.inputs.mean() == pytest.approx(0, abs=0.1)
    assert len(np.unique(samples.targets)) == 10  # every class six times


def test_strata_have_their_share():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    chosen = stratified(labels, 10, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 2]
    assert len(set(chosen)) == 10
    assert len(stratified(labels, 7, np.random.default_rng(0))) == 7


def test_a_seed_repeats_its_samples():
    one, same, other = (load_samples("digits", 20, seed=seed).targets for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"N = 1798 given; allowed: at most 1797, .* of digits"):
        load_samples("digits", 1798)
    with pytest.raises(ValueError, match=r"dataset 'iris' given; allowed: mnist"):
        load_samples("iris", 10)


def test_faces_are_read_where_their_file_is(tmp_path):
    with pytest.raises(DataError, match=r"olivettifaces.mat is not there; get it from cs.nyu.edu"):
        load_samples("olivetti_faces", 10, tmp_path)
    (tmp_path / "olivetti").mkdir()
    faces = np.random.default_rng(0).integers(0, 255, (16, 400))
    savemat(tmp_path / "olivetti" / "olivettifaces.mat", {"faces": faces.astype(np.uint8)})
    samples = load_samples("olivetti_faces", 40, tmp_path)
    assert samples.inputs.shape == (40, 16)
    assert len(np.unique(samples.targets)) == 40  # one of each person


@pytest.fixture
def bike(tmp_path):
    """A function that writes a small hour.csv, changed by keyword, and returns its root."""

    def write(**changed):
        random, rows = np.random.default_rng(0), 30
        columns = {
            "instant": np.arange(rows),
            "dteday": ["2011-01-01"] * rows,
            "temp": random.random(rows),
            "hum": random.random(rows),
            "casual": random.integers(0, 9, rows),
            "registered": random.integers(0, 9, rows),
            "cnt": random.integers(0, 99, rows),
        }
        columns = {k: v for k, v in {**columns, **changed}.items() if v is not None}
        (tmp_path / "Bike-Sharing").mkdir(exist_ok=True)
        pd.DataFrame(columns).to_csv(tmp_path / "Bike-Sharing" / "hour.csv", index=False)
        return tmp_path

    return write


def test_bike_sharing_drops_what_tells_the_answer(bike):
    samples = load_samples("bike_sharing", 20, bike(), num_others=10)
    assert samples.inputs.shape == (20, 2)
    np.testing.assert_allclose(samples.inputs.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(samples.inputs.std(0), 1)
    assert samples.other_inputs.shape == (10, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cnt": None}, r"no column cnt; allowed: a file that has them"),
        ({"cnt": 3}, r"target cnt is 3 for all 20 samples; allowed: targets that vary"),
        ({"cnt": 0.1}, r"target cnt is 0.1 for all 20 samples"),  # its deviation is not quite 0
        ({"temp": 0.1}, r"column temp is constant over 20 rows"),
        ({"temp": 1.0}, r"column temp is constant over 20 rows"),
        ({"temp": 1.0, "hum": 2.0}, r"column temp, hum is constant over 20 rows"),
        ({"hum": ["wet"] * 30}, r"column hum is not numeric"),
        ({"hum": [np.nan] + [1.0, 2.0] * 14 + [3.0]}, r"column hum has missing numbers"),
    ],
)
def test_a_table_with_bad_columns_is_refused_by_their_names(bike, changed, message):
    with pytest.raises(ValueError, match=message):
        load_samples("bike_sharing", 20, bike(**changed))


def test_more_rows_than_a_table_has_are_refused(bike):
    with pytest.raises(ValueError, match=r"N = 31 given; allowed: at most 30"):
        load_samples("bike_sharing", 31, bike())


def test_sgemms_target_is_the_mean_of_its_runs(tmp_path):
    with pytest.raises(DataError, match=r"sgemm_product.csv is not there; get it from the UCI"):
        load_samples("sgemm_product", 10, tmp_path)
    random = np.random.default_rng(0)
    runs = random.random((12, 4))
    table = pd.DataFrame(runs, columns=[f"Run{i} (ms)" for i in range(1, 5)])
    table.insert(0, "MWG", np.arange(12))
    (tmp_path / "sgemm_product").mkdir()
    table.to_csv(tmp_path / "sgemm_product" / "sgemm_product.csv", index=False)
    samples = load_samples("sgemm_product", 12, tmp_path, seed=0)
    order = np.argsort(samples.inputs[:, 0])  # MWG, which is the row
    means = runs.mean(1)
    np.testing.assert_allclose(samples.targets[order], (means - means.mean()) / means.std())


def test_synthetic_problems_have_their_power_laws():
    kernel, residual = synthetic(50, 1.3, 0.8)
    values = np.linalg.eigvalsh(kernel)[::-1]
    np.testing.assert_allclose(values, np.arange(1, 51) ** -1.3, rtol=1e-10)
    moments = (cosine_basis(50).T @ residual) ** 2
    np.testing.assert_allclose(moments / moments[0], np.arange(1, 51) ** -1.8, rtol=1e-9)
    floored = np.linalg.eigvalsh(synthetic(50, 1.3, 0.8, 0.1).kernel)
    assert floored[0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"lambda_min 1 given; allowed: >= 0 and < 1"):
        synthetic(50, 1.3, 0.8, 1.0)
