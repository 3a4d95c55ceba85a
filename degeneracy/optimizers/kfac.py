"""What are a layer's Fisher factors, their damped inverses, and the direction that these give?

K-FAC (Martens & Grosse, arXiv:1503.05671; convolutions: Grosse & Martens, arXiv:1602.01407) takes
a layer's block of the Fisher matrix for A ⊗ G. Over n samples with T positions each, a what the
weights multiply (a 1 last for the bias) and δ = n ∂(mean loss)/∂s of the layer's outputs s,

    A = Σ a aᵀ / n,    G = Σ δ δᵀ / (nT),    Δ = (G + √λ/π I)⁻¹ ∇ (A + π√λ I)⁻¹,
    π² = (tr A / dim A) / (tr G / dim G),

and batch norm has a matrix of 2 × 2 for each channel, of its scale and shift (Osawa et al.,
arXiv:2002.06015, section 4.2). Functions of tensors; a `Block` is a layer with those it needs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from degeneracy.checks import check_one_kind
from degeneracy.patches import patches

# ---- layers with a weight matrix -----------------------------------------------------------------


def input_rows(
    layer: nn.Linear | nn.Conv2d, inputs: Float[Tensor, "n ..."]
) -> Float[Tensor, "positions fan_in"]:
    """a at every position of every sample: a Linear's inputs, what a Conv2d's kernel sees; and a 1
    where the layer has a bias.
    """
    if isinstance(layer, nn.Conv2d):
        rows = patches(layer, inputs).transpose(1, 2).flatten(0, 1)
    else:
        rows = inputs.flatten(0, -2)
    return rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)


def output_rows(
    layer: nn.Linear | nn.Conv2d, gradients: Float[Tensor, "n ..."]
) -> Float[Tensor, "positions fan_out"]:
    """A derivative by the layer's outputs at every position of every sample."""
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    return gradients.movedim(axis, -1).flatten(0, -2)


def pi_of(a: Float[Tensor, "in in"], g: Float[Tensor, "out out"]) -> float:
    """π = √((tr A / dim A) / (tr G / dim G)); 1 where a trace is zero or not finite."""
    mean_a, mean_g = (float(factor.diagonal().double().mean()) for factor in (a, g))
    found = mean_a / mean_g if mean_g > 0 else 0.0
    return math.sqrt(found) if 0 < found < math.inf else 1.0


def damped_inverse(factor: Float[Tensor, "d d"], shift: float) -> Float[Tensor, "d d"]:
    """(X + shift·I)⁻¹ by Cholesky's method, in float64 where float32 is not enough; NaN where X +
    shift·I is not positive definite even there.
    """
    for dtype in dict.fromkeys((factor.dtype, torch.float64)):
        shifted = factor.to(dtype, copy=True)
        shifted.diagonal().add_(shift)
        lower, failed = torch.linalg.cholesky_ex(shifted)
        if not failed:
            return torch.cholesky_inverse(lower).to(factor.dtype)
    return torch.full_like(factor, math.nan)


def kronecker_direction(
    gradient: Float[Tensor, "out in"],
    a_inverse: Float[Tensor, "in in"],
    g_inverse: Float[Tensor, "out out"],
) -> Float[Tensor, "out in"]:
    """G⁻¹ ∇ A⁻¹."""
    return g_inverse @ gradient @ a_inverse


# ---- batch norm ----------------------------------------------------------------------------------


