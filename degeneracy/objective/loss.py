"""What is L(w)? The mean loss over a data set plus a penalty, by the weights that are looked at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map, tree_unflatten

from degeneracy.objective.data import Batch, Data, as_data
from degeneracy.objective.forward import Called, Forward
from degeneracy.objective.means import as_mean

Penalty = Callable[[dict[str, Tensor]], Tensor]  # all parameters by name → a scalar
Restriction = Sequence[str] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """L(w) = mean over samples of l(outputs, targets) + penalty, by the weights that may move.

    Attributes:
        called: The module and what is made of it.
        loss_fn: A mean over samples (`means.as_mean`).
        data: The n samples.
        weights: Those that are looked at, detached, full precision; of a masked parameter the
            entries that are, in a row.
        fixed: All parameters and buffers, the weights among them.
        masks: Of masked parameters the flat positions of those entries.
        penalty: Of all parameters by name; None for none.
        original: The loss as it was given.
    """

    called: Called
    loss_fn: Callable[[Any, Any], Tensor]
    data: Data
    weights: dict[str, Tensor]
    fixed: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    penalty: Penalty | None = None
    original: Callable | None = None

    @property
    def model(self) -> nn.Module:
        """The module as it was given."""
        return self.called.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.weights.values())).device

    def at(self, state: Mapping[str, Tensor]) -> "Objective":
        """The same at another state dict of the model; what it does not name stays."""
        names = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
        fixed = {
            name: names[name].detach().to(old.device, old.dtype) if name in names else old
            for name, old in self.fixed.items()
        }
        weights = {name: self._looked_at(name, fixed[name]) for name in self.weights}
        return replace(self, fixed=fixed, weights=weights)

    def _looked_at(self, name: str, whole: Tensor) -> Tensor:
        return whole.flatten()[self.masks[name]] if name in self.masks else whole

    def whole(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full parameters of these weights, those that are masked among the others' entries."""
        return {
            name: (
                self.fixed[name]
                .flatten()
                .scatter(0, self.masks[name], weight)
                .view_as(self.fixed[name])
                if name in self.masks
                else weight
            )
            for name, weight in weights.items()
        }

    def outputs(self, weights: Mapping[str, Tensor], inputs: Any) -> Any:
        """The model's, with these weights."""
        return self.called.with_weights({**self.fixed, **self.whole(weights)}, inputs)

    def batch_loss(self, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """L as a batch estimates it."""
        loss = self.loss_fn(self.outputs(weights, batch.inputs), batch.targets)
        return loss if self.penalty is None else loss + self.penalised(weights)

    def penalised(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The penalty alone."""
        parameters = {name: self.fixed[name] for name, _ in self.model.named_parameters()}
        return self.penalty({**parameters, **self.whole(weights)})

    def loss(self, weights: Mapping[str, Tensor], *leaves: Tensor) -> Tensor:
        """`batch_loss` of a batch's tensors, in the order of `Batch.leaves`."""
        return self.batch_loss(weights, self.batch(leaves))

    def losses(self, weights: Mapping[str, Tensor], *leaves: Tensor) -> Tensor:
        """Of each sample, (m,): their mean is `loss`."""
        batch = self.batch(leaves)
        outputs = self.outputs(weights, batch.inputs)

        def alone(output: Any, target: Any) -> Tensor:
            return self.loss_fn(*tree_map(lambda leaf: leaf[None], (output, target)))

        found = vmap(alone)(outputs, batch.targets)
        return found if self.penalty is None else found + self.penalised(weights)

    def share(self, batch: Batch) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """What a batch adds to L over all the data, as a function of the weights."""
        return lambda weights: self.batch_loss(weights, batch) * (batch.size / len(self.data))

    def batch(self, leaves: Sequence[Tensor]) -> Batch:
        """Tensors put back into the trees they came from."""
        return Batch(*tree_unflatten(list(leaves), self.data.spec))

    @torch.no_grad()
    def mean_loss(self, size: int) -> float:
        """L over all the data, at the weights as they are, summed in float64."""
        total = 0.0
        for batch in self.data.batches(size):
            total += self.batch_loss(self.weights, batch).double().item() * batch.size
        return total / len(self.data)


def objective_of(
    model: nn.Module,
    loss_fn: Callable,
    data: Any,
    *,
    forward: Forward | None = None,
    penalty: Penalty | None = None,
    restrict: Restriction | None = None,
    cache_bytes: int | None = None,
    seed: int = 0,
    fixed_padding: bool = False,
) -> Objective:
    """The loss of a model on data, not yet tried (`checks.check_objective`).

    Args:
        model: Any module, in the mode it is in.
        loss_fn: Mean-reduced loss of (outputs, targets).
        data: What `data.as_data` takes.
        forward: From (model, inputs) to outputs; None: `forward.default_forward`.
        penalty: A scalar function of all parameters by name that L includes.
        restrict: Which weights are looked at, of those that require a gradient: names of
            parameters or modules, or boolean tensors by name; None: all.
        cache_bytes, seed: As `data.as_data` takes them.
        fixed_padding: Whether rows of embeddings for padding, for which PyTorch gives no gradient,
            are left out.

    Raises:
        ValueError: No weights, names or shapes that the model does not have, or as `as_data` says.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "called inside torch.inference_mode(), where nothing can be differentiated; call it"
            " outside, or use torch.no_grad()"
        )
    called = Called(model, forward)
    fixed = called.state()
    trained = {name: p for name, p in called.model.named_parameters() if p.requires_grad}
    masks: dict[str, Tensor] = {}
    names = list(trained)
    if restrict is not None and trained:
        names, masks = _restricted(trained, restrict)
    if fixed_padding:
        masks |= without_padding(called.model, names, masks, fixed)
    weights = {
        name: fixed[name].flatten()[masks[name]] if name in masks else fixed[name] for name in names
    }
    device = next(iter(fixed.values())).device if fixed else torch.device("cpu")
    held = as_data(data, device, seed=seed, cache_bytes=cache_bytes)
    mean = as_mean(loss_fn, held)
    return Objective(called, mean, held, weights, fixed, masks, penalty, loss_fn)


def without_padding(
    model: nn.Module, names: Sequence[str], masks: Mapping[str, Tensor], fixed: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Positions of the rows of embeddings that are not for padding, of those that have such."""
    found = {}
    for prefix, layer in model.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        padding = getattr(layer, "padding_idx", None)
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and padding is not None:
            if name not in names:
                continue
            moves = torch.ones_like(fixed[name], dtype=torch.bool)
            moves[padding] = False
            positions = moves.flatten().nonzero()[:, 0]
            kept = masks.get(name)
            found[name] = positions if kept is None else kept[torch.isin(kept, positions)]
    return found


def _restricted(
    trained: Mapping[str, Tensor], restrict: Restriction
) -> tuple[list[str], dict[str, Tensor]]:
    """Names of parameters that are looked at, and positions of entries where not all are."""
    if isinstance(restrict, str):
        restrict = [restrict]
    if not restrict:
        raise ValueError("restrict names nothing; allowed: at least one parameter, or None for all")
    asked = {
        given: [name for name in trained if name == given or name.startswith(f"{given}.")]
        for given in restrict
    }
    for given, names in asked.items():
        if not names or (isinstance(restrict, Mapping) and names != [given]):
            shown = ", ".join(list(trained)[:6]) + (" and more" if len(trained) > 6 else "")
            raise ValueError(
                f"restrict names {given!r}; allowed: parameters that require a gradient, or modules"
                f" with such: {shown}"
            )
    chosen = {name for names in asked.values() for name in names}
    if not isinstance(restrict, Mapping):
        return [name for name in trained if name in chosen], {}
    masks = {}
    for name, mask in restrict.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise ValueError(f"restrict[{name!r}] must be a tensor of booleans")
        if mask.shape != trained[name].shape:
            raise ValueError(
                f"restrict[{name!r}] is {tuple(mask.shape)}; allowed: the parameter's shape,"
                f" {tuple(trained[name].shape)}"
            )
        if mask.any():
            masks[name] = mask.flatten().nonzero()[:, 0].to(trained[name].device)
    if not masks:
        raise ValueError("restrict leaves no weight; allowed: masks with at least one entry")
    whole = {name for name, index in masks.items() if len(index) == trained[name].numel()}
    names = [name for name in trained if name in masks]
    return names, {name: masks[name] for name in names if name not in whole}
