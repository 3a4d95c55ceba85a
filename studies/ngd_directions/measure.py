"""How exact is online NGD (`ngd.py`)? Its directions beside exact ones, and what its arithmetic
loses in float32.

    study = open_study(load_settings("experiments/args_ngd_directions.json"))
    measure_exact(study)  # against the exact natural gradient of a small network, along its
    training measure_dense(study)  # against the same recursion with full matrices, inverted as they
    stand measure_float32(study)  # published and stable arithmetic, against themselves in float64
    print(finish(study))

Every part's results are kept at once; the same call with the same settings and directory takes
finished parts from there.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from tqdm import tqdm

from degeneracy.device import chosen_device
from degeneracy.models.networks import FFNN, num_parameters
from degeneracy.optimizers.exact_ngd import (
    KINDS,
    cosines,
    fisher_matrix,
    smoothing,
    split_by_parameter,
)
from degeneracy.report.page import write_figs_to_html
from degeneracy.runs.run import PROJECT
from degeneracy.runs.store import RunStore
from ngd import ARITHMETICS, NGD
from studies.ngd_directions.figures import findings, study_figures
from studies.ngd_directions.settings import Settings
from studies.ngd_directions.yardsticks import (
    UPDATE_PERIOD,
    averaged_factors,
    dense_step,
    exact_directions,
    layerwise_directions,
    next_directions,
    orthonormality_errors,
    stepped_directions,
    turned,
)
from utils_general import TensorData, load_data

STUDY = PROJECT / "experiments" / "ngd_directions"
COMPARED = (
    "online",
    "averaged",
    "averaged_best",
    "layerwise",
    "gradient",
)  # with the exact direction, in part 1
AGREEMENT = {  # of exact directions with each other
    "halves": ("first half", "second half"),
    "sampled": ("sampled", "expected"),
    "empirical": ("empirical", "expected"),
}


@dataclass
class Study:
    """The study under way: settings, where it keeps its work, device, and what it has found so far."""

    settings: Settings
    store: RunStore
    device: torch.device
    results: dict[str, Any]

    @cached_property
    def data(self) -> TensorData:
        """The training images, loaded when a part first needs them; raises data.files.DataError."""
        training = self.settings.training
        return load_data(
            training.dataset, PROJECT / Path(training.root).expanduser(), self.device
        ).train


def open_study(settings: Settings, out: str | Path | None = None, device: str = "auto") -> Study:
    """Opens the study's directory, with the parts that an earlier call finished.

    Args:
        settings: From `load_settings`.
        out: Directory; None for `experiments/ngd_directions`. It holds one study: for other
            settings name another.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).

    Raises:
        device.DeviceError: CUDA was asked for and there is none.
        runs.store.RunStoreError: The directory cannot be used, or holds a study with other
            settings.
    """
    chosen = chosen_device(device)
    given = settings.model_dump(mode="json")
    store = RunStore(STUDY if out is None else out, given)
    results = store.read_results() or {"settings": given, "parts": {}, "computed": {}}
    return Study(settings, store, chosen, results)


def measure_exact(study: Study) -> None:
    """Part 1: cosines of online NGD's directions, and of others, with the exact natural gradient."""
    _measure(study, "exact", _exact)


def measure_dense(study: Study) -> None:
    """Part 2: cosines of online NGD's directions, in float64, with those of `dense_step` along the
    same gradients.
    """
    _measure(study, "dense", _dense)


def measure_float32(study: Study) -> None:
    """Part 3: what each arithmetic loses in float32: orthonormality, and directions against its own
    in float64.
    """
    _measure(study, "float32", _float32)


