"""How does online natural gradient descent (NGD) turn a gradient into a step?

Povey, Zhang & Khudanpur, "Parallel training of DNNs with natural gradient and parameter averaging", arXiv:1410.7455,
Appendix A and B, and Kaldi's documentation of its natural-gradient-online. For every tensor and every axis of size
D > 1 the gradient is seen as X of shape (N, D): that axis last, all others as rows. The Fisher matrix of the axis is
kept as F = Rᵀ diag(d) R + ρ I, a low-rank part plus a floor, and smoothed to G = F + κ I before it is inverted.

The mathematics comes first, as functions of tensors; `NGD` only loops over parameters and keeps their state.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ARITHMETICS = ("stable", "published")
MAX_RANK = 80
NUM_INITIAL_UPDATES = 3  # updates with the first gradient, before the first direction is computed
ALWAYS_UPDATE_BEFORE = 10  # steps 0 … 9 update the factor whatever the update period


class FisherFactor(NamedTuple):
    """F = basisᵀ diag(eigenvalues) basis + floor·I, the Fisher matrix of one axis of size D, with rank R < D."""

    basis: Float[Tensor, "R D"]  # R_t, orthonormal rows
    eigenvalues: Float[Tensor, "R"]  # diagonal of D_t, in units of gradient²
    floor: Float[Tensor, ""]  # ρ_t, in units of gradient²


def default_rank(dim: int) -> int:
    """Rank R kept for an axis of size `dim`: min(⌊(dim + 1)/2⌋, 80)."""
    return min((dim + 1) // 2, MAX_RANK)


def initial_factor(dim: int, rank: int, epsilon: float, like: Tensor) -> FisherFactor:
    """The factor before any gradient was seen: ρ = ε, d = ε, rows [1.1·I, I, I, …] cut to `dim` columns, normalised."""
    columns = torch.arange(dim, device=like.device)
    basis = (columns % rank == torch.arange(rank, device=like.device)[:, None]).to(like.dtype)
    basis[:, :rank] *= 1.1
    basis /= basis.norm(dim=1, keepdim=True)
    return FisherFactor(basis, like.new_full((rank,), epsilon), like.new_full((), epsilon))


def fisher_trace(factor: FisherFactor) -> Float[Tensor, ""]:
    """tr F = tr diag(d) + D ρ."""
    return factor.eigenvalues.sum() + factor.basis.shape[1] * factor.floor


def smoothing(factor: FisherFactor, alpha: float) -> Float[Tensor, ""]:
    """κ = (α/D)·tr F, the multiple of the identity added to F before it is inverted, in units of gradient²."""
    return alpha / factor.basis.shape[1] * fisher_trace(factor)


def direction(x: Float[Tensor, "N D"], factor: FisherFactor, alpha: float) -> Float[Tensor, "N D"]:
    """β X G⁻¹ with G = F + κ I and β = ρ + κ, rescaled to the Frobenius norm of X.

    By the matrix inversion lemma β G⁻¹ = I − Wᵀ W with W = E^{1/2} R and E = diag(d / (β + d)).
    Where β + d is zero (no gradient seen and ε = 0) there is nothing to turn and E is zero.
    """
    beta = factor.floor + smoothing(factor, alpha)
    denominator = beta + factor.eigenvalues
    weight = torch.where(denominator > 0, factor.eigenvalues / denominator, 0.0).sqrt()
    w = weight[:, None] * factor.basis  # (R, D)
    if x.is_contiguous():
        x_hat = torch.addmm(x, x @ w.T, w, alpha=-1)
    else:
        # A matrix's first axis: its transpose is what lies in order in memory.
        x_hat = torch.addmm(x.T, w.T, w @ x.T, alpha=-1).T
    norm = torch.linalg.vector_norm(x_hat)
    return x_hat.mul_(torch.where(norm > 0, torch.linalg.vector_norm(x) / norm, 1.0))


def updated_factor(
    x: Float[Tensor, "N D"], factor: FisherFactor, eta: float, epsilon: float, delta: float, arithmetic: str
) -> FisherFactor:
    """The factor after seeing X: its low-rank part moves towards T = η XᵀX/N + (1 − η) F.

    Both arithmetics start from Y = R T. `"published"` orthonormalises Y through the eigenvectors of Y Yᵀ, as the
    published code does, and loses orthonormality in float32. `"stable"` takes an orthonormal basis Q of Y's rows by
    QR and rotates it to the eigenvectors of Qᵀ T Q (one step of subspace iteration with Rayleigh-Ritz).
    d and ρ are floored at max(ε, δ·largest Ritz value) after d was computed with the unfloored ρ.
    """
    (num_rows, dim), rank = x.shape, factor.basis.shape[0]
    basis, eigenvalues, floor = factor
    # Y, with R Rᵀ = I taken for granted, as in the published code.
    y = (basis @ x.T) @ x * (eta / num_rows) + ((1 - eta) * (eigenvalues + floor))[:, None] * basis  # (R, D)
    if arithmetic == "published":
        squares, rotation = torch.linalg.eigh(y @ y.T)
        squares = squares.clamp_min(((1 - eta) * floor) ** 2)
        ritz = squares.sqrt()
        basis = (rotation / ritz).T @ y
    else:
        q = torch.linalg.qr(y.T).Q  # (D, R)
        x_q, basis_q = x @ q, basis @ q
        b = x_q.T @ x_q * (eta / num_rows) + basis_q.T @ (((1 - eta) * eigenvalues)[:, None] * basis_q)
        b.diagonal().add_((1 - eta) * floor)  # Qᵀ T Q
        ritz, rotation = torch.linalg.eigh(b)
        basis = (q @ rotation).T.contiguous()
    trace_t = eta / num_rows * x.square().sum() + (1 - eta) * fisher_trace(factor)
    floor = (trace_t - ritz.sum()) / (dim - rank)
    least = (delta * ritz[-1]).clamp_min(epsilon)  # eigh sorts ascending
    return FisherFactor(basis, torch.maximum(ritz - floor, least), torch.maximum(floor, least))


def started_factor(
    x: Float[Tensor, "N D"], rank: int, eta: float, epsilon: float, delta: float, arithmetic: str
) -> FisherFactor:
    """The factor an axis starts with: the initial one after three updates with the first gradient, in float64.

    With fewer rows than the rank, only the tiny initial factor says which directions complete the gradient's own; in
    float32 rounding would say it, and the floors would then carry that noise along. At ε = 0 there is no initial
    factor, so a millionth of the gradient's mean square takes the place of ε in it.
    """
    dtype, x = x.dtype, x.double()
    factor = initial_factor(x.shape[1], rank, epsilon or 1e-6 * x.square().mean().item(), like=x)
    for _ in range(NUM_INITIAL_UPDATES):
        factor = updated_factor(x, factor, eta, epsilon, delta, arithmetic)
    return FisherFactor(*(tensor.to(dtype) for tensor in factor))


def precondition(grad: Tensor, factors: dict[int, FisherFactor], update: bool, group: dict) -> Tensor:
    """Turns `grad` along each axis of size D > 1 in order: what one axis returns goes into the next.

    Args:
        grad: Finite gradient, any shape.
        factors: Axis → factor; filled where an axis has none yet, replaced where `update` is set. The direction
            always uses the factor from before the update.
        update: Whether this step updates the factors.
        group: Hyper-parameters `rank`, `alpha`, `eta`, `epsilon`, `delta`, `arithmetic`.

    Returns:
        The direction, shaped and normed as `grad`.

    Raises:
        torch.linalg.LinAlgError: A decomposition met numbers that are not finite.
    """
    how = (group["eta"], group["epsilon"], group["delta"], group["arithmetic"])
    if grad.numel() == 0:
        return grad
    for axis, dim in enumerate(grad.shape):
        if dim == 1:
            continue
        axis_last = grad.movedim(axis, -1)
        x = axis_last.reshape(-1, dim)  # (N, D)
        if axis not in factors:
            rank = default_rank(dim) if group["rank"] is None else min(group["rank"], dim - 1)
            factors[axis] = started_factor(x, rank, *how)
        x_hat = direction(x, factors[axis], group["alpha"])
        if update:
            factors[axis] = updated_factor(x, factors[axis], *how)
        grad = x_hat.reshape(axis_last.shape).movedim(-1, axis)
    return grad


class NGD(torch.optim.Optimizer):
    """Stochastic gradient descent along online natural gradient directions (arXiv:1410.7455).

    Momentum, dampening, weight decay and Nesterov are those of `torch.optim.SGD`; weight decay is added before the
    gradient is turned. The direction keeps the gradient's norm tensor by tensor, so learning rates compare with SGD's,
    and α → ∞ is SGD.

    A gradient with a NaN or an infinity leaves that tensor's weight, momentum and factors as they are and is counted in
    `num_skipped_updates`. Where a finite gradient gives a direction or factors that are not finite, the gradient itself
    is used, the tensor's factors start anew, and `num_restarts` counts it.

    State of a tensor: `step`, `num_skipped`, `num_restarts`, `momentum_buffer`, and for every axis of size D > 1 with
    rank R `basis_<axis>` (R, D), `eigenvalues_<axis>` (R,), `floor_<axis>` (). All are tensors, so `state_dict()` saves
    to safetensors and loads again, and training goes on along the same path.

    Args:
        params: Parameters or parameter groups, float32 or float64.
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        dampening: In [0, 1].
        weight_decay: ≥ 0.
        nesterov: Needs momentum > 0 and dampening = 0.
        alpha: Smoothing α > 0: κ = (α/D)·tr F is added to the Fisher matrix.
        rank: Rank R of every factor, at most D − 1; None for min(⌊(D + 1)/2⌋, 80).
        update_period: After the first ten steps the factors are updated every `update_period` steps.
        eta: Weight η of the newest gradient in the running Fisher matrix, in (0, 1].
        epsilon: Floor of ρ and d, ≥ 0, absolute, in units of gradient².
        delta: Floor of ρ and d relative to the largest eigenvalue, in [0, 1).
        arithmetic: `"stable"` or `"published"` (see `updated_factor`).

    Raises:
        ValueError: A hyper-parameter out of its range, or a parameter that is neither float32 nor float64.
        RuntimeError: A sparse gradient.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = NGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.kappa(model.weight))
        [0, 1]
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        alpha: float = 4.0,
        rank: int | None = None,
        update_period: int = 4,
        eta: float = 0.1,
        epsilon: float = 1e-10,
        delta: float = 5e-4,
        arithmetic: str = "stable",
    ):
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "alpha": alpha, "rank": rank, "update_period": update_period, "eta": eta, "epsilon": epsilon,
            "delta": delta, "arithmetic": arithmetic,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group with its own hyper-parameters; raises ValueError as the constructor does."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure=None):
        """One step on every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step_parameter(param, group)
        return loss

    def _step_parameter(self, param: Tensor, group: dict) -> None:
        if param.grad.is_sparse:
            raise RuntimeError("NGD does not take sparse gradients; make the layer's gradient dense (sparse=False)")
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            # In the parameter's type, as `load_state_dict` casts them.
            state["num_skipped"], state["num_restarts"] = param.new_zeros(()), param.new_zeros(())
        if not _all_finite([param.grad]):
            state["num_skipped"] += 1
            return
        grad = param.grad + group["weight_decay"] * param if group["weight_decay"] else param.grad
        step = self._turned(grad, state, group)
        if group["momentum"]:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = step.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(step, alpha=1 - group["dampening"])
            buffer = state["momentum_buffer"]
            step = torch.add(step, buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
        param.sub_(step, alpha=group["lr"])

    def _turned(self, grad: Tensor, state: dict, group: dict) -> Tensor:
        """The preconditioned gradient, with this tensor's factors in `state` brought up to date."""
        t = int(state["step"])
        update = t < ALWAYS_UPDATE_BEFORE or t % group["update_period"] == 0
        factors = _factors(state)
        try:
            turned = precondition(grad, factors, update, group)
            changed = [tensor for factor in factors.values() for tensor in factor] if update else []
            sound = _all_finite([turned, *changed])
        except torch.linalg.LinAlgError:
            sound = False
        if not sound:
            for key in [key for key in state if key.startswith(FisherFactor._fields)]:
                del state[key]
            state["step"].zero_()
            state["num_restarts"] += 1
            return grad
        for axis, factor in factors.items():
            state.update({f"{name}_{axis}": tensor for name, tensor in factor._asdict().items()})
        state["step"] += 1
        return turned

    def kappa(self, param: Tensor) -> dict[int, Float[Tensor, ""]]:
        """Smoothing κ (gradient²) of each axis of `param`, from its current factors; {} before the first step.

        Raises:
            ValueError: `param` is not one of this optimizer's parameters.
        """
        for group in self.param_groups:
            if any(param is p for p in group["params"]):
                factors = _factors(self.state.get(param, {}))
                return {axis: smoothing(factor, group["alpha"]) for axis, factor in factors.items()}
        raise ValueError("kappa: this tensor is not one of the optimizer's parameters")

    @property
    def num_skipped_updates(self) -> int:
        """How often a tensor was left as it was because its gradient was not finite, summed over tensors."""
        return self._count("num_skipped")

    @property
    def num_restarts(self) -> int:
        """How often a tensor took its raw gradient because preconditioning gave numbers that are not finite."""
        return self._count("num_restarts")

    def _count(self, key: str) -> int:
        return sum(int(state[key]) for state in self.state.values() if state)


