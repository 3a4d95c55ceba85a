"""What does each function say of each module: the right value, or why there is none?

    .venv/bin/python tests/support/cells.py        writes docs/any-model.md

A cell is right where the function's value is the dense, slow one of `dense`; it is a refusal where
a ValueError names the cause. Anything else is an error of the project.
"""

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from curvlinops import FisherType, KFACLinearOperator
from dense import dense_fisher, dense_gradient, dense_hessian, dense_loss
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._pytree import tree_map
from zoo import ZOO, Animal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "any-model.md"
sys.path.insert(0, str(PAGE.parents[1]))

from degeneracy.curvature.fisher import fisher_operator, fisher_trace  # noqa: E402
from degeneracy.curvature.kfac import kfac_factors, kfac_trace  # noqa: E402
from degeneracy.curvature.largest import top_eigenvalues  # noqa: E402
from degeneracy.curvature.operators import hessian_operator  # noqa: E402
from degeneracy.curvature.trace import hessian_trace  # noqa: E402
from degeneracy.llc.chains import Engine, Schedule, problem_of  # noqa: E402
from degeneracy.llc.checks import checked_objective  # noqa: E402
from degeneracy.llc.estimate import estimate_llcs  # noqa: E402
from degeneracy.llc.samplers import Chain  # noqa: E402
from degeneracy.llc.settings import SamplerSettings  # noqa: E402
from degeneracy.weights import named  # noqa: E402

NBETA, EPSILON, DRAWS, CHAINS = 40.0, 1e-4, 4, 2
PROBES = 40
RIGHT = "right"


@dataclass(frozen=True)
class Cell:
    """What a function said: `RIGHT`, or a refusal's sentence."""

    said: str

    @property
    def right(self) -> bool:
        return self.said == RIGHT


def options(animal: Animal, penalty: bool = True) -> dict:
    given = {"forward": animal.forward, "penalty": animal.penalty if penalty else None}
    return {name: value for name, value in given.items() if value is not None}


def close(found, right, size: float | None = None, tolerance: float = 1e-7) -> None:
    """AssertionError where numbers are apart by more than rounding of what they are made of."""
    found = torch.as_tensor(found, dtype=torch.float64)
    right = torch.as_tensor(right, dtype=torch.float64)
    size = float(right.abs().max()) if size is None else size
    apart = float((found - right).abs().max())
    assert apart <= tolerance * max(size, 1e-3), f"{apart:.3g} apart, of {size:.3g}"


def tolerance_of(animal: Animal) -> float:
    types = {p.dtype for p in animal.build().parameters()}
    return 1e-7 if types == {torch.float64} else 1e-4


# ---- functions, each raising AssertionError where it is wrong ------------------------------------


def llc(animal: Animal) -> None:
    """λ̂ of short chains over all the data, by the losses of the weights that they went through."""
    draws, model = [], animal.build()
    settings = SamplerSettings(
        sampler="sgld",
        num_chains=CHAINS,
        num_draws=DRAWS,
        nbeta=NBETA,
        sampler_lr=EPSILON,
        localization=1.0,
    )
    count = len(torch.utils._pytree.tree_flatten(animal.data)[0][0])
    given = [model.state_dict()], animal.data, settings, count, animal.loss_fn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = estimate_llcs(model, *given, on_draw=draws.append, **options(animal))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    names = [name.removeprefix("_orig_mod.") for name in trained]
    rows = [torch.cat([draw.weights[name].double().flatten() for name in names]) for draw in draws]
    losses = torch.stack([dense_loss(animal, row) for row in rows])
    tolerance = max(1e-6, tolerance_of(animal))  # a trace is kept in float32
    close(found.init_loss, dense_loss(animal), tolerance=tolerance)
    close([draw.loss for draw in draws], losses, tolerance=tolerance)
    right = NBETA * float(losses.mean() - dense_loss(animal))
    close(found.llc, right, size=NBETA * float(losses.abs().max()), tolerance=tolerance)