def finish(study: Study) -> Path:
    """Writes the report of the parts that are there, gives the directory free and returns the
    report's path.
    """
    paragraphs = [Markup("<p>{}</p>").format(text) for text in findings(study.results).values()]
    settings = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in section.items())}"
        for name, section in study.results["settings"].items()
    ]
    computed = [
        f"{part}: {how['seconds']:.0f} s on {how['device']} with {how['threads']} thread(s), torch"
        f" {how['torch']}"
        for part, how in study.results["computed"].items()
    ]
    paragraphs += [
        Markup("<p><small>{}</small></p>").format("; ".join(texts))
        for texts in (settings, computed)
    ]
    report = study.store.directory / "report.html"
    write_figs_to_html(
        study_figures(study.results),
        report,
        "How exact is online NGD?",
        Markup("").join(paragraphs),
    )
    study.store.close()
    return report


def training_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: TensorData, batch_size: int, seed: int
) -> Iterator[list[Tensor]]:
    """Trains without end; gives each step's gradients before that step is taken."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in (
            torch.randperm(len(data.labels), generator=generator)
            .to(data.labels.device)
            .split(batch_size)
        ):
            optimizer.zero_grad()
            cross_entropy(model(data.inputs[batch]), data.labels[batch]).backward()
            yield [param.grad for param in model.parameters()]
            optimizer.step()


def minibatch_gradients(
    model: nn.Module, data: TensorData, count: int, batch_size: int, generator: torch.Generator
) -> list[Float[Tensor, "count ..."]]:
    """Gradients of `count` minibatches, drawn with replacement, stacked parameter by parameter."""
    batches = torch.randint(len(data.labels), (count, batch_size), generator=generator).to(
        data.labels.device
    )
    losses = (cross_entropy(model(data.inputs[batch]), data.labels[batch]) for batch in batches)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    return [torch.stack(tensors) for tensors in zip(*gradients, strict=True)]


def _measure(study: Study, part: str, measured: Callable[[Study], dict[str, Any]]) -> None:
    if part in study.results["parts"]:
        tqdm.write(f"{part}: finished before, taken from {study.store.directory}")
        return
    start = time.perf_counter()
    study.results["parts"][part] = measured(study)
    computed = {"seconds": time.perf_counter() - start, "device": str(study.device)}
    computed |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    study.results["computed"][part] = computed
    study.store.write_results(study.results)


def _trained(
    study: Study, model: Callable[[], nn.Module], data: TensorData
) -> tuple[nn.Module, NGD, Iterator]:
    """A model with seeded weights, its optimizer, and its training."""
    training = study.settings.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = model().to(study.device)
    chosen = training.model_dump(
        include={"lr", "momentum", "nesterov", "alpha", "eta", "epsilon", "delta"}
    )
    optimizer = NGD(network.parameters(), **chosen, update_period=UPDATE_PERIOD)
    return (
        network,
        optimizer,
        training_steps(network, optimizer, data, training.batch_size, training.seed),
    )


def _follower(
    study: Study, model: nn.Module, dtype: torch.dtype, alpha: float, arithmetic: str = "stable"
) -> NGD:
    """An optimizer for `stepped_directions`, with the training's settings but α."""
    weights = [torch.zeros_like(param, dtype=dtype) for param in model.parameters()]
    chosen = study.settings.training.model_dump(include={"eta", "epsilon", "delta"})
    return NGD(
        weights, lr=1.0, alpha=alpha, arithmetic=arithmetic, update_period=UPDATE_PERIOD, **chosen
    )


def _exact(study: Study) -> dict[str, Any]:
    settings = study.settings.exact
    data = TensorData(avg_pool2d(study.data.inputs, settings.pooling), study.data.labels)
    model, optimizer, steps = _trained(study, settings.model, data)
    losses, found = [], []
    bar = tqdm(range(settings.checkpoints[-1] + 1), "exact natural gradient", leave=False)
    for step, _ in zip(bar, steps, strict=False):
        if step in settings.checkpoints:
            with torch.no_grad():
                losses.append(cross_entropy(model(data.inputs), data.labels).item())
            found.append(_exact_at(study, model, optimizer, data, step))
    return {
        "num_weights": num_parameters(model),
        "num_averaged": settings.num_averaged,
        "steps": settings.checkpoints,
        "train_loss": losses,  # nats, over the whole training set
        "alphas": settings.alphas,
        # kind → compared → layer, or "" for the whole model → [checkpoint][alpha] → mean and
        # standard error
        "cosines": _joined([at["cosines"] for at in found]),
        "agreement": _joined(
            [at["agreement"] for at in found]
        ),  # of exact directions with each other, as above
    }


