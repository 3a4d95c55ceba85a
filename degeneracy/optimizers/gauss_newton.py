"""What is an exact Gauss-Newton step of a reversible network, and which of its solutions is it?

arXiv:2411.07979. In a reversible network the output step T that Gauss-Newton wants can be pulled
back block by block in closed form, so that every half-layer solves a least-squares problem of its
own, [A, 1]ΔW = t, with A its features. What comes out solves Jδ = T, J the Jacobian of the last
activations, wherever the features of a batch of B have rank B: the `block` solution. It is one of
infinitely many; the one of minimum norm, δ = JᵀK⁻¹h with the class-space kernel K = JJᵀ of the
logits, makes the same linearised step of the logits.

Functions of tensors. A network is anything with `blocks`, each of two half-layers `f` and `g`, and
a `projection` (D, classes), as `studies.gauss_newton.RevMLP`; a half-layer has `features(x)`,
`applied(features)`, `pushed(slope, tangents)` and `pulled(slope, cotangents)`.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot

from degeneracy.config.section import Section
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings

LOSSES = ("ce_identity", "ce_exact", "ce_damped", "mse")
SCALES = ("exact", "published")
SOLUTIONS = ("block", "min_norm")
WELL_CONDITIONED = 1e-5  # least over largest eigenvalue above which one solve is accurate
LEAST_PIVOT = 1e-10  # over the largest: below it Cholesky's method loses ten of sixteen digits
ROUNDING = 1e-3  # of the wanted step: what an exact step may miss of it
MOST_ROWS = 16_384  # of the class-space kernel, which then takes 2.1 GB in float64


class NonFiniteError(ArithmeticError):
    """An activation, a loss or a step is not finite: the network has diverged."""


class RankWarning(UserWarning):
    """A step is not exact: the features of some half-layer, or the kernel, lack rank."""


@dataclass(frozen=True)
class GaussNewtonStep:
    """A direction δ, to subtract, and how much of the wanted step it makes.

    Attributes:
        direction: Parameter's name → its part of δ, weight units.
        ranks: Half-layer (`blocks.0.f`) → rank of [A, 1] on this batch, by the cut-offs.
        residual: |Jδ − T|/|T| of the step really made, at the last activations; of `min_norm` at
            the logits, all that it aims at. With scale "published" Jδ/L in place of Jδ.
        logit_residual: The same at the logits, for every solution: |(Jδ − T)U|/|h|.
        exact: Whether every half-layer (of `min_norm`: the kernel) has full rank, nothing was
            damped, and what is missed is rounding, `residual` ≤ `ROUNDING`.
        loss: Of the batch before the step: mean cross-entropy in nats, or mean ½‖o − y‖².
        logits: Before the step.
        kernel_rank: Of the class-space kernel; None for the block solution.
    """

    direction: dict[str, Tensor]
    ranks: dict[str, int]
    residual: float
    logit_residual: float
    exact: bool
    loss: Float[Tensor, ""]
    logits: Float[Tensor, "B classes"]
    kernel_rank: int | None = None


class HalfPass(NamedTuple):
    """A half-layer on one batch: its name, itself, features A, slope φ' (None where it is 1)."""

    name: str
    layer: nn.Module
    features: Float[Tensor, "B h"]
    slope: Float[Tensor, "B h"] | None

    def pushed(self, tangents: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """Directional derivative of the half-layer, weights fixed."""
        return self.layer.pushed(self.slope, tangents)

    def pulled(self, cotangents: Float[Tensor, "... B d"]) -> Float[Tensor, "... B d"]:
        """The transpose of `pushed`."""
        return self.layer.pulled(self.slope, cotangents)

    def made(self, change: "Change") -> Float[Tensor, "B d"]:
        """[A, 1]ΔW: what a change of the weights adds to the output."""
        return linear(self.features, *change)

    @property
    def has_bias(self) -> bool:
        """Whether the features are [A, 1]."""
        return self.layer.bias is not None


class Change(NamedTuple):
    """Of a half-layer's weight and bias (None without one), as the layer lays them out."""

    weight: Float[Tensor, "d h"]
    bias: Float[Tensor, " d"] | None


Blocks = list[tuple[HalfPass, HalfPass]]


class How(NamedTuple):
    """Which step and which of its solutions: see `gauss_newton_direction`."""

    loss: str
    rtol: float
    atol: float
    scale: str
    solution: str
    ridge: float
    damping: float

    @property
    def cuts(self) -> tuple[float, float, float]:
        """What a Gram matrix's inverse is regularised by."""
        return self.rtol, self.atol, self.ridge


# ---- the step that is wanted ---------------------------------------------------------------------


def output_step(
    logits: Float[Tensor, "B classes"], targets: Tensor, loss: str, damping: float = 1e-2
) -> Float[Tensor, "B classes"]:
    """h, the Newton step of each sample's loss in its logits o, to subtract.

    With p = softmax(o), y the label's unit vector and H = diag p − ppᵀ: `ce_identity` p − y;
    `ce_exact` H⁺(p − y) = mean_c(v) − v, v = y/p, which grows as 1/p_y; `ce_damped` (H + λI)⁻¹(p −
    y), λ = `damping`, by the Sherman-Morrison formula; `mse` o − y, of ½‖o − y‖².

    Args:
        targets: Labels (B,), or for `mse` also values (B, classes).

    Raises:
        ValueError: An unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss = {loss!r} given; allowed: {', '.join(LOSSES)}")
    y = _values(targets, logits.shape[1]).to(logits)
    if loss == "mse":
        return logits - y
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    if loss == "ce_identity":
        return p - y
    if loss == "ce_exact":
        v = torch.where(y > 0, (-log_p).exp(), 0.0)
        return v.mean(dim=1, keepdim=True) - v
    inverse = 1 / (p + damping)  # of diag p + λI
    turned = inverse * (p - y)
    left = damping * (p * inverse).sum(dim=1, keepdim=True)  # 1 − pᵀ(diag p + λI)⁻¹p
    return turned + inverse * p * ((p * turned).sum(dim=1, keepdim=True) / left)


def batch_loss(logits: Float[Tensor, "B classes"], targets: Tensor, loss: str) -> Tensor:
    """Mean cross-entropy in nats, or of `mse` the mean of ½‖o − y‖²."""
    if loss != "mse":
        return cross_entropy(logits, targets.long())
    values = _values(targets, logits.shape[1])
    return 0.5 * (logits - values.to(logits)).square().sum(dim=1).mean()


def _values(targets: Tensor, num_classes: int) -> Float[Tensor, "B classes"]:
    return targets if targets.is_floating_point() else one_hot(targets.long(), num_classes)


# ---- least squares through a Gram matrix ---------------------------------------------------------


@dataclass(frozen=True)
class GramInverse:
    """The regularised inverse of a Gram matrix K.

    Attributes:
        solve: (B, k) → (B, k), float64.
        rank: Singular values √eig K that the cut-offs keep.
        condition: Least over largest eigenvalue that is inverted; of Cholesky's method least over
            largest pivot, which is not below it.
    """

    solve: Callable[[Tensor], Tensor]
    rank: int
    condition: float

    @property
    def is_rough(self) -> bool:
        """Whether one solve leaves a residual that a second one removes."""
        return self.condition < WELL_CONDITIONED


def inverted_gram(
    gram: Float[Tensor, "n n"], rtol: float = 0.0, atol: float = 0.0, ridge: float = 0.0
) -> GramInverse:
    """K⁻¹ in float64: cut off at s ≥ rtol·s_max and s ≥ atol with s = √eig K, or (K + ridge·s_max²
    I)⁻¹ with nothing cut off.

    Where no cut-off is wanted, by Cholesky's method; where that finds K nearly singular, and else,
    by its eigenvectors, of which those below n·ε·s_max² are rounding and always go.
    """
    if rtol == atol == ridge == 0:
        factor, failed = torch.linalg.cholesky_ex(gram)
        diagonal = factor.diagonal().square()
        condition = 0.0 if failed else float(diagonal.min() / diagonal.max())
        if condition > LEAST_PIVOT:
            return GramInverse(lambda t: torch.cholesky_solve(t, factor), len(gram), condition)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    top, kept = values[-1], _kept(values, rtol, atol)
    rank = int(kept.sum())
    used = (values + ridge * top > 0) if ridge else kept
    first = len(values) - int(used.sum())  # eigenvalues increase, so these are the last ones
    spanned, scaled = vectors[:, first:], 1 / (values[first:] + ridge * top)[:, None]
    condition = float(scaled[-1] / scaled[0]) if len(scaled) else 1.0
    return GramInverse(lambda t: spanned @ (scaled * (spanned.T @ t)), rank, condition)


def _kept(values: Float[Tensor, " n"], rtol: float, atol: float) -> Tensor:
    """Which eigenvalues of a Gram matrix, increasing, the cut-offs and rounding leave."""
    top = values[-1]
    rounding = len(values) * torch.finfo(values.dtype).eps * top
    return (values >= rtol**2 * top) & (values >= atol**2) & (values > rounding)


def gram_of(features: Float[Tensor, "B h"], has_bias: bool) -> Float[Tensor, "B B"]:
    """[A, 1][A, 1]ᵀ, or AAᵀ without bias, in float64."""
    wide = features.double()
    gram = wide @ wide.T
    return gram.add_(1.0) if has_bias else gram


class Fitted(NamedTuple):
    """What a half-layer's weights are to change by, the output that this makes, and the rank."""

    change: Change
    made: Float[Tensor, "B d"]
    rank: int


def fitted(
    half: HalfPass, wanted: Float[Tensor, "B d"], rtol: float, atol: float, ridge: float
) -> Fitted:
    """[A, 1]⁺t: the smallest change of a half-layer's weights whose output is nearest to t.

    The products with the Gram matrix's inverse are in float64, for near rank B those in float32
    lose the step; where K is ill conditioned the rest t − [A, 1]ΔW is solved for once more, if
    that makes it less.
    """
    wide = half.features.double()
    inverse = inverted_gram(gram_of(wide, half.has_bias), rtol, atol, ridge)

    def solved(t: Tensor) -> Change:
        coefficients = inverse.solve(t.double())
        bias = coefficients.sum(dim=0).to(t) if half.has_bias else None
        return Change((coefficients.T @ wide).to(t), bias)

    change = solved(wanted)
    made = half.made(change)
    if inverse.is_rough and not ridge:
        twice = added(change, solved(wanted - made))
        made_twice = half.made(twice)
        if (wanted - made_twice).norm() < (wanted - made).norm():
            change, made = twice, made_twice
    return Fitted(change, made, inverse.rank)


def added(one: Change, other: Change) -> Change:
    """The sum of two changes."""
    bias = None if one.bias is None else one.bias + other.bias
    return Change(one.weight + other.weight, bias)


def halves(blocks: Blocks) -> list[HalfPass]:
    """All half-layers, in order."""
    return [half for pair in blocks for half in pair]


# ---- the block solution --------------------------------------------------------------------------


def activations(model: nn.Module, inputs: Tensor) -> tuple[Blocks, Float[Tensor, "B D"]]:
    """Every half-layer's features and slope, and the last activations z = [y₁, y₂]."""
    x1, x2 = inputs.flatten(1).chunk(2, dim=1)
    blocks: Blocks = []
    for i, block in enumerate(model.blocks):
        f = HalfPass(f"blocks.{i}.f", block.f, *block.f.features(x2))
        x1 = x1 + block.f.applied(f.features)
        g = HalfPass(f"blocks.{i}.g", block.g, *block.g.features(x1))
        x2 = x2 + block.g.applied(g.features)
        blocks.append((f, g))
    return blocks, torch.cat([x1, x2], dim=1)


def block_solution(
    blocks: Blocks, wanted: Float[Tensor, "B D"], rtol: float, atol: float, ridge: float
) -> tuple[dict[str, Fitted], Float[Tensor, "B D"]]:
    """The fit of every half-layer to its share of the whole step T, from the last block to the
    first, with Jδ = L·T where all ranks are full; and what is missed of it, L·T − Jδ.

    t = [t₁, t₂] at a block's output: ΔF = [a, 1]⁺t₁ makes s₁; ΔG = [c, 1]⁺(t₂ − DG[s₁]), with s₁,
    what was made, not t₁. With weights fixed t is pulled back to u₂ = t₂ − DG[t₁] and
    u₁ = t₁ − DF[u₂].
    """
    fits: dict[str, Fitted] = {}
    misses = []
    t1, t2 = wanted.chunk(2, dim=1)
    for place, (f, g) in reversed(list(enumerate(blocks))):
        fits[f.name] = fitted(f, t1, rtol, atol, ridge)
        left = t2 - g.pushed(fits[f.name].made)
        fits[g.name] = fitted(g, left, rtol, atol, ridge)
        misses.append((t1 - fits[f.name].made, left - fits[g.name].made))
        if place:
            t2 = t2 - g.pushed(t1)
            t1 = t1 - f.pushed(t2)
    (m1, m2), *later = reversed(misses)
    for (f, g), (own1, own2) in zip(blocks[1:], later, strict=True):
        m1 = m1 + f.pushed(m2)
        m2 = m2 + g.pushed(m1) + own2  # what f misses itself, own1, is no input of g in `left`
        m1 = m1 + own1
    return {name: fits[name] for f, g in blocks for name in (f.name, g.name)}, torch.cat(
        [m1, m2], 1
    )


# ---- the solution of minimum norm ----------------------------------------------------------------


def class_cotangents(
    blocks: Blocks, projection: Float[Tensor, "D classes"]
) -> dict[str, Float[Tensor, "classes B d"]]:
    """Λ, by half-layer: the derivative of each sample's every logit by the half-layer's output."""
    num_samples = len(blocks[0][0].features)
    upper, lower = projection.T.to(blocks[0][0].features).chunk(2, dim=1)  # (classes, d)
    l1, l2 = (half[:, None].expand(-1, num_samples, -1) for half in (upper, lower))
    found = {}
    for f, g in reversed(blocks):
        found[g.name] = l2
        l1 = l1 + g.pulled(l2)
        found[f.name] = l1
        l2 = l2 + f.pulled(l1)
    return found


def class_kernel(model: nn.Module, inputs: Tensor) -> Float[Tensor, "B*classes B*classes"]:
    """K = JJᵀ, J the Jacobian of the logits by the weights; the exact neural tangent kernel.

    K = Σ over half-layers ([A, 1][A, 1]ᵀ) ∘ (ΛΛᵀ), with Λ as `class_cotangents` gives it; rows are
    samples, and classes within a sample. In float64.

    Raises:
        ValueError: Inputs or a network that `gauss_newton_direction` refuses, or more than
            `MOST_ROWS` rows.
    """
    _check_network(model)
    _check_inputs(model, inputs)
    with torch.no_grad():
        blocks, _ = activations(model, inputs)
        return _kernel(blocks, class_cotangents(blocks, model.projection))


def _kernel(blocks: Blocks, cotangents: Mapping[str, Tensor]) -> Tensor:
    num_classes, num_samples, _ = cotangents[blocks[0][0].name].shape
    rows = num_samples * num_classes
    if rows > MOST_ROWS:
        raise ValueError(
            f"a batch of {num_samples} with {num_classes} classes given, whose class-space kernel"
            f" has {rows:,} rows; allowed: at most {MOST_ROWS:,}, so a smaller batch, or solution"
            " 'block'"
        )
    kernel = torch.zeros(rows, rows, dtype=torch.float64, device=blocks[0][0].features.device)
    tiles = kernel.view(num_samples, num_classes, num_samples, num_classes)
    for half in halves(blocks):
        one = cotangents[half.name]
        if one.stride(1) == 0:  # of the last half-layer: the same for every sample
            between = (one[:, 0].double() @ one[:, 0].double().T)[None, :, None, :]
        else:
            flat = one.transpose(0, 1).flatten(0, 1).double()
            between = (flat @ flat.T).view_as(tiles)
        tiles.addcmul_(between, gram_of(half.features, half.has_bias)[:, None, :, None])
    return kernel


def pulled_to_weights(
    half: HalfPass, cotangents: Float[Tensor, "classes B d"], weights: Float[Tensor, "B classes"]
) -> Change:
    """A half-layer's part of Jᵀq, q = `weights` of every sample's logits, all in float64.

    Of samples that are nearly alike q is large and of both signs, and float32 would lose the sum.
    """
    summed = torch.einsum("bc,cbd->bd", weights, cotangents.double())
    bias = summed.sum(dim=0).to(cotangents) if half.has_bias else None
    return Change((summed.T @ half.features.double()).to(cotangents), bias)


def pushed_to_output(blocks: Blocks, changes: Mapping[str, Change]) -> Float[Tensor, "B D"]:
    """J of a change of all weights, at z, in forward mode."""
    (f, g), *later = blocks
    v1 = f.made(changes[f.name])
    v2 = g.pushed(v1) + g.made(changes[g.name])
    for f, g in later:
        v1 = v1 + f.pushed(v2) + f.made(changes[f.name])
        v2 = v2 + g.pushed(v1) + g.made(changes[g.name])
    return torch.cat([v1, v2], dim=1)


class MinNorm(NamedTuple):
    """The change of every half-layer's weights, what it misses at the logits, the kernel's rank."""

    changes: dict[str, Change]
    missed: Float[Tensor, "B classes"]
    rank: int


def min_norm_solution(
    blocks: Blocks,
    projection: Float[Tensor, "D classes"],
    wanted: Float[Tensor, "B classes"],
    rtol: float,
    atol: float,
    ridge: float,
) -> MinNorm:
    """δ = JᵀK⁻¹h, of all δ with Jδ = h at the logits the shortest."""
    cotangents = class_cotangents(blocks, projection)
    inverse = inverted_gram(_kernel(blocks, cotangents), rtol, atol, ridge)

    def solved(h: Tensor) -> dict[str, Change]:
        q = inverse.solve(h.double().flatten()[:, None]).view_as(h)
        return {
            half.name: pulled_to_weights(half, cotangents[half.name], q) for half in halves(blocks)
        }

    def left_by(changes: Mapping[str, Change]) -> Tensor:
        return wanted - pushed_to_output(blocks, changes) @ projection

    changes = solved(wanted)
    missed = left_by(changes)
    if inverse.is_rough and not ridge:
        again = solved(missed)
        twice = {name: added(change, again[name]) for name, change in changes.items()}
        missed_twice = left_by(twice)
        if missed_twice.norm() < missed.norm():
            changes, missed = twice, missed_twice
    return MinNorm(changes, missed, inverse.rank)


# ---- a step --------------------------------------------------------------------------------------


@torch.no_grad()
def gauss_newton_direction(
    model: nn.Module,
    inputs: Float[Tensor, "B ..."],
    targets: Int[Tensor, " B"],
    loss: str = "ce_identity",
    rtol: float = 1e-2,
    atol: float = 1e-5,
    scale: str = "exact",
    solution: str = "block",
    ridge: float = 0.0,
    damping: float = 1e-2,
) -> GaussNewtonStep:
    """A solution δ of the Gauss-Newton system Jδ = T on a batch (arXiv:2411.07979).

    Args:
        model: A reversible network, as the module says.
        inputs: B ≥ 2 samples.
        targets: Labels in 0 … classes − 1; for `mse` also values (B, classes).
        loss: Which step of the logits is wanted: see `output_step`.
        rtol, atol: Singular values s of [A, 1] (of J with `min_norm`) are kept where s ≥ rtol·s_max
            and s ≥ atol; 0 and 0: all that rounding leaves.
        scale: "exact": Jδ = T. "published": without the 1/L of L blocks, Jδ = L·T.
        solution: "block": every half-layer by itself; "min_norm": the shortest one.
        ridge: Of s_max²: damping in place of the cut-off, s/(s² + ridge·s_max²). The cut-offs then
            only count ranks.
        damping: λ of `ce_damped`.

    Raises:
        ValueError: An argument out of its range, or a network, inputs or labels that do not fit.
        NonFiniteError: The activations or the wanted step are not finite.

    Warns:
        RankWarning: The step is not exact; says ranks and the missed fraction.
    """
    how = How(loss, rtol, atol, scale, solution, ridge, damping)
    step = _direction(model, inputs, targets, how)
    if not step.exact:
        warnings.warn(shortfall(step, len(inputs), ridge), RankWarning, stacklevel=3)
    return step


def _direction(model: nn.Module, inputs: Tensor, targets: Tensor, how: How) -> GaussNewtonStep:
    """As `gauss_newton_direction`, without its warning."""
    check_choices(how)
    _check_network(model)
    _check_inputs(model, inputs)
    _check_targets(targets, len(inputs), model.projection.shape[1], how.loss)
    blocks, z = activations(model, inputs)
    logits = z @ model.projection
    h = output_step(logits, targets, how.loss, how.damping)
    if not (z.isfinite().all() and h.isfinite().all()):
        what = "the network's activations are" if not z.isfinite().all() else "the wanted step is"
        raise NonFiniteError(
            f"{what} not finite on a batch of {len(inputs)}: the network has diverged; take a"
            " smaller learning rate, or start from an earlier checkpoint"
        )
    num_blocks, kernel_rank = len(blocks), None
    if how.solution == "block":
        fits, missed = block_solution(blocks, h @ model.projection.T, *how.cuts)
        missed = missed / num_blocks
        changes = {name: fit.change for name, fit in fits.items()}
        ranks = {half.name: fits[half.name].rank for half in halves(blocks)}
        factor = 1.0 if how.scale == "published" else 1 / num_blocks
        full = all(rank == len(inputs) for rank in ranks.values())
        residual, at_logits = _fraction(missed, h), _fraction(missed @ model.projection, h)
    else:
        changes, missed, kernel_rank = min_norm_solution(blocks, model.projection, h, *how.cuts)
        ranks = {half.name: _rank(half, how.rtol, how.atol) for half in halves(blocks)}
        factor = float(num_blocks) if how.scale == "published" else 1.0
        full = kernel_rank == h.numel()
        residual = at_logits = _fraction(missed, h)
    return GaussNewtonStep(
        _by_parameter(ranks, changes, factor),
        ranks,
        residual,
        at_logits,
        full and not how.ridge and residual <= ROUNDING,
        batch_loss(logits, targets, how.loss),
        logits,
        kernel_rank,
    )


def _fraction(missed: Tensor, wanted: Float[Tensor, "B classes"]) -> float:
    """|missed|/|T|; U has orthonormal columns, so |T| = |h|. Zero where nothing is wanted."""
    norm = wanted.double().norm()
    return float(missed.double().norm() / norm) if norm > 0 else 0.0


def _rank(half: HalfPass, rtol: float, atol: float) -> int:
    """Of [A, 1] by the cut-offs, as `inverted_gram` counts it."""
    values = torch.linalg.eigvalsh(gram_of(half.features, half.has_bias))
    return int(_kept(values, rtol, atol).sum())


def _by_parameter(
    ranks: Mapping[str, int], changes: Mapping[str, Change], factor: float
) -> dict[str, Tensor]:
    """The direction, in the order of the network's parameters, which is that of `ranks`."""
    direction = {}
    for name in ranks:
        weight, bias = changes[name]
        direction[f"{name}.weight"] = weight.mul_(factor)
        if bias is not None:
            direction[f"{name}.bias"] = bias.mul_(factor)
    return direction


def shortfall(step: GaussNewtonStep, batch_size: int, ridge: float = 0.0) -> str:
    """Why a step is not exact, in a sentence, with ranks and the missed fraction."""
    ranks = ", ".join(f"{name} {rank}" for name, rank in step.ranks.items())
    why = f"ranks {ranks} given on a batch of {batch_size}"
    if step.kernel_rank is not None:
        why += f", kernel {step.kernel_rank} of {step.logits.numel()}"
    damped = f", damped with ridge {ridge:g}" if ridge else ""
    return (
        f"Gauss-Newton step is not exact: {why}{damped}; it misses {100 * step.residual:.3g} % of"
        " the wanted step. Exact steps need full rank: a smaller batch, more hidden units, or"
        " rtol = atol = ridge = 0"
    )


# ---- what is refused -----------------------------------------------------------------------------


def check_choices(how: How) -> None:
    """Raises ValueError for a choice that there is not, or a number out of its range."""
    loss, rtol, atol, scale, solution, ridge, damping = how
    choices = {"loss": (loss, LOSSES), "scale": (scale, SCALES), "solution": (solution, SOLUTIONS)}
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            raise ValueError(f"{name} = {given!r} given; allowed: {', '.join(allowed)}")
    for name, given, below in (("rtol", rtol, 1.0), ("atol", atol, math.inf)):
        if not 0 <= given < below:
            limit = f" and < {below:g}" if below < math.inf else " and finite"
            raise ValueError(f"{name} = {given!r} given; allowed: ≥ 0{limit}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge = {ridge!r} given; allowed: ≥ 0 and finite")
    if not 0 < damping < math.inf:
        raise ValueError(f"damping = {damping!r} given; allowed: > 0 and finite")


def _check_network(model: nn.Module) -> None:
    blocks, projection = getattr(model, "blocks", None), getattr(model, "projection", None)
    if not blocks or projection is None or not hasattr(blocks[0], "f"):
        raise ValueError(
            f"a {type(model).__name__} given; allowed: a reversible network with `blocks` of"
            " half-layers `f` and `g` and a `projection`, such as studies.gauss_newton.RevMLP"
        )


def _check_inputs(model: nn.Module, inputs: Tensor) -> None:
    width = model.projection.shape[0]
    if inputs.ndim < 2 or inputs[0].numel() != width:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)} given; allowed: (B, {width}), or images of"
            f" {width} values"
        )
    if len(inputs) < 2:
        raise ValueError(
            f"a batch of {len(inputs)} given; allowed: at least 2 samples, for what one sample"
            " wants says nothing of the others"
        )
    if inputs.dtype != model.projection.dtype:
        raise ValueError(
            f"inputs of {inputs.dtype} given; allowed: {model.projection.dtype}, the network's"
        )