def gradient(animal: Animal) -> None:
    """The engine's gradient of two chains at once, at w* and beside it."""
    model = animal.build()
    objective = checked_objective(model, [None], animal.data, 1, animal.loss_fn, **options(animal))
    problem = problem_of(objective, len(objective.data))
    whole = torch.cat([w.flatten() for w in objective.weights.values()])
    chains = [Chain(0, (0, 0, number), 1e-4, NBETA, 1.0) for number in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = Engine(problem, objective.weights, whole[None], chains, Schedule("sgld", 1))
        engine.record([range(2)])
    away = whole + 0.1 * torch.sin(torch.arange(len(whole)))
    slopes, values = engine.gradients[2](torch.stack([whole, away.to(whole)]), *problem.data)
    for slope, value, row in zip(slopes, values, (whole, away), strict=True):
        full = _full(objective, row)
        close(value.detach(), dense_loss(animal, full), tolerance=tolerance_of(animal))
        right = _kept(objective, dense_gradient(animal, full))
        close(slope.detach(), right, tolerance=10 * tolerance_of(animal))


def _full(objective, row: Tensor) -> Tensor:
    """All trained weights, those that do not move as they are."""
    weights = objective.whole(
        named(row.to(next(iter(objective.weights.values()))), objective.weights)
    )
    return torch.cat([w.detach().double().flatten() for w in weights.values()])


def _kept(objective, flat: Tensor) -> Tensor:
    parts, start = [], 0
    for name in objective.weights:
        size = objective.fixed[name].numel()
        part = flat[start : start + size]
        parts.append(part[objective.masks[name]] if name in objective.masks else part)
        start += size
    return torch.cat(parts)


def matrix_of(operator) -> Tensor:
    return operator.products(torch.eye(operator.dim, dtype=operator.dtype)).detach()


def hessian(animal: Animal) -> None:
    """Every entry, the data in one batch and in several."""
    for size in (1280, 5):
        found = hessian_operator(
            animal.build(), animal.loss_fn, animal.data, size, **options(animal)
        )
        close(matrix_of(found), dense_hessian(animal), tolerance=10 * tolerance_of(animal))


def trace(animal: Animal) -> None:
    """Within five standard errors."""
    found = hessian_trace(animal.build(), animal.loss_fn, animal.data, PROBES, **options(animal))
    right = float(dense_hessian(animal).trace())
    slack = 1e-3 * abs(right) + 1e-6
    assert abs(found.trace - right) <= 5 * found.std_error + slack, (found, right)


def largest(animal: Animal) -> None:
    """The five largest eigenvalues."""
    found = top_eigenvalues(animal.build(), animal.loss_fn, animal.data, 5, **options(animal))
    right = torch.linalg.eigvalsh(dense_hessian(animal)).flip(0)[:5]
    size = float(torch.linalg.matrix_norm(dense_hessian(animal), 2))
    close(found, right, size=size, tolerance=1e-4)


def fisher(animal: Animal) -> None:
    """Every entry and the trace, of the kinds that the loss has."""
    given = {"loss_fn": animal.loss_fn, **options(animal)}
    kinds = animal.fishers or ("expected",)
    for kind in kinds:
        found = matrix_of(fisher_operator(animal.build(), animal.data, kind, **given))
        right = dense_fisher(animal, kind)
        assert right is not None, "a Fisher information that is not defined was computed"
        close(found, right, tolerance=10 * tolerance_of(animal))
        traced = fisher_trace(animal.build(), animal.data, kind, **given)
        close(traced, right.trace(), tolerance=10 * tolerance_of(animal))


def kfac(animal: Animal) -> None:
    """With a single sample the trace is that of the layers' blocks, where there is one position;
    with several curvlinops's, where that can.
    """
    given = {"loss_fn": animal.loss_fn, **options(animal)}
    kfac_factors(animal.build(), animal.data, **given)
    one = _one_sample(animal)
    factors = kfac_factors(one.build(), one.data, **given)
    right = dense_fisher(one, "expected")
    assert right is not None, "factors of a Fisher information that is not defined"
    if _single_position(one):
        close(kfac_trace(factors), right.trace(), tolerance=10 * tolerance_of(animal))
    elif (peer := _peer(one)) is not None:
        close(kfac_trace(factors), peer, tolerance=10 * tolerance_of(animal))


def _one_sample(animal: Animal) -> Animal:
    """The first whose label counts."""
    targets, index = animal.data[1], 0
    ignored = getattr(animal.loss_fn, "ignore_index", -100)
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim == 1:
        index = int((targets != ignored).nonzero()[0])
    return replace(animal, data=tree_map(lambda leaf: leaf[index : index + 1], animal.data))


def _single_position(animal: Animal) -> bool:
    seen, model = [], animal.build().double()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, given, found: seen.append(found[0].numel() == layer.weight.shape[0])
            )
    forward = animal.forward or (lambda model, inputs: model(inputs))
    forward(
        model,
        tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, animal.data[0]),
    )
    return all(seen)


