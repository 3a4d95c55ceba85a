"""Which samples does a name mean? Images, tables and made-up power laws, standardised.

Images with the training set's global mean and deviation, tables column by column; targets are the
label or the number to predict, standardised over the samples that are used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from degeneracy.data.files import DataError
from degeneracy.data.images import load_data
from degeneracy.runs.work import from_project
from studies.sgd_regimes.checks import check_law

IMAGES = {"mnist": "mnist", "fashion-mnist": "fashion-mnist", "cifar10": "cifar10"}
BIKE_FILE, SGEMM_FILE = "Bike-Sharing/hour.csv", "sgemm_product/sgemm_product.csv"
FACES_FILE = "olivetti/olivettifaces.mat"
BIKE_DROPPED = ("instant", "dteday", "casual", "registered")
SGEMM_RUNS = tuple(f"Run{i} (ms)" for i in range(1, 5))
WHERE = {
    BIKE_FILE: "the UCI repository, data set 275 (Bike Sharing), hour.csv",
    SGEMM_FILE: "the UCI repository, data set 440 (SGEMM GPU kernel performance)",
    FACES_FILE: "cs.nyu.edu/~roweis/data/olivettifaces.mat",
}


class Samples(NamedTuple):
    """Training samples, and others of the same kind where there are some.

    Attributes:
        inputs: (N, d), standardised.
        targets: (N,), mean 0 and deviation 1.
        other_inputs, other_targets: (M, d) and (M,), scaled as the training samples; M may be 0.
    """

    inputs: Float[np.ndarray, "N d"]
    targets: Float[np.ndarray, " N"]
    other_inputs: Float[np.ndarray, "M d"]
    other_targets: Float[np.ndarray, " M"]


def load_samples(
    name: str, size: int, root: str | Path = "data", seed: int = 0, num_others: int = 0
) -> Samples:
    """N samples of a data set, and as many others.

    Args:
        name: A key of `SETS`.
        size: N >= 2.
        root: Folder of the data sets' files; a relative one is relative to the project's folder.
        seed: Of which samples.
        num_others: M, for validation curves.

    Raises:
        ValueError: No such data set, N < 2 or above what there is, a column that is missing,
            constant or not numeric, by name.
        data.files.DataError: A file is not there; it says where to get it.
    """
    if name not in SETS:
        raise ValueError(f"dataset {name!r} given; allowed: {', '.join(SETS)}")
    if size < 2:
        raise ValueError(f"N = {size} given; allowed: N >= 2")
    random = np.random.default_rng(seed)
    return SETS[name](from_project(root), size, num_others, random, name)


def stratified(
    labels: Int[np.ndarray, " n"], size: int, random: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """Indices of `size` samples, each class as often as in `labels`, to the nearest sample."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * size / len(labels)
    wanted = np.floor(exact).astype(int)
    short = size - wanted.sum()
    wanted[np.argsort(-(exact - wanted), kind="stable")[:short]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, wanted, strict=True)
    ]
    return random.permutation(np.concatenate(chosen))


def _images(root: Path, size: int, others: int, random, name: str) -> Samples:
    data = load_data(IMAGES[name], root)
    parts = []
    for split, count in ((data.train, size), (data.test, others)):
        labels = split.labels.numpy()
        _refuse_more(count, len(labels), name)
        at = stratified(labels, count, random)
        parts += [split.inputs.flatten(1).numpy()[at].astype(np.float64), labels[at]]
    pixels = data.train.inputs
    centre, scale = float(pixels.mean()), float(pixels.std())
    return _standardised(*parts, centre, scale, f"{name}: label")


def _labelled(inputs: np.ndarray, labels: np.ndarray, size: int, others: int, random, name: str):
    """Samples of one array, training ones and others apart."""
    _refuse_more(size + others, len(labels), name)
    train = stratified(labels, size, random)
    left = np.setdiff1d(np.arange(len(labels)), train)
    rest = left[stratified(labels[left], others, random)] if others else left[:0]
    centre, scale = float(inputs.mean()), float(inputs.std())
    parts = (inputs[train], labels[train], inputs[rest], labels[rest])
    return _standardised(*parts, centre, scale, f"{name}: label")


def _digits(_root: Path, size: int, others: int, random, name: str) -> Samples:
    from sklearn.datasets import load_digits  # half a second, for this data set only

    inputs, labels = load_digits(return_X_y=True)
    return _labelled(inputs.astype(np.float64), labels, size, others, random, name)


