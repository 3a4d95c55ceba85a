"""What does SGD on the network itself do? f = a·relu(Wx/√d + b)/√m, ½ mean squared error.

All entries of W (m, d), b (m) and a (m) start as N(0, 1); one output, no output bias, float64. Its
learning rate is α·N/λ_max of its empirical NTK at the start: only then is α that of the other
regimes, whose kernel is rescaled to λ_max(K̂) = 1.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from studies.sgd_regimes.averaging import Curves
from studies.sgd_regimes.checks import check_lr, check_steps, noise_strength, refuse_overflow
from studies.sgd_regimes.kernels import empirical_ntk, largest_eigenvalue
from studies.sgd_regimes.linearised import Batches, adam_step, sampled_batches
from studies.sgd_regimes.schedules import Schedule, steps_of

OPTIMIZERS = ("sgd", "adam")

Weights = dict[str, Tensor]


def initial_weights(width: int, dim: int, seed: int) -> Weights:
    """W, b and a as N(0, 1), float64."""
    if width < 1:
        raise ValueError(f"width {width} given; allowed: >= 1")
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W": (width, dim), "b": (width,), "a": (width,)}
    how = {"generator": generator, "dtype": torch.float64}
    return {name: torch.randn(shape, **how) for name, shape in shapes.items()}


def outputs(weights: Weights, inputs: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """f(x) of samples."""
    width, dim = weights["W"].shape
    hidden = torch.relu(inputs @ weights["W"].T / dim**0.5 + weights["b"])
    return hidden @ weights["a"] / width**0.5


def network_ntk(weights: Weights, inputs: Float[Tensor, "N d"]) -> Float[np.ndarray, "N N"]:
    """K(x, x') = ∇f(x)·∇f(x') over all weights, by `torch.func`."""
    return empirical_ntk(outputs, weights, inputs).numpy()


def gradients(
    weights: Weights, inputs: Float[Tensor, "b d"], targets: Float[Tensor, " b"]
) -> Weights:
    """Of ½ mean (f − y)² over a batch."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    loss = ((outputs(leaves, inputs) - targets) ** 2).mean() / 2
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def train_network(
    weights: Weights,
    inputs: Float[Tensor, "N d"],
    targets: Float[Tensor, " N"],
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    num_steps: int = 1000,
    seed: int = 0,
    schedule: Schedule = None,
    *,
    optimizer: str = "sgd",
    kernel: Float[np.ndarray, "N N"] | None = None,
    batches: Batches | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Curves:
    """One run of a network.

    Args:
        weights: At the start; they stay as they are.
        inputs, targets: Training samples and what f should be there, float64.
        batch_size, momentum, num_steps, schedule, seed: As in `linearised.linearised`.
        lr: α of SGD in units of N/λ_max(K); of Adam in units of weights.
        kernel: K at the start, where it is known already.
        batches: As in `linearised.linearised`, of one run.
        validation: Inputs and targets of other samples.

    Raises:
        ValueError: A setting that is not allowed.
        OverflowError: The run diverges beyond float64; it says at which step.
    """
    size = len(inputs)
    noise_strength(batch_size, size)
    rates, momenta = _steps(optimizer, lr, momentum, num_steps, schedule)
    if optimizer == "sgd":
        kernel = network_ntk(weights, inputs) if kernel is None else kernel
        rates = rates * size / largest_eigenvalue(kernel)
    given = batches or sampled_batches(1, size, batch_size, num_steps, seed)
    state = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    weights = {name: weight.clone() for name, weight in weights.items()}
    losses, others = [], []

    def note() -> None:
        losses.append(float(((outputs(weights, inputs) - targets) ** 2).mean()) / 2)
        if validation is not None:
            others.append(
                float(((outputs(weights, validation[0]) - validation[1]) ** 2).mean()) / 2
            )

    note()
    for step, (rate, beta, batch) in enumerate(zip(rates, momenta, given, strict=True), start=1):
        chosen = torch.as_tensor(batch[0])
        found = gradients(weights, inputs[chosen], targets[chosen])
        for name, gradient in found.items():
            if optimizer == "adam":
                moved = adam_step(weights[name], gradient, state[name], squares[name], step, rate)
                weights[name], state[name], squares[name] = moved
            else:
                state[name].mul_(beta).sub_(gradient, alpha=float(rate))
                weights[name].add_(state[name])
        note()
    refuse_overflow(np.array(losses))
    return Curves(np.array(losses), None, np.array(others) if validation is not None else None)


def _steps(optimizer: str, lr: float, momentum: float, num_steps: int, schedule: Schedule):
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} given; allowed: {', '.join(OPTIMIZERS)}")
    if optimizer == "sgd":
        return steps_of(lr, momentum, num_steps, schedule)
    check_lr(lr)
    check_steps(num_steps)
    if momentum != 0 or schedule not in (None, "constant"):
        raise ValueError(
            "momentum or a schedule given with Adam, which has its own moments; allowed: momentum"
            " 0 and the constant schedule"
        )
    return np.full(num_steps, lr), np.zeros(num_steps)
