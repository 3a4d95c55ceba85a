"""What else do people write as a module? Small ones that no `nn.Sequential` holds, for the zoo."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Pooled(nn.Module):
    """A head on the mean over the tokens that `body` returns."""

    def __init__(self, body: nn.Module, width: int, outputs: int = 3):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


class LastState(nn.Module):
    """A head on the last output of a recurrent layer with batch_first=True."""

    def __init__(self, recurrent: nn.Module, width: int):
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class CellLoop(nn.Module):
    """A GRU cell in a Python loop."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of x with itself, its output only."""

    def __init__(self, batch_first: bool = True, need_weights: bool = False):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class DirectAttention(nn.Module):
    """`scaled_dot_product_attention` of two heads, without a layer around it."""

    def __init__(self, width: int = 4, causal: bool = False):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class TinyGPT(nn.Module):
    """A causal block between an embedding and a head that share one weight: (n, L) → (n, L, 7)."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 4), nn.Embedding(4, 4)
        mlp = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        attention = nn.Sequential(nn.LayerNorm(4), DirectAttention(4, causal=True))
        self.blocks = nn.Sequential(Residual(attention), Residual(mlp), nn.LayerNorm(4))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.blocks(self.tokens(ids) + self.positions(places)))


class BagByHand(nn.Module):
    """`nn.Sequential(nn.EmbeddingBag, …)` written with an embedding and a mean: the same names."""

    def __init__(self, sequence: nn.Sequential):
        super().__init__()
        for name, module in sequence.named_children():
            self.add_module(name, module)

    def forward(self, ids: Tensor) -> Tensor:
        h = F.embedding(ids, self.get_submodule("0").weight).mean(1)
        return self.get_submodule("2")(self.get_submodule("1")(h))


class TiedTranspose(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, transposed."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.encoder(x)) @ self.encoder.weight


class Positive(nn.Module):
    """A parametrization: the softplus of the raw weight."""

    def forward(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)


class NormByHand(nn.Module):
    """A parametrization: g v / |v| of each row, in operations that autograd knows."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / v.norm(dim=1, keepdim=True)


def norm_by_hand(layer: nn.Module) -> None:
    """In place of the parametrization that `parametrizations.weight_norm` registered."""
    layer.parametrizations.weight[0] = NormByHand()


def old_norm_by_hand(layer: nn.Module) -> None:
    """In place of what the hook of the old `weight_norm` computes."""
    (hook,) = layer._forward_pre_hooks.values()
    hook.compute_weight = lambda layer: NormByHand()(layer.weight_g, layer.weight_v)


class OldStyle(torch.autograd.Function):
    """sin, without `setup_context`; its backward pass has a derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class Between(nn.Module):
    """Linear, then `function(self, hidden)`, then Linear: what happens in between is the case.

    Args:
        function: Takes this module and the hidden (n, 4), and returns (n, 4).
        extra: Modules beside the two layers, by name.
    """

    def __init__(self, function, outputs: int = 3, **extra: nn.Module):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, outputs)
        for name, module in extra.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self, self.first(x)))


class Branching(nn.Module):
    """Takes a branch by the sign of `decide(self, x)`, a Python `if` on a tensor."""

    def __init__(self, decide):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)
        self.decide = decide

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.decide(self, x) > 0:
            return self.second(h.tanh())
        return self.second(h.sigmoid())


class MaskedTokens(nn.Module):
    """Sees only tokens that are not padding, by a boolean mask: a shape that depends on data."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.abs().sum(-1) > 0  # (n, L)
        h = x.new_zeros(*mask.shape, 4)
        h[mask] = self.first(x[mask]).tanh()
        return self.second(h.sum(1))


class Checkpointed(nn.Module):
    """A block whose activations are computed again in the backward pass; None: they are kept."""

    def __init__(self, use_reentrant: bool | None):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)
        self.block = nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.use_reentrant is None:
            return self.second(self.block(h))
        return self.second(checkpoint(self.block, h, use_reentrant=self.use_reentrant))


class RawParameters(nn.Module):
    """Weights in a ParameterList and a ParameterDict, used by `functional`."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 3), torch.randn(3, 4)])
        self.biases = nn.ParameterDict({"first": torch.zeros(4), "second": torch.zeros(3)})

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.weights[0], self.biases["first"]).tanh()
        return F.linear(h, self.weights[1], self.biases["second"])


class PlainList(nn.Module):
    """Walks a plain Python list of modules that are registered by name as well."""

    def __init__(self):
        super().__init__()
        self.walk = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)]
        self.first, _, self.last = self.walk

    def forward(self, x: Tensor) -> Tensor:
        for module in self.walk:
            x = module(x)
        return x


@dataclass
class Output:
    """What a model of a larger library returns."""

    logits: Tensor
    hidden: Tensor


class WithLogits(nn.Module):
    """Returns an object whose `.logits` are the outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Output:
        hidden = self.first(x).tanh()
        return Output(self.second(hidden), hidden)


@dataclass
class Scores:
    """What a model returns that calls its outputs something else."""

    scores: Tensor


class WithScores(WithLogits):
    """Returns an object without `.logits`."""

    def forward(self, x: Tensor) -> Scores:
        return Scores(super().forward(x).logits)


class TwoInputs(nn.Module):
    """Two tensors in, one out."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left) * self.right(right)))


class TakesDict(TwoInputs):
    """Two tensors in, as one dict."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["left"], batch["right"])


class BufferNormalised(nn.Module):
    """Standardises its inputs by buffers, one of them not kept in the state dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3, -0.2, 0.1]))
        self.register_buffer("scale", torch.tensor([1.5, 0.5, 2.0]), persistent=False)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.scale)


class TwoTypes(nn.Module):
    """A float32 layer, then a float64 layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.to(self.first.weight.dtype)).tanh()
        return self.second(h.to(self.second.weight.dtype))