def _exact_at(
    study: Study, model: FFNN, optimizer: NGD, data: TensorData, step: int
) -> dict[str, Any]:
    """All comparisons at one checkpoint, NGD's direction and F's sum in float32; the optimizer is
    only read.
    """
    settings, training = study.settings.exact, study.settings.training
    generator = torch.Generator().manual_seed(training.seed + step)
    gradients = minibatch_gradients(
        model, data, settings.num_minibatches, training.batch_size, generator
    )
    others = minibatch_gradients(model, data, settings.num_averaged, training.batch_size, generator)
    fishers = _fisher_matrices(study, model, data, generator)
    sizes = [num_parameters(layer) for layer in model.layers if num_parameters(layer)]
    found = {
        "online": torch.stack(
            [_flat(next_directions(optimizer, one)) for one in zip(*gradients, strict=True)]
        ),
        "gradient": torch.stack([_flat(one) for one in zip(*gradients, strict=True)]),
    }
    averaged = {}
    for own in sorted({training.alpha, *settings.alphas}):
        pairs = [
            (g.double(), averaged_factors(o.double(), own))
            for g, o in zip(gradients, others, strict=True)
        ]
        averaged[own] = torch.cat(
            [turned(g, factors, own).flatten(1) for g, factors in pairs], dim=1
        )
    cosines_of: dict = {kind: {name: {} for name in COMPARED} for kind in KINDS}
    agreement: dict = {name: [] for name in AGREEMENT}
    for alpha in settings.alphas:
        kappas = {kind: smoothing(fisher, alpha) for kind, fisher in fishers.items()}
        exact = {
            kind: exact_directions(found["gradient"], fisher, kappas[kind])
            for kind, fisher in fishers.items()
        }
        for kind in KINDS:
            scores = {
                own: _mean_cosine(directions, exact[kind]) for own, directions in averaged.items()
            }
            found["averaged"], found["averaged_best"] = (
                averaged[training.alpha],
                averaged[max(scores, key=scores.get)],
            )
            found["layerwise"] = layerwise_directions(
                found["gradient"], fishers[kind], kappas[kind], sizes
            )
            for name in COMPARED:
                for part, values in _cosines_by_part(model, found[name], exact[kind]).items():
                    cosines_of[kind][name].setdefault(part, []).append(_mean_and_error(values))
        for name, (one, other) in AGREEMENT.items():
            agreement[name].append(_mean_cosine(exact[one], exact[other]))
    return {"cosines": cosines_of, "agreement": agreement}


def _fisher_matrices(
    study: Study, model: nn.Module, data: TensorData, generator: torch.Generator
) -> dict[str, Float[Tensor, "p p"]]:
    """The exact F of every kind, and `"expected"` of two disjoint halves of the images; float64."""
    images = torch.randperm(len(data.labels), generator=generator)[
        : study.settings.exact.num_fisher_samples
    ]
    inputs, labels = data.inputs[images.to(study.device)], data.labels[images.to(study.device)]
    draws = torch.Generator(study.device).manual_seed(study.settings.training.seed)
    half = len(images) // 2
    first, second = (
        fisher_matrix(model, inputs[part]).double() for part in (slice(half), slice(half, None))
    )
    return {
        "expected": torch.lerp(first, second, 1 - half / len(images)),
        "sampled": fisher_matrix(model, inputs, kind="sampled", generator=draws).double(),
        "empirical": fisher_matrix(model, inputs, labels, kind="empirical").double(),
        "first half": first,
        "second half": second,
    }


