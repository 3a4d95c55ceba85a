"""Which networks are trained? FFNN (ReLU), DLNN (linear), and LeNet-5 with extra convolutions.

`nn.Module`s from images (batch, *in_shape) to logits (batch, num_classes), with biases in all
layers and no randomness or batch statistics in their forward pass. `title` and the parameter counts
are the published ones.
"""

from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn


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


def num_parameters(model: nn.Module) -> int:
    """Number of trainable weights of `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
