"""How does a network look to relative changes of its weights? As a function of u, w = w*(1 + u).

Scaling a ReLU unit's incoming weights up and its outgoing ones down by the same factor leaves this
function of u as it is, entry by entry: what is measured in u needs no choice of gauge (after the
normalised perturbations of Tsuzuku, Sato & Sugiyama, ICML 2020, arXiv:1901.04653, and the adaptive
ones of Kwon et al., ICML 2021, arXiv:2102.11600). Weights that are 0 stay 0.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Relative(nn.Module):
    """A model as a function of relative changes u of its parameters, 0 at `state`.

    A dropped-in noise of deviation σ in every u moves the weights by about σ|w*|, so that with a
    pull γ towards u = 0 chains go about |w*|/√γ.

    Args:
        model: Whose parameters are w; it is not changed, and must not change its own buffers.
        state: w*, by name as in `model.state_dict()`; buffers may be missing.

    Attributes:
        changes: u, one tensor a parameter, of its shape and without unit.
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor]):
        super().__init__()
        self._held = (model,)  # in a tuple: its own parameters are not this module's
        self.names = [name for name, _ in model.named_parameters()]
        for place, name in enumerate(self.names):
            self.register_buffer(f"center_{place}", state[name].detach().clone())
        self.changes = nn.ParameterList(
            torch.zeros_like(state[name], requires_grad=True) for name in self.names
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the model gives at w*(1 + u)."""
        weights = {
            name: getattr(self, f"center_{place}") * (1 + self.changes[place])
            for place, name in enumerate(self.names)
        }
        return functional_call(self._held[0], weights, inputs)
