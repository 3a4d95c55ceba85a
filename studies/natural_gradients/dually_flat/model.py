"""What is the natural gradient of multinomial logistic regression, in the dual coordinates?

Features x_i of m_i values and a label y of s. The naive-Bayes joint

    log p(x, y) = (1 − r) log μ_y + Σ_i log μ_{i,x_i,y},    μ_y = p(y), μ_{iky} = p(x_i = k, y),

is an exponential family whose conditional p(y | x) is logistic regression. Its natural coordinates
are α (s − 1) and β (Σ(m_i − 1), s), logits T(x)β + α; its expectations μ are the dual ones, and
the Fisher matrix is ∂μ/∂(α, β). Hence a natural gradient is the differential of the map from μ to
(α, β), taken along the expectations of Q = softmax − onehot: a few divisions, and no system to
solve (Sánchez-López & Cerquides, arXiv:2001.06744).

Runs use one table θ (1 + Σm_i, s) with a row for every value: logits(x) = θ_0 + Σ_i θ_{i,x_i}.
`reduced` subtracts the rows of the last values, and the column of the last label, and leaves
(α, β). Two tables with the same (α, β) have the same joint.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Model:
    """The shape of the family.

    Attributes:
        sizes: m_i, how many values feature i has; each at least 2.
        classes: s, how many labels there are; at least 2.

    Raises ValueError for sizes that are none.
    """

    sizes: tuple[int, ...]
    classes: int

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 2:
            raise ValueError(f"sizes {list(self.sizes)} given; allowed: one or more, each >= 2")
        if self.classes < 2:
            raise ValueError(f"classes = {self.classes} given; allowed: >= 2")

    @property
    def rows(self) -> int:
        """Rows of a table θ or μ: 1 + Σm_i."""
        return 1 + sum(self.sizes)

    @property
    def dimension(self) -> int:
        """d, free parameters of p(y | x): (1 + Σ(m_i − 1))(s − 1)."""
        return (1 + sum(self.sizes) - len(self.sizes)) * (self.classes - 1)

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """The rows of each feature's values."""
        ends = 1 + np.cumsum([0, *self.sizes])
        return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))

    @cached_property
    def design(self) -> Float[np.ndarray, "cells rows"]:
        """T: for every x, in the order of `np.ravel_multi_index`, ones in the rows that it has."""
        values = np.indices(self.sizes).reshape(len(self.sizes), -1)
        table = np.zeros((values.shape[1], self.rows))
        table[:, 0] = 1
        for block, value in zip(self.blocks, values, strict=True):
            table[np.arange(len(value)), block.start + value] = 1
        return table

    @cached_property
    def free(self) -> Float[np.ndarray, "rows classes"]:
        """1 where a table's entry is a coordinate of (α, β), 0 where it is a reference."""
        mask = np.ones((self.rows, self.classes))
        mask[0, -1] = 0
        mask[[block.stop - 1 for block in self.blocks]] = 0
        return mask


