"""Which of all weights with the same function? The ones with |in| = |out| in every hidden unit.

With a positively homogeneous activation, σ(cx) = cσ(x) for c > 0, a hidden unit's incoming weights
and bias times c and its outgoing weights divided by c leave the function as it is: a gauge. On each
such orbit the sum of squares of all weights has one minimum, where every unit's in- and outgoing
norms agree (Stock, Graham, Gribonval & Jégou, "Equi-normalization of neural networks", ICLR 2019,
arXiv:1902.10416, Theorem 1). What is measured at that point depends on the orbit only.
"""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, fx, nn

from degeneracy.models.rescaling import WEIGHTED

# By name, in lower case without underscores: nn.LeakyReLU and F.leaky_relu are both "leakyrelu".
ELEMENTWISE = {"relu", "leakyrelu", "identity", "contiguous", "clone"} | {
    f"dropout{dims}" for dims in ("", "1d", "2d", "3d")
}
POOLS = {  # and the number of axes they pool over
    f"{kind}pool{dims}d": dims
    for kind in ("max", "avg", "adaptivemax", "adaptiveavg")
    for dims in (1, 2, 3)
}
SHAPE_READS = {"size", "dim", "numel", "shape", "ndim", "dtype", "device"}
ALLOWED = (
    "ReLU, LeakyReLU, Identity, Dropout, max- and average-pooling over positions, Flatten to"
    " (batch, features)"
)
ADVICE = "change the model or do not balance it"

TOLERANCE = 1e-12  # of |log c| in one sweep
# Near the fixed point a sweep over n layers multiplies the error by cos²(π / (n + 1)) or less: some
# 20 sweeps for 2 layers, 7,000 for 50.
MAX_SWEEPS = 100_000


def hidden_layers(model: nn.Module) -> list[tuple[str, str]]:
    """Names (layer, next layer) of all layers whose units can be rescaled, in the order they run.

    The forward pass is read with `torch.fx`. A unit is a row of a Linear and a column of the next;
    an output channel of a convolution and an input channel of the next; after Flatten, a channel
    owns height × width neighbouring columns of the next Linear. Inputs must have a batch axis. A
    layer with no other layer after it is an output layer, whatever follows it, and in no pair but
    as the second.

    Raises:
        ValueError: For what leaves a unit without such a gauge, or with one that is not known here:
            tied weights, parameters outside Linear and Conv layers (BatchNorm, LayerNorm,
            weight_norm, PReLU, …), a hidden output used twice, an operation between two layers that
            is not homogeneous or moves the units to another axis, groups, a forward pass that
            `torch.fx` cannot read.
    """
    _check_parameters(model)
    if type(model) in WEIGHTED:
        return []
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__}.forward: {error}; allowed: a forward"
            f" pass that does the same operations for all inputs; {ADVICE}"
        ) from error
    modules = dict(model.named_modules())
    layers = [node for node in graph.nodes if _is_layer(node, modules)]
    _check_ties(model, graph, [node.target for node in layers])
    return [
        (node.target, _next_layer(node, modules))
        for node in layers
        if _leads_to_a_layer(node, modules)
    ]


