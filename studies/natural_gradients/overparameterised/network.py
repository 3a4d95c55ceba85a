"""At what rate do natural gradient, K-FAC and gradient descent fit a wide two-layer ReLU network?

f(x) = m^(−1/2) Σ_r a_r relu(w_r·x), a_r = ±1 fixed, W (m, d) trained on n unit inputs. The Jacobian
J (n, m·d) has the kernel JJᵀ = (XXᵀ) ∘ (SSᵀ)/m with S = 1[XWᵀ > 0], so that a natural step
W ← W − η J⁺(f − y) costs an n × n solve. In the wide limit J stands still and residuals contract by
1 − η a step (Zhang, Martens & Grosse, arXiv:1905.10961). K-FAC puts (XᵀX)⁻¹ ⊗ (SᵀS)⁺ in place of
(JᵀJ)⁺: there residual i contracts by 1 − ηh_i, with h_i the leverage of x_i among the inputs.
"""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from degeneracy.natural import NaturalDirection, RankDeficiencyWarning, natural_direction

OVERFLOW = 1e12  # an error beyond which a run has diverged
ROUNDING = 1e-24  # an error below which ratios are noise
PARALLEL = 1e-24  # of sin²: inputs at a smaller angle are called parallel


class Network(NamedTuple):
    """W (m, d) and the fixed signs a (m,)."""

    inner: Float[Tensor, "m d"]
    signs: Float[Tensor, " m"]