def _peer(animal: Animal) -> float | None:
    """curvlinops's trace; None where it cannot."""
    losses = {cross_entropy: torch.nn.CrossEntropyLoss(), mse_loss: torch.nn.MSELoss()}
    model = animal.build()
    if any(getattr(layer, "padding_mode", "zeros") != "zeros" for layer in model.modules()):
        return None  # which curvlinops takes for zeros
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        matrix = KFACLinearOperator(
            model,
            losses[animal.loss_fn],
            trained,
            [animal.data],
            check_deterministic=False,
            fisher_type=FisherType.TYPE2,
            separate_weight_and_bias=False,
        )
        return float(matrix.trace)
    except (NotImplementedError, KeyError):
        return None


FUNCTIONS: dict[str, Callable[[Animal], None]] = {
    "LLC": llc,
    "gradient": gradient,
    "Hessian": hessian,
    "trace": trace,
    "eigenvalues": largest,
    "Fisher": fisher,
    "K-FAC": kfac,
}


def cell(animal: Animal, name: str) -> Cell:
    """What a function says of a module; AssertionError for a wrong value, and whatever else is
    raised.
    """
    built = []

    def build() -> torch.nn.Module:
        built.append(animal.build())
        return built[-1]

    said = RIGHT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FUNCTIONS[name](replace(animal, build=build, twin=animal.twin or animal.build))
    except ValueError as error:
        said = " ".join(str(error).split())
    _untouched(animal, built)
    return Cell(said)


def _untouched(animal: Animal, built: list[torch.nn.Module]) -> None:
    """AssertionError where a function left a model otherwise than it was."""
    fresh = {name: p.detach().double() for name, p in animal.build().named_parameters()}
    for model in built:
        own = dict(model.named_parameters())
        assert own.keys() == fresh.keys(), "the model lost parameters"
        for name, parameter in own.items():
            assert torch.equal(parameter.detach().double(), fresh[name]), f"{name} was changed"
            assert parameter.grad is None, f"{name} has a gradient"


def may_say(animal: Animal, name: str, said: str) -> bool:
    """Whether a refusal is allowed in this cell."""
    if animal.refused is not None or animal.may_refuse is not None:
        pattern = animal.refused or animal.may_refuse
        if re.search(pattern, said, re.IGNORECASE):
            return True
    if name in ("Fisher", "K-FAC") and (animal.penalty or not animal.fishers):
        return re.search(r"likelihood|penalty|p\(y", said) is not None
    return name == "K-FAC" and "K-FAC has no factors for" in said


def row(animal: Animal) -> dict[str, Cell]:
    return {name: cell(animal, name) for name in FUNCTIONS}


def as_markdown(rows: dict[str, dict[str, Cell]]) -> str:
    """The page: a table, and the refusals' sentences below it."""
    sentences: dict[str, int] = {}
    lines = [HEAD, f"| module | {' | '.join(FUNCTIONS)} |", f"|{' --- |' * (len(FUNCTIONS) + 1)}"]
    group = {animal.name: animal.group for animal in ZOO}
    for name, cells in rows.items():
        shown = []
        for found in cells.values():
            if found.right:
                shown.append("✓")
            else:
                short = shortened(found.said)
                shown.append(f"[{sentences.setdefault(short, len(sentences) + 1)}]")
        lines.append(f"| {group[name]}: {name} | {' | '.join(shown)} |")
    lines += ["", "## Why", ""]
    lines += [f"{number}. {sentence}" for sentence, number in sentences.items()]
    return "\n".join(lines) + "\n"


def shortened(said: str) -> str:
    """Without numbers, which differ from machine to machine, and not too long."""
    said = re.sub(r"-?\d+\.\d+(e-?\d+)?|\d+e-?\d+", "…", said)
    return said if len(said) <= 240 else f"{said[:240]} …"


HEAD = """# Any model: the right number, or why there is none

`✓`: the value is that of a dense, slow, independent computation in float64 (`tests/support/`). A
number: a refusal, whose sentence stands below. LLC is a short chain over all the data; trace and
eigenvalues are of the Hessian of the mean loss; Fisher is of the kinds that the loss has.

Made by `.venv/bin/python tests/support/cells.py`; the test suite looks at every cell.
"""


def main() -> None:
    rows = {}
    for animal in ZOO:
        rows[animal.name] = row(animal)
        bad = [
            f"{name}: {found.said}"
            for name, found in rows[animal.name].items()
            if not found.right and not may_say(animal, name, found.said)
        ]
        print(animal.name, "…", "; ".join(bad) or "as it should be", flush=True)
    PAGE.write_text(as_markdown(rows))


if __name__ == "__main__":
    main()
