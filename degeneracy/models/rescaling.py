"""Is the estimate the same for the same function? Scaling one layer by c and the next by 1/c.

With a positively homogeneous activation between two layers, σ(cx) = cσ(x), the network's function,
its loss and its learning coefficient λ do not change. λ̂ does: its localisation γ|w − w*|² and its
noise are isotropic in the weights, and a ball is no ball after rescaling (Dinh, Pascanu, Bengio &
Bengio, arXiv:1703.04933, say so of flatness).
"""

from itertools import pairwise

from torch import Tensor, nn

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def rescalable_layers(model: nn.Module) -> tuple[str, str] | None:
    """Names of the first two layers of an `nn.Sequential` in `model` with nothing but homogeneous
    layers between them.

    None where there are no such layers.
    """
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        children = [
            (f"{prefix}.{name}" if prefix else name, child)
            for name, child in module.named_children()
        ]
        children = [(name, child) for name, child in children if not isinstance(child, HOMOGENEOUS)]
        for (name, child), (next_name, next_child) in pairwise(children):
            if isinstance(child, WEIGHTED) and isinstance(next_child, WEIGHTED):
                return name, next_name
    return None


def rescaled(state: dict[str, Tensor], layers: tuple[str, str], factor: float) -> dict[str, Tensor]:
    """The state with the first layer's weights and bias times `factor` and the next layer's weights
    divided by it.
    """
    first, second = layers
    scales = {f"{first}.weight": factor, f"{first}.bias": factor, f"{second}.weight": 1 / factor}
    return {
        name: tensor * scales[name] if name in scales else tensor for name, tensor in state.items()
    }