@torch.no_grad()
def balanced(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the same function with |in| = |out| for every hidden unit of `hidden_layers`.

    |in| is the norm of a unit's incoming weights and its bias, |out| that of its outgoing weights.
    The bias counts because it is scaled with the incoming weights: only so is the result the
    minimum of the sum of squares of all weights over all rescalings, hence unique, and the same for
    a state and any rescaling of it. Found in float64 by sweeps over the layers, c = (|out| /
    |in|)^½, in ← c in, out ← out / c, which descend in a problem convex in log c, until all
    |log c| < 1e-12 (Stock et al., arXiv:1902.10416, Algorithm 1, with that bias).

    A unit with |in| = 0 or |out| = 0 has no such scale and is left as it is. Its other weights
    count in the norms of its neighbours, so with dead units the result is the same only for
    rescalings of the others.

    Args:
        state: Of `model`, by name as in `model.state_dict()`; buffers may be missing.

    Returns:
        All entries of `state`, in its order; those that change as new tensors of the same type,
        the others as they are.

    Raises:
        ValueError: As in `hidden_layers`, and for a state that lacks parameters, has others in
            shape, or is not finite.
        RuntimeError: If the sweeps do not end.
    """
    pairs = hidden_layers(model)
    _check_state(model, state)
    return _scaled(state, pairs, _balancing_factors(state, pairs))


@torch.no_grad()
def rescaled_units(
    model: nn.Module,
    state: Mapping[str, Tensor],
    factors: Mapping[str, Tensor] | torch.Generator,
    low: float = 0.25,
    high: float = 4.0,
) -> dict[str, Tensor]:
    """The state of the same function with each hidden unit's in times, and out divided by, a
    factor.

    Args:
        state: As for `balanced`.
        factors: By the first names of `hidden_layers`, positive, shape (units,), layers left out
            stay; or a generator that draws them for all layers, log-uniform between `low` and
            `high`.

    Raises:
        ValueError: As in `balanced`, and for factors or bounds that are not positive and finite, or
            do not fit the layers.
    """
    pairs = hidden_layers(model)
    _check_state(model, state)
    units = {name: len(state[f"{name}.weight"]) for name, _ in pairs}
    if isinstance(factors, torch.Generator):
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"low = {low}, high = {high}; allowed: 0 < low ≤ high, finite")
        factors = {name: _log_uniform(count, low, high, factors) for name, count in units.items()}
    for name, factor in factors.items():
        if name not in units:
            raise ValueError(
                f"factors are given for {name!r}; allowed: hidden layers, {list(units)}"
            )
        if factor.shape != (units[name],) or not (factor.isfinite() & (factor > 0)).all():
            raise ValueError(
                f"the factors of {name!r} must be {units[name]} positive finite numbers, one a unit"
            )
    return _scaled(state, pairs, factors)


def _log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(
        count, generator=generator, device=generator.device, dtype=torch.float64
    )  # (units,)
    return torch.exp(log(low) + (log(high) - log(low)) * uniform)


def _balancing_factors(
    state: Mapping[str, Tensor], pairs: list[tuple[str, str]]
) -> dict[str, Tensor]:
    """Factor of each hidden unit, float64 of shape (units,) by layer; `state` is not scaled yet."""
    previous = {following: name for name, following in pairs}
    layers = dict.fromkeys(name for pair in pairs for name in pair)
    squares, biases = {}, {}
    for name in layers:
        weight = state[f"{name}.weight"].double()
        inputs = len(state[f"{previous[name]}.weight"]) if name in previous else 1
        squares[name] = weight.square().reshape(len(weight), inputs, -1).sum(-1)  # (units, inputs)
        bias = state.get(f"{name}.bias")
        biases[name] = weight.new_zeros(len(weight)) if bias is None else bias.double().square()
    factors = {name: torch.ones_like(biases[name]) for name in layers}  # output layers stay at 1
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for name, following in pairs:
            before = factors[previous[name]] if name in previous else biases[name].new_ones(1)
            # Squared norms of the scaled weights, factor[j] * weight[j, i] / before[i].
            incoming = factors[name].square() * (biases[name] + squares[name] @ before**-2)
            outgoing = factors[following].square() @ squares[following] / factors[name].square()
            live = (incoming > 0) & (outgoing > 0)
            log_c = torch.where(live, (outgoing / incoming).log() / 4, 0.0)
            factors[name] = factors[name] * log_c.exp()
            largest = max(largest, float(log_c.abs().max()))
        if largest < TOLERANCE:
            return {name: factors[name] for name, _ in pairs}
    raise RuntimeError(
        f"the balance of {len(pairs)} hidden layers still moves by |log c| = {largest:.1e} after"
        f" {MAX_SWEEPS} sweeps; look for weights of extreme size"
    )


def _scaled(
    state: Mapping[str, Tensor], pairs: list[tuple[str, str]], factors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state with each layer's units times its factors, and their outgoing weights divided."""
    previous = {following: name for name, following in pairs}
    result = dict(state)
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        given = state[f"{name}.weight"]
        one = torch.ones(1, dtype=torch.float64, device=given.device)
        own = factors.get(name, one).to(one)
        before = factors.get(previous.get(name), one).to(one)
        weight = given.double().reshape(len(given), len(before), -1)
        weight = weight * own[:, None, None] / before[:, None]
        result[f"{name}.weight"] = weight.reshape(given.shape).to(given.dtype)
        if (bias := state.get(f"{name}.bias")) is not None:
            result[f"{name}.bias"] = (bias.double() * own).to(bias.dtype)
    return result


def _check_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in state:
            raise ValueError(
                f"the state lacks {name!r}; allowed: all parameters of the model, as in"
                " model.state_dict()"
            )
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"the state's {name!r} has shape {tuple(state[name].shape)}, the model's"
                f" {tuple(parameter.shape)}; give a state of this model"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"the state's {name!r} holds NaN or infinity, which has no balance")


def _check_parameters(model: nn.Module) -> None:
    """Raises ValueError for a parameter that is not the weight or bias of a known layer."""
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            if type(module) not in WEIGHTED or name not in ("weight", "bias"):
                full = f"{prefix}.{name}" if prefix else name
                raise ValueError(
                    f"the parameter {full!r} belongs to a {type(module).__name__}; allowed: weight"
                    " and bias of Linear, Conv1d, Conv2d and Conv3d, without normalisation"
                    f" (BatchNorm, LayerNorm, weight_norm, …); {ADVICE}"
                )


