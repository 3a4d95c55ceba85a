"""What does devinterp say? Its samplers, one chain at a time: the independent oracle for the
batched engine.

devinterp 1.3.2 raises at a NaN loss, which would lose every chain it was running; its own front end
besides pickles the data set for every chain and takes a loss of exactly 0 for a missing one. So
`sample_single_chain` is called below that front end, with fresh arguments, inside `fork_rng`,
because devinterp draws from PyTorch's global generators.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from devinterp.backends.default.slt.sampler import sample_single_chain
from devinterp.optim import SGLD, SGMCMC, SGNHT
from devinterp.slt.llc import LLCEstimator
from devinterp.slt.mala import mala_acceptance_probability
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from degeneracy.llc.chains import MALA_EVERY, Samples, Schedule, seeds
from degeneracy.llc.samplers import Chain


def run_chains(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    batch_size: int,
    loss_fn: Callable,
    checkpoints: Sequence[dict[str, Tensor]],
    chains: Sequence[Chain],
    schedule: Schedule,
    label: str = "LLC",
) -> Iterator[tuple[range, Samples]]:
    """Samples every chain; yields (position of the chain, its samples), as `llc.chains.run_chains`
    does.

    Args:
        model: Is left at the last chain's checkpoint; its frozen weights do not move.
        data: (inputs, targets), on the model's device.
        batch_size: Whole batches; each pass over the data drops the remainder.
        loss_fn: Mean-reduced loss of (outputs, targets).
        checkpoints: State dicts of `model`.
        chains: What to sample.
        schedule: The sampler and its number of steps.
        label: Stands before the progress bar.
    """
    for row, chain in enumerate(chains):
        noise, batches = seeds(chain.seed)
        loader = DataLoader(
            Batches(data),
            batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=lambda batch: batch,
            generator=torch.Generator().manual_seed(batches),
        )
        model.load_state_dict(checkpoints[chain.start])
        with _seeded(data[0].device, noise):
            losses, acceptance = _sample(
                model, loader, loss_fn, chain, schedule, f"{label} {row + 1}/{len(chains)}"
            )
        yield range(row, row + 1), Samples(losses[None], np.array([acceptance]))


class Batches(Dataset):
    """The data set in memory; a whole batch is fetched with one index."""

    def __init__(self, data: tuple[Tensor, Tensor]):
        self.inputs, self.targets = data

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(indices, device=self.inputs.device)
        return self.inputs[index], self.targets[index]


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def _sampler(chain: Chain, schedule: Schedule) -> tuple[Callable, dict]:
    """devinterp's optimizer on the weights that are not frozen, and its keyword arguments."""
    kwargs = {"lr": chain.epsilon, "nbeta": chain.nbeta}
    if schedule.sampler == "sgnht":
        kind, kwargs = SGNHT, kwargs | {"diffusion_factor": schedule.diffusion_factor}
    else:
        kind = {"sgld": SGLD, "rmsprop_sgld": SGMCMC.rmsprop_sgld}[schedule.sampler]
        kwargs |= {"localization": chain.localization}
    if schedule.sampler == "sgld":
        kwargs |= {"metrics": ["dws", "localization_loss"]}  # what the MALA acceptance is made of
    return (
        lambda parameters, **given: kind([p for p in parameters if p.requires_grad], **given),
        kwargs,
    )


def _sample(
    model: nn.Module,
    loader: DataLoader,
    loss_fn: Callable,
    chain: Chain,
    schedule: Schedule,
    label: str,
) -> tuple[np.ndarray, float]:
    """Losses (num_draws,) of one chain, from the draw on where the loss was NaN, NaN; and its MALA
    acceptance.
    """

    def minibatch_loss(sampled: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_fn(sampled(batch[0]), batch[1])

    device = loader.dataset.inputs.device
    estimator = LLCEstimator(1, schedule.num_draws, init_loss=0.0, nbeta=chain.nbeta, device=device)
    estimator.losses.fill_(math.nan)
    mala = _MalaAcceptance(minibatch_loss, chain) if schedule.sampler == "sgld" else None
    sampling_method, kwargs = _sampler(chain, schedule)
    with (
        tqdm(total=schedule.num_draws, desc=label, unit="draw", leave=False) as bar,
        torch.enable_grad(),
    ):
        try:
            sample_single_chain(
                ref_model=model,
                loader=loader,
                evaluate=minibatch_loss,
                sampling_method=sampling_method,
                optimizer_kwargs=kwargs,
                num_draws=schedule.num_draws,
                num_burnin_steps=schedule.num_burnin_steps,
                verbose=False,
                device=device,
                callbacks=[estimator, *([mala] if mala else []), lambda **_: bar.update()],
            )
        except RuntimeError as error:
            if "NaN detected" not in str(error):
                raise
    return estimator.losses[0].cpu().numpy(), mala.mean() if mala else math.nan


class _MalaAcceptance:
    """Acceptance by devinterp's formula, every `MALA_EVERY` draws, with both ends of a step on the
    same minibatch.

    devinterp's own callback takes them on different minibatches, and so mixes the batches' noise
    into its judgement.
    """

    def __init__(self, loss: Callable, chain: Chain):
        self.loss, self.chain = loss, chain
        self.before: list[Tensor] | None = None
        self.acceptance: list[float] = []

    def __call__(
        self, draw: int, model: nn.Module, data, optimizer: SGLD, loss: Tensor, **_
    ) -> None:
        weights = [p for p in model.parameters() if p.requires_grad]
        if self.before is not None:
            w, w_star = (
                [p.detach() for p in weights],
                [optimizer.state[p]["initial_param"] for p in weights],
            )
            gamma, nbeta = self.chain.localization, self.chain.nbeta
            with torch.enable_grad():
                after = self.loss(model, data)
                gradients = torch.autograd.grad(after, weights)
            forces = [
                nbeta * g + gamma * (p - s) for g, p, s in zip(gradients, w, w_star, strict=True)
            ]
            pull = gamma / 2 * sum(((p - s) ** 2).sum() for p, s in zip(w, w_star, strict=True))
            probability = mala_acceptance_probability(
                self.before,
                optimizer.dws,
                nbeta * loss + optimizer.localization_loss,
                w,
                forces,
                nbeta * after.detach() + pull,
                self.chain.epsilon,
            )
            self.acceptance.append(float(probability))
        self.before = (
            [p.detach().clone() for p in weights] if (draw + 1) % MALA_EVERY == 0 else None
        )

    def mean(self) -> float:
        return float(np.mean(self.acceptance)) if self.acceptance else math.nan