def _check_targets(targets: Tensor, num_samples: int, num_classes: int, loss: str) -> None:
    if loss == "mse" and targets.is_floating_point():
        if targets.shape != (num_samples, num_classes):
            raise ValueError(
                f"targets of shape {tuple(targets.shape)} given; allowed:"
                f" ({num_samples}, {num_classes}) values, or labels ({num_samples},)"
            )
        return
    if (
        targets.shape != (num_samples,)
        or targets.is_floating_point()
        or targets.dtype == torch.bool
    ):
        raise ValueError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}; allowed: integer labels"
            f" of shape ({num_samples},), one an input"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels from {low} to {high} given; allowed: 0 to {num_classes - 1}, the classes"
        )


# ---- the optimizer -------------------------------------------------------------------------------


class GaussNewton:
    """W ← (1 − lr·weight_decay)W − lr·δ, δ as `gauss_newton_direction` gives it; a `Stepper`.

    lr = 1 with scale "exact" is the whole Gauss-Newton step. It warns of steps that are not exact
    once; `last` tells of each.

    Args:
        model: A reversible network.
        lr: Learning rate, > 0.
        weight_decay: Decoupled, ≥ 0.
        loss, rtol, atol, scale, solution, ridge, damping: See `gauss_newton_direction`.

    Attributes:
        last: The last step; None before the first.

    Raises:
        ValueError: As `gauss_newton_direction`, for the network and the choices.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        loss: str = "ce_identity",
        rtol: float = 1e-2,
        atol: float = 1e-5,
        scale: str = "exact",
        solution: str = "block",
        ridge: float = 0.0,
        damping: float = 1e-2,
        weight_decay: float = 0.0,
    ):
        _check_network(model)
        how = How(loss, rtol, atol, scale, solution, ridge, damping)
        check_choices(how)
        if not 0 < lr < math.inf:
            raise ValueError(f"lr = {lr!r} given; allowed: > 0 and finite")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay = {weight_decay!r} given; allowed: ≥ 0 and finite")
        self.model, self.lr, self.weight_decay = model, lr, weight_decay
        self.how = how
        self.watching = False
        self.last: GaussNewtonStep | None = None
        self.num_steps = self.num_short = 0

    @torch.no_grad()
    def step(self, inputs: Float[Tensor, "B ..."], targets: Int[Tensor, " B"]) -> dict:
        """One step; returns `loss` (before it), `missed_fraction` and `ranks` by half-layer.

        Raises:
            NonFiniteError: The activations, or the direction, are not finite; no weight moves.
            ValueError: As `gauss_newton_direction`.
        """
        step = _direction(self.model, inputs, targets, self.how)
        if not all(part.sum().isfinite() for part in step.direction.values()):
            raise NonFiniteError("the Gauss-Newton direction is not finite; no weight was changed")
        if not step.exact:
            if not self.num_short:
                warnings.warn(
                    shortfall(step, len(inputs), self.how.ridge), RankWarning, stacklevel=3
                )
            self.num_short += 1
        parameters = dict(self.model.named_parameters())
        for name, direction in step.direction.items():
            if self.weight_decay:
                parameters[name].mul_(1 - self.lr * self.weight_decay)
            parameters[name].sub_(direction, alpha=self.lr)
        self.last, self.num_steps = step, self.num_steps + 1
        ranks = {name: torch.tensor(float(rank)) for name, rank in step.ranks.items()}
        missed = torch.tensor(step.residual, dtype=torch.float64)
        return {"loss": step.loss, "missed_fraction": missed, "ranks": ranks}

    @property
    def hyper(self) -> dict[str, float | str]:
        """What it was made with, for descriptions."""
        return {"lr": self.lr, "weight_decay": self.weight_decay} | self.how._asdict()

    def state_dict(self) -> dict[str, Tensor]:
        """Steps so far, and those that were not exact; the direction itself has no memory."""
        return {
            "num_steps": torch.tensor(self.num_steps),
            "num_short": torch.tensor(self.num_short),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.num_steps, self.num_short = int(state["num_steps"]), int(state["num_short"])


class Solver(Section):
    """Which Gauss-Newton step, as `gauss_newton_direction` takes it."""

    loss: Literal["ce_identity", "ce_exact", "ce_damped"] = Field(
        "ce_identity",
        description=(
            "Step of the logits: with the identity in place of the cross-entropy's Hessian, with"
            " its pseudo-inverse, or damped."
        ),
    )
    solution: Literal["block", "min_norm"] = Field(
        "block", description="Half-layer by half-layer, or the shortest of all solutions."
    )
    scale: Literal["exact", "published"] = Field(
        "exact", description="Whether the L blocks share the step (exact) or each makes all of it."
    )
    rtol: float = Field(
        1e-2, ge=0, lt=1, description="Least singular value that is kept, of the largest."
    )
    atol: float = Field(1e-5, ge=0, description="Least singular value that is kept.")
    ridge: float = Field(
        0.0, ge=0, description="Damping in place of the cut-off, of the largest one squared."
    )
    damping: float = Field(1e-2, gt=0, description="λ of ce_damped.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")


class Settings(OptimizerSettings, Solver):
    """Of a kind `gauss_newton`."""

    lr: float = Field(0.5, gt=0, le=MAX_RATE, description="Learning rate; 1 is a whole step.")


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> GaussNewton:
    """The optimizer of a reversible network, whose own `loss` stands in place of `loss_fn`.

    Raises:
        ValueError: The model is no reversible network.
    """
    return GaussNewton(model, **settings.model_dump(exclude={"swap_lr"}))


KIND = Kind(Settings, build)
