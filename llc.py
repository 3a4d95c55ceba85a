"""How degenerate is a solution? Local learning coefficient (LLC) and WBIC from SGLD chains started at it.

Lau, Furman, Wang, Murfet & Wei, "The local learning coefficient", arXiv:2308.12108: chains of stochastic gradient
Langevin dynamics leave the checkpoint w* along w ← w − (ε/2)(nβ ∇L_m(w) + γ(w − w*)) + N(0, ε I), and

    λ̂ = nβ (mean over chains and draws of L_m(w_t) − L(w*)),        L(w*) over the whole training set.

At finite nβ and γ this is not the learning coefficient λ itself: near a quadratic minimum with curvatures h_i it is
½ Σ_i nβ h_i / (nβ h_i + γ). So an estimate is quoted with (nβ, γ, ε, draws) and its drift, and small errors do not
prove convergence, because all chains start at w*. The samplers are those of devinterp 1.3.2.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from arviz_stats.base import array_stats
from devinterp.backends.default.slt.sampler import sample_single_chain
from devinterp.optim import SGLD, SGMCMC, SGNHT
from devinterp.slt.llc import LLCEstimator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from experiment_config import SamplerSettings

EVALUATION_BATCH_SIZE = 2000


@dataclass(frozen=True)
class LLCEstimate:
    """An LLC estimate with what is needed to judge it. Numbers are None where they do not exist.

    Chains that stopped being finite are marked in `diverged` and count in none of the other numbers.
    """

    llc: float | None  # λ̂
    std_error: float | None  # Monte-Carlo: the larger of the one from the effective sample size and between chains
    drift: float | None  # λ̂ from the second half of the draws minus λ̂
    wbic: float | None  # n · mean sampled loss; Watanabe's WBIC only at nβ = n / ln n, else tempered, as published
    wbic_std_error: float | None
    init_loss: float  # L(w*), mean over the whole training set
    nbeta: float  # nβ used
    trace: Float[np.ndarray, "num_chains num_draws"]  # sampled minibatch losses L_m(w_t), NaN once diverged
    rhat: float | None  # split R-hat of the losses; blind to chains that have not left w*
    ess: float | None  # effective sample size of the mean loss
    diverged: Bool[np.ndarray, "num_chains"]


def resolve_nbeta(nbeta: str | float, batch_size: int, num_samples: int) -> float:
    """nβ as a number: `"batch"` is m / ln m (the published choice), `"dataset"` n / ln n, a number is itself."""
    if isinstance(nbeta, str):
        size = {"batch": batch_size, "dataset": num_samples}[nbeta]
        if size < 2:
            raise ValueError(f'nbeta "{nbeta}" is m / ln m and needs m of at least 2; here m = {size}')
        return size / math.log(size)
    return float(nbeta)


def estimate_llcs(
    model: nn.Module,
    checkpoints: Sequence[dict[str, Tensor] | None],
    data: tuple[Float[Tensor, "n ..."], Int[Tensor, "n ..."]],
    settings: SamplerSettings,
    batch_size: int = 128,
    loss_fn: Callable = cross_entropy,
    *,
    checkpoint_ids: Sequence[int] | None = None,
    label: str = "LLC",
) -> list[LLCEstimate | None]:
    """LLC and WBIC of `model` at each checkpoint.

    Args:
        model: Any module; it is not changed. Its device is where sampling runs.
        checkpoints: State dicts of `model`; None gives None.
        data: (inputs, targets), the training set, on the model's device.
        settings: The config's `devinterp` section.
        batch_size: Samples a minibatch m, at most n. Batches are whole: each pass over the data drops the remainder.
        loss_fn: Mean-reduced loss of (outputs, targets), in nats.
        checkpoint_ids: Random numbers are a function of (settings.seed, id, chain), so that an estimate does not depend
            on which others were asked for; default: positions in `checkpoints`.
        label: Stands before the progress bar.

    Returns:
        One estimate a checkpoint, in order.

    Raises:
        ValueError: No data, a batch larger than the data set, or a model whose forward pass is random or changes it
            (dropout, batch statistics): L(w) would then not be a function of w.
        RuntimeError: A checkpoint that does not fit the model (from `load_state_dict`).
    """
    inputs, _ = data
    if not 1 <= batch_size <= len(inputs):
        raise ValueError(f"batch_size = {batch_size}, allowed: 1 to the number of samples, {len(inputs)}")
    refuse_random_forward(model)
    ids = range(len(checkpoints)) if checkpoint_ids is None else checkpoint_ids
    nbeta = resolve_nbeta(settings.nbeta, batch_size, len(inputs))
    device = next(model.parameters()).device
    model = copy.deepcopy(model)
    estimates: list[LLCEstimate | None] = []
    for position, (checkpoint, checkpoint_id) in enumerate(zip(checkpoints, ids, strict=True)):
        if checkpoint is None:
            estimates.append(None)
            continue
        model.load_state_dict(checkpoint)
        init_loss = _mean_loss(model, data, loss_fn)
        chains = []
        for chain in range(settings.num_chains):
            which = f" {position + 1}/{len(checkpoints)}" if len(checkpoints) > 1 else ""
            description = f"{label}{which} chain {chain + 1}/{settings.num_chains}"
            seeds = np.random.SeedSequence((settings.seed, checkpoint_id, chain)).generate_state(2)
            with _forked_rng(device, int(seeds[0])):
                loader = _loader(data, batch_size, int(seeds[1]))
                chains.append(_sample_chain(model, loader, loss_fn, settings, nbeta, init_loss, device, description))
        estimates.append(summarise(np.stack(chains), init_loss, nbeta, len(inputs)))
    return estimates


def summarise(
    trace: Float[np.ndarray, "num_chains num_draws"], init_loss: float, nbeta: float, num_samples: int
) -> LLCEstimate:
    """The estimate from sampled losses: λ̂ = nβ (mean − L(w*)), with errors from the chains that stayed finite."""
    diverged = ~np.isfinite(trace).all(axis=1)
    good = trace[~diverged].astype(np.float64)
    if len(good) == 0:
        return LLCEstimate(None, None, None, None, None, init_loss, nbeta, trace, None, None, diverged)
    mean = good.mean()
    error = _standard_error(good)
    second_half = good[:, good.shape[1] // 2 :].mean()
    return LLCEstimate(
        llc=float(nbeta * (mean - init_loss)),
        std_error=None if error is None else nbeta * error,
        drift=float(nbeta * (second_half - mean)),
        wbic=float(num_samples * mean),
        wbic_std_error=None if error is None else num_samples * error,
        init_loss=init_loss,
        nbeta=nbeta,
        trace=trace,
        rhat=_diagnosis(array_stats.rhat, good),
        ess=_diagnosis(array_stats.ess, good, method="mean"),
        diverged=diverged,
    )


def _standard_error(losses: Float[np.ndarray, "chains draws"]) -> float | None:
    within = _diagnosis(array_stats.mcse, losses, method="mean")
    between = losses.mean(axis=1).std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else None
    return max((float(error) for error in (within, between) if error is not None), default=None)


def _diagnosis(statistic: Callable, losses: Float[np.ndarray, "chains draws"], **kwargs) -> float | None:
    """One of ArviZ's statistics, None where it is not defined (chains too short, or constant)."""
    with np.errstate(all="ignore"):
        value = statistic(losses, **kwargs)
    return float(value) if np.isfinite(value) else None


