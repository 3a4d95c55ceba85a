"""Where do sketched steps point, beside the exact one? Cosines over all weights together."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from degeneracy.optimizers.seng import SENG, Terms, seng_direction

VARIANTS: dict[str, Mapping] = {
    "unbiased": {"scaling": "unbiased"},
    "published": {"scaling": "published"},
    "root": {"scaling": "unbiased", "root_trick": True},
}
Layers = Sequence[tuple[Float[Tensor, "d_out d_in"], Terms]]


def layers_of(
    model: nn.Module, inputs: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]
) -> Layers:
    """Gradient and terms of each layer, of the mean cross-entropy of a batch."""
    optimizer = SENG(model, lr=1.0)
    optimizer.zero_grad()
    with optimizer.recording():
        cross_entropy(model(inputs), labels).backward()
    return [optimizer.seen(name) for name in optimizer.layers]


def directions(
    layers: Layers,
    damping: float,
    q: int | None = None,
    generator: torch.Generator | None = None,
    **how,
) -> list[Float[Tensor, "d_out d_in"]]:
    """`seng_direction` of each layer; a layer that is narrower than q on both sides is exact.

    Args:
        layers: From `layers_of`.
        damping: λ.
        q: Coordinates of the sketch; None: without one.
        generator: Draws them.
        how: scaling and root_trick of `seng_direction`.
    """
    return [
        seng_direction(
            gradient,
            terms,
            damping,
            sketch=None if q is None else min(q, max(gradient.shape)),
            generator=generator,
            **how,
        )
        for gradient, terms in layers
    ]


def cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """⟨a, b⟩/(|a||b|) of tensors taken together, summed in float64; NaN where one is zero.

    Example:
        >>> cosine([torch.tensor([3.0]), torch.tensor([4.0])], [torch.ones(1), torch.zeros(1)])
        0.6
    """
    a, b = (torch.cat([x.flatten() for x in tensors]).double() for tensors in (one, other))
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else math.nan


def sketch_cosines(
    layers: Layers, damping: float, sketches: Sequence[int], count: int, seed: int
) -> dict[str, dict[str, list[float]]]:
    """Variant → q → cosines with the exact direction of `count` sketches, the same of each variant.

    Raises:
        ValueError: As `seng_direction`.
    """
    exact = directions(layers, damping)
    found = {}
    for variant, how in VARIANTS.items():
        found[variant] = {
            str(q): [
                cosine(exact, directions(layers, damping, q, _generator(seed, number), **how))
                for number in range(count)
            ]
            for q in sketches
        }
    return found


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed << 16) + number)


def median_seconds(call: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """Median time of a call after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        since = clock()
        call()
        times.append(clock() - since)
    return float(torch.tensor(times, dtype=torch.float64).median())
