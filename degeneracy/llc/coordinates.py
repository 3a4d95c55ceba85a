"""In which coordinates does a chain move, and how steep is the loss along each?

A Langevin step w ← w − (e/2) A⁻¹ ∇U + N(0, e A⁻¹), U = nβ L + (γ/2)|w − w*|², leaves the sampled
density as it is for every constant positive matrix A. With A = nβ F + γ I, F the curvature at w*,
all directions relax alike. F is taken diagonal in some coordinates, so that a step costs one
division a weight:

    kfac      The Kronecker-factored Fisher information (Martens & Grosse, arXiv:1503.05671) in the
              eigenbasis of its factors, as EKFAC uses it (George et al., arXiv:1806.03884). Weights
              W of a layer become W̃ = U_Bᵀ W U_A, and its inputs and outputs are turned instead of
              its weights: products with the batch, none with a matrix as large as the weights.
    diagonal  The Hessian's diagonal in the weights as they are, by Rademacher probes (Bekas,
              Kokiopoulou & Saad, Applied Numerical Mathematics 57 (2007) 1214).
    none      F = 0.

The turn is orthogonal: |w − w*| and an isotropic localisation stay what they are.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import conv2d, cross_entropy, linear

from degeneracy.curvature.kfac import LAYERS, KroneckerFactors, kfac_factors
from degeneracy.objective.derivatives import hessian_products
from degeneracy.objective.loss import Objective
from degeneracy.weights import flattened

SAMPLES = 2000  # on which the curvature is taken
PROBES = 16  # of the diagonal
FORWARDS = tuple(layer.forward for layer in LAYERS)  # that a turn is known of
FEW, SAME = 8, 1e-3  # samples on which a turned model must give the same outputs, relative error

Loss = Callable[..., Tensor]  # (named parameters, *batch) → mean loss


@dataclass(frozen=True)
class Coordinates:
    """Where chains move: the loss as a function of named weights, w*, and the curvature there.

    Attributes:
        kind: `"kfac"`, `"diagonal"` or `"none"`.
        loss: The mean loss of (named weights, *batch).
        weights: w* in these coordinates.
        curvature: Diagonal F, loss / weight², not negative.
        reason: Why it is not K-FAC, where that was asked for; empty otherwise.
        losses: As `loss`, of each sample; None where it is no mean over them.
    """

    kind: str
    loss: Loss
    weights: dict[str, Tensor]
    curvature: Float[Tensor, " d"]
    reason: str = ""
    losses: Loss | None = None

    def precision(self, nbeta: float, localization: float) -> Float[Tensor, " d"]:
        """A = nβ F + γ, the inverse variances of the Gaussian that the sampled density is near w*.

        Where both vanish, 1: there is no scale to step by.
        """
        found = nbeta * self.curvature + localization
        return torch.where(found > 0, found, torch.ones_like(found))


def flat(loss: Loss, weights: dict[str, Tensor], losses: Loss | None = None) -> Coordinates:
    """The weights as they are, F = 0."""
    flat = torch.zeros_like(flattened(weights))
    return Coordinates("none", loss, weights, flat, losses=losses)


def diagonal(
    loss: Loss,
    weights: dict[str, Tensor],
    data: tuple[Tensor, ...],
    seed: int,
    reason: str = "",
    losses: Loss | None = None,
) -> Coordinates:
    """The weights as they are, F the positive part of the Hessian's diagonal on `data`."""
    start = flattened(weights).detach()
    product = hessian_products(lambda own: loss(own, *data), weights)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(start)
    for _ in range(PROBES):
        signs = torch.randint(0, 2, start.shape, generator=generator).to(start) * 2 - 1
        total += signs * product(signs[None])[0]
    return Coordinates("diagonal", loss, weights, (total / PROBES).clamp(min=0), reason, losses)


