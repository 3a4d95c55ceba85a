"""What does a convolution's kernel see at each position? On that it is a Linear layer."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def patches(
    layer: nn.Conv2d, images: Float[Tensor, "*n channels height width"]
) -> Float[Tensor, "n fan_in positions"]:
    """Padded as the layer pads; an image without a batch axis is a batch of one."""
    images = images if images.ndim == 4 else images[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(images, _padding(layer), mode=mode)
    return F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)


def _padding(layer: nn.Conv2d) -> list[int]:
    """Left, right, top, bottom."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        (height, width) = (
            dilation * (size - 1)
            for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
        )
        return [width // 2, width - width // 2, height // 2, height - height // 2]
    height, width = layer.padding
    return [width, width, height, height]
