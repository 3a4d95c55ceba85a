"""Is there a loss L(w) to speak of? What is refused, each with what is wrong and what to do.

L must be a function of the weights alone, and the mean over samples of losses of their own: only so
is a minibatch's loss an estimate of it, and a gradient of one sample defined.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from degeneracy.checks import coupled_layers, random_layers
from degeneracy.objective.data import HALVES, Batch, Data, InMemory
from degeneracy.objective.derivatives import gradient_of, hessian_products
from degeneracy.objective.loss import Objective, without_padding
from degeneracy.objective.means import WeightedMean, is_by_class
from degeneracy.weights import flattened, named

TRIED = 16  # samples on which model and loss are tried
CLASSES = 32  # classes of which each has a sample among them, where there are as many
FIRST = 2**20  # samples among which those of single classes are looked for
DIRECTIONS = 3  # in which a gradient is compared with the loss's change
NUDGES, NEAR = (1e-6, 1e-8), 1e-3  # of the weights: for that change, and how far beside them
DIFFERENTIATED = 4  # samples of which derivatives are compared so
EPSILON = torch.finfo(torch.float32).eps  # whatever the weights are: something may be float32
UNLIKE, NOISE = 1e-3, 1e-7  # relative error that is taken for another derivative; rounding
ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError)


def check_objective(objective: Objective) -> None:
    """Tries model and loss on a few samples.

    Raises:
        ValueError: A forward pass that is random, changes what it is made of, computes in half
            precision or mixes samples; a loss that fails, is no number, sees weights by closure, or
            is not the mean of its samples' losses; labels out of range; a penalty that is no
            function of the parameters it is given.
    """
    refuse_training_behaviour(objective.model)
    batch = few_samples(objective.data)
    outputs = _tried_model(objective, batch)
    _check_labels(objective, outputs, batch)
    _check_number(tried_loss(objective.loss_fn, outputs, batch.targets))
    _refuse_closure(objective, outputs, batch)
    _check_mean(objective, outputs, batch)
    _check_gradient(objective, batch)
    if objective.penalty is not None:
        _check_penalty(objective)


def refuse_training_behaviour(model: nn.Module) -> None:
    """Raises ValueError for layers that are random, or see the whole batch, in the mode they are
    in.
    """
    for shown, _ in coupled_layers(model):
        raise ValueError(
            f"{shown} that normalises with the batch's statistics: the loss of a sample then"
            " depends on the other samples, and neither a mean over samples nor a gradient of"
            " one sample is defined; call model.eval() (with track_running_stats=True), or"
            " replace the layer"
        )
    for name, layer in model.named_modules():
        if getattr(layer, "max_norm", None) is not None and hasattr(layer, "num_embeddings"):
            raise ValueError(
                f"{name or 'the model'} is an embedding with max_norm, which changes its weights in"
                " its forward pass: there is no loss L(w) to speak of; set max_norm to None"
            )
    for shown, _ in random_layers(model):
        raise ValueError(
            f"{shown} in training mode: its loss is random, not a function of w; call model.eval()"
        )


def few_samples(data: Data) -> Batch:
    """Real samples of unequal content: the ends of the data, some between, one a class."""
    count = len(data)
    between = torch.linspace(0, count - 1, TRIED).round().long().tolist()
    return data.chosen([*between, *_one_a_class(data)])


def _one_a_class(data: Data) -> list[int]:
    """A sample of every value that targets have, the rarest first; and the ends of their range."""
    targets = data.whole.targets if isinstance(data, InMemory) else None
    if not isinstance(targets, Tensor) or targets.numel() != len(targets):
        return []
    flat = targets.flatten()[:FIRST]
    flat = flat.long() if flat.dtype == torch.bool else flat
    values, where, counts = flat.unique(return_inverse=True, return_counts=True)
    if len(values) > FIRST // 64:
        return [int(flat.argmin()), int(flat.argmax())]  # numbers, not classes
    first = torch.full_like(counts, len(flat)).scatter_reduce(
        0, where, torch.arange(len(flat), device=flat.device), "amin"
    )
    rarest = counts.argsort()[:CLASSES]
    return [*first[rarest].tolist(), int(flat.argmin()), int(flat.argmax())]


# ---- the model -----------------------------------------------------------------------------------


@torch.no_grad()
def _tried_model(objective: Objective, batch: Batch) -> Any:
    """The outputs; ValueError where the model cannot take the inputs, or is not a function of them
    and its weights.
    """
    before = {name: tensor.clone() for name, tensor in objective.fixed.items()}
    seen = Narrower(HALVES)
    try:
        with seen, torch.enable_grad():
            outputs = objective.outputs(objective.weights, batch.inputs)
        again = objective.outputs(objective.weights, batch.inputs)
    except ERRORS as error:
        raise ValueError(_cannot_take(objective, batch, error)) from error
    changed = [
        name
        for name, tensor in objective.fixed.items()
        if not torch.equal(tensor, before[name]) and not tensor.isnan().any()
    ]
    if changed:
        for name in changed:
            objective.fixed[name].copy_(before[name])
        raise ValueError(
            f"the model's forward pass changes its {changed[0]}, so there is no loss L(w) to"
            " sample; keep it fixed"
        )
    leaves = tree_flatten(outputs)[0]
    strange = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if strange:
        raise ValueError(
            f"the model's outputs hold {strange[0]}; allowed: a tensor or a tree of tensors; say"
            " with forward=lambda model, inputs: … which of its outputs the loss takes"
        )
    if any(leaf.requires_grad for leaf in leaves):
        raise ValueError(
            "the model's outputs hang on tensors that require a gradient and are none of its"
            " parameters by name: does it keep weights in a list, a dict or a view, or use another"
            " model's? Their derivatives would be left out; register them (nn.ParameterList,"
            " nn.ParameterDict, nn.Module), or detach what is to stay fixed"
        )
    if not all(_alike(*pair) for pair in zip(leaves, tree_flatten(again)[0], strict=True)):
        raise ValueError(
            "the model's forward pass is random: the same inputs gave two outputs, so there is no"
            " loss L(w) to sample"
        )
    if seen.operation:
        raise ValueError(
            f"the model computes in half precision ({seen.operation}) whatever its weights are:"
            " its derivatives would be rounding; leave out autocast, .half() and .bfloat16() in its"
            " forward pass"
        )
    return outputs


def _cannot_take(objective: Objective, batch: Batch, error: Exception) -> str:
    weights = next(iter(objective.weights.values()))
    reason = f"the model cannot take inputs {_kind(batch.inputs)}"
    if isinstance(batch.inputs, Tensor) and batch.inputs.dtype != weights.dtype:
        reason += (
            f" with weights of {weights.dtype}; convert them, as in inputs.to({weights.dtype})"
        )
    return f"{reason}: {error}"


class Narrower(TorchDispatchMode):
    """The first operation that returned numbers of one of these types."""

    def __init__(self, types: tuple[torch.dtype, ...]):
        super().__init__()
        self.types, self.operation = types, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(found)[0]:
            if isinstance(leaf, Tensor) and leaf.dtype in self.types and not self.operation:
                self.operation = str(func)
        return found


# ---- the loss ------------------------------------------------------------------------------------


def tried_loss(loss_fn: Callable, outputs: Any, targets: Any) -> Any:
    """The loss; ValueError, with what it was given, where it fails."""
    try:
        return loss_fn(outputs, targets)
    except ERRORS as error:
        given = f"outputs {_kind(outputs)} and targets {_kind(targets)}"
        if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.numel():
            given += f" from {int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"loss_fn fails on {given}: {error}") from error


def _check_number(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        given = f"a tensor {_kind(loss)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss_fn returns {given}; allowed: one floating-point number, the mean over the"
            " samples"
        )


def _check_labels(objective: Objective, outputs: Any, batch: Batch) -> None:
    """Before the loss sees them: on CUDA a label out of range ends the use of the device."""
    targets = batch.targets
    if not is_by_class(objective.original) or not isinstance(outputs, Tensor):
        return
    if isinstance(objective.loss_fn, WeightedMean) or not isinstance(targets, Tensor):
        return
    if targets.is_floating_point() or targets.ndim != 1:
        return  # class probabilities, or several predictions a sample
    every = objective.data.whole.targets if isinstance(objective.data, InMemory) else targets
    low, high = int(every.min()), int(every.max())
    classes = outputs.shape[1 if outputs.ndim > 1 else 0]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels go from {low} to {high}; allowed for {classes} outputs: 0 to {classes - 1};"
            " give the model an output for every class, or leave those samples out"
        )


def _refuse_closure(objective: Objective, outputs: Any, batch: Batch) -> None:
    apart = tree_map(lambda leaf: leaf.detach(), outputs)
    with torch.enable_grad():
        loss = objective.loss_fn(apart, batch.targets)
    if loss.requires_grad:
        raise ValueError(
            "the loss hangs on more than outputs and targets: it requires a gradient though the"
            " outputs do not, so it sees weights by closure, which would be left out of every"
            " derivative; give that part as penalty=, a function of the parameters by name, as in"
            " penalty=lambda parameters: 0.5 * sum(p.square().sum() for p in parameters.values())"
        )


def _check_penalty(objective: Objective) -> None:
    leaves = {name: w.detach().requires_grad_() for name, w in objective.weights.items()}
    with torch.enable_grad():
        try:
            found = objective.penalised(leaves)
        except ERRORS as error:
            raise ValueError(f"penalty fails on the parameters by name: {error}") from error
    if not isinstance(found, Tensor) or found.ndim or not found.is_floating_point():
        given = _kind(found)
        raise ValueError(f"penalty returns {given}; allowed: one floating-point number")
    given = found.requires_grad and _hangs_on(found, list(leaves.values()))
    if not given or _hangs_on(found, list(objective.model.parameters())):
        raise ValueError(
            "penalty does not hang on the parameters it is given alone; allowed: a function of"
            " them by name, not of a model's by closure"
        )


def _hangs_on(value: Tensor, parameters: list[Tensor]) -> bool:
    asked = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(value, asked, allow_unused=True, retain_graph=True) if asked else ()
    return any(part is not None for part in found)


# ---- are derivatives those of the loss? ----------------------------------------------------------


def _check_gradient(objective: Objective, batch: Batch) -> None:
    """Raises ValueError where a gradient is not what finite differences of the loss say.

    In float64, beside the weights that were given, where a kink may be; padding of embeddings left
    out. What float64 cannot run is not looked at.
    """
    wide = _widened_loss(objective, batch)
    if wide is None:
        return
    loss, weights = wide
    slope, value = gradient_of(loss, weights)
    row, wrong, right = flattened(weights), (0.0, 0.0), set()
    for number, (away, reach) in enumerate(_moves(row)):
        ends = [float(loss(named(row + sign * reach * away, weights))) for sign in (1, -1)]
        found, expected = (ends[0] - ends[1]) / (2 * reach), float(slope @ away)
        noise = NOISE * max(1.0, abs(float(value)))
        if abs(found - expected) <= UNLIKE * (abs(found) + abs(expected)) + noise:
            right.add(number // len(NUDGES))
        else:
            wrong = found, expected
        # A kink on the way makes it otherwise, and chance may make one direction agree.
        if len(right) > DIRECTIONS // 2:
            return
    raise ValueError(
        f"the gradient is not that of the loss: along a direction the loss changes at a rate of"
        f" {wrong[0]:.4g}, and the gradient says {wrong[1]:.4g}; does a hook or an"
        " autograd.Function change gradients, or .detach() or no_grad() leave out a part that"
        " hangs on the weights?"
    )


def _moves(row: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Random directions of length 1, and how far to go along them."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        away = torch.randn(len(row), generator=generator, dtype=row.dtype).to(row)
        for nudge in NUDGES:
            yield away / away.norm(), nudge * (1 + float(row.norm()))


def _widened_loss(objective: Objective, batch: Batch) -> tuple[Callable, dict] | None:
    """The loss of a few of the samples in float64, and weights near the objective's; None where
    something on the way is narrower all the same.
    """
    there = _in_float64(objective)
    few = Batch(*tree_map(_widened, tuple(batch.take(slice(0, DIFFERENTIATED)))))
    loss = partial(there.batch_loss, batch=few)
    seen = Narrower((*HALVES, torch.float32))
    try:
        with seen:
            slope, _ = gradient_of(loss, there.weights)
    except ERRORS:
        return None
    return None if seen.operation or not torch.isfinite(slope).all() else (loss, there.weights)


def _in_float64(objective: Objective) -> Objective:
    generator = torch.Generator().manual_seed(1)
    fixed = {name: _widened(tensor) for name, tensor in objective.fixed.items()}
    masks = objective.masks | without_padding(
        objective.model, list(objective.weights), objective.masks, fixed
    )
    weights = {}
    for name in objective.weights:
        whole = fixed[name]
        size = NEAR * (float(whole.square().mean().sqrt()) + 0.1)  # also of zeros
        noise = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
        fixed[name] = whole + size * noise.to(whole.device)
        if name in masks:
            moves = torch.zeros_like(whole).flatten().index_fill(0, masks[name], 1.0)
            fixed[name] = torch.where(moves.view_as(whole) > 0, fixed[name], whole)
        weights[name] = fixed[name].flatten()[masks[name]] if name in masks else fixed[name]
    return replace(objective, fixed=fixed, weights=weights, masks=masks)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def check_second_derivatives(objective: Objective) -> None:
    """Raises ValueError where products with the Hessian are not what finite differences of the
    gradient say, as with an operation whose second derivative is missing or wrong.

    In float64, as the gradient; where float64 cannot be run, products are to be symmetric.
    """
    batch = few_samples(objective.data)
    wide = _widened_loss(objective, batch)
    if wide is None:
        _check_symmetric(objective, batch.take(slice(0, DIFFERENTIATED)))
        return
    loss, weights = wide
    row, wrong = flattened(weights), (0.0, 0.0)
    products = hessian_products(loss, weights, at_once=1)
    for away, reach in _moves(row):
        image = products(away[None])[0]
        ends = [gradient_of(loss, named(row + sign * reach * away, weights))[0] for sign in (1, -1)]
        found = (ends[0] - ends[1]) / (2 * reach)
        wrong = float(found.norm()), float(image.norm())
        noise = NOISE * max(1.0, float(ends[0].norm()))
        if float((found - image).norm()) <= 10 * UNLIKE * sum(wrong) + noise:
            return
    raise ValueError(
        "the second derivative is not that of the loss: along a direction the gradient changes"
        f" at a rate of {wrong[0]:.4g}, and a product with the Hessian has the length"
        f" {wrong[1]:.4g}; an operation's second derivative is missing or wrong, as one of"
        " an autograd.Function may be"
    )


def _check_symmetric(objective: Objective, batch: Batch) -> None:
    weights = objective.weights
    row = flattened(weights)
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, len(row), generator=generator, dtype=torch.float64).to(row)
    images = hessian_products(partial(objective.batch_loss, batch=batch), weights)(pair)
    one, other = float(pair[0] @ images[1]), float(pair[1] @ images[0])
    size = float(pair[0].norm() * images[1].norm())
    if abs(one - other) > 1e4 * EPSILON * size:
        raise ValueError(
            f"the loss's second derivatives are not symmetric (uᵀHv = {one:.6g}, vᵀHu ="
            f" {other:.6g}): an operation's second derivative is wrong, as one of an"
            " autograd.Function may be"
        )


# ---- is it a mean? -------------------------------------------------------------------------------


@torch.no_grad()
def _check_mean(objective: Objective, outputs: Any, batch: Batch) -> None:
    """Raises ValueError where a batch's loss is not the mean of its parts', with the cause."""
    if batch.size == 1:
        return
    bare = objective.loss_fn
    _refuse_mixed(objective, outputs, batch)
    # A loss may vanish where every label is met, and be the mean of anything there.
    mixed = tree_map(lambda leaf: leaf.roll(1, 0), outputs)
    scale = 0.0
    if _has_rows(outputs, batch.size):
        scale = float(tried_loss(bare, mixed, batch.targets))
        parts = list(_losses_of_outputs(bare, mixed, batch.targets, batch.size))
        if parts and not _is_mean(scale, parts):
            _refuse_not_mean(scale, parts, outputs, batch)
    plain = float(bare(outputs, batch.targets))
    alone = list(_losses_alone(objective, batch))
    if alone and not _is_mean(plain, alone, scale):
        _refuse_not_mean(plain, alone, outputs, batch)


def _losses_alone(objective: Objective, batch: Batch) -> Iterator[tuple[int, float]]:
    """(size, loss) of every sample run by itself; of halves where one cannot be, none where these
    cannot.
    """
    for size in (1, batch.size // 2):
        try:
            found = []
            for part in batch.split(size):
                outputs = objective.outputs(objective.weights, part.inputs)
                found.append((part.size, float(objective.loss_fn(outputs, part.targets))))
        except ERRORS:
            continue
        yield from found
        return


def _losses_of_outputs(
    loss_fn: Callable, outputs: Any, targets: Any, count: int
) -> Iterator[tuple[int, float]]:
    for size in (1, count // 2):
        try:
            found = []
            for part in Batch(outputs, targets).split(size):
                found.append((part.size, float(loss_fn(*part))))
        except ERRORS:
            continue
        yield from found
        return


def _is_mean(whole: float, parts: list[tuple[int, float]], scale: float = 0.0) -> bool:
    """To rounding, which is that of a loss as large as `scale`, of other outputs, too."""
    mean = _mean(parts)
    if not math.isfinite(whole):
        return True  # which others refuse
    if not math.isfinite(mean):
        return False
    size = max(abs(whole), *(abs(loss) for _, loss in parts))
    rounding = EPSILON * abs(scale) if math.isfinite(scale) else 0.0
    return abs(mean - whole) <= 1000 * EPSILON * size + rounding + 1e-30


def _mean(parts: list[tuple[int, float]]) -> float:
    return sum(size * loss for size, loss in parts) / sum(size for size, _ in parts)


def _refuse_mixed(objective: Objective, outputs: Any, batch: Batch) -> None:
    """Raises ValueError where a sample's output depends on the samples beside it."""
    if not _has_rows(outputs, batch.size):
        return
    half = batch.take(slice(0, max(1, batch.size // 2)))
    try:
        fewer = tree_flatten(objective.outputs(objective.weights, half.inputs))[0]
    except ERRORS:
        return
    whole = [leaf[: half.size] for leaf in tree_flatten(outputs)[0]]
    if not all(a.shape == b.shape and _alike(a, b, 1e3) for a, b in zip(whole, fewer, strict=True)):
        raise ValueError(
            "the model's output for a sample depends on the other samples of its batch, so that"
            " there is no mean over samples; does it take the batch for another axis (as layers"
            " without batch_first=True do), or normalise or attend over it?"
        )


def _refuse_not_mean(whole: float, parts: list, outputs: Any, batch: Batch) -> None:
    """Raises ValueError with the cause."""
    mean, count = _mean(parts), batch.size
    if math.isclose(whole, count * mean, rel_tol=1e-3):
        raise ValueError(
            'loss_fn returns a sum over the samples; allowed: their mean, as reduction="mean" gives'
        )
    text = (
        f"loss_fn is not a mean over samples: {count} samples have the loss {whole:.6g}, and their"
        f" own losses the mean {mean:.6g}"
    )
    shapes = [
        tuple(part.shape) if isinstance(part, Tensor) else None for part in (outputs, batch.targets)
    ]
    if None not in shapes and shapes[0] != shapes[1] and batch.targets.is_floating_point():
        raise ValueError(
            f"{text}; outputs {shapes[0]} and targets {shapes[1]} broadcast against each other:"
            " give both one shape, as in targets[:, None] or outputs.squeeze(1)"
        )
    raise ValueError(
        f"{text}; allowed: a mean of losses of single samples. Class weights and ignored labels are"
        " taken into account where PyTorch's own loss is given, as nn.CrossEntropyLoss(weight=…),"
        " not hidden in a function; a loss between samples has no such form"
    )


def _has_rows(outputs: Any, count: int) -> bool:
    return all(leaf.ndim and len(leaf) == count for leaf in tree_flatten(outputs)[0])


def _alike(one: Tensor, other: Tensor, times: float = 100.0) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    epsilon = times * EPSILON
    finite = one[torch.isfinite(one)]
    size = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(one, other, rtol=epsilon, atol=epsilon * size, equal_nan=True)


def _kind(value: Any) -> str:
    leaves = tree_flatten(value)[0]
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    if leaves and all(isinstance(leaf, Tensor) for leaf in leaves):
        return " and ".join(_kind(leaf) for leaf in leaves[:4])
    return f"of type {type(value).__name__}"
