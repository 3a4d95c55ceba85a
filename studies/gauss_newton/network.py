"""What is a reversible MLP, and how does it train without memory of its activations?

arXiv:2411.07979. Half of a block adds to one half of the activations what the other half says:
y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁), F(x) = φ(xC)Wᵀ + b, with fixed C (d, h) and trained W (d, h). So
it is inverted in closed form, x₂ = y₂ − G(y₁), x₁ = y₁ − F(x₂), and a backward pass can make the
activations anew from the last ones instead of keeping them.
"""

import re
import warnings
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from degeneracy.optimizers.gauss_newton import NonFiniteError

MOST_DRIFT = 1e-3  # relative, of inputs made anew: beyond it a gradient is no longer the loss's


class DriftWarning(UserWarning):
    """Activations that were made anew are not those of the forward pass."""


class HalfLayer(nn.Module):
    """F(x) = φ(xC)Wᵀ + b, φ the identity or ReLU; without bottleneck C = I and h = d.

    Parameters `weight` (d, h) and `bias` (d); buffer `C` (d, h), entries N(0, 1/h), or None.
    """

    def __init__(
        self, width: int, hidden: int | None, is_linear: bool, bias: bool, init_std: float
    ):
        super().__init__()
        self.is_linear = is_linear
        rows = width if hidden is None else hidden
        self.register_buffer("C", None if hidden is None else torch.randn(width, rows) / rows**0.5)
        self.weight = nn.Parameter(init_std * torch.randn(width, rows))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def features(
        self, x: Float[Tensor, "... d"]
    ) -> tuple[Float[Tensor, "... h"], Float[Tensor, "... h"] | None]:
        """A = φ(xC), and φ' as zeros and ones, None where it is 1 everywhere."""
        before = x if self.C is None else x @ self.C
        if self.is_linear:
            return before, None
        return before.relu(), (before > 0).to(before)

    def applied(self, features: Float[Tensor, "... h"]) -> Float[Tensor, "... d"]:
        """AWᵀ + b."""
        return linear(features, self.weight, self.bias)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.applied(self.features(x)[0])

    def pushed(
        self, slope: Float[Tensor, "... h"] | None, tangents: Float[Tensor, "... d"]
    ) -> Float[Tensor, "... d"]:
        """DF[u] = (φ' ⊙ uC)Wᵀ, weights fixed."""
        inner = tangents if self.C is None else tangents @ self.C
        return (inner if slope is None else slope * inner) @ self.weight.T

    def pulled(
        self, slope: Float[Tensor, "... h"] | None, cotangents: Float[Tensor, "... d"]
    ) -> Float[Tensor, "... d"]:
        """The transpose of `pushed`: (φ' ⊙ lW)Cᵀ."""
        inner = cotangents @ self.weight
        inner = inner if slope is None else slope * inner
        return inner if self.C is None else inner @ self.C.T