def _faces(root: Path, size: int, others: int, random, name: str) -> Samples:
    from scipy.io import loadmat

    faces = loadmat(_there(root, FACES_FILE))["faces"].T.astype(np.float64)  # (400, 4096)
    return _labelled(faces, np.arange(len(faces)) // 10, size, others, random, name)


def _bike(root: Path, size: int, others: int, random, name: str) -> Samples:
    table = read_table(_there(root, BIKE_FILE), [*BIKE_DROPPED, "cnt"], BIKE_DROPPED)
    return from_table(table.drop(columns="cnt"), table["cnt"], size, others, random, name)


def _sgemm(root: Path, size: int, others: int, random, name: str) -> Samples:
    table = read_table(_there(root, SGEMM_FILE), SGEMM_RUNS)
    target = table[list(SGEMM_RUNS)].mean(axis=1).rename("mean of Run1 to Run4 (ms)")
    features = table.drop(columns=list(SGEMM_RUNS))
    return from_table(features, target, size, others, random, name)


def read_table(path: Path, needed: tuple | list, dropped: tuple = ()) -> pd.DataFrame:
    """A CSV's numbers, without the columns `dropped`.

    Raises:
        ValueError: Columns that are needed and missing, not numeric, or with missing numbers; all
            are named.
    """
    table = pd.read_csv(path)
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; allowed: a file that has them")
    table = table.drop(columns=list(dropped))
    wrong = [c for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    if wrong:
        raise ValueError(f"{path}: column {', '.join(wrong)} is not numeric; allowed: numbers")
    if empty := [column for column in table if not np.isfinite(table[column]).all()]:
        raise ValueError(f"{path}: column {', '.join(empty)} has missing numbers; allowed: none")
    return table.astype(np.float64)


def from_table(
    features: pd.DataFrame, target: pd.Series, size: int, others: int, random, name: str
) -> Samples:
    """Rows drawn from a table, each column with mean 0 and deviation 1 over the training rows.

    Raises:
        ValueError: More rows asked for than there are, or columns constant over the training rows.
    """
    _refuse_more(size + others, len(target), name)
    at = random.permutation(len(target))[: size + others]
    rows, goals = features.to_numpy()[at], target.to_numpy()[at]
    train = rows[:size]
    # Not by the deviation, which rounding makes > 0 where all are 0.1.
    if constant := [c for c, s in zip(features, np.ptp(train, axis=0), strict=True) if s == 0]:
        raise ValueError(
            f"{name}: column {', '.join(map(str, constant))} is constant over {size} rows; allowed:"
            " columns that vary (a larger N, or another file)"
        )
    scaled = (rows - train.mean(0)) / train.std(0)
    parts = (scaled[:size], goals[:size], scaled[size:], goals[size:])
    return _standardised(*parts, 0.0, 1.0, f"{name}: target {target.name}")


def _standardised(
    inputs, targets, other_inputs, other_targets, centre: float, scale: float, what: str
) -> Samples:
    targets, other_targets = (np.asarray(of, dtype=np.float64) for of in (targets, other_targets))
    mean, spread = targets.mean(), targets.std()
    if np.ptp(targets) == 0:
        raise ValueError(
            f"{what} is {mean:g} for all {len(targets)} samples; allowed: targets that vary (a"
            " larger N, or another file)"
        )
    inputs, other_inputs = ((of - centre) / scale for of in (inputs, other_inputs))
    return Samples(inputs, (targets - mean) / spread, other_inputs, (other_targets - mean) / spread)


def _refuse_more(size: int, there: int, name: str) -> None:
    if size > there:
        raise ValueError(f"N = {size} given; allowed: at most {there}, the samples of {name}")


def _there(root: Path, file: str) -> Path:
    path = root / file
    if not path.is_file():
        raise DataError(f"{path} is not there; get it from {WHERE[file]} and put it there")
    return path


SETS: dict[str, Callable[..., Samples]] = {
    **dict.fromkeys(IMAGES, _images),
    "digits": _digits,
    "olivetti_faces": _faces,
    "bike_sharing": _bike,
    "sgemm_product": _sgemm,
}


class Problem(NamedTuple):
    """What the linear regimes need of a data set: K̂ with λ_max = 1, and Δ at the start."""

    kernel: Float[np.ndarray, "N N"]
    residual: Float[np.ndarray, " N"]


def cosine_basis(size: int) -> Float[np.ndarray, "N N"]:
    """U_{i,k−1} = √((2 − [k=1])/N) cos(π(i+½)(k−1)/N), orthogonal."""
    i, k = np.arange(size)[:, None], np.arange(size)[None]
    return np.sqrt(np.where(k == 0, 1.0, 2.0) / size) * np.cos(np.pi * (i + 0.5) * k / size)


def synthetic(size: int, nu: float, kappa: float, lambda_min: float = 0.0) -> Problem:
    """λ_k = k^−ν, where it is not below `lambda_min`, else that; c_k ∝ k^−ϰ−1 with Σc = 1.

    Raises:
        ValueError: N < 2, exponents that are not > 0, or a `lambda_min` outside [0, 1).
    """
    if size < 2:
        raise ValueError(f"N = {size} given; allowed: N >= 2")
    check_law(nu, kappa)
    if not 0 <= lambda_min < 1:
        raise ValueError(f"lambda_min {lambda_min:g} given; allowed: >= 0 and < 1, which is λ_max")
    k = np.arange(1, size + 1, dtype=np.float64)
    basis = cosine_basis(size)
    start = k ** (-(kappa + 1) / 2)
    kernel = (basis * np.maximum(k**-nu, lambda_min)) @ basis.T
    return Problem(0.5 * (kernel + kernel.T), basis @ (start / np.linalg.norm(start)))