def normalised(layer: _BatchNorm, inputs: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    """What batch norm multiplies by its scale: by the batch's moments in training mode, or where it
    keeps none, else by the running ones.
    """
    own = layer.training or layer.running_mean is None
    mean, variance = (None, None) if own else (layer.running_mean, layer.running_var)
    return F.batch_norm(inputs, mean, variance, training=own, momentum=0.0, eps=layer.eps)


def channel_gradients(
    x: Float[Tensor, "n c ..."], gradients: Float[Tensor, "n c ..."]
) -> Float[Tensor, "n c 2"]:
    """Each sample's derivative by scale and shift of each channel, Σ δx̂ and Σ δ over positions."""
    both = torch.stack([gradients * x, gradients], dim=-1)
    return both.flatten(2, -2).sum(2) if both.ndim > 3 else both


def channel_inverse(fisher: Float[Tensor, "c 2 2"], damping: float) -> Float[Tensor, "c 2 2"]:
    """(F + λI)⁻¹ of each channel, in closed form."""
    (first, mixed), (_, second) = fisher.permute(1, 2, 0)
    first, second = first + damping, second + damping
    adjugate = torch.stack([second, -mixed, -mixed, first], dim=-1).view_as(fisher)
    return adjugate / (first * second - mixed.square())[:, None, None]


# ---- a layer with its statistics -----------------------------------------------------------------


class Block(ABC):
    """A layer's parameters, one gradient of all of them, and what its statistics are.

    Attributes:
        name, layer: As `named_modules` has them.
        parameters: Weight, and bias where there is one, with their names in the model.
        shapes: Statistic's name → its shape; symmetric in the last two axes.
        cost: Of its inverses, up to a factor the number of multiplications.
    """

    of_inputs: ClassVar[tuple[str, ...]]  # statistics that a forward pass gives
    of_outputs: ClassVar[tuple[str, ...]]  # and those that need the derivative by the outputs

    def __init__(self, name: str, layer: nn.Module):
        self.name, self.layer = name, layer
        prefix = f"{name}." if name else ""
        self.parameters = {
            prefix + key: p
            for key, p in (("weight", layer.weight), ("bias", layer.bias))
            if p is not None
        }
        self.shapes = self._shapes()
        self.cost = sum(math.prod(s[:-2]) * s[-1] ** 3 for s in self.shapes.values())

    @abstractmethod
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every statistic."""

    @abstractmethod
    def joined(self, gradients: Sequence[Tensor]) -> Tensor:
        """Of weight and bias together, as `direction` takes it."""

    @abstractmethod
    def parted(self, joined: Tensor) -> dict[str, Tensor]:
        """The inverse of `joined`, by the parameters' names."""

    def input_sums(self, inputs: Tensor) -> dict[str, Tensor]:
        """Sums over samples of `of_inputs`."""
        return {}

    @abstractmethod
    def output_sums(self, inputs: Tensor, delta: Tensor) -> dict[str, Tensor]:
        """Sums over samples of `of_outputs`; δ of a sample's own loss."""

    @abstractmethod
    def direction(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        """The block's inverse times its gradient."""


class KroneckerBlock(Block):
    """A Linear or a Conv2d; the gradient is (fan_out, fan_in), the bias its last column."""

    of_inputs, of_outputs = ("A",), ("G",)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        fan_in = self.layer.weight[0].numel() + (self.layer.bias is not None)
        fan_out = len(self.layer.weight)
        self.gradient_shape = fan_out, fan_in
        return {"A": (fan_in, fan_in), "G": (fan_out, fan_out)}

    def joined(self, gradients: Sequence[Tensor]) -> Float[Tensor, "out in"]:
        weight, *bias = gradients
        return torch.cat([weight.flatten(1), *(one[:, None] for one in bias)], dim=1)

    def parted(self, joined: Float[Tensor, "out in"]) -> dict[str, Tensor]:
        columns = [self.layer.weight[0].numel(), *([1] if self.layer.bias is not None else [])]
        parts = joined.split(columns, dim=1)
        named = zip(self.parameters.items(), parts, strict=True)
        return {name: part.reshape(p.shape) for (name, p), part in named}

    def input_sums(self, inputs: Tensor) -> dict[str, Tensor]:
        rows = input_rows(self.layer, inputs)
        return {"A": rows.T @ rows}

    def output_sums(self, inputs: Tensor, delta: Tensor) -> dict[str, Tensor]:
        rows = output_rows(self.layer, delta)
        return {"G": rows.T @ rows / (len(rows) / len(delta))}

    def direction(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return kronecker_direction(gradient, inverses["A"], inverses["G"])


class ChannelBlock(Block):
    """A batch norm; the gradient is (channels, 2), scale and shift."""

    of_inputs, of_outputs = (), ("F",)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        channels = len(self.layer.weight)
        self.gradient_shape = channels, 2
        return {"F": (channels, 2, 2)}

    def joined(self, gradients: Sequence[Tensor]) -> Float[Tensor, "c 2"]:
        return torch.stack(list(gradients), dim=1)

    def parted(self, joined: Float[Tensor, "c 2"]) -> dict[str, Tensor]:
        return dict(zip(self.parameters, joined.unbind(1), strict=True))

    def output_sums(self, inputs: Tensor, delta: Tensor) -> dict[str, Tensor]:
        rows = channel_gradients(normalised(self.layer, inputs), delta)
        return {"F": torch.einsum("nci,ncj->cij", rows, rows)}

    def direction(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return torch.einsum("cij,cj->ci", inverses["F"], gradient)


BLOCKS: dict[type[nn.Module], type[Block]] = {
    nn.Linear: KroneckerBlock,
    nn.Conv2d: KroneckerBlock,
    nn.BatchNorm1d: ChannelBlock,
    nn.BatchNorm2d: ChannelBlock,
}


def blocks_of(model: nn.Module) -> dict[str, Block]:
    """A block for each layer that is trained, by its name, in the model's order.

    Raises:
        ValueError: There is none, or trained weights are not in such layers, by name: other layers,
            weights that are computed or shared or partly frozen, groups; or weights of several
            types or devices.
    """
    shared = shared_names(model)
    blocks: dict[str, Block] = {}
    for layer_name, layer in model.named_modules():
        own = {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        _check_layer(layer_name, layer, own)
        for name in own:
            if where := shared.get(f"{layer_name}.{name}".lstrip(".")):
                _refuse(layer_name, layer, f"its {name} is shared: {' and '.join(where)}")
        blocks[layer_name] = BLOCKS[type(layer)](layer_name, layer)
    if not blocks:
        raise ValueError(f"SPNGD: the model has no trained weights; allowed: those of {_KINDS}")
    parameters = {k: p for block in blocks.values() for k, p in block.parameters.items()}
    check_one_kind(parameters, (torch.float32, torch.float64))
    return blocks


def shared_names(model: nn.Module) -> dict[str, list[str]]:
    """Name of a parameter that has several in the model → all of them.

    Example:
        >>> model = nn.ModuleDict({"one": nn.Linear(3, 3), "other": nn.Linear(3, 3)})
        >>> model["other"].weight = model["one"].weight
        >>> shared_names(model)["one.weight"]
        ['one.weight', 'other.weight']
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: every for every in names.values() if len(every) > 1 for name in every}


_KINDS = ", ".join(kind.__name__ for kind in BLOCKS)


def _check_layer(name: str, layer: nn.Module, trained: Mapping[str, Tensor]) -> None:
    if type(layer) not in BLOCKS or "forward" in vars(layer):
        _refuse(name, layer, f"it has no Fisher factors for its {', '.join(trained)}")
    own = [key for key in ("weight", "bias") if getattr(layer, key) is not None]
    if left := [key for key in own if key not in trained]:
        _refuse(name, layer, f"its {' and '.join(left)} is frozen, and {', '.join(trained)} is not")
    if BLOCKS[type(layer)] is ChannelBlock and own != ["weight", "bias"]:
        _refuse(name, layer, f"it has no {'bias' if own else 'weight'}, and its block is of both")
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        _refuse(name, layer, f"it has groups = {layer.groups}, and its block is no A ⊗ G")


def _refuse(name: str, layer: nn.Module, reason: str) -> None:
    raise ValueError(
        f"SPNGD: {name or 'the model'} ({type(layer).__name__}) given, but {reason}; allowed:"
        f" {_KINDS}, each with weights of its own; freeze others with requires_grad_(False)"
    )
