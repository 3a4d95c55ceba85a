"""How does any module become a function of named weights? By running it as it is, with others put
in their place for a moment.

The module is not copied: what refers to its parts from outside (lists, hooks, closures) stays
right, and what cannot be copied can be measured. Whatever it keeps on the way is put back.
"""

import importlib
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn, norm_except_dim
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

from degeneracy.objective.data import full_precision

# whose name in `torch.nn.utils` is that of a function
EMBEDDING = torch.nn.functional.embedding
EMBEDDING_BAG = torch.nn.functional.embedding_bag
old_weight_norm = importlib.import_module("torch.nn.utils.weight_norm")

SMALL = 2**16  # entries of tensors that are put back where a forward pass changes them

Forward = Callable[[nn.Module, Any], Any]  # (model, inputs) → outputs


def default_forward(model: nn.Module, inputs: Any) -> Any:
    """Dicts as named arguments and tuples as several, where the module takes them so, else as one;
    of an object its `.logits`.
    """
    if isinstance(inputs, Mapping) and _takes(model, **inputs):
        outputs = model(**inputs)
    elif isinstance(inputs, tuple | list) and _takes(model, *inputs):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    return getattr(outputs, "logits", outputs)


def _takes(model: nn.Module, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself, of one that `torch.compile` returned.

    Raises:
        ValueError: TorchScript, whose weights cannot be put in, or weights without a shape yet.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; allowed: a torch.nn.Module")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ValueError(
            "the model is TorchScript, which runs with its own weights only; give the nn.Module"
            " that it was made of"
        )
    for name, weight in model.named_parameters():
        if isinstance(weight, nn.UninitializedParameter):
            raise ValueError(
                f"{name} has no shape yet: the layer is lazy; call the model once on its inputs"
            )
    return model


class Called:
    """A module with what is to be made of it, to be run with the weights that are given."""

    def __init__(self, model: nn.Module, forward: Forward | None = None):
        self.model = unwrapped(model)
        self.adapter, self.adapts = forward or default_forward, forward is not None

    def with_weights(self, weights: Mapping[str, Tensor], inputs: Any) -> Any:
        """Its outputs, with these tensors in place of parameters and buffers of these names."""
        with running(self.model), _in_place_of_its_own(self.model, weights):
            return self.adapter(self.model, inputs)

    def state(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers, each once, in full precision."""
        own = dict(self.model.named_parameters())
        own |= {name: b for name, b in self.model.named_buffers() if b is not None}
        return {name: full_precision(t.detach().clone()) for name, t in own.items()}


@contextmanager
def _in_place_of_its_own(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Tensors stand for parameters and buffers wherever these are, and afterwards no more.

    `torch.func.functional_call` does so too, but leaves a module that stands under two names
    without its parameters.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    given = {id(own[name]): tensor for name, tensor in weights.items()}
    before = [
        (held, key, tensor)
        for part in model.modules()
        for held in (part._parameters, part._buffers)
        for key, tensor in held.items()
        if tensor is not None and id(tensor) in given
    ]
    for held, key, tensor in before:
        held[key] = given[id(tensor)]
    try:
        yield
    finally:
        for held, key, tensor in before:
            held[key] = tensor


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Operations that can be differentiated twice and run many at a time: plain attention, no
    compiled code, no recomputation; afterwards the module is as it was.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_plain_attention())
        stack.enter_context(_replaced())
        if any(isinstance(part, nn.RNNBase) for part in model.modules()):
            stack.enter_context(_cells_of_plain_operations())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_put_back(model))
        yield


@contextmanager
def _cells_of_plain_operations() -> Iterator[None]:
    """The libraries' recurrent layers have no second derivative."""
    libraries = torch.backends.mkldnn, torch.backends.cudnn
    before = [library.enabled for library in libraries]
    for library in libraries:
        library.enabled = False
    try:
        yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled


@contextmanager
def _plain_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Directly:
    """In place of `torch.utils.checkpoint`'s function: the forward pass, and nothing again."""

    @staticmethod
    def apply(function: Callable, preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_again(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v|, of operations that have right second derivatives; PyTorch's own has wrong ones."""
    return v * (g / norm_except_dim(v, 2, dim))


def _embedding_bag(ids: Tensor, weight: Tensor, offsets=None, *given: Any, **named: Any) -> Tensor:
    """Bags of one size as a mean or sum of embeddings, whose second derivatives exist."""
    call = inspect.signature(EMBEDDING_BAG).bind(ids, weight, offsets, *given, **named)
    call.apply_defaults()
    mode, padding = call.arguments["mode"], call.arguments["padding_idx"]
    weighted = call.arguments["per_sample_weights"] is not None
    if ids.ndim != 2 or mode == "max" or padding is not None or weighted:
        return EMBEDDING_BAG(*call.args, **call.kwargs)
    found = EMBEDDING(ids, weight)
    return found.mean(1) if mode == "mean" else found.sum(1)


def _embedding(
    ids: Tensor, weight: Tensor, padding_idx=None, max_norm=None, norm_type=2.0, *_: Any, **__: Any
) -> Tensor:
    """With gradients that are dense, and not scaled by how often an index comes."""
    return EMBEDDING(ids, weight, padding_idx, max_norm, norm_type)


REPLACED = [
    (torch.nn.functional, "embedding", _embedding),
    (torch.nn.functional, "embedding_bag", _embedding_bag),
    (checkpoint, "CheckpointFunction", _Directly),
    (checkpoint, "_checkpoint_without_reentrant_generator", _nothing_again),
    (torch, "_weight_norm", _weight_norm),
    (old_weight_norm, "_weight_norm", _weight_norm),
]


@contextmanager
def _replaced() -> Iterator[None]:
    """Functions of PyTorch's that cannot be differentiated twice, by ones of the same values."""
    before = [(place, name, getattr(place, name)) for place, name, _ in REPLACED]
    for place, name, function in REPLACED:
        setattr(place, name, function)
    try:
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """What modules keep as attributes is put back: numbers, tensors, what containers hold."""
    kept = [(part, dict(part.__dict__)) for part in model.modules()]
    inside = [
        one
        for _, attributes in kept
        for name, value in attributes.items()
        if not name.startswith("_")
        for one in _contents(value)
    ]
    try:
        yield
    finally:
        for part, attributes in kept:
            part.__dict__.clear()
            part.__dict__.update(attributes)
        for value, content, version in inside:
            if isinstance(value, Tensor):
                if value._version != version:
                    with torch.no_grad():
                        value.copy_(content)
                continue
            value.clear()
            value.extend(content) if isinstance(value, list | deque) else value.update(content)


def _contents(value: Any) -> Iterator[tuple[Any, Any, int]]:
    """(container, a copy, 0) of all that lie in each other; of small tensors their version."""
    if type(value) in (list, dict, set, deque):
        yield value, value.copy(), 0
        for part in value.values() if isinstance(value, dict) else value:
            yield from _contents(part)
    elif type(value) is Tensor and value.numel() <= SMALL and not value.is_inference():
        yield value, value.detach().clone(), value._version
