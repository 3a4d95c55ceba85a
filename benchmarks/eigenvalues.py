"""What do the largest eigenvalues of a Hessian cost, and does each come as often as it is repeated?
Ours against SciPy's ARPACK and `lobpcg`.

FFNN 2 × 256 after an epoch of SGD, the first 1,280 images of MNIST, float32, tolerance 1e-4 of the
largest eigenvalue. Seconds are medians over repeats, interleaved in one process: run it alone on
the machine. An error is the largest difference from eigenvalues to a tolerance of 1e-6, relative to
the largest. Then the Fisher information of the same network with an untrained head of zeros, whose
largest eigenvalue is there nine times. `python eigenvalues.py [repeats]`.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.eigenpairs import eigenpairs_of
from degeneracy.curvature.fisher import fisher_operator
from degeneracy.curvature.operators import Operator, hessian_operator
from degeneracy.curvature.spectrum import spectrum_of
from degeneracy.models.networks import FFNN
from degeneracy.runs.work import PROJECT
from degeneracy.training import train
from utils_general import load_data

NUM_IMAGES, COUNTS, TOLERANCE, CLASSES = 1280, (1, 5, 20), 1e-4, 10

Contender = Callable[[Operator, int, int], np.ndarray]  # operator, k, seed → k values, descending


def counted(operator: Operator) -> tuple[Operator, list[int]]:
    """The same operator, and how many rows each call multiplied."""
    rows_of_calls = []

    def products(rows):
        rows_of_calls.append(len(rows))
        return operator.products(rows)

    return operator._replace(products=products), rows_of_calls


def ours(operator: Operator, k: int, seed: int) -> np.ndarray:
    return eigenpairs_of(operator, k, tolerance=TOLERANCE, seed=seed).values


def norm_of(operator: Operator, seed: int) -> float:
    """Both need it: their tolerances are not relative to the largest eigenvalue."""
    return float(np.abs(spectrum_of(operator, num_probes=1, num_steps=10, seed=seed).nodes).max())


def scipys(operator: Operator, shift: float) -> LinearOperator:
    """A + shift · I for columns in float64."""

    def times(columns: np.ndarray) -> np.ndarray:
        columns = columns.reshape(operator.dim, -1)
        rows = torch.from_numpy(np.ascontiguousarray(columns.T)).to(operator.dtype)
        return operator.products(rows).double().numpy().T + shift * columns

    shape = operator.dim, operator.dim
    return LinearOperator(shape, matvec=times, matmat=times, dtype=np.float64)


def of_arpack(operator: Operator, k: int, seed: int) -> np.ndarray:
    """Shifted by the norm, which its tolerance, relative to each eigenvalue, needs at flat ends."""
    shift = norm_of(operator, seed)
    start = np.random.default_rng(seed).normal(size=operator.dim)
    given = {"which": "LA", "v0": start, "tol": TOLERANCE / 2, "return_eigenvectors": False}
    return np.sort(eigsh(scipys(operator, shift), k=k, **given))[::-1] - shift


def of_lobpcg(operator: Operator, k: int, seed: int) -> np.ndarray:
    start = np.random.default_rng(seed).normal(size=(operator.dim, k))
    limit = TOLERANCE * norm_of(operator, seed)
    values, _ = lobpcg(scipys(operator, 0), start, tol=limit, maxiter=200, largest=True)
    return np.sort(values)[::-1]


CONTENDERS: dict[str, Contender] = {"ARPACK": of_arpack, "lobpcg": of_lobpcg, "ours": ours}


def trained_network() -> tuple[FFNN, tuple[torch.Tensor, torch.Tensor]]:
    data = load_data("mnist", PROJECT / "data")
    torch.manual_seed(0)
    model = FFNN(256, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, data, 1, 128, torch.Generator())
    return model, tuple(part[:NUM_IMAGES] for part in data.train)


def compare(operator: Operator, k: int, repeats: int) -> None:
    """Prints a row for each contender."""
    exact = eigenpairs_of(operator, k, tolerance=1e-6, seed=1000).values
    seconds, products, calls, errors = ({name: [] for name in CONTENDERS} for _ in range(4))
    for repeat in range(repeats + 1):
        for name, contender in CONTENDERS.items():
            watched, rows_of_calls = counted(operator)
            started = time.perf_counter()
            values = contender(watched, k, repeat)
            if repeat == 0:  # the first one warms up
                continue
            seconds[name].append(time.perf_counter() - started)
            products[name].append(sum(rows_of_calls))
            calls[name].append(len(rows_of_calls))
            errors[name].append(float(np.abs(values - exact).max() / exact[0]))
    for name in CONTENDERS:
        ratio = statistics.median(seconds[name]) / statistics.median(seconds["ARPACK"])
        print(
            f"k = {k}, {name}: {statistics.median(seconds[name]):.2f} s, {ratio:.2f} × ARPACK;"
            f" {statistics.median(products[name]):.0f} products in"
            f" {statistics.median(calls[name]):.0f} calls, error {max(errors[name]):.1e}"
        )


def count_copies(model: nn.Module, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Prints how many of the CLASSES − 1 copies each contender returns among CLASSES values."""
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    operator = fisher_operator(model, images)
    for name, contender in CONTENDERS.items():
        values = contender(operator, CLASSES, 0)
        copies = int((values > (1 - 1e-3) * values[0]).sum())
        print(f"untrained head, {name}: {copies} of {CLASSES - 1} copies of {values[0]:.3f}")


def main(repeats: int = 5) -> None:
    warnings.filterwarnings("ignore", category=UserWarning, module="scipy")
    model, images = trained_network()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.title}, {NUM_IMAGES}"
        f" images, {repeats} interleaved repeats"
    )
    operator = hessian_operator(model, cross_entropy, images)
    for k in COUNTS:
        compare(operator, k, repeats)
    count_copies(model, images)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