def random_inputs(n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """n unit vectors (n, d) and labels N(0, 1) (n,), float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    labels = torch.randn(n, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True), labels


def random_network(width: int, dim: int, seed: int) -> Network:
    """W as N(0, 1), signs ±1 with equal chances."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(width, dim, generator=generator, dtype=torch.float64)
    signs = torch.randint(2, (width,), generator=generator).double() * 2 - 1
    return Network(inner, signs)


def with_near_pair(inputs: Float[Tensor, "n d"], angle: float) -> Float[Tensor, "n d"]:
    """Inputs whose second is turned into the plane of the first, to `angle` from it (radians)."""
    first, second = inputs[0], inputs[1]
    across = second - (second @ first) * first
    turned = torch.cos(torch.tensor(angle)) * first
    turned = turned + torch.sin(torch.tensor(angle)) * across / across.norm()
    return torch.cat([inputs[:1], turned[None].to(inputs), inputs[2:]])


class NearestPair(NamedTuple):
    """Two inputs at the least angle of all pairs: their indices, its cosine and its sine."""

    first: int
    second: int
    cosine: float
    sine: float


def nearest_pair(inputs: Float[Tensor, "n d"]) -> NearestPair:
    """The pair that makes the kernel singular first; its sine is exact for small angles too.

    Raises:
        ValueError: Fewer than two inputs.
    """
    if (n := len(inputs)) < 2:
        raise ValueError(f"{n} inputs given; allowed: at least two, which make a pair")
    units = inputs / inputs.norm(dim=1, keepdim=True)
    below = torch.ones(n, n, dtype=torch.bool).tril()
    cosines = (units @ units.T).masked_fill(below, -math.inf)
    i, j = divmod(int(cosines.argmax()), n)
    across = units[j] - cosines[i, j] * units[i]
    return NearestPair(i, j, float(cosines[i, j]), float(across.norm()))


def parallel_pair(inputs: Float[Tensor, "n d"]) -> tuple[int, int] | None:
    """Indices of two inputs that are parallel to rounding, which makes the kernel singular."""
    if len(inputs) < 2:
        return None
    i, j, cosine, sine = nearest_pair(inputs)
    return (i, j) if cosine > 0 and sine**2 < PARALLEL else None


def check_inputs(inputs: Float[Tensor, "n d"]) -> None:
    """Raises ValueError where two inputs are parallel, with their indices, or one is zero."""
    if not (inputs.isfinite().all() and (norms := inputs.norm(dim=1)).all()):
        raise ValueError("inputs with a zero row or entries that are not finite; allowed: neither")
    if pair := parallel_pair(inputs):
        i, j = pair
        ratio = float(norms[j] / norms[i])
        raise ValueError(
            f"inputs {i} and {j} are parallel (input {j} = {ratio:.4g} × input {i}) given: no"
            " weights without biases tell their outputs apart, and the kernel is singular; allowed:"
            " one of them"
        )


def patterns(network: Network, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
    """S = 1[XWᵀ > 0]."""
    return (inputs @ network.inner.T > 0).to(inputs)


def outputs(network: Network, inputs: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """f at n inputs."""
    hidden = (inputs @ network.inner.T).clamp_min_(0)
    return hidden @ network.signs / len(network.signs) ** 0.5


def jacobian(network: Network, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
    """J (n, m·d), dense: for small widths."""
    by_unit = patterns(network, inputs) * network.signs / len(network.signs) ** 0.5
    return (by_unit[:, :, None] * inputs[:, None]).flatten(1)


def kernel(network: Network, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """JJᵀ = (XXᵀ) ∘ (SSᵀ)/m, without J."""
    active = patterns(network, inputs)
    return (inputs @ inputs.T) * (active @ active.T) / len(network.signs)


def pulled_back(
    network: Network, active: Float[Tensor, "n m"], inputs: Float[Tensor, "n d"], q: Tensor
) -> Float[Tensor, "m d"]:
    """Jᵀq as a matrix."""
    return (active.T * network.signs[:, None]) @ (q[:, None] * inputs) / len(network.signs) ** 0.5


def natural_step(
    network: Network, inputs: Float[Tensor, "n d"], labels: Float[Tensor, " n"], lr: float
) -> tuple[Network, NaturalDirection]:
    """W ← W − η J⁺(f − y), and the solve of the kernel, which says its rank.

    Warns:
        degeneracy.natural.RankDeficiencyWarning: The kernel is singular to rounding.
    """
    z = inputs @ network.inner.T
    active = (z > 0).to(inputs)
    residual = (z * active) @ network.signs / len(network.signs) ** 0.5 - labels
    gram = (inputs @ inputs.T) * (active @ active.T) / len(network.signs)
    solved = natural_direction(gram, residual, method="svd")
    moved = pulled_back(network, active, inputs, solved.direction)
    return network._replace(inner=network.inner - lr * moved), solved


def gradient_step(
    network: Network, inputs: Float[Tensor, "n d"], labels: Float[Tensor, " n"], lr: float
) -> Network:
    """W ← W − η Jᵀ(f − y)."""
    z = inputs @ network.inner.T
    active = (z > 0).to(inputs)
    residual = (z * active) @ network.signs / len(network.signs) ** 0.5 - labels
    moved = pulled_back(network, active, inputs, residual)
    return network._replace(inner=network.inner - lr * moved)


def kfac_step(
    network: Network, inputs: Float[Tensor, "n d"], labels: Float[Tensor, " n"], lr: float
) -> Network:
    """W ← W − η (SᵀS)⁺ (Jᵀ(f − y)) (XᵀX)⁻¹, by the n × n Gram matrix of S.

    A unit's gradient is a_r sᵣᵀ diag(f − y) X/√m, and (SᵀS)⁺Sᵀ = S⁺; the signs cancel with those of
    f, whose √m is left over.

    Raises:
        ValueError: Fewer inputs than dimensions.
    """
    check_overdetermined(inputs)
    residual = outputs(network, inputs) - labels
    active = patterns(network, inputs)
    scaled = torch.linalg.solve(inputs.T @ inputs, (residual[:, None] * inputs).T).T
    across = active.T @ torch.linalg.pinv(active @ active.T, hermitian=True) @ scaled
    moved = network.signs[:, None] * across * len(network.signs) ** 0.5
    return network._replace(inner=network.inner - lr * moved)


def leverages(inputs: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """h_i = x_iᵀ(XᵀX)⁻¹x_i, of sum d; raises ValueError for fewer inputs than dimensions."""
    check_overdetermined(inputs)
    q, _ = torch.linalg.qr(inputs)
    return (q**2).sum(1)


def check_overdetermined(inputs: Float[Tensor, "n d"]) -> None:
    """K-FAC's XᵀX is to be inverted."""
    n, dim = inputs.shape
    if n < dim:
        raise ValueError(f"{n} inputs of {dim} dimensions given; allowed: at least {dim} for XᵀX")


class Descent(NamedTuple):
    """|f − y|² over its start, after each step from 0 on; the kernels' smallest rank to rounding.

    The rank is that of natural steps, None of other methods.
    """

    errors: list[float]
    rank: int | None


def descend(
    network: Network,
    inputs: Float[Tensor, "n d"],
    labels: Float[Tensor, " n"],
    method: str,
    lr: float,
    num_steps: int,
    until: float = 0.0,
) -> Descent:
    """Steps of `"ngd"` or `"gd"` until the error is `until`, `num_steps`, or overflow.

    Raises:
        ValueError: Another method, parallel inputs, or as the method's step.
    """
    if method not in ("ngd", "gd"):
        raise ValueError(f"method {method!r} given; allowed: ngd, gd")
    check_inputs(inputs)
    start = float((outputs(network, inputs) - labels).square().sum())
    errors, ranks = [1.0], []
    while len(errors) <= num_steps and until < errors[-1] < OVERFLOW:
        if method == "ngd":
            with warnings.catch_warnings():  # the rank says it
                warnings.simplefilter("ignore", RankDeficiencyWarning)
                network, solved = natural_step(network, inputs, labels, lr)
            ranks.append(solved.rank)
        else:
            network = gradient_step(network, inputs, labels, lr)
        errors.append(float((outputs(network, inputs) - labels).square().sum()) / start)
    return Descent(errors, min(ranks, default=None))


def ratios(errors: Sequence[float]) -> list[float]:
    """Each error over the one before, down to rounding."""
    pairs = [pair for pair in pairwise(errors) if pair[0] > ROUNDING]
    return [after / before for before, after in pairs]
