"""How is SOAP set and built (Vyas et al., arXiv:2409.11321): Adam in Shampoo's eigenbasis?

`pytorch_optimizer.SOAP` is the optimizer. Its state holds lists, numbers and a group's counter
beside tensors; `SoapStepper` lays them out flat, so that training goes on from a checkpoint, and
leaves out batches that would make its statistics NaN for good.
"""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import Logged, TorchStepper, copied_buffers, restore_buffers

LISTS = ("GG", "Q")  # of an axis each: the statistic and its eigenvectors, [] where there is none


class Settings(OptimizerSettings):
    """Of a kind `soap`; defaults are the package's."""

    lr: float = Field(3e-3, gt=0, le=MAX_RATE, description="Learning rate (weight units).")
    beta1: float = Field(0.95, ge=0, lt=1, description="Decay β₁ of the gradient's running mean.")
    beta2: float = Field(
        0.95, ge=0, lt=1, description="Decay β₂ of its square's, and of the preconditioner's."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the root of that mean (gradient units).")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    precondition_frequency: int = Field(
        10, ge=1, description="Steps between two updates of the eigenvectors."
    )
    max_precondition_dim: int = Field(
        10_000, ge=1, description="Axes that are longer keep their own coordinates."
    )


class SoapStepper(TorchStepper):
    """A `Stepper` of SOAP.

    A batch whose loss or gradient is not finite leaves weights, buffers and the optimizer as they
    were; `counts` has the tensors of these batches.

    State: `<parameter's position>.<entry>` as every stepper's, a list's tensors as
    `<entry>_<axis>`, `step` and `num_skipped_updates`.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable, optimizers: Sequence):
        super().__init__(model, loss_fn, optimizers)
        self.num_skipped_updates = 0

    def step(self, inputs: Tensor, targets: Tensor) -> Logged:
        """Forward, backward, and the step."""
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        buffers = copied_buffers(self.model)
        loss = self.loss_fn(self.model(inputs), targets)
        loss.backward()
        if self.is_finite(loss):
            optimizer.step()
        else:
            restore_buffers(self.model, buffers)
            (group,) = optimizer.param_groups
            self.num_skipped_updates += len(group["params"])
        return {"loss": loss.detach()}

    def counts(self) -> dict[str, int]:
        """Tensors that were left as they were, a whole model's at a time; there is no restart."""
        return {"num_skipped_updates": self.num_skipped_updates, "num_restarts": 0}

    def state_dict(self) -> dict[str, Tensor]:
        """All that a restart needs."""
        (optimizer,) = self.optimizers
        (group,) = optimizer.param_groups
        found = {
            "step": torch.tensor(group.get("step", 0)),
            "num_skipped_updates": torch.tensor(self.num_skipped_updates),
        }
        for place, parameter in enumerate(group["params"]):
            for key, value in optimizer.state.get(parameter, {}).items():
                axes = value if key in LISTS else ()
                found |= {f"{place}.{key}_{i}": x for i, x in enumerate(axes) if len(x)}
                if isinstance(value, Tensor):
                    found[f"{place}.{key}"] = value
        return found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`; hyper-parameters stay those of the optimizer."""
        (optimizer,) = self.optimizers
        (group,) = optimizer.param_groups
        group["step"] = int(state["step"])
        self.num_skipped_updates = int(state["num_skipped_updates"])
        for place, parameter in enumerate(group["params"]):
            entries = {
                name.split(".", 1)[1]: tensor.to(parameter)
                for name, tensor in state.items()
                if name.startswith(f"{place}.")
            }
            if not entries:
                continue
            own = {key: entries[key] for key in ("exp_avg", "exp_avg_sq")}
            for key in LISTS:
                own[key] = [entries.get(f"{key}_{axis}", []) for axis in range(parameter.ndim)]
            own["precondition_frequency"] = group["precondition_frequency"]
            own["shampoo_beta"] = group["betas"][1]
            optimizer.state[parameter] = own


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> SoapStepper:
    """The optimizer over all parameters of `model`; its first step only starts the statistics."""
    from pytorch_optimizer import SOAP  # takes longer to import than all of ours, few runs use it

    how = settings.model_dump(exclude={"swap_lr", "beta1", "beta2"})
    betas = (settings.beta1, settings.beta2)
    return SoapStepper(model, loss_fn, [SOAP(model.parameters(), betas=betas, **how)])


KIND = Kind(Settings, build)