def kfac(objective: Objective, data: tuple[Tensor, ...], seed: int) -> Coordinates:
    """The eigenbasis of K-FAC's factors on `data`.

    Raises:
        ValueError: K-FAC does not reach: a loss other than cross-entropy, weights outside Linear
            and Conv2d layers, layers of which only a part is trained or that share weights; a
            model that cannot be copied, has a forward adapter or several inputs, or of whose
            weights only some are sampled.
    """
    loss_fn = objective.original
    _refuse_other_than_plain(objective, data)
    if loss_fn is not cross_entropy and not isinstance(loss_fn, nn.CrossEntropyLoss):
        raise ValueError("K-FAC is of cross-entropy; this loss is another")
    if isinstance(loss_fn, nn.CrossEntropyLoss) and (
        loss_fn.weight is not None or loss_fn.label_smoothing or loss_fn.reduction != "mean"
    ):
        raise ValueError("K-FAC is of the plain mean cross-entropy; this one is weighted")
    whole = nn.Sequential(_copied(objective))  # so that the model itself may be a layer
    _refuse_shared(whole)
    few = data[0][:FEW]
    with torch.no_grad():
        before = whole(few)
    curvatures: dict[str, Tensor] = {}
    for name, factors in kfac_factors(whole, data, seed=seed).items():
        turned = _turned(whole.get_submodule(name), factors)
        parent, _, last = name.rpartition(".")
        setattr(whole.get_submodule(parent), last, turned)
        curvatures[f"{name}.weight"] = turned.curvature
    weights = {name: p.detach() for name, p in whole.named_parameters() if p.requires_grad}
    if weights.keys() != curvatures.keys() or not _gives(whole, few, before):
        raise ValueError("K-FAC does not reach weights that are used outside their layers")
    curvature = torch.cat([curvatures[name].flatten() for name in weights])

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return loss_fn(functional_call(whole, parameters, (inputs,)), targets)

    def losses(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(whole, parameters, (inputs,))
        return cross_entropy(outputs, targets, reduction="none")

    return Coordinates("kfac", loss, weights, curvature, losses=losses)


def _refuse_other_than_plain(objective: Objective, data: tuple[Tensor, ...]) -> None:
    trained = {name for name, p in objective.model.named_parameters() if p.requires_grad}
    if objective.masks or objective.weights.keys() != trained:
        raise ValueError("K-FAC is of all trained weights; only some are sampled")
    if objective.penalty is not None:
        raise ValueError("K-FAC knows nothing of a penalty")
    if len(data) != 2 or objective.called.adapts:
        raise ValueError("K-FAC is of models from one tensor to logits")


def _copied(objective: Objective) -> nn.Module:
    try:
        model = copy.deepcopy(objective.model)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"K-FAC turns a copy, and the model cannot be copied: {error}") from error
    dtype = next(iter(objective.weights.values())).dtype
    model = model.to(dtype)
    model.load_state_dict(objective.fixed, strict=False)
    return model


def _refuse_shared(model: nn.Module) -> None:
    used = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    modules = [id(m) for _, m in model.named_modules(remove_duplicate=False)]
    if len(set(used)) < len(used) or len(set(modules)) < len(modules):
        raise ValueError("K-FAC does not reach layers that share weights")
    for name, layer in model.named_modules():
        parts = [p.requires_grad for p in layer.parameters(recurse=False)]
        own = isinstance(layer, LAYERS) and type(layer).forward not in FORWARDS
        if own and any(parts):
            raise ValueError(f"K-FAC does not reach {name}, a layer with a forward pass of its own")
        if isinstance(layer, LAYERS) and any(parts) and not all(parts):
            raise ValueError(f"K-FAC does not reach {name}, of which only a part is trained")
        fits = not isinstance(layer, nn.Conv2d) or (
            layer.groups == 1 and layer.padding_mode == "zeros"
        )
        if not fits:
            raise ValueError(f"K-FAC does not reach {name}, a grouped or specially padded layer")


@torch.no_grad()
def _gives(model: nn.Module, inputs: Tensor, expected: Tensor) -> bool:
    """Whether the model computes what it should, to float error."""
    try:
        found = model(inputs)
    except (RuntimeError, AttributeError):  # a weight of another shape, or none
        return False
    size = float(expected.abs().max())
    return bool(torch.allclose(found, expected, rtol=SAME, atol=SAME * size))


def _turned(layer: nn.Module, factors: KroneckerFactors) -> nn.Module:
    """The layer in the eigenbasis of its factors, in float64 on the way."""
    weight = layer.weight.detach().double().flatten(1)
    if layer.bias is not None:
        weight = torch.cat([weight, layer.bias.detach().double()[:, None]], 1)
    a, of_inputs = torch.linalg.eigh(factors.inputs.double())
    b, of_outputs = torch.linalg.eigh(factors.gradients.double())
    kind = TurnedLinear if isinstance(layer, nn.Linear) else TurnedConv2d
    curvature = torch.outer(b.clamp(min=0), a.clamp(min=0))
    like = layer.weight
    return kind(
        layer,
        (of_outputs.T @ weight @ of_inputs).to(like),
        of_inputs.to(like),
        of_outputs.to(like),
        curvature.to(like),
    )


class _Turned(nn.Module):
    """A layer with weights W̃ = U_Bᵀ [W, b] U_A, (fan_out, fan_in + 1) where it has a bias."""

    def __init__(self, layer: nn.Module, weight, of_inputs, of_outputs, curvature):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.has_bias = layer.bias is not None
        self.register_buffer("of_inputs", of_inputs, persistent=False)
        self.register_buffer("of_outputs", of_outputs, persistent=False)
        self.curvature = curvature


class TurnedLinear(_Turned):
    """A linear layer: the batch is turned, not the weights."""

    def forward(self, inputs: Float[Tensor, "*batch fan_in"]) -> Float[Tensor, "*batch fan_out"]:
        rows = self.of_inputs[:-1] if self.has_bias else self.of_inputs
        turned = linear(inputs, rows.T, self.of_inputs[-1] if self.has_bias else None)
        return linear(linear(turned, self.weight), self.of_outputs)


class TurnedConv2d(_Turned):
    """A convolution: it has few weights and many positions, so the weights are turned back."""

    def __init__(self, layer: nn.Conv2d, *given):
        super().__init__(layer, *given)
        self.shape = layer.weight.shape
        self.geometry = layer.stride, layer.padding, layer.dilation

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        weight = self.of_outputs @ self.weight @ self.of_inputs.T
        bias = weight[:, -1] if self.has_bias else None
        kernel = weight[:, :-1] if self.has_bias else weight
        return conv2d(images, kernel.view(self.shape), bias, *self.geometry)
