"""Of which p(y | z) is a loss −log p, and what does its Fisher information by the outputs z look
like?

A loss over a data set is L = (1/T) Σ_t w_t l_t over terms t, T = Σ_t w_t, and F = (1/T) Σ_t w_t
E_y[g_t g_tᵀ] with g_t = Jᵀ ∇_z l_t, J = ∂z/∂w. A term of

- cross-entropy is a prediction that is not ignored, of a sample, or of a token of a sample: p(y |
  z) = softmax(z)_y, and w_t the class weight of the data's label;
- binary cross-entropy is an output: p(y | z) is Bernoulli's with sigmoid(z);
- squared error is a sample with K outputs: l = ‖z − y‖²/K is −log p, up to a constant, of y ~ N(z,
  K/2).

So "expected", the sum over all y, is the Gauss-Newton matrix Jᵀ (∂²L/∂z²) J of the mean loss
(Martens, arXiv:1412.1193, section 9), and the same as curvlinops's `GGNLinearOperator` of it;
"sampled" takes one y ~ p(· | z), and "empirical" the data's. For each, F = (1/T) Σ Jᵀ R Rᵀ J with
residual factors R of each term.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from degeneracy.curvature.checks import check_at_least_one, check_weights
from degeneracy.objective.checks import check_objective, few_samples
from degeneracy.objective.forward import running
from degeneracy.objective.loss import Objective, objective_of

KINDS = ("expected", "sampled", "empirical")
FAMILIES = {
    nn.CrossEntropyLoss: "categorical",
    F.cross_entropy: "categorical",
    nn.NLLLoss: "categorical",
    F.nll_loss: "categorical",
    nn.KLDivLoss: "categorical",
    F.kl_div: "categorical",
    nn.BCEWithLogitsLoss: "bernoulli",
    F.binary_cross_entropy_with_logits: "bernoulli",
    nn.MSELoss: "gaussian",
    F.mse_loss: "gaussian",
}
OF_LOG_P = (nn.NLLLoss, F.nll_loss, nn.KLDivLoss, F.kl_div)  # outputs are log-probabilities
NORMALISED = 1e-3  # how far probabilities may sum to something else than 1
DRAWN_BYTES = 2**26  # of the probabilities from which labels are drawn at once
LOGITS = (
    "logits (n, classes, …) and class indices (n, …), or probabilities of classes that sum to 1"
)


@dataclass(frozen=True)
class Likelihood:
    """p(y | z) of a loss, as far as its kind of F asks.

    Attributes:
        family: "categorical", "bernoulli" or "gaussian".
        kind: One of `KINDS`.
        weight: Of each class; None where all are 1.
        ignored: The label of predictions that are left out.
    """

    family: str
    kind: str
    weight: Tensor | None = None
    ignored: int = -100

    @property
    def by_output(self) -> bool:
        """Whether R is diagonal, so that each output stands for itself."""
        return self.family == "bernoulli" or (self.family, self.kind) == ("gaussian", "expected")

    def num_residuals(self, shape: torch.Size) -> tuple[int, int]:
        """(terms of a sample, columns of a term's R) for outputs of a shape (n, …)."""
        if self.family == "categorical":
            return math.prod(shape[2:]), shape[1] if self.kind == "expected" else 1
        return (math.prod(shape[1:]), 1) if self.by_output else (1, 1)

    def in_terms(self, values: Tensor, ndim: int) -> Float[Tensor, "*k n t c"]:
        """Values of the outputs' shape, which has `ndim` axes, and maybe axes *k before, sorted by
        terms and outputs of each.
        """
        lead = values.ndim - ndim
        if self.family == "categorical":
            last = values.movedim(lead + 1, -1)
            terms = math.prod(last.shape[lead + 1 : -1])
            return last.reshape(*last.shape[: lead + 1], terms, last.shape[-1])
        size = math.prod(values.shape[lead + 1 :])
        each = (size, 1) if self.by_output else (1, size)
        return values.reshape(*values.shape[: lead + 1], *each)

    def in_outputs(self, values: Float[Tensor, "*k n t c"], shape: torch.Size) -> Tensor:
        """The inverse of `in_terms` for outputs of a shape."""
        lead = values.shape[:-3]
        if self.family == "categorical":
            sorted_shape = (*lead, shape[0], *shape[2:], shape[1])
            return values.reshape(sorted_shape).movedim(-1, len(lead) + 1)
        return values.reshape(*lead, *shape)

    def weights(self, targets: Tensor) -> Tensor:
        """w_t of data, one a term, 0 where it is ignored: (n, t), or a 1."""
        if self.family != "categorical" or targets.is_floating_point():
            return torch.ones(1, 1, device=targets.device)
        used = targets.reshape(len(targets), -1) != self.ignored
        if self.weight is None:
            return used.float()
        labels = targets.reshape(used.shape).where(used, 0)
        return self.weight.to(targets.device)[labels] * used

    def num_terms(self, targets: Tensor) -> float:
        """Σ_t w_t of data."""
        if self.family == "gaussian":
            return float(len(targets))
        if self.family == "bernoulli":
            return float(targets.numel())
        if targets.is_floating_point():
            return targets.numel() / targets.shape[1]
        return float(self.weights(targets).double().sum())

    def residual(
        self, outputs: Tensor, targets: Tensor, labels: Tensor, column: int = 0
    ) -> Float[Tensor, "n t c"]:
        """A column of √w_t R_t for each term: ∇_z of −log p(y | z), times √p(y | z) where y is
        summed over.

        Args:
            outputs: z, (n, …).
            targets: The data's, which decide the weights.
            labels: y, those or sampled ones.
            column: Which of R.
        """
        z = self.in_terms(outputs.detach(), outputs.ndim)
        scale = self.weights(targets).to(z).sqrt()[..., None]
        if self.family == "categorical":
            p = z.softmax(-1)
            if self.kind == "expected":
                return (p - _unit(column, p)) * p[..., column, None].sqrt() * scale
            y = labels.reshape(p.shape[:2])
            y = y.where((y >= 0) & (y < p.shape[-1]), 0)  # of the ignored, which weigh nothing
            return (p - F.one_hot(y, p.shape[-1])) * scale
        y = labels.to(z).reshape(z.shape)
        if self.family == "bernoulli":
            p = z.sigmoid()
            return (p * (1 - p)).sqrt() if self.kind == "expected" else p - y
        size = z.shape[1] * z.shape[2]
        if self.kind == "expected":
            return torch.full_like(z, math.sqrt(2 / size))
        return 2 / size * (z - y)

    def cotangents(
        self, outputs: Tensor, targets: Tensor, labels: Tensor, which: Iterable[int]
    ) -> Float[Tensor, "k n ..."]:
        """Columns of R as cotangents of the outputs, each of one term of every sample: numbers
        below terms · columns of `num_residuals`, the columns of a term one after the other.
        """
        columns = self.num_residuals(outputs.shape)[1]
        found = []
        for number in which:
            term, column = divmod(number, columns)
            residual = self.residual(outputs, targets, labels, column)
            alone = torch.zeros_like(residual)
            alone[:, term] = residual[:, term]
            found.append(self.in_outputs(alone, outputs.shape))
        return torch.stack(found)

    def middle(
        self, outputs: Tensor, targets: Tensor, labels: Tensor
    ) -> Callable[[Float[Tensor, "k n ..."]], Float[Tensor, "k n ..."]]:
        """u ↦ R Rᵀ u for rows u of the outputs' shape, without R where it has many columns."""
        shape, ndim = outputs.shape, outputs.ndim
        if self.family == "categorical" and self.kind == "expected":
            p = self.in_terms(outputs.detach(), ndim).softmax(-1)
            weighted = p * self.weights(targets).to(p)[..., None]

            def of_terms(u: Tensor) -> Tensor:
                return weighted * (u - (p * u).sum(-1, keepdim=True))
        else:
            r = self.residual(outputs, targets, labels)

            def of_terms(u: Tensor) -> Tensor:
                return r * (r * u).sum(-1, keepdim=True)

        return lambda rows: self.in_outputs(of_terms(self.in_terms(rows, ndim)), shape)

    def drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """y ~ p(· | z) of each term, drawn on the CPU whatever the device."""
        z = self.in_terms(outputs.detach(), outputs.ndim).double().cpu()
        if self.family == "categorical":
            shape = (outputs.shape[0], *outputs.shape[2:])
            drawn = z.softmax(-1).flatten(0, 1).multinomial(1, generator=generator).view(shape)
            return drawn.to(outputs.device)
        if self.family == "bernoulli":
            p = z.sigmoid()
            drawn = (torch.rand(p.shape, generator=generator, dtype=p.dtype) < p).double()
        else:
            deviates = torch.randn(z.shape, generator=generator, dtype=z.dtype)
            drawn = z + math.sqrt(z.shape[1] * z.shape[2] / 2) * deviates
        return drawn.view(outputs.shape).to(outputs)


class Labelled(NamedTuple):
    """Samples, and the labels y that F is taken at."""

    inputs: Any
    targets: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FisherTerms:
    """All that F is made of.

    Attributes:
        objective: Outputs by weights, and data.
        likelihood: p(y | z), with the kind of F.
        total: T = Σ_t w_t.
        batch_size: Samples differentiated at once.
        labels: Sampled y of all the data; None for the data's own.
    """

    objective: Objective
    likelihood: Likelihood
    total: float
    batch_size: int
    labels: Tensor | None

    def batches(self) -> Iterator[Labelled]:
        """All samples, at most `batch_size` at a time."""
        start = 0
        for inputs, targets in self.objective.data.batches(self.batch_size):
            end = start + len(targets)
            yield Labelled(
                inputs, targets, targets if self.labels is None else self.labels[start:end]
            )
            start = end

    @torch.no_grad()
    def outputs(self, inputs: Any) -> Tensor:
        """z at the weights as they are."""
        return self.objective.outputs(self.objective.weights, inputs)


def fisher_terms(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    kind: str,
    seed: int,
    batch_size: int,
    **options: Any,
) -> FisherTerms:
    """What F of a model on data is made of, checked.

    Raises:
        ValueError: An unknown kind, a penalty, a loss of which no likelihood is known, outputs or
            targets that do not fit it, no finite weights, or as `objective.checks.check_objective`
            says.
    """
    check_kind(kind)
    refuse_penalty(options)
    check_at_least_one(batch_size=batch_size)
    objective = objective_of(model, loss_fn, data, **options)
    check_weights(objective, "Fisher information")
    with running(objective.model):  # which puts back what hooks keep on the way
        check_objective(objective)
        return terms_of(objective, kind, seed, batch_size)


def refuse_penalty(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a penalty among the options."""
    if options.get("penalty") is not None:
        raise ValueError(
            "penalty is given, which has no likelihood p(y | x), so no Fisher information; leave it"
            " out: F is of the data's loss, and the penalty's own Hessian is added to it where the"
            " two are wanted"
        )


def check_kind(kind: str) -> None:
    """Raises ValueError for a kind of F that there is not."""
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; allowed: {', '.join(KINDS)}")


def terms_of(objective: Objective, kind: str, seed: int, batch_size: int) -> FisherTerms:
    """The same of an objective that has been checked, and has no penalty."""
    likelihood = likelihood_of(objective.original, kind)
    _check_fit(likelihood, objective)
    total = sum(likelihood.num_terms(targets) for _, targets in objective.data.batches(batch_size))
    if not total > 0:
        raise ValueError("the loss's weights sum to 0 over all labels: there is no loss")
    labels = None
    if kind == "sampled":
        labels = _drawn_labels(objective, likelihood, seed, batch_size)
    return FisherTerms(objective, likelihood, total, batch_size, labels)


@torch.no_grad()
def _drawn_labels(
    objective: Objective, likelihood: Likelihood, seed: int, batch_size: int
) -> Tensor:
    """Labels of all samples, the same for every batch size and, up to the rounding of p, on every
    device.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = (
        objective.outputs(objective.weights, inputs)
        for inputs, _ in objective.data.batches(batch_size)
    )
    return torch.cat([likelihood.drawn(part, generator) for part in _pieces(parts)])


def _pieces(parts: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same rows in pieces of a number that only their size decides."""
    kept = None
    for part in parts:
        kept = part if kept is None else torch.cat([kept, part])
        size = max(1, DRAWN_BYTES // (8 * max(1, part[0].numel())))
        while len(kept) >= size:
            yield kept[:size]
            kept = kept[size:]
    if kept is not None and len(kept):
        yield kept


# ---- which likelihood a loss has -----------------------------------------------------------------


def likelihood_of(loss_fn: Callable, kind: str) -> Likelihood:
    """p(y | z) of PyTorch's losses.

    Raises:
        ValueError: Another loss; options of it whose loss is no −log p(y | z).
    """
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    key = type(function) if isinstance(function, nn.Module) else function
    family = FAMILIES.get(key)
    if family is None:
        shown = getattr(key, "__name__", str(key))
        raise ValueError(
            f"the loss is {shown}, and of which p(y | outputs) it is −log p is not known; allowed:"
            " PyTorch's cross_entropy, nll_loss, mse_loss and binary_cross_entropy_with_logits, or"
            " their modules, as nn.MSELoss()"
        )
    given = loss_fn.keywords if isinstance(loss_fn, partial) else {}

    def option(name: str, default: Any) -> Any:
        return given.get(name, getattr(function, name, default))

    _refuse_options(key, option, kind)
    if family != "categorical":
        return Likelihood(family, kind)
    return Likelihood(family, kind, option("weight", None), option("ignore_index", -100))


def _refuse_options(key: Any, option: Callable[[str, Any], Any], kind: str) -> None:
    """Raises ValueError, with the option."""
    mean = "batchmean" if key in (nn.KLDivLoss, F.kl_div) else "mean"
    if option("reduction", "mean") != mean:
        raise ValueError(
            f'the loss has reduction = "{option("reduction", "mean")}"; allowed for the Fisher'
            f' information: "{mean}"'
        )
    if FAMILIES[key] != "categorical":
        for name in ("weight", "pos_weight"):
            if option(name, None) is not None:
                raise ValueError(
                    f"the loss has a {name}, with which it is no −log p(y | x); leave it out"
                )
    if option("log_target", False):
        raise ValueError("the loss has log_target=True; allowed: targets that are probabilities")
    smoothing = option("label_smoothing", 0.0)
    if smoothing and (kind == "empirical" or option("weight", None) is not None):
        raise ValueError(
            f"the loss has label_smoothing = {smoothing}, with which a sample has no single label"
            ' and no single weight; allowed: "expected" and "sampled", without class weights'
        )


def _check_fit(likelihood: Likelihood, objective: Objective) -> None:
    """Raises ValueError for outputs and targets that are none of the likelihood's."""
    batch = few_samples(objective.data)
    with torch.no_grad():
        outputs = objective.outputs(objective.weights, batch.inputs)
    targets = batch.targets
    tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not tensors or not outputs.is_floating_point():
        raise ValueError(
            "outputs or targets are no single tensor of numbers; the Fisher information's p(y | x)"
            f" needs one of each, as {LOGITS}; say with forward= which output it is"
        )
    if likelihood.family != "categorical":
        if outputs.shape != targets.shape:
            raise ValueError(
                f"outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}; allowed:"
                " the same shape, a target an output"
            )
        return
    soft = targets.is_floating_point()
    shape = outputs.shape if soft else (*outputs.shape[:1], *outputs.shape[2:])
    fits = outputs.ndim > 1 and targets.shape == shape
    sums = targets.sum(1) if soft and fits else torch.ones(1)
    if not fits or not torch.allclose(sums, torch.ones_like(sums), atol=NORMALISED):
        raise ValueError(
            f"outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)} of"
            f" {targets.dtype}; allowed: {LOGITS}, which the Fisher information's p(y | x) needs"
        )
    _check_probabilities(likelihood, objective.original, outputs, soft)


def _check_probabilities(
    likelihood: Likelihood, loss_fn: Callable, outputs: Tensor, soft: bool
) -> None:
    if soft and likelihood.kind == "empirical":
        raise ValueError(
            'the targets are probabilities of classes, and kind = "empirical" needs the label of'
            ' every sample; allowed: "expected" and "sampled"'
        )
    if soft and likelihood.weight is not None:
        raise ValueError(
            "the targets are probabilities of classes and the loss weights classes, so that a"
            " sample has no single weight; leave the weights out"
        )
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    if function in OF_LOG_P or isinstance(function, nn.NLLLoss | nn.KLDivLoss):
        sums = outputs.exp().sum(1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=NORMALISED):
            raise ValueError(
                "the loss takes log-probabilities, and the outputs' exponentials sum to"
                f" {float(sums.flatten()[0]):.4g}; allowed: 1, as after log_softmax(outputs, 1)"
            )


def _unit(column: int, like: Tensor) -> Tensor:
    """e_column, of the length of the last axis."""
    unit = like.new_zeros(like.shape[-1])
    unit[column] = 1
    return unit