def _check_ties(model: nn.Module, graph: fx.Graph, called: list[str]) -> None:
    """Raises ValueError for a weight used more than once, or outside its layer."""
    first: dict[int, str] = {}
    reads = [node.target for node in graph.nodes if node.op == "get_attr"]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        count = called.count(name.rpartition(".")[0])
        if other != name:
            found = f"{other!r} and {name!r} are one weight"
        elif name in reads:
            found = f"the forward pass uses {name!r} outside its layer"
        elif count > 1:
            found = f"the forward pass runs the layer of {name!r} {count} times"
        else:
            continue
        raise ValueError(f"{found}; allowed: no tied weights; {ADVICE}")


def _is_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and type(modules[node.target]) in WEIGHTED


def _operation(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Its class or function name, as written."""
    if node.op == "call_module":
        return type(modules[node.target]).__name__
    return getattr(node.target, "__name__", str(node.target))


def _users(node: fx.Node) -> list[fx.Node]:
    """The nodes that use the values of `node`, not only its shape."""

    def reads_shape(user: fx.Node) -> bool:
        if user.op == "call_method":
            return user.target in SHAPE_READS
        return user.target is getattr and user.args[1] in SHAPE_READS

    return [user for user in node.users if not reads_shape(user)]


def _leads_to_a_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    seen, waiting = set(), [node]
    while waiting:
        new = [user for user in _users(waiting.pop()) if user not in seen]
        if any(_is_layer(user, modules) for user in new):
            return True
        seen.update(new)
        waiting += new
    return False


def _next_layer(start: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Name of the only layer that takes the units of `start`; ValueError if there is no such."""
    layer, node = modules[start.target], start
    axes = layer.weight.ndim - 2  # of positions after the units' axis; 0 for dense layers
    while True:
        users = _users(node)
        if len(users) != 1:
            names = ", ".join(_operation(user, modules) for user in users)
            raise ValueError(
                f"the output of the hidden layer {start.target!r} is used in {len(users)} places"
                f" ({names}); allowed: one, so no residual connections; {ADVICE}"
            )
        node = users[0]
        if _is_layer(node, modules):
            _check_pair(start.target, node.target, axes, modules)
            return node.target
        axes_after = _axes_after(node, axes, modules)
        if axes_after is None:
            where = f" {node.target!r}" if node.op == "call_module" else ""
            raise ValueError(
                f"after the hidden layer {start.target!r} comes {_operation(node, modules)}{where},"
                f" which is not homogeneous in each unit; allowed: {ALLOWED}; {ADVICE}"
            )
        axes = axes_after


def _axes_after(node: fx.Node, axes: int, modules: Mapping[str, nn.Module]) -> int | None:
    """Axes of positions after a homogeneous operation; None where the operation is another."""
    name = _operation(node, modules).lower().replace("_", "")
    if name in ELEMENTWISE:
        return axes
    if name in POOLS:
        return axes if POOLS[name] == axes else None  # else it pools over the units
    if name == "flatten":
        if node.op == "call_module":
            start, end = modules[node.target].start_dim, modules[node.target].end_dim
        else:
            given = [*node.args[1:], *(0, -1)[max(0, len(node.args) - 1) :]]
            start, end = (
                node.kwargs.get(key, value)
                for key, value in zip(("start_dim", "end_dim"), given, strict=True)
            )
        return 0 if (start, end) in ((1, -1), (1, axes + 1)) else None
    if name in ("view", "reshape"):
        shape = node.args[1:] or (node.kwargs.get("shape", ()),)
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = shape[0]
        # (batch, features): the units come first in each row, as from Flatten.
        return 0 if len(shape) == 2 else None
    return None


def _check_pair(name: str, following: str, axes: int, modules: Mapping[str, nn.Module]) -> None:
    """Raises ValueError if the units of `name` are not a known part of the inputs of `following`.

    Args:
        axes: Of positions in what `following` is given.
    """
    layer, after = modules[name], modules[following]
    for each, module in ((name, layer), (following, after)):
        if getattr(module, "groups", 1) != 1:
            raise ValueError(
                f"the convolution {each!r} has groups = {module.groups}; allowed: 1; {ADVICE}"
            )
    units, inputs = layer.weight.shape[0], after.weight.shape[1]
    flattened = isinstance(after, nn.Linear) and not isinstance(layer, nn.Linear)
    fits = inputs % units == 0 if flattened else inputs == units
    if not fits or axes != after.weight.ndim - 2:
        raise ValueError(
            f"the {units} units of {name!r} are not the inputs of {following!r}, a"
            f" {type(after).__name__} of {inputs} inputs; allowed: its input channels or columns,"
            f" with Flatten between a convolution and a Linear; {ADVICE}"
        )