def _all_finite(tensors: list[Tensor]) -> bool:
    """Whether every entry is finite. A finite sum says so at once; one that is not may only have overflowed."""
    sums = torch.stack([tensor.sum() for tensor in tensors])
    return bool(sums.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in tensors)


def _factors(state: dict) -> dict[int, FisherFactor]:
    axes = sorted(int(key.removeprefix("basis_")) for key in state if key.startswith("basis_"))
    return {axis: FisherFactor(*(state[f"{name}_{axis}"] for name in FisherFactor._fields)) for axis in axes}


def _check_group(group: dict) -> None:
    """Refuses hyper-parameters out of range, each with what is allowed."""
    rank, period = group["rank"], group["update_period"]
    allowed = {
        "lr": ("> 0 and finite", 0 < group["lr"] < math.inf),
        "momentum": ("in [0, 1)", 0 <= group["momentum"] < 1),
        "dampening": ("in [0, 1]", 0 <= group["dampening"] <= 1),
        "weight_decay": ("≥ 0 and finite", 0 <= group["weight_decay"] < math.inf),
        "nesterov": (
            "True only with momentum > 0 and dampening = 0",
            not group["nesterov"] or (group["momentum"] > 0 and group["dampening"] == 0),
        ),
        "alpha": ("> 0", group["alpha"] > 0),
        "rank": ("None or an integer ≥ 1", rank is None or (type(rank) is int and rank >= 1)),
        "update_period": ("an integer ≥ 1", type(period) is int and period >= 1),
        "eta": ("in (0, 1]", 0 < group["eta"] <= 1),
        "epsilon": ("≥ 0 and finite", 0 <= group["epsilon"] < math.inf),
        "delta": ("in [0, 1)", 0 <= group["delta"] < 1),
        "arithmetic": (" or ".join(ARITHMETICS), group["arithmetic"] in ARITHMETICS),
    }
    problems = [f"{key} = {group[key]!r}, allowed: {rule}" for key, (rule, holds) in allowed.items() if not holds]
    problems += [
        f"a parameter of type {p.dtype}, allowed: torch.float32 or torch.float64"
        for p in group["params"] if p.dtype not in (torch.float32, torch.float64)
    ]  # fmt: skip
    if problems:
        raise ValueError("NGD: " + "; ".join(problems))
