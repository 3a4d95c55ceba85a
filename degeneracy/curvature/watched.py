"""What goes into layers and comes out of them while a model runs? By hooks, which are gone
afterwards.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn


class Call(NamedTuple):
    """What a layer took, and what it returned, in the graph."""

    inputs: Tensor
    outputs: Tensor


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Every call of the layers, by their names, in order.

    The outputs are those of the layer itself, before other hooks change them; the model goes on
    with a copy, so that operations in place leave them what they were.
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def register(name: str, layer: nn.Module):
        def after(_, given: tuple, by_name: dict, outputs: Tensor) -> Tensor:
            inputs = given[0] if given else next(iter(by_name.values()))
            calls[name].append(Call(inputs.detach().clone(), outputs))
            return outputs.clone()

        return layer.register_forward_hook(after, prepend=True, with_kwargs=True)

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(register(name, layer))
        yield calls
    finally:
        for handle in handles:
            handle.remove()
