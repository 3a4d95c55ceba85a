"""How near are trace, top eigenvalues, rank and quadratic LLC to the dense Hessian's, and what does
a spectrum cost?

Accuracy: FFNN 2 × 20 on MNIST averaged to 7 × 7 pixels, 1,630 weights, whose Hessian is decomposed
as a whole in float64. Cost: 100 Lanczos steps on FFNN 2 × 256 and 1,280 images, against
curvlinops's, which do not orthogonalise against all vectors before; medians over interleaved
repeats in one process.

`python curvature_accuracy.py [repeats]`.
"""

import copy
import statistics
import sys
import time

import numpy as np
import torch
from curvlinops import HessianLinearOperator, lanczos_approximate_spectrum
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy

from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.operators import hessian_operator
from degeneracy.curvature.spectrum import (
    Estimate,
    count_above,
    hessian_spectrum,
    largest_ritz_values,
    quadratic_llc,
)
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.images import DataSplits, TensorData
from degeneracy.models.coefficients import quadratic_llc as llc_of_curvatures
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.runs.work import PROJECT
from degeneracy.training import train
from utils_general import load_data

NUM_STEPS, NUM_PROBES, NUM_IMAGES, TOP = 100, 10, 1280, 20
NBETA, LOCALIZATION = 100.0, 10.0
BOUNDARIES = (-10.0, 100.0)  # which curvlinops otherwise computes first


def trained(model: nn.Module, data: DataSplits) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, data, 1, 128, torch.Generator())
    return model


def show(name: str, exact: float, found: Estimate) -> None:
    off = abs(found.value - exact) / found.std_error
    print(
        f"{name}: exact {exact:.5g}, found {found.value:.5g} ± {found.std_error:.2g} over probes,"
        f" quadrature error {found.quadrature_error:.2g}: {100 * (found.value / exact - 1):+.2g} %,"
        f" {off:.1f} standard errors"
    )


def accuracy(data: DataSplits) -> None:
    pooled = DataSplits(*(TensorData(avg_pool2d(part.inputs, 4), part.labels) for part in data))
    model = trained(FFNN(20, 2, (1, 7, 7)), pooled)
    images = tuple(part[:NUM_IMAGES] for part in pooled.train)
    double = hessian_operator(
        copy.deepcopy(model).double(), cross_entropy, (images[0].double(), images[1])
    )
    dense = double.products(torch.eye(double.dim, dtype=torch.float64))
    exact = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0).numpy()
    print(
        f"{model.title}, {num_parameters(model):,} weights; {NUM_PROBES} probes × {NUM_STEPS} steps"
        " in float32"
    )
    trace = hessian_trace(model, cross_entropy, images, 50)
    show("trace, blockwise, 50 products", exact.sum(), Estimate(trace.trace, trace.std_error, 0.0))
    spectrum = hessian_spectrum(
        model, cross_entropy, images, num_probes=NUM_PROBES, num_steps=NUM_STEPS
    )
    for threshold in (exact[0] / 1000, exact[0] / 100, LOCALIZATION / NBETA):
        show(
            f"eigenvalues above {threshold:.3g}",
            (exact > threshold).sum(),
            count_above(spectrum, threshold),
        )
    predicted = llc_of_curvatures(exact.clip(0).tolist(), NBETA, LOCALIZATION)
    show(
        f"quadratic LLC at nβ = {NBETA:g}, γ = {LOCALIZATION:g}",
        predicted,
        quadratic_llc(spectrum, NBETA, LOCALIZATION),
    )
    for name, found in (
        ("top_eigenvalues", top_eigenvalues(model, cross_entropy, images, TOP)),
        ("largest_ritz_values", largest_ritz_values(spectrum, TOP)),
    ):
        print(
            f"{TOP} largest by {name}: at most {100 * np.abs(found / exact[:TOP] - 1).max():.2g}"
            " % off"
        )


def cost(data: DataSplits, repeats: int) -> None:
    model = trained(FFNN(256, 2), data)
    images = tuple(part[:NUM_IMAGES] for part in data.train)
    parameters = list(model.parameters())
    theirs = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [images], check_deterministic=False
    )

    def ours(num_probes: int) -> None:
        hessian_spectrum(model, cross_entropy, images, num_probes=num_probes, num_steps=NUM_STEPS)

    contenders = {
        "curvlinops lanczos_approximate_spectrum, 1 probe": lambda: lanczos_approximate_spectrum(
            theirs, NUM_STEPS, num_repeats=1, boundaries=BOUNDARIES
        ),
        "hessian_spectrum, 1 probe": lambda: ours(1),
        "hessian_spectrum, 8 probes": lambda: ours(8),
    }
    seconds = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender()
            if repeat > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
    print(
        f"{model.title}, {NUM_IMAGES} images, {NUM_STEPS} Lanczos steps, {repeats} interleaved"
        " repeats"
    )
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s")


if __name__ == "__main__":
    mnist = load_data("mnist", PROJECT / "data")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)
    accuracy(mnist)
    cost(mnist, *map(int, sys.argv[1:] or [3]))
