"""How far are online NGD's directions from exact ones, from dense ones, and from float64's?"""

from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from degeneracy.data.images import TensorData, load_data
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.optimizers.exact_ngd import KINDS, fisher_matrix
from degeneracy.runs.work import Measured, Work, from_project
from ngd import ARITHMETICS, NGD
from studies.ngd_directions.comparison import (
    Directions,
    dense_comparison,
    exact_comparison,
    flat,
    rounding_errors,
)
from studies.ngd_directions.records import RECORDED, joined
from studies.ngd_directions.settings import Settings
from studies.ngd_directions.training import Training, minibatch_gradients
from studies.ngd_directions.yardsticks import (
    UPDATE_PERIOD,
    averaged_factors,
    next_directions,
    turned,
)


def measure_exact(work: Work) -> Measured:
    """Cosines of online NGD's directions, and of others, with the exact natural gradient; a
    checkpoint of training each.

    Training begins anew and goes through what was found before, to the same weights.
    """
    settings, training = work.settings.exact, None
    for key in work.todo([str(step) for step in settings.checkpoints], "checkpoint"):
        if training is None:
            pooled = images(work).pooled(settings.pooling)
            training = Training(work.settings.training, settings.model, pooled)
        training.train_to(int(key))
        yield key, at_checkpoint(training, int(key), work.settings)


def measure_dense(work: Work) -> Measured:
    """Cosines of online NGD's directions, in float64, with those of whole matrices."""
    for key in work.todo([RECORDED], "recording"):
        yield key, along_dense(work)


def measure_float32(work: Work) -> Measured:
    """What each arithmetic loses in float32: orthonormality, and directions against its own in
    float64.
    """
    for key in work.todo([RECORDED], "recording"):
        yield key, along_float64(work)


def images(work: Work) -> TensorData:
    """The training images; raises `data.files.DataError` where they cannot be had."""
    training = work.settings.training
    return load_data(training.dataset, from_project(training.root), work.device).train


# ---- beside the exact natural gradient -----------------------------------------------------------


def at_checkpoint(training: Training, step: int, settings: Settings) -> dict[str, Any]:
    """All comparisons after `step` steps; NGD's direction and F's sum in float32. The optimizer is
    only read.
    """
    model, data = training.model, training.data
    exact, own = settings.exact, settings.training.alpha
    generator = torch.Generator().manual_seed(settings.training.seed + step)
    gradients, others = (
        minibatch_gradients(model, data, count, settings.training.batch_size, generator)
        for count in (exact.num_minibatches, exact.num_averaged)
    )
    fishers = fisher_matrices(model, data, settings, generator)
    each = list(zip(*gradients, strict=True))  # the gradients of each minibatch
    directions = Directions(
        gradient=torch.stack([flat(one) for one in each]),
        online=torch.stack([flat(next_directions(training.optimizer, one)) for one in each]),
        averaged={a: averaged(gradients, others, a) for a in sorted({own, *exact.alphas})},
        own=own,
    )
    with torch.no_grad():
        loss = cross_entropy(model(data.inputs), data.labels).item()
    return {
        "num_weights": num_parameters(model),
        "train_loss": loss,  # nats, over the whole training set
        **exact_comparison(model, directions, fishers, KINDS, exact.alphas),
    }


def averaged(
    gradients: list[Float[Tensor, "k ..."]], others: list[Float[Tensor, "m ..."]], alpha: float
) -> Float[Tensor, "k p"]:
    """k gradients, by parameter, turned in float64 with factors averaged over m others."""
    pairs = [(g.double(), o.double()) for g, o in zip(gradients, others, strict=True)]
    found = [turned(g, averaged_factors(o, alpha), alpha) for g, o in pairs]
    return torch.cat([directions.flatten(1) for directions in found], dim=1)