def _dense(study: Study) -> dict[str, Any]:
    settings, training = study.settings.recorded, study.settings.training
    model, _, steps = _trained(
        study, lambda: FFNN(settings.hidden_nodes, settings.hidden_layers), study.data
    )
    names = [name for name, _ in model.named_parameters()]
    online = {alpha: _follower(study, model, torch.float64, alpha) for alpha in settings.alphas}
    factors: dict = {alpha: [{} for _ in names] for alpha in settings.alphas}
    found: dict = {kind: [{} for _ in settings.alphas] for kind in ("online", "gradient")}
    for step, gradients in zip(
        tqdm(range(settings.num_steps), "dense factors", leave=False), steps, strict=False
    ):
        gradients = [gradient.double() for gradient in gradients]
        for place, alpha in enumerate(settings.alphas):
            dense = []
            for i, gradient in enumerate(gradients):
                how = {"alpha": alpha, "eta": training.eta, "epsilon": training.epsilon}
                direction, factors[alpha][i] = dense_step(gradient, factors[alpha][i], step, **how)
                dense.append(direction)
            compared = {
                "online": stepped_directions(online[alpha], gradients),
                "gradient": gradients,
            }
            for kind, tensors in compared.items():
                of = cosines(
                    dict(zip(names, tensors, strict=True)), dict(zip(names, dense, strict=True))
                )
                for part in (*names, ""):
                    found[kind][place].setdefault(part, []).append(of[part].item())
    return {"model": model.title, "alphas": settings.alphas, "parameters": names, "cosines": found}


def _float32(study: Study) -> dict[str, Any]:
    settings = study.settings.recorded
    model, _, steps = _trained(
        study, lambda: FFNN(settings.hidden_nodes, settings.hidden_layers), study.data
    )
    names = [name for name, _ in model.named_parameters()]
    runs = [
        {
            "arithmetic": arithmetic,
            "alpha": alpha,
            "orthonormality_error": [],
            "worst_axis": [],
            "direction_error": [],
            "worst_tensor_error": [],
            "worst_tensor": [],
        }
        for arithmetic in ARITHMETICS
        for alpha in settings.alphas
    ]
    pairs = [
        [
            _follower(study, model, dtype, run["alpha"], run["arithmetic"])
            for dtype in (torch.float32, torch.float64)
        ]
        for run in runs
    ]
    for _, gradients in zip(
        tqdm(range(settings.num_steps), "float32", leave=False), steps, strict=False
    ):
        for run, (single, double) in zip(runs, pairs, strict=True):
            found, right = (
                stepped_directions(optimizer, gradients) for optimizer in (single, double)
            )
            errors = {n: _relative_error(a, b) for n, a, b in zip(names, found, right, strict=True)}
            orthonormality = orthonormality_errors(single, names)
            for key, by_name in (("worst_axis", orthonormality), ("worst_tensor", errors)):
                run[key].append(max(by_name, key=by_name.get))
            run["orthonormality_error"].append(max(orthonormality.values()))
            run["worst_tensor_error"].append(max(errors.values()))
            run["direction_error"].append(_relative_error(_flat(found), _flat(right)))
    return {"model": model.title, "alphas": settings.alphas, "runs": runs}


def _flat(tensors: Sequence[Tensor]) -> Float[Tensor, "p"]:
    return torch.cat([tensor.flatten() for tensor in tensors]).double()


def _relative_error(found: Tensor, right: Tensor) -> float:
    return ((found - right).norm() / right.norm()).item()


def _cosines_by_part(
    model: nn.Module, found: Float[Tensor, "k p"], exact: Float[Tensor, "k p"]
) -> dict[str, list[float]]:
    """Cosines of each of k pairs, by layer and of the whole model ("")."""
    values: dict[str, list[float]] = {}
    for a, b in zip(found, exact, strict=True):
        split = split_by_parameter(model, a)
        for part, cosine in cosines(split, split_by_parameter(model, b)).items():
            if part not in split:
                values.setdefault(part, []).append(cosine.item())
    return values


def _joined(found: list) -> Any:
    """One nested dict of lists from a list of nested dicts."""
    if isinstance(found[0], dict):
        return {key: _joined([entry[key] for entry in found]) for key in found[0]}
    return found


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _mean_cosine(a: Float[Tensor, "k p"], b: Float[Tensor, "k p"]) -> float:
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()
