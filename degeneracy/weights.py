"""How does a flat vector become named weights, and they a flat vector?"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def flattened(weights: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
    """All entries one after the other, in the mapping's order."""
    return torch.cat([weight.flatten() for weight in weights.values()])


def named(rows: Float[Tensor, "*k d"], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `flattened` for each of `rows`: views with leading axes *k, the rest shaped as
    in `like`.

    Raises:
        RuntimeError: The last axis has not as many entries as `like`.
    """
    pieces = rows.split([weight.numel() for weight in like.values()], dim=-1)
    return {
        name: piece.view(rows.shape[:-1] + weight.shape)
        for (name, weight), piece in zip(like.items(), pieces, strict=True)
    }