def fisher_matrices(
    model: nn.Module, data: TensorData, settings: Settings, generator: torch.Generator
) -> dict[str, Float[Tensor, "p p"]]:
    """The exact F of every kind, and `"expected"` of two disjoint halves of the images; float64."""
    place = data.labels.device
    order = torch.randperm(len(data.labels), generator=generator)
    chosen = order[: settings.exact.num_fisher_samples].to(place)
    inputs, labels = data.inputs[chosen], data.labels[chosen]
    draws = torch.Generator(place).manual_seed(settings.training.seed)
    half = len(chosen) // 2
    first, second = (
        fisher_matrix(model, inputs[part]).double() for part in (slice(half), slice(half, None))
    )
    return {
        "expected": torch.lerp(first, second, 1 - half / len(chosen)),
        "sampled": fisher_matrix(model, inputs, kind="sampled", generator=draws).double(),
        "empirical": fisher_matrix(model, inputs, labels, kind="empirical").double(),
        "first half": first,
        "second half": second,
    }


# ---- along a recorded training -------------------------------------------------------------------


def along_dense(work: Work) -> dict[str, Any]:
    """`dense_comparison` step by step, for each α."""
    settings = work.settings.recorded
    model, steps = recorded(work)
    names = [name for name, _ in model.named_parameters()]
    how = work.settings.training.model_dump(include={"eta", "epsilon"})
    online = [_follower(work, model, torch.float64, alpha) for alpha in settings.alphas]
    factors: list = [[{} for _ in names] for _ in settings.alphas]
    found: list = [[] for _ in settings.alphas]
    for step, gradients in enumerate(steps):
        gradients = {name: gradient.double() for name, gradient in gradients.items()}
        for i, alpha in enumerate(settings.alphas):
            cosines, factors[i] = dense_comparison(
                gradients, online[i], factors[i], step, alpha=alpha, **how
            )
            found[i].append(cosines)
    by_alpha = [joined(cosines) for cosines in found]
    return {
        "model": model.title,
        "alphas": settings.alphas,
        "parameters": names,
        "cosines": {kind: [of[kind] for of in by_alpha] for kind in ("online", "gradient")},
    }


def along_float64(work: Work) -> dict[str, Any]:
    """`rounding_errors` step by step, for each arithmetic and α."""
    settings = work.settings.recorded
    model, steps = recorded(work)
    runs = list(product(ARITHMETICS, settings.alphas))
    followers = [
        [
            _follower(work, model, dtype, alpha, arithmetic)
            for dtype in (torch.float32, torch.float64)
        ]
        for arithmetic, alpha in runs
    ]
    found = [[rounding_errors(gradients, *pair) for pair in followers] for gradients in steps]
    by_run = [joined(of_run) for of_run in zip(*found, strict=True)]
    named = [
        {"arithmetic": arithmetic, "alpha": alpha, **errors}
        for (arithmetic, alpha), errors in zip(runs, by_run, strict=True)
    ]
    return {"model": model.title, "alphas": settings.alphas, "runs": named}


def recorded(work: Work) -> tuple[FFNN, Iterator[dict[str, Tensor]]]:
    """The model whose training is recorded, and the gradients of its steps by parameter."""
    settings = work.settings.recorded
    training = Training(
        work.settings.training,
        lambda: FFNN(settings.hidden_nodes, settings.hidden_layers),
        images(work),
    )
    names = [name for name, _ in training.model.named_parameters()]
    gradients = islice(training.gradients, settings.num_steps)
    bar = tqdm(gradients, "training", settings.num_steps, leave=False, unit="step")
    return training.model, (dict(zip(names, one, strict=True)) for one in bar)


def _follower(
    work: Work, model: nn.Module, dtype: torch.dtype, alpha: float, arithmetic: str = "stable"
) -> NGD:
    """An optimizer for `stepped_directions`, with the training's settings but α."""
    weights = [torch.zeros_like(param, dtype=dtype) for param in model.parameters()]
    chosen = work.settings.training.model_dump(include={"eta", "epsilon", "delta"})
    return NGD(
        weights, lr=1.0, alpha=alpha, arithmetic=arithmetic, update_period=UPDATE_PERIOD, **chosen
    )
