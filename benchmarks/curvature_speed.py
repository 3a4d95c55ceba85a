"""What does a Hessian trace cost for its error? `hessian_trace` against PyHessian and curvlinops: FFNN 2 × 256, 1,280 images.

Efficiency is 1/(seconds × variance): it does not change with the number of probes of an estimate whose probes are
independent. Seconds are medians over repeats, interleaved in one process: run it alone on the machine. A variance comes
from the probes of all repeats where they are known, and else from the repeats' estimates, to ± 53 % with eight.
"""

import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace
from curvlinops import xtrace as xtrace_of_curvlinops
from pyhessian import hessian
from torch import nn
from torch.nn.functional import cross_entropy

from architectures import FFNN
from experiment import PROJECT
from hessian_trace import METHODS, hessian_trace
from training import train
from utils_general import load_data

NUM_IMAGES, NUM_PRODUCTS, REPEATS = 1280, 48, 8  # Hutch++ needs a multiple of 3, XTrace an even number

Images = tuple[torch.Tensor, torch.Tensor]
Contender = Callable[[nn.Module, Images, int], tuple[float, float | None]]  # model, images, seed → estimate, variance


def of_this_project(method: str) -> Contender:
    def estimate(model, images, seed):
        found = hessian_trace(model, cross_entropy, images, NUM_PRODUCTS, seed, method=method)
        return found.trace, found.std_error**2

    return estimate


def of_pyhessian(model, images, seed):
    """Its graph is made once for all probes; the stopping rule, which divides by the signed trace, is switched off."""
    torch.manual_seed(seed)
    peer = hessian(copy.deepcopy(model), cross_entropy, data=images, cuda=False)
    values = peer.trace(maxIter=NUM_PRODUCTS, tol=-math.inf)
    return statistics.mean(values), statistics.variance(values) / NUM_PRODUCTS


def of_curvlinops(trace: Callable) -> Contender:
    def estimate(model, images, seed):
        torch.manual_seed(seed)
        loss, parameters = nn.CrossEntropyLoss(), list(model.parameters())
        operator = HessianLinearOperator(model, loss, parameters, [images], check_deterministic=False)
        return trace(operator, NUM_PRODUCTS).item(), None

    return estimate


def main() -> None:
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
    train(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), data, 1, 128, torch.Generator())

    seconds, estimates, variances = ({name: [] for name in contenders} for _ in range(3))
    for repeat in range(-1, REPEATS):  # the first one warms up
        for name, contender in contenders.items():
            started = time.perf_counter()
            estimate, variance = contender(model, images, repeat + 1)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
                estimates[name].append(estimate)
                variances[name].append(variance)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.title}, {NUM_IMAGES} images")
    print(f"{NUM_PRODUCTS} Hessian-vector products an estimate, {REPEATS} interleaved repeats")
    efficiency = {}
    for name in contenders:
        known = None not in variances[name]
        variance = statistics.mean(variances[name]) if known else statistics.variance(estimates[name])
        efficiency[name] = 1 / (statistics.median(seconds[name]) * variance)
        print(
            f"{name}: {statistics.median(seconds[name]):.2f} s, mean {statistics.mean(estimates[name]):.1f}, variance "
            f"{variance:.2f} ({'from its probes' if known else 'from repeats'}), spread of repeats "
            f"{statistics.stdev(estimates[name]):.2f}, {efficiency[name] / efficiency['PyHessian']:.1f} × PyHessian's "
            f"efficiency, {efficiency[name] / efficiency['curvlinops hutchinson_trace']:.1f} × hutchinson_trace's"
        )


if __name__ == "__main__":
    main()
