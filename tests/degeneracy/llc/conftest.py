"""Two problems at their minima, with a posterior that is known or convex: regressions."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from degeneracy.llc.chains import Problem, problem_of
from degeneracy.llc.estimate import mean_loss
from degeneracy.objective.loss import Objective, objective_of


class Case(NamedTuple):
    """A model at the minimum of its loss on data."""

    model: nn.Module
    data: tuple[Tensor, Tensor]
    loss_fn: Callable
    curvatures: list[float]  # of the Hessian there, ascending

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @property
    def init_loss(self) -> float:
        return mean_loss(self.model, self.data, self.loss_fn)

    def problem(self, batch_size: int | None = None) -> Problem:
        return problem_of(self.objective, batch_size or len(self.data[0]))._replace(losses=None)

    @property
    def objective(self) -> Objective:
        return objective_of(self.model, self.loss_fn, self.data)


def half_mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * mse_loss(outputs, targets)


@pytest.fixture(scope="session")
def regression() -> Case:
    """600 samples of 6 correlated inputs, with noise of deviation 1: a quadratic loss."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator) / 6**0.5 + 0.7 * torch.eye(6)
    inputs = torch.randn(600, 6, generator=generator) @ mixing
    targets = inputs.sum(1, keepdim=True) + torch.randn(600, 1, generator=generator)
    model = nn.Linear(6, 1, bias=False)
    best = torch.linalg.lstsq(inputs.double(), targets.double()).solution
    model.weight.data = best.T.float()
    hessian = inputs.double().T @ inputs.double() / 600
    curvatures = torch.linalg.eigvalsh(hessian).tolist()
    return Case(model, (inputs, targets), half_mse, curvatures)


@pytest.fixture(scope="session")
def classification() -> Case:
    """800 samples of 4 inputs of unlike scales, in 3 classes that inputs only hint at."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(800, 4, generator=generator) * torch.tensor([0.5, 1.0, 2.0, 3.0])
    truth = torch.randn(4, 3, generator=generator)
    labels = torch.multinomial((inputs @ truth).softmax(1), 1, generator=generator)[:, 0]
    model = nn.Linear(4, 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs.double()), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return Case(model.float(), (inputs, labels), cross_entropy, [])