def check_samples(model: Model, features: ArrayLike, labels: ArrayLike) -> Int[np.ndarray, " n"]:
    """Which cell each sample's x is, as an index into `design`'s rows.

    Args:
        features: (n, r), whole numbers from 0 to m_i − 1.
        labels: (n,), whole numbers from 0 to s − 1.

    Raises:
        ValueError: A feature value or a label that the model does not have, or a wrong shape.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    count = len(model.sizes)
    if features.ndim != 2 or features.shape[1] != count or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features of shape {features.shape} and labels of shape {labels.shape} given;"
            f" allowed: (n, {count}) and (n,)"
        )
    if features.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
        raise ValueError(
            f"features of {features.dtype} and labels of {labels.dtype} given; allowed: integers"
        )
    columns = [*((f"x_{i + 1}", features[:, i], m) for i, m in enumerate(model.sizes))]
    for name, values, size in [*columns, ("y", labels, model.classes)]:
        wrong = (values < 0) | (values >= size)
        if wrong.any():
            raise ValueError(f"{name} = {values[wrong][0]} given; allowed: 0 to {size - 1}")
    return np.ravel_multi_index(tuple(features.T), model.sizes)


def check_dual(model: Model, mu: ArrayLike) -> Float[np.ndarray, "rows classes"]:
    """Dual coordinates as float64.

    Raises:
        ValueError: A wrong shape, or an expectation that is not finite and > 0: the inverse Fisher
            matrix divides by it.
    """
    found = np.asarray(mu, dtype=np.float64)
    if found.shape != (model.rows, model.classes):
        allowed = (model.rows, model.classes)
        raise ValueError(f"mu of shape {found.shape} given; allowed: {allowed}")
    if not (np.isfinite(found) & (found > 0)).all():
        wrong = found[~(np.isfinite(found) & (found > 0))][0]
        raise ValueError(
            f"a density mu = {wrong:g} given; allowed: finite and > 0 (a value that was never seen"
            " with a label needs a pseudo-count)"
        )
    return found


# ---- coordinates ---------------------------------------------------------------------------------


def reduced(
    model: Model, table: Float[np.ndarray, "rows classes"]
) -> tuple[Float[np.ndarray, " classes-1"], Float[np.ndarray, "free classes"]]:
    """(α, β) of a table θ, or of a direction of one: linear."""
    last = [block.stop - 1 for block in model.blocks]
    whole = table[0] + table[last].sum(axis=0)
    beta = [table[block][:-1] - table[block.stop - 1] for block in model.blocks]
    return whole[:-1] - whole[-1], np.concatenate(beta)


def table_of(
    model: Model, alpha: Float[np.ndarray, " classes-1"], beta: Float[np.ndarray, "free classes"]
) -> Float[np.ndarray, "rows classes"]:
    """θ whose reference rows and entries are 0: the right inverse of `reduced`."""
    table = np.zeros((model.rows, model.classes))
    table[0, :-1] = alpha
    kept = [row for block in model.blocks for row in range(block.start, block.stop - 1)]
    table[kept] = beta
    return table


def dual(
    model: Model, table: Float[np.ndarray, "rows *runs classes"]
) -> Float[np.ndarray, "rows *runs classes"]:
    """μ(θ): p(y) and p(x_i = k, y) of the joint.

    Exact without a sum over all x, since given y the features are independent: p(x_i = k | y) is a
    softmax of feature i's rows, p(y) that of θ_0 + Σ_i log Σ_k exp θ_{ik}.
    """
    found, logits = np.empty_like(table), table[0].copy()
    for block in model.blocks:
        top = table[block].max(axis=0)
        weights = np.exp(table[block] - top)
        total = weights.sum(axis=0)
        found[block] = weights / total
        logits += top + np.log(total)
    found[0] = softmax(logits)
    found[1:] *= found[0]
    return found


def natural(
    model: Model, mu: Float[np.ndarray, "rows classes"]
) -> Float[np.ndarray, "rows classes"]:
    """θ(μ): (1 − r) log μ_y and log μ_{iky}, whose joint has the expectations μ."""
    logs = np.log(mu)
    return np.concatenate([(1 - len(model.sizes)) * logs[:1], logs[1:]])


def raised(
    model: Model,
    moments: Float[np.ndarray, "rows *runs classes"],
    mu: Float[np.ndarray, "rows *runs classes"],
) -> Float[np.ndarray, "rows *runs classes"]:
    """The differential of `natural` at μ along `moments`: the inverse Fisher matrix's product.

    Args:
        moments: TᵀQ, summed or averaged over samples; the gradient by θ.
    """
    found = moments / mu
    found[0] *= 1 - len(model.sizes)
    return found


def natural_gradient(
    model: Model,
    alpha: Float[np.ndarray, " classes-1"],
    beta: Float[np.ndarray, "free classes"],
    features: ArrayLike,
    labels: ArrayLike,
    mu: ArrayLike | None = None,
) -> tuple[Float[np.ndarray, " classes-1"], Float[np.ndarray, "free classes"]]:
    """Natural gradient of the mean of −log p(y | x) by (α, β), in closed form.

        β_{ik·} = ΣQ·1[x_i = k]/μ_{ik·} − ΣQ·1[x_i = m_i]/μ_{i m_i ·}
        α_y = A_y − A_s,    A = (1 − r) ΣQ/μ_· + Σ_i ΣQ·1[x_i = m_i]/μ_{i m_i ·}

    It equals F⁻¹∇, F the Fisher matrix of the joint with expectations μ (arXiv:2001.06744).

    Args:
        alpha, beta: Natural coordinates, (s − 1,) and (Σ(m_i − 1), s).
        features, labels: Samples as in `check_samples`.
        mu: Expectations where the metric is taken (1 + Σm_i, s); None: the model's own, μ(α, β).

    Raises:
        ValueError: Samples or densities that the model does not allow.
    """
    cells = check_samples(model, features, labels)
    table = table_of(model, alpha, beta)
    mu = dual(model, table) if mu is None else mu
    at = model.design[cells]
    moments = at.T @ residual(at @ table, np.asarray(labels)) / len(cells)
    return reduced(model, raised(model, moments, check_dual(model, mu)))


# ---- probabilities -------------------------------------------------------------------------------


def softmax(logits: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Probabilities over the last axis."""
    found = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True)


