"""Which networks are trained? FFNN (ReLU), DLNN (linear), LeNet-5 with extra convolutions, and
beside these that were published a residual FFNN and a small vision transformer.

`nn.Module`s from images (batch, *in_shape) to logits (batch, num_classes), with biases in all
layers and no randomness or batch statistics in their forward pass. `title` and the parameter counts
of the published ones are as published.
"""

from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

PATCHES, HEADS = 4, 2  # of the vision transformer: patches a side, heads of attention


class _FullyConnected(nn.Module):
    """Flatten, `hidden_layers` hidden layers of `hidden_nodes`, one output layer."""

    name: str
    activation: type[nn.Module]

    def __init__(
        self,
        hidden_nodes: int = 256,
        hidden_layers: int = 2,
        in_shape: tuple = (1, 28, 28),
        num_classes: int = 10,
    ):
        super().__init__()
        widths = [prod(in_shape)] + [hidden_nodes] * hidden_layers
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), self.activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
        self.title = f"{self.name} {hidden_layers} HL, {hidden_nodes} HN"

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        return self.layers(images)


class FFNN(_FullyConnected):
    """Feed-forward network with ReLU. On 28×28 images: 2×256 has 269,322 weights, 2×64 55,050, 1×64
    50,890.
    """

    name, activation = "FFNN", nn.ReLU


class DLNN(_FullyConnected):
    """Deep linear network: `FFNN` without ReLU, hence one linear map with many parametrisations."""

    name, activation = "DLNN", nn.Identity


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with ReLU, max-pooling and `hidden_conv_layers` extra 6→6
    convolutions.

    5×5 convolution 1→6 without padding, the extra convolutions (5×5, padding 2), 2×2 max-pool, 5×5
    convolution 6→16, 2×2 max-pool, 120, 84, `num_classes`. On 28×28 images 44,426 weights, and 906
    for each extra convolution.
    """

    def __init__(
        self, hidden_conv_layers: int = 0, in_shape: tuple = (1, 28, 28), num_classes: int = 10
    ):
        super().__init__()
        channels, height, width = in_shape
        features: list[nn.Module] = [nn.Conv2d(channels, 6, 5), nn.ReLU()]
        for _ in range(hidden_conv_layers):
            features += [nn.Conv2d(6, 6, 5, padding=2), nn.ReLU()]
        features += [nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        flat = 16 * prod(((side - 4) // 2 - 4) // 2 for side in (height, width))
        classifier = [
            nn.Linear(flat, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        ]
        self.layers = nn.Sequential(*features, *classifier)
        self.title = f"CNN {hidden_conv_layers} HCL"

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        return self.layers(images)


class ResidualFFNN(FFNN):
    """`FFNN` with a path around every hidden layer but the first: h ← h + ReLU(Wh + b).

    What training leaves on a plateau in a deep `FFNN` reaches the output here from the start (He,
    Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016, arXiv:1512.03385).
    """

    name = "residual FFNN"

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        flatten, first, relu, *hidden, last = self.layers
        h = relu(first(flatten(images)))
        for layer in hidden[::2]:
            h = h + relu(layer(h))
        return last(h)


class VisionTransformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021,
    arXiv:2010.11929): 4 × 4 patches, a learned place for each, blocks that normalise first, and the
    mean over patches in place of a class token.

    On 28×28 images 2 blocks of width 32 have 19,594 weights.

    Args:
        hidden_nodes: Width of a token; even, for there are two heads.
        hidden_layers: Blocks.
        in_shape: Square images whose side 4 divides.

    Raises:
        ValueError: An odd width, or images that are not so.
    """

    def __init__(
        self,
        hidden_nodes: int = 32,
        hidden_layers: int = 2,
        in_shape: tuple = (1, 28, 28),
        num_classes: int = 10,
    ):
        super().__init__()
        channels, height, side = in_shape
        if hidden_nodes % HEADS:
            raise ValueError(
                f"hidden_nodes = {hidden_nodes} given; allowed: a multiple of {HEADS}, the heads"
            )
        if height != side or side % PATCHES:
            raise ValueError(
                f"images of {height} × {side} given; allowed: square ones whose side {PATCHES}"
                " divides"
            )
        patch = side // PATCHES
        self.embedding = nn.Conv2d(channels, hidden_nodes, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(PATCHES**2, hidden_nodes))
        self.blocks = nn.Sequential(*(_Block(hidden_nodes) for _ in range(hidden_layers)))
        self.norm = nn.LayerNorm(hidden_nodes)
        self.head = nn.Linear(hidden_nodes, num_classes)
        self.title = f"ViT {hidden_layers} blocks, width {hidden_nodes}"

    def forward(
        self, images: Float[Tensor, "batch channels side side"]
    ) -> Float[Tensor, "batch classes"]:
        tokens = self.embedding(images).flatten(2).mT + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class _Block(nn.Module):
    """Attention of two heads, then two layers with GELU, each around a normalised copy."""

    def __init__(self, width: int):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        batch, count, width = tokens.shape
        mixed = self.mixed(self.first_norm(tokens)).view(batch, count, 3, HEADS, width // HEADS)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width of a head)
        heads = scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.joined(heads.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.layers(self.second_norm(tokens))


# By the names that configs use; each is called with (hidden_nodes, hidden_layers, in_shape).
ARCHITECTURES = {"ffnn": FFNN, "residual": ResidualFFNN, "vit": VisionTransformer}


def num_parameters(model: nn.Module) -> int:
    """Number of trainable weights of `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