def refuse_random_forward(model: nn.Module) -> None:
    """Raises ValueError for dropout and running batch statistics: L(w) would then be more than a function of w.

    devinterp samples in training mode. Randomness written into a forward pass by hand is not seen here.
    """
    for name, module in model.named_modules():
        dropout = isinstance(module, _DropoutNd) and module.p > 0
        if dropout or isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise ValueError(
                f"the model's {name or 'module'} is a {type(module).__name__}: its forward pass in training mode is "
                "random or keeps batch statistics, so there is no loss L(w) to sample; replace it by a fixed layer"
            )


class _Batches(Dataset):
    """The data set in memory; a whole batch is fetched with one index."""

    def __init__(self, data):
        self.inputs, self.targets = data

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices, device=self.inputs.device)
        return self.inputs[index], self.targets[index]


def _loader(data, batch_size: int, seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        _Batches(data), batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch, generator=generator
    )


def _sampler(settings: SamplerSettings, nbeta: float) -> tuple[Callable, dict]:
    """devinterp's optimizer class or factory, and its keyword arguments (fresh, as devinterp changes them)."""
    shared = {"lr": settings.sampler_lr, "nbeta": nbeta}
    if settings.sampler == "sgnht":
        return SGNHT, shared | {"diffusion_factor": settings.diffusion_factor}
    factory = {"sgld": SGLD, "rmsprop_sgld": SGMCMC.rmsprop_sgld}[settings.sampler]
    return factory, shared | {"localization": settings.localization}


def _sample_chain(model, loader, loss_fn, settings, nbeta, init_loss, device, description) -> np.ndarray:
    """Losses (num_draws,) of one chain; from the draw on where the loss was NaN, NaN.

    devinterp raises at a NaN loss and would lose every chain it was running, so it runs one at a time. Called below
    `devinterp.slt.sampler.sample`, which would pickle the data set for every chain.
    """

    def minibatch_loss(sampled: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_fn(sampled(batch[0]), batch[1])

    estimator = LLCEstimator(1, settings.num_draws, init_loss=init_loss, nbeta=nbeta, device=device)
    estimator.losses.fill_(math.nan)
    factory, kwargs = _sampler(settings, nbeta)
    with tqdm(total=settings.num_draws, desc=description, unit="draw", leave=False) as bar:
        try:
            sample_single_chain(
                ref_model=model,
                loader=loader,
                evaluate=minibatch_loss,
                sampling_method=factory,
                optimizer_kwargs=kwargs,
                num_draws=settings.num_draws,
                num_burnin_steps=settings.num_burnin_steps,
                verbose=False,
                device=device,
                callbacks=[estimator, lambda **_: bar.update()],
            )
        except RuntimeError as error:
            if "NaN detected" not in str(error):
                raise
    return estimator.losses[0].cpu().numpy()


@contextmanager
def _forked_rng(device: torch.device, seed: int):
    """Seeds the global generators, which devinterp draws from, and restores them after; hushes its warnings."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _mean_loss(model: nn.Module, data, loss_fn: Callable) -> float:
    """Mean loss a sample over the whole data set, summed in float64."""
    inputs, targets = data
    total = 0.0
    for x, y in zip(inputs.split(EVALUATION_BATCH_SIZE), targets.split(EVALUATION_BATCH_SIZE), strict=True):
        total += loss_fn(model(x), y).double().item() * len(x)
    return total / len(inputs)
