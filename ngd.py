"""How does online natural gradient descent (NGD) turn a gradient into a step?

Povey, Zhang & Khudanpur, "Parallel training of DNNs with natural gradient and parameter averaging",
arXiv:1410.7455, Appendix A and B, and Kaldi's documentation of its natural-gradient-online. For
every tensor and every axis of size D > 1 the gradient is seen as X of shape (N, D): that axis last,
all others as rows. The Fisher matrix of the axis is kept as F = Rᵀ diag(d) R + ρ I, a low-rank part
plus a floor, and smoothed to G = F + κ I before it is inverted.

The mathematics comes first, as functions of tensors; `NGD` only loops over parameters and keeps
their state. On CUDA steps that update the factors wait for the device, because `torch.linalg.eigh`
does; the others never do.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import linear
from torch.optim.sgd import sgd

ARITHMETICS = ("stable", "published")
MAX_RANK = 80
NUM_INITIAL_UPDATES = 3  # updates with the first gradient, before the first direction is computed
ALWAYS_UPDATE_BEFORE = 10  # steps 0 … 9 update the factor whatever the update period


class FisherFactor(NamedTuple):
    """F = unit²·(basisᵀ diag(eigenvalues) basis + floor·I), the Fisher matrix of one axis of size
    D, with rank R < D.

    The unit is such that tr F = unit²: gradients of any size can then be squared in float32.
    Functions of several factors of one size take their fields stacked along a leading dimension.
    """

    basis: Float[Tensor, "*k R D"]  # R_t, orthonormal rows
    eigenvalues: Float[Tensor, "*k R"]  # diagonal of D_t, as shares of tr F
    floor: Float[Tensor, "*k"]  # ρ_t, as a share of tr F
    unit: Float[Tensor, "*k"]  # in units of the gradient
    shrinkage: Float[Tensor, "*k R"]  # diagonal of E_t, at the α of the last update


class Seen(NamedTuple):
    """What the direction along one axis leaves for the factor's update."""

    axis: int
    factor: FisherFactor  # not stacked
    rows: Float[Tensor, "N D"]  # X up to a factor
    projections: Float[Tensor, "N R"]  # X Rᵀ, up to the same factor
    mean_square: Float64[Tensor, ""]  # tr XᵀX / N, in units of gradient²