class Block(nn.Module):
    """Two half-layers: [x₁, x₂] → [x₁ + F(x₂), x₂ + G(y₁)]."""

    def __init__(self, *how):
        super().__init__()
        self.f, self.g = HalfLayer(*how), HalfLayer(*how)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """[y₁, y₂] → [x₁, x₂]."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


class RevMLP(nn.Module):
    """A reversible MLP: blocks of the input's width, then logits zU with U fixed.

    Parameters `blocks.<i>.f.weight` (d, h), `.f.bias` (d) and the same of `.g`, d half the input's
    width; buffers `blocks.<i>.f.C`, `.g.C` (d, h) and `projection` U (D, classes), whose columns
    are orthonormal. φ is the identity in the first block, ReLU in the others.

    Args:
        in_features: D, even.
        hidden: h ≥ 2; None: without bottleneck.
        num_blocks: L ≥ 1.
        num_classes: 2 … D.
        bias: Whether half-layers have one, which starts at 0.
        init_std: Deviation of the weights at the start.

    Raises:
        ValueError: An argument out of its range.

    Example:
        >>> model = RevMLP(4, 3, 2, 2)
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(model.inverse(model.hidden(x)), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | None,
        num_blocks: int,
        num_classes: int,
        bias: bool = True,
        init_std: float = 1e-3,
    ):
        super().__init__()
        _check(in_features, hidden, num_blocks, num_classes, init_std)
        how = (bias, init_std)
        self.blocks = nn.ModuleList(
            Block(in_features // 2, hidden, place == 0, *how) for place in range(num_blocks)
        )
        self.register_buffer("projection", orthonormal(torch.randn(in_features, num_classes)))

    def _apply(self, fn, recurse=True):
        """As PyTorch's (`.double()`, `.to()`); U stays orthonormal to the rounding of its type."""
        before = torch.finfo(self.projection.dtype).eps
        super()._apply(fn, recurse)
        if torch.finfo(self.projection.dtype).eps < before:
            self.projection = orthonormal(self.projection)
        return self

    def hidden(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        """z = [y₁, y₂] after the last block."""
        x1, x2 = inputs.flatten(1).chunk(2, dim=1)
        for block in self.blocks:
            x1, x2 = block(x1, x2)
        return torch.cat([x1, x2], dim=1)

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B classes"]:
        """Logits, by PyTorch's own differentiation: every activation is kept."""
        return self.hidden(inputs) @ self.projection

    def states(self, inputs: Float[Tensor, "B ..."]) -> Iterator[tuple[str, Float[Tensor, "B D"]]]:
        """(half-layer, [y₁, y₂] after it), in order."""
        x1, x2 = inputs.flatten(1).chunk(2, dim=1)
        for place, block in enumerate(self.blocks):
            x1 = x1 + block.f(x2)
            yield f"blocks.{place}.f", torch.cat([x1, x2], dim=1)
            x2 = x2 + block.g(x1)
            yield f"blocks.{place}.g", torch.cat([x1, x2], dim=1)

    def inverse(self, outputs: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The inputs (flat) of which `hidden` makes these outputs.

        Raises:
            NonFiniteError: They are not finite.
        """
        y1, y2 = outputs.chunk(2, dim=1)
        for block in reversed(self.blocks):
            y1, y2 = block.inverse(y1, y2)
        found = torch.cat([y1, y2], dim=1)
        _refuse_non_finite(found)
        return found

    @torch.no_grad()
    def drift(self, inputs: Float[Tensor, "B ..."]) -> float:
        """|inverse(hidden(x)) − x|/|x|: what rounding loses on the way back."""
        flat = inputs.flatten(1)
        return _relative(self.inverse(self.hidden(flat)), flat)

    def memory_free(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B classes"]:
        """Logits whose backward pass keeps the first and last activations only.

        Warns:
            DriftWarning: In the backward pass: inputs come back further off than `MOST_DRIFT`.
        """
        z = _MemoryFree.apply(self, inputs.flatten(1), *self.parameters())
        return z @ self.projection

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args, **kwargs):
        """As PyTorch's; raises ValueError for a checkpoint of another architecture."""
        there, own = architecture(state_dict), architecture(self.state_dict())
        if there != own:
            raise ValueError(
                f"a checkpoint of {shown(there)} given; allowed: one of {shown(own)}, the network's"
                " own architecture"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)


class MemoryFree(nn.Module):
    """A reversible network whose backward pass keeps no activations, for first-order optimizers."""

    def __init__(self, network: RevMLP):
        super().__init__()
        self.network = network

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B classes"]:
        return self.network.memory_free(inputs)


class _MemoryFree(torch.autograd.Function):
    """z of the inputs and all parameters, with gradients from activations that are made anew."""

    @staticmethod
    def forward(ctx, model: RevMLP, inputs: Tensor, *parameters: Tensor) -> Tensor:
        z = model.hidden(inputs)
        ctx.model = model
        ctx.save_for_backward(inputs, z)
        return z

    @staticmethod
    def backward(ctx, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs, z = ctx.saved_tensors
        y1, y2 = z.chunk(2, dim=1)
        l1, l2 = cotangents.chunk(2, dim=1)
        found: dict[str, Tensor] = {}
        for place, block in reversed(list(enumerate(ctx.model.blocks))):
            y2, l1 = _back(block.g, f"blocks.{place}.g", y1, y2, l1, l2, found)
            y1, l2 = _back(block.f, f"blocks.{place}.f", y2, y1, l2, l1, found)
        made = torch.cat([y1, y2], dim=1)
        _refuse_non_finite(made)
        if (drift := _relative(made, inputs)) > MOST_DRIFT:
            warnings.warn(
                f"inputs came back {drift:.1e} off on the way back through"
                f" {len(ctx.model.blocks)} blocks; allowed: {MOST_DRIFT:g}. The gradient is"
                " not the loss's: take float64, or the network's own forward pass",
                DriftWarning,
                stacklevel=2,
            )
        gradients = (found[name] for name, _ in ctx.model.named_parameters())
        return None, torch.cat([l1, l2], dim=1), *gradients


def _back(half, name, source, target, at_source, at_target, found) -> tuple[Tensor, Tensor]:
    """Undoes target += half(source): the target before it, and the cotangent at the source; the
    parameters' gradients go into `found`.
    """
    features, slope = half.features(source)
    found[f"{name}.weight"] = at_target.T @ features
    if half.bias is not None:
        found[f"{name}.bias"] = at_target.sum(dim=0)
    return target - half.applied(features), at_source + half.pulled(slope, at_target)


def _relative(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm().clamp(min=torch.finfo(right.dtype).tiny))


def _refuse_non_finite(made: Tensor) -> None:
    if not made.isfinite().all():
        raise NonFiniteError(
            "activations are not finite on the way back: the network has diverged; take a smaller"
            " learning rate, or start from an earlier checkpoint"
        )


def orthonormal(columns: Float[Tensor, "D classes"]) -> Float[Tensor, "D classes"]:
    """An orthonormal basis of the columns; columns that are one already stay as they are."""
    q, r = torch.linalg.qr(columns)
    return (q * r.diagonal().sign()).contiguous()


# ---- architecture --------------------------------------------------------------------------------


def architecture(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What a state dict tells of the network that it is of; empty where it is of none."""
    places = [re.fullmatch(r"blocks\.(\d+)\.[fg]\.weight", name) for name in state]
    places = [int(found[1]) for found in places if found]
    if not places or "projection" not in state:
        return {}
    width, rows = state["blocks.0.f.weight"].shape if "blocks.0.f.weight" in state else (0, 0)
    return {
        "in_features": 2 * width,
        "hidden": rows if "blocks.0.f.C" in state else None,
        "num_blocks": 1 + max(places),
        "num_classes": state["projection"].shape[1],
        "bias": "blocks.0.f.bias" in state,
    }


def shown(found: Mapping[str, object]) -> str:
    """An architecture in words."""
    if not found:
        return "no RevMLP"
    hidden = "no bottleneck" if found["hidden"] is None else f"hidden {found['hidden']}"
    count = found["num_blocks"]
    return (
        f"RevMLP {found['in_features']}, {hidden}, {count} block{'' if count == 1 else 's'},"
        f" {found['num_classes']} classes{'' if found['bias'] else ', no bias'}"
    )


def _check(in_features, hidden, num_blocks, num_classes, init_std) -> None:
    if in_features < 2 or in_features % 2:
        raise ValueError(
            f"in_features = {in_features} given; allowed: an even number ≥ 2, for the input is"
            " split into two halves"
        )
    if hidden is not None and hidden < 2:
        raise ValueError(
            f"hidden = {hidden} given; allowed: ≥ 2, or None for a network without bottleneck"
        )
    if num_blocks < 1:
        raise ValueError(f"num_blocks = {num_blocks} given; allowed: ≥ 1")
    if not 2 <= num_classes <= in_features:
        raise ValueError(
            f"num_classes = {num_classes} given; allowed: 2 to in_features = {in_features}, for"
            " the projection's columns are orthonormal"
        )
    if not init_std >= 0:
        raise ValueError(f"init_std = {init_std} given; allowed: ≥ 0")
