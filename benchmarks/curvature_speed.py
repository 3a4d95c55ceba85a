"""What does a Hessian trace cost for its error? Our estimates against PyHessian's and curvlinops's.

FFNN 2 × 256 after an epoch of SGD, the first 1,280 images of MNIST. Efficiency is 1/(seconds ×
variance): where probes are independent, their number does not change it. Seconds are medians over
repeats, interleaved in one process: run it alone on the machine. A variance is the mean over
repeats of the squared standard error where one is stated, else that of the repeats' estimates,
which n of them give to ± √(2/(n − 1)); XTrace's stated one is too small, see
`degeneracy.curvature.trace.xtrace`. `python curvature_speed.py [repeats]`.
"""

import copy
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace
from curvlinops import xtrace as xtrace_of_curvlinops
from pyhessian import hessian
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.curvature.trace import METHODS, hessian_trace
from degeneracy.models.networks import FFNN
from degeneracy.runs.work import PROJECT
from degeneracy.training import train
from utils_general import load_data

NUM_IMAGES, NUM_PRODUCTS = 1280, 48  # Hutch++ needs a multiple of 3, XTrace an even number
REFERENCES = ("PyHessian", "curvlinops hutchinson_trace")

Images = tuple[torch.Tensor, torch.Tensor]
Contender = Callable[
    [nn.Module, Images, int], tuple[float, float | None]
]  # model, images, seed → estimate, variance


def of_this_project(method: str) -> Contender:
    def estimate(model, images, seed):
        found = hessian_trace(model, cross_entropy, images, NUM_PRODUCTS, seed, method=method)
        return found.trace, found.std_error**2

    return estimate


def of_pyhessian(model, images, seed):
    """Its graph is made once for all probes; the stopping rule, which divides by the signed trace,
    is switched off.
    """
    torch.manual_seed(seed)
    peer = hessian(copy.deepcopy(model), cross_entropy, data=images, cuda=False)
    values = peer.trace(maxIter=NUM_PRODUCTS, tol=-math.inf)
    return statistics.mean(values), statistics.variance(values) / NUM_PRODUCTS


def of_curvlinops(trace: Callable) -> Contender:
    def estimate(model, images, seed):
        torch.manual_seed(seed)
        loss, parameters = nn.CrossEntropyLoss(), list(model.parameters())
        operator = HessianLinearOperator(
            model, loss, parameters, [images], check_deterministic=False
        )
        return trace(operator, NUM_PRODUCTS).item(), None

    return estimate


def main(repeats: int = 8) -> None:
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    contenders = {
        "PyHessian": of_pyhessian,
        "curvlinops hutchinson_trace": of_curvlinops(hutchinson_trace),
        "curvlinops hutchpp_trace": of_curvlinops(hutchpp_trace),
        "curvlinops xtrace": of_curvlinops(xtrace_of_curvlinops),
    } | {f"hessian_trace {method}": of_this_project(method) for method in METHODS}
    data = load_data("mnist", PROJECT / "data")
    images = tuple(part[:NUM_IMAGES] for part in data.train)
    torch.manual_seed(0)
    model = FFNN(256, 2)
    train(
        model,
        torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        data,
        1,
        128,
        torch.Generator(),
    )

    seconds, estimates, variances = ({name: [] for name in contenders} for _ in range(3))
    for repeat in range(repeats + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            estimate, variance = contender(model, images, repeat)
            if repeat > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
                estimates[name].append(estimate)
                variances[name].append(variance)

    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.title}, {NUM_IMAGES}"
        " images"
    )
    print(f"{NUM_PRODUCTS} Hessian-vector products an estimate, {repeats} interleaved repeats")
    variances["curvlinops hutchinson_trace"] = variances["PyHessian"]  # the same estimator
    reference = {}
    for name in contenders:
        stated = None not in variances[name]
        variance = (
            statistics.mean(variances[name]) if stated else statistics.variance(estimates[name])
        )
        efficiency = 1 / (statistics.median(seconds[name]) * variance)
        if name in REFERENCES:
            reference[name] = efficiency
        ratios = ", ".join(
            f"{efficiency / theirs:.1f} × {peer}" for peer, theirs in reference.items()
        )
        print(
            f"{name}: {statistics.median(seconds[name]):.2f} s, trace"
            f" {statistics.mean(estimates[name]):.1f}, variance {variance:.2f}"
            f" {'as stated' if stated else 'of the repeats'}; efficiency {ratios}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