def default_rank(dim: int) -> int:
    """Rank R kept for an axis of size `dim`: min(⌊(dim + 1)/2⌋, 80)."""
    return min((dim + 1) // 2, MAX_RANK)


def smoothing(factor: FisherFactor, alpha: float) -> Float64[Tensor, "*k"]:
    """κ = (α/D)·tr F, the multiple of the identity added to F before it is inverted, in units of
    gradient².
    """
    return alpha / factor.basis.shape[-1] * factor.unit.double().square()


def effective_rank(factor: FisherFactor) -> Float[Tensor, "*k"]:
    """exp(−Σ p_i ln p_i) over the D eigenvalues of F divided by their sum (Roy & Vetterli 2007,
    EUSIPCO): 1 … D.
    """
    rank, dim = factor.basis.shape[-2:]
    floors = factor.floor[..., None]
    eigenvalues = torch.cat(
        [factor.eigenvalues + floors, floors.expand(*floors.shape[:-1], dim - rank)], -1
    ).double()
    return torch.special.entr(eigenvalues / eigenvalues.sum(-1, keepdim=True)).sum(-1).exp()


def turned_rows(
    x: Float[Tensor, "N D"],
    projections: Float[Tensor, "N R"],
    factor: FisherFactor,
    out: Float[Tensor, "N D"],
) -> Float[Tensor, "N D"]:
    """X̂ = β X G⁻¹ with G = F + κ I and β = ρ + κ, by the matrix inversion lemma X − X Rᵀ E R; into
    `out`.

    Args:
        x: X; `out` may be the same memory.
        projections: X Rᵀ.
    """
    return torch.addmm(x, projections * factor.shrinkage, factor.basis, alpha=-1, out=out)


def shrinkage(
    eigenvalues: Float[Tensor, "*k R"], floor: Float[Tensor, "*k"], dim: int, alpha: float
) -> Float[Tensor, "*k R"]:
    """Diagonal of E = (β D⁻¹ + I)⁻¹ = diag(d / (β + d)), β = ρ + κ: the share of X that goes along
    each row of R.
    """
    # as shares of tr F, κ = α/D
    return eigenvalues / (eigenvalues + floor[..., None] + alpha / dim)


def orthonormal_rows(y: Float[Tensor, "k R D"]) -> Float[Tensor, "k R D"]:
    """An orthonormal basis of the rows of each Y.

    By Cholesky's factor of Y Yᵀ where that is as good and faster: in float64 for a float32 Y whose
    condition number, squared, leaves float32's digits intact, on a CPU, where that can be asked at
    no cost. Else by Householder's QR.
    """
    if y.dtype == torch.float32 and y.device.type == "cpu":
        wide = y.double()
        lower, _ = torch.linalg.cholesky_ex(wide @ wide.mT)
        pivots = lower.diagonal(dim1=-2, dim2=-1)
        if bool(
            (pivots.amin(-1) > 1e-5 * pivots.amax(-1)).all()
        ):  # not where the factorisation failed
            return torch.linalg.solve_triangular(lower.mT, wide.mT, upper=True, left=False).mT.to(
                y.dtype
            )
    return torch.linalg.qr(y.mT).Q.mT


def updated_factors(
    seen: Sequence[Seen], *, alpha: float, eta: float, epsilon: float, delta: float, arithmetic: str
) -> tuple[FisherFactor, Bool[Tensor, " k"]]:
    """The factors of k axes of one size after seeing X: their low-rank part moves towards T = η
    XᵀX/N + (1 − η) F.

    Both arithmetics start from Y = R T. `"published"` orthonormalises Y through the eigenvectors of
    Y Yᵀ, as the published code does, and loses orthonormality in float32. `"stable"` takes an
    orthonormal basis Q of Y's rows and rotates it to the eigenvectors of Q T Qᵀ (one step of
    subspace iteration with Rayleigh-Ritz). d and ρ are floored at max(ε, δ·largest Ritz value)
    after d was computed with the unfloored ρ.

    Returns:
        The factors, stacked, and which of them are finite.
    """
    basis, eigenvalues, floor, unit, _ = map(
        torch.stack, zip(*(axis.factor for axis in seen), strict=True)
    )
    (rank, dim), dtype = basis.shape[-2:], basis.dtype
    new = eta * torch.stack([axis.mean_square for axis in seen])
    old = (1 - eta) * unit.double().square()  # tr T = new + old
    scale = (new + old).clamp_min(epsilon)
    scale = torch.where(scale > 0, scale, 1.0)
    # From here on T, d, ρ and ε are divided by this scale: T = gain·rowsᵀ rows + old·(Rᵀ diag(d) R
    # + ρ I).
    new, old, epsilon = (torch.stack([new, old, torch.full_like(new, epsilon)]) / scale).to(dtype)
    sizes = torch.stack(torch._foreach_norm([axis.rows for axis in seen]))
    gain = (new / sizes.square().clamp_min(torch.finfo(dtype).tiny))[:, None, None]
    low_rank, full_rank = old[:, None] * eigenvalues, old[:, None] * floor[:, None]

    # Y, with R Rᵀ = I taken for granted, as in the published code.
    y = torch.empty_like(basis)
    for y_k, axis in zip(y, seen, strict=True):
        torch.mm(axis.projections.T, axis.rows, out=y_k)
    y.mul_(gain).addcmul_((low_rank + full_rank)[..., None], basis)  # (k, R, D)
    if arithmetic == "published":
        matrix = y @ y.mT
        squares, rotation = _eigh(matrix)
        ritz = torch.maximum(squares, full_rank**2).sqrt()
        basis = (rotation / ritz[:, None]).mT @ y
    else:
        q = orthonormal_rows(y)
        matrix = torch.stack(
            [(x_q := linear(axis.rows, q_k)).T @ x_q for axis, q_k in zip(seen, q, strict=True)]
        )
        basis_q = basis @ q.mT  # (k, R, R)
        matrix.mul_(gain).baddbmm_(basis_q.mT, low_rank[..., None] * basis_q)
        matrix.diagonal(dim1=-2, dim2=-1).add_(full_rank)  # Q T Qᵀ
        ritz, rotation = _eigh(matrix)
        basis = rotation.mT @ q
    floor = (new + old - ritz.sum(-1)) / (dim - rank)
    least = torch.maximum(delta * ritz[:, -1], epsilon)  # eigh sorts ascending
    eigenvalues = torch.maximum(ritz - floor[:, None], least[:, None])
    floor = torch.maximum(floor, least)
    trace = eigenvalues.sum(-1) + dim * floor
    sums = matrix.sum((-2, -1)) + basis.sum((-2, -1)) + trace
    unit = (scale * trace).sqrt().to(dtype)
    trace = trace.clamp_min(torch.finfo(dtype).tiny)
    eigenvalues, floor = eigenvalues / trace[:, None], floor / trace
    return (
        FisherFactor(basis, eigenvalues, floor, unit, shrinkage(eigenvalues, floor, dim, alpha)),
        sums - sums == 0,
    )


def _eigh(matrices: Float[Tensor, "k R R"]) -> tuple[Float[Tensor, "k R"], Float[Tensor, "k R R"]]:
    """Eigenvalues, ascending, and eigenvectors; where a matrix is not finite, which LAPACK refuses,
    some or other.
    """
    try:
        return torch.linalg.eigh(torch.nan_to_num(matrices, nan=0.0, posinf=0.0, neginf=0.0))
    except torch.linalg.LinAlgError:  # it did not converge
        nan = torch.full_like(matrices, math.nan)
        return nan[..., 0], nan


def updated_together(seen: Sequence[Seen], **how) -> tuple[list[FisherFactor], Bool[Tensor, " k"]]:
    """`updated_factors` of axes of several sizes, in the order given: those of one size go
    together.
    """
    places_of = defaultdict(list)
    for place, axis in enumerate(seen):
        places_of[axis.factor.basis.shape].append(place)
    factors, finite = [axis.factor for axis in seen], [None] * len(seen)
    for places in places_of.values():
        stacked, flags = updated_factors([seen[place] for place in places], **how)
        each = zip(*(field.unbind() for field in stacked), strict=True)
        for place, fields, flag in zip(places, each, flags.unbind(), strict=True):
            factors[place], finite[place] = FisherFactor(*fields), flag
    return factors, torch.stack(finite)


def initial_basis(rank: int, dim: int, like: Tensor) -> Float[Tensor, "R D"]:
    """Rows [1.1·I, I, I, …] cut to `dim` columns, normalised."""
    columns = torch.arange(dim, device=like.device)
    basis = (columns % rank == torch.arange(rank, device=like.device)[:, None]).to(like.dtype)
    basis[:, :rank] *= 1.1
    return basis / basis.norm(dim=1, keepdim=True)


def started_factor(
    rows: Float[Tensor, "N D"], mean_square: Float64[Tensor, ""], rank: int, epsilon: float, **how
) -> FisherFactor:
    """The factor an axis starts with: ρ = ε, d = ε, and then three updates with the first gradient,
    in float64.

    With fewer rows than the rank, only the tiny initial factor says which directions complete the
    gradient's own; in float32 rounding would say it, and the floors would then carry that noise
    along. At ε = 0 there is no initial factor, so a millionth of the gradient's mean square takes
    the place of ε in it.
    """
    dtype, rows, dim = rows.dtype, rows.double(), rows.shape[1]
    square = torch.full_like(mean_square, epsilon) if epsilon else 1e-6 / dim * mean_square
    share = rows.new_ones(rank) / (rank + dim)
    unit = (square * (rank + dim)).sqrt()
    factor = FisherFactor(initial_basis(rank, dim, rows), share, share[0], unit, share)
    for _ in range(NUM_INITIAL_UPDATES):
        stacked, _ = updated_factors(
            [Seen(0, factor, rows, rows @ factor.basis.T, mean_square)], epsilon=epsilon, **how
        )
        factor = FisherFactor(*(field[0] for field in stacked))
    return FisherFactor(*(field.to(dtype) for field in factor))


def precondition(
    x: Tensor,
    square: Float64[Tensor, ""],
    factors: dict[int, FisherFactor],
    group: dict,
    seen: list[Seen] | None,
) -> Tensor:
    """Turns a gradient along each axis of size D > 1 in order: what one axis returns goes into the
    next.

    Args:
        x: The gradient up to a factor, any shape, finite.
        square: Its squared Frobenius norm, in units of gradient².
        factors: Axis → factor; filled where an axis has none yet.
        group: Hyper-parameters, as `NGD` has them.
        seen: Gets what each axis' update will need.

    Returns:
        The direction up to a positive factor, shaped as `x`.
    """
    own = False  # whether x is ours to overwrite
    for axis, dim in enumerate(x.shape):
        if dim == 1:
            continue
        rows = _rows(x, axis)  # X
        if axis not in factors:
            rank = default_rank(dim) if group["rank"] is None else min(group["rank"], dim - 1)
            factors[axis] = started_factor(rows, square / len(rows), rank, **_how(group))
        projections = linear(rows, factors[axis].basis)  # X Rᵀ
        if seen is not None:
            seen.append(Seen(axis, factors[axis], rows, projections, square / len(rows)))
        out = rows if own and seen is None else torch.empty_like(rows)
        x, own = _from_rows(turned_rows(rows, projections, factors[axis], out), axis, x.shape), True
    return x if own else x.clone()


def _rows(x: Tensor, axis: int) -> Float[Tensor, "N D"]:
    """`axis` last, all others as rows: a view of a vector or a matrix."""
    if x.ndim == 1:
        return x[None]
    if x.ndim == 2:
        return x if axis == 1 else x.T
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _from_rows(rows: Float[Tensor, "N D"], axis: int, shape: torch.Size) -> Tensor:
    """The inverse of `_rows`."""
    if len(shape) == 1:
        return rows[0]
    if len(shape) == 2:
        return rows if axis == 1 else rows.T
    return rows.reshape(*shape[:axis], *shape[axis + 1 :], shape[axis]).movedim(-1, axis)


def prescaled(
    gradients: Sequence[Tensor],
) -> tuple[Sequence[Tensor], Float64[Tensor, " T"], Float64[Tensor, " T"], Bool[Tensor, " T"]]:
    """Gradients of a size that can be squared in their type, and what restores them.

    On a CPU gradients that are such already stay as they are. All others are divided by a power of
    two that brings their largest entry into [½, 1).

    Returns:
        The scaled gradients, their norms, what they were divided by, and which gradients are
        finite: one that is not becomes zeros, divided by 1.
    """
    norms = _norms(gradients)
    squarable = (norms > 1e-8) & (norms < 1e8)
    if squarable.device.type == "cpu" and bool(squarable.all()):
        return gradients, norms, torch.ones_like(norms), squarable
    low, high = map(
        torch.stack, zip(*(torch.aminmax(gradient) for gradient in gradients), strict=True)
    )
    largest = torch.maximum(high, -low).double()
    finite = largest < math.inf
    largest = largest.clamp(torch.finfo(low.dtype).tiny, torch.finfo(low.dtype).max / 2)
    units = torch.where(finite, largest / torch.frexp(largest).mantissa, 1.0)
    powers = units.to(low.dtype).unbind()
    scaled = [gradient / power for gradient, power in zip(gradients, powers, strict=True)]
    if finite.device.type != "cpu" or not bool(finite.all()):
        scaled = [torch.where(fine, x, 0.0) for fine, x in zip(finite, scaled, strict=True)]
    return scaled, _norms(scaled), units, finite


def _how(group: dict) -> dict:
    """What `updated_factors` wants of a group."""
    return {name: group[name] for name in ("alpha", "eta", "epsilon", "delta", "arithmetic")}


def _norms(tensors: Sequence[Tensor]) -> Float64[Tensor, " T"]:
    return torch.stack([torch.dot(x, x) for x in map(torch.flatten, tensors)]).double().sqrt()


class NGD(torch.optim.Optimizer):
    """Stochastic gradient descent along online natural gradient directions (arXiv:1410.7455).

    Momentum, dampening, weight decay and Nesterov are those of `torch.optim.SGD`; weight decay is
    added before the gradient is turned. The direction keeps the gradient's norm tensor by tensor,
    so learning rates compare with SGD's, and α → ∞ is SGD.

    A gradient with a NaN or an infinity leaves that tensor's weight, momentum and factors as they
    are and is counted in `num_skipped_updates`. Where a finite gradient gives a direction that is
    not finite, the gradient itself is used; so it is where it gives factors that are not, and these
    start anew with the next gradient. `num_restarts` counts both. Otherwise the schedule of updates
    counts every step in which the tensor has a gradient.

    Memory: besides the momentum, each axis of size D > 1 with rank R keeps R·D + 2R + 2 numbers
    (FFNN 2×256: 0.69 times its weights). A step takes 1.5 times the weights' memory for its time,
    one that updates the factors 7 times (there).

    State of a tensor: `step`, `num_skipped`, `num_restarts`, `momentum_buffer`, and for every axis
    of size D > 1 `basis_<axis>` (R, D), `eigenvalues_<axis>` (R,), `floor_<axis>` (), `unit_<axis>`
    (), `shrinkage_<axis>` (R,), as `FisherFactor` says. All are tensors, so `state_dict()` saves to
    safetensors and loads again, and training goes on along the same path. `kappa`, `effective_rank`
    and `cosine` show what the smoothing does, at no cost when not asked.

    On CUDA, a step that does not update the factors never waits for the device and can be captured
    in a graph. Replaying one does not advance `step`, and so never updates the factors: the
    schedule is the host's. A step that updates them waits in `torch.linalg.eigh`, which asks for
    errors, and cannot be captured.

    Args:
        params: Parameters or parameter groups, each with hyper-parameters of its own where it gives
            them. float32 or float64, on a device that has float64; for mixed precision keep float32
            weights and use `torch.autocast`.
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        dampening: In [0, 1].
        weight_decay: ≥ 0.
        nesterov: Needs momentum > 0 and dampening = 0.
        alpha: Smoothing α > 0: κ = (α/D)·tr F is added to the Fisher matrix. A change of
            it counts from the next update of the factors on.
        rank: Rank R of every factor, at most D − 1; None for min(⌊(D + 1)/2⌋, 80).
        update_period: After the first ten steps the factors are updated every `update_period`
            steps.
        eta: Weight η of the newest gradient in the running Fisher matrix, in (0, 1].
        epsilon: Floor of ρ and d, ≥ 0, absolute, in units of gradient².
        delta: Floor of ρ and d relative to the largest eigenvalue, in [0, 1).
        arithmetic: `"stable"` or `"published"` (see `updated_factors`).

    Raises:
        ValueError: A hyper-parameter out of its range, or a parameter that is neither float32 nor
            float64.
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
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "alpha": alpha,
            "rank": rank,
            "update_period": update_period,
            "eta": eta,
            "epsilon": epsilon,
            "delta": delta,
            "arithmetic": arithmetic,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group with its own hyper-parameters; raises ValueError as the constructor does."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict) -> None:
        """As every optimizer's; raises ValueError for a tensor that is not of its parameter's shape
        (the kernels that step would not notice), and for factors without a unit, as an earlier
        version of NGD had them.
        """
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for number, param in zip(numbers, params, strict=False):  # `super` compares their counts
            _check_state(state_dict["state"].get(number, {}), param.shape)
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for key, value in state.items():
                if isinstance(
                    value, Tensor
                ):  # laid out and aligned as `step` lays them: products may round by it
                    state[key] = value.clone(memory_format=torch.contiguous_format)
            if "step" in state:
                state["step"] = state[
                    "step"
                ].cpu()  # wherever the file's were loaded: the schedule is the host's

    @torch.no_grad()
    def step(self, closure=None):
        """One step on every parameter that has a gradient; returns the closure's loss, if one is
        given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params_with_grad = [
            [p for p in g["params"] if p.grad is not None and p.numel()] for g in self.param_groups
        ]
        if any(param.grad.is_sparse for params in params_with_grad for param in params):
            raise RuntimeError(
                "NGD does not take sparse gradients; make the layer's gradient dense (sparse=False)"
            )
        for group, params in zip(self.param_groups, params_with_grad, strict=True):
            alike = defaultdict(list)
            for param in params:
                alike[param.device, param.dtype].append(param)
            for params_of_a_kind in alike.values():
                self._step_alike(params_of_a_kind, group)
        return loss

    def _step_alike(self, params: list[Tensor], group: dict) -> None:
        """One step on parameters of one device and type."""
        states = [self._state_of(param) for param in params]
        gradients = _decayed(params, group)
        turned = _turned(gradients, states, group)
        torch._foreach_add_([state["step"] for state in states], 1)
        factors, factor_finite = [], turned.finite[:0]
        if turned.seen:
            factors, factor_finite = updated_together(turned.seen, **_how(group))
        updates = [
            (states[i], axis.axis, factor)
            for i, axis, factor in zip(turned.owners, turned.seen, factors, strict=True)
        ]
        # Only a CPU, or an update, which waits for the device anyway, can ask whether all is sound.
        asks = bool(turned.seen) or turned.finite.device.type == "cpu"
        if asks and bool(torch.cat([turned.sound, factor_finite]).all()):
            _store(updates)
            _descend(params, turned.steps, states, group)
            return
        for i, flag in zip(turned.owners, factor_finite, strict=True):
            turned.sound[i] &= flag
        steps = _counted(turned, gradients, states)
        if asks:
            _repair(turned, updates, params, states)
            moved = turned.finite.nonzero().flatten().tolist()
            _descend(*([values[i] for i in moved] for values in (params, steps, states)), group)
        else:
            _descend(params, steps, states, group, skipped=~turned.finite)

    def _state_of(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            # In the parameter's type, as `load_state_dict` casts them.
            state["num_skipped"], state["num_restarts"] = param.new_zeros(()), param.new_zeros(())
        return state

    def kappa(self, param: Tensor) -> dict[int, Float64[Tensor, ""]]:
        """Smoothing κ (gradient²) of each axis of `param` from its current factors and α; {} before
        the first step.

        Raises:
            ValueError: `param` is not one of this optimizer's parameters.
        """
        alpha = self._group_of(param)["alpha"]
        return {
            axis: smoothing(factor, alpha)
            for axis, factor in _factors(self.state.get(param, {}), param.ndim).items()
        }

    def effective_rank(self, param: Tensor) -> dict[int, Float64[Tensor, ""]]:
        """Effective rank (1 … D; NaN where F = 0) along each axis of `param`; {} before the first
        step.

        Raises:
            ValueError: `param` is not one of this optimizer's parameters.
        """
        self._group_of(param)
        return {
            axis: effective_rank(factor)
            for axis, factor in _factors(self.state.get(param, {}), param.ndim).items()
        }

    @torch.no_grad()
    def cosine(self, param: Tensor) -> Float64[Tensor, ""]:
        """Cosine between the gradient of `param`, weight decay added, and what the coming step will
        turn it into.

        Call it between `backward()` and `step()`, which does not depend on it. It costs one
        direction, before the first step also the start of the factors. NaN where the gradient is
        empty, zero or not finite.

        Raises:
            ValueError: `param` is not one of this optimizer's parameters, or has no gradient.
        """
        group = self._group_of(param)
        if param.grad is None:
            raise ValueError(
                "cosine: this parameter has no gradient; call it between backward() and step()"
            )
        if param.numel() == 0:
            return torch.tensor(math.nan, dtype=torch.float64)
        (x,), sizes, units, _ = prescaled(_decayed([param], group))
        turned = precondition(
            x,
            (units[0] * sizes[0]) ** 2,
            _factors(self.state.get(param, {}), param.ndim),
            group,
            None,
        )
        x, turned = x.double().flatten(), turned.double().flatten()
        return (x @ turned / (x.norm() * turned.norm())).clamp(-1, 1)

    def _group_of(self, param: Tensor) -> dict:
        for group in self.param_groups:
            if any(param is p for p in group["params"]):
                return group
        raise ValueError("this tensor is not one of the optimizer's parameters")

    @property
    def num_skipped_updates(self) -> int:
        """How often a tensor was left as it was because its gradient was not finite, summed over
        tensors.
        """
        return self._count("num_skipped")

    @property
    def num_restarts(self) -> int:
        """How often a tensor took its raw gradient because preconditioning gave numbers that are
        not finite.
        """
        return self._count("num_restarts")

    def _count(self, key: str) -> int:
        return sum(int(state[key]) for state in self.state.values() if state)


class _Turned(NamedTuple):
    """Directions of T tensors of one device and type, and what their factors' updates need."""

    steps: list[Tensor]  # of the gradients' norms
    finite: Bool[Tensor, " T"]  # whether the gradient is
    sound: Bool[Tensor, " T"]  # whether the direction is, too
    seen: list[Seen]  # of every axis to update
    owners: list[int]  # the position of the tensor that it is an axis of


def _turned(gradients: list[Tensor], states: list[dict], group: dict) -> _Turned:
    """Preconditions every gradient and gives it back its norm; starts factors, updates none."""
    scaled, sizes, units, finite = prescaled(gradients)
    norms = units * sizes
    directions, seen, owners = [], [], []
    for i, (x, square, state) in enumerate(zip(scaled, (norms**2).unbind(), states, strict=True)):
        t, factors = int(state["step"]), _factors(state, x.ndim)
        update = t < ALWAYS_UPDATE_BEFORE or t % group["update_period"] == 0
        directions.append(precondition(x, square, factors, group, seen if update else None))
        owners.extend([i] * (len(seen) - len(owners)))
    dtype, lengths = gradients[0].dtype, _norms(directions)
    # An entry may be as large as the norm, which then has to be a number of this type.
    sound = finite & (torch.maximum(norms, lengths) < torch.finfo(dtype).max)
    ratios = (norms / torch.where(lengths > 0, lengths, 1.0)).to(dtype).unbind()
    steps = [x.mul_(ratio).contiguous() for x, ratio in zip(directions, ratios, strict=True)]
    return _Turned(steps, finite, sound, seen, owners)


def _counted(turned: _Turned, gradients: list[Tensor], states: list[dict]) -> list[Tensor]:
    """The steps, with the gradient itself for those that are not sound; counts both failures."""
    for state, is_finite, is_sound in zip(states, turned.finite, turned.sound, strict=True):
        state["num_skipped"] += ~is_finite
        state["num_restarts"] += is_finite & ~is_sound
    return [
        torch.where(flag, step, gradient)
        for flag, step, gradient in zip(turned.sound, turned.steps, gradients, strict=True)
    ]


def _repair(turned: _Turned, updates: list, params: list[Tensor], states: list[dict]) -> None:
    """Keeps the factors of sound tensors; those of others start anew with the next gradient."""
    is_finite, is_sound = turned.finite.tolist(), turned.sound.tolist()
    _store([update for i, update in zip(turned.owners, updates, strict=True) if is_sound[i]])
    for i in set(turned.owners):
        if not is_sound[i] and (is_finite[i] or not _factors(states[i], params[i].ndim)):
            _start_anew(states[i])


def _decayed(params: list[Tensor], group: dict) -> list[Tensor]:
    """Gradients with weight decay added."""
    gradients = [param.grad for param in params]
    return (
        torch._foreach_add(gradients, params, alpha=group["weight_decay"])
        if group["weight_decay"]
        else gradients
    )


def _descend(
    params: list[Tensor],
    steps: list[Tensor],
    states: list[dict],
    group: dict,
    skipped: Bool[Tensor, " T"] | None = None,
) -> None:
    """`torch.optim.SGD`'s step along `steps`; where a flag in `skipped` is set, a parameter stays
    as it is.
    """
    calls = defaultdict(list)  # what can go into one call of the fused kernel: it takes one flag
    for i, state in enumerate(states):
        first = bool(group["momentum"]) and "momentum_buffer" not in state
        if first:
            state["momentum_buffer"] = torch.zeros_like(steps[i])
        calls[first, None if skipped is None else i].append(i)
    for (first, flagged), members in calls.items():
        targets = [params[i].contiguous() for i in members]  # the kernel takes memory in order
        sgd(
            targets,
            [steps[i] for i in members],
            [states[i].get("momentum_buffer") for i in members],
            fused=True,
            found_inf=None if flagged is None else skipped[flagged].float(),
            weight_decay=0.0,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=0.0 if first else group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )
        for i, target in zip(members, targets, strict=True):
            if target is not params[i]:
                params[i].copy_(target)


@functools.cache
def _keys(axis: int) -> tuple[str, ...]:
    """Names in a tensor's state of the fields of an axis' factor."""
    return tuple(f"{field}_{axis}" for field in FisherFactor._fields)


def _factors(state: dict, num_axes: int) -> dict[int, FisherFactor]:
    """Axis → factor, of the axes that have one."""
    return {
        axis: FisherFactor(*(state[key] for key in _keys(axis)))
        for axis in range(num_axes)
        if _keys(axis)[0] in state
    }


def _store(updates: list[tuple[dict, int, FisherFactor]]) -> None:
    """Factors of (state, axis) into the memory they have there already: a captured step finds it
    again.
    """
    there, new = [], []
    for state, axis, factor in updates:
        for key, field in zip(_keys(axis), factor, strict=True):
            if key in state:
                there.append(state[key])
                new.append(field)
            else:
                state[key] = field.clone(memory_format=torch.contiguous_format)
    if there:
        torch._foreach_copy_(there, new)


def _start_anew(state: dict) -> None:
    """The next gradient starts the factors, as if it were the first."""
    for key in [key for key in state if key.startswith(FisherFactor._fields)]:
        del state[key]
    state["step"].zero_()


def _check_state(state: dict, shape: torch.Size) -> None:
    """Refuses a state that a parameter of this shape cannot have."""
    kept = {"step": (), "num_skipped": (), "num_restarts": (), "momentum_buffer": tuple(shape)}
    for axis, dim in enumerate(shape):
        basis = state.get(f"basis_{axis}")
        if basis is None:
            continue
        if f"unit_{axis}" not in state:
            raise ValueError(
                "this state's factors have no unit: an earlier NGD wrote it; train from the start"
            )
        rank = len(basis) if basis.ndim else 0
        if missing := [key for key in _keys(axis) if key not in state]:
            raise ValueError(f"a factor without {missing[0]} given; allowed: whole ones")
        kept |= dict(zip(_keys(axis), ((rank, dim), (rank,), (), (), (rank,)), strict=True))
    for key, value in state.items():
        if isinstance(value, Tensor) and tuple(value.shape) != kept.get(key):
            raise ValueError(
                f"{key} of shape {tuple(value.shape)} given for a parameter of shape"
                f" {tuple(shape)}; allowed: {kept.get(key, 'no such tensor')}"
            )


def _check_group(group: dict) -> None:
    """Refuses hyper-parameters out of range, each with what is allowed."""
    allowed = {
        "lr": ("> 0 and finite", lambda lr: 0 < lr < math.inf),
        "momentum": ("in [0, 1)", lambda momentum: 0 <= momentum < 1),
        "dampening": ("in [0, 1]", lambda dampening: 0 <= dampening <= 1),
        "weight_decay": ("≥ 0 and finite", lambda decay: 0 <= decay < math.inf),
        "nesterov": (
            "True only with momentum > 0 and dampening = 0",
            lambda nesterov: not nesterov or (group["momentum"] > 0 and group["dampening"] == 0),
        ),
        "alpha": ("> 0", lambda alpha: alpha > 0),
        "rank": (
            "None or an integer ≥ 1",
            lambda rank: rank is None or (type(rank) is int and rank >= 1),
        ),
        "update_period": ("an integer ≥ 1", lambda period: type(period) is int and period >= 1),
        "eta": ("in (0, 1]", lambda eta: 0 < eta <= 1),
        "epsilon": ("≥ 0 and finite", lambda epsilon: 0 <= epsilon < math.inf),
        "delta": ("in [0, 1)", lambda delta: 0 <= delta < 1),
        "arithmetic": (" or ".join(ARITHMETICS), lambda arithmetic: arithmetic in ARITHMETICS),
    }
    problems = [
        f"{key} = {group[key]!r}, allowed: {rule}"
        for key, (rule, test) in allowed.items()
        if not _holds(test, group[key])
    ]
    problems += [
        f"a parameter of type {p.dtype}, allowed: torch.float32 or torch.float64"
        for p in group["params"]
        if p.dtype not in (torch.float32, torch.float64)
    ]
    if problems:
        raise ValueError("NGD: " + "; ".join(problems))


def _holds(test: Callable, value) -> bool:
    try:
        return bool(test(value))
    except TypeError:  # not even a number
        return False