def residual(
    logits: Float[np.ndarray, "n *runs classes"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n *runs classes"]:
    """Q: probabilities, less 1 at each sample's label."""
    found = softmax(logits)
    found[np.arange(len(labels)), ..., labels] -= 1
    return found


def joint(
    model: Model, table: Float[np.ndarray, "rows classes"]
) -> Float[np.ndarray, "cells classes"]:
    """p(x, y) for every x and y."""
    return softmax((model.design @ table).ravel()).reshape(-1, model.classes)


def log_conditional(
    model: Model, table: Float[np.ndarray, "rows *runs classes"]
) -> Float[np.ndarray, "cells *runs classes"]:
    """log p(y | x) for every x and y."""
    logits = np.tensordot(model.design, table, axes=1)
    top = logits.max(axis=-1, keepdims=True)
    logits -= top
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def cross_entropy(
    model: Model,
    weights: Float[np.ndarray, "cells classes"],
    table: Float[np.ndarray, "rows *runs classes"],
) -> Float[np.ndarray, " *runs"]:
    """−Σ w log p(y | x), in nats: a mean log loss where `weights` are a sample's shares."""
    logs = log_conditional(model, table)
    return -np.einsum("cy,c...y->...", weights, logs)


def conditional_kl(
    model: Model,
    truth: Float[np.ndarray, "cells classes"],
    table: Float[np.ndarray, "rows *runs classes"],
) -> Float[np.ndarray, " *runs"]:
    """E_x KL(p(y | x) ‖ p_θ(y | x)) in nats, `truth` the joint that x and y are drawn from."""
    own = np.log(truth) - np.log(truth.sum(axis=1, keepdims=True))
    logs = log_conditional(model, table)
    gap = own.reshape(len(own), *[1] * (table.ndim - 2), -1) - logs
    return np.einsum("cy,c...y->...", truth, gap)


def random_table(
    model: Model, scale: float, random: np.random.Generator
) -> Float[np.ndarray, "rows classes"]:
    """θ of a model whose (α, β) are normal with standard deviation `scale`."""
    return random.normal(0.0, scale, size=model.free.shape) * model.free


def draw(
    truth: Float[np.ndarray, "cells classes"], count: int, random: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """`count` samples of a joint: their cells and labels."""
    edges = truth.ravel().cumsum()
    at = np.searchsorted(edges, random.random(count) * edges[-1], side="right")
    return np.divmod(at, truth.shape[1])


def shares(
    model: Model, cells: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "cells classes"]:
    """How often each (x, y) is among samples, as shares."""
    cell_count = len(model.design)
    found = np.bincount(cells * model.classes + labels, minlength=cell_count * model.classes)
    return found.reshape(cell_count, model.classes) / len(cells)
