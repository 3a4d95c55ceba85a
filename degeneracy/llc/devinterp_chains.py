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

from degeneracy.llc.chains import MALA_EVERY, Draw, OnDraw, Samples, Schedule, seeds
from degeneracy.llc.samplers import Chain
from degeneracy.objective.loss import Objective


def run_chains(
    objectives: Sequence[Objective],
    batch_size: int,
    chains: Sequence[Chain],
    schedule: Schedule,
    label: str = "LLC",
    on_draw: OnDraw | None = None,
) -> Iterator[tuple[range, Samples]]:
    """Samples every chain; yields (position of the chain, its samples), as `llc.chains.run_chains`
    does.

    Args:
        objectives: The loss at each checkpoint, on data that are kept.
        batch_size: Whole batches; each pass over the data drops the remainder.
        chains: What to sample.
        schedule: The sampler and its number of steps.
        label: Stands before the progress bar.
        on_draw: Is told of every draw.
    """
    for row, chain in enumerate(chains):
        noise, batches = seeds(chain.seed)
        objective = objectives[chain.start]
        leaves = objective.data.leaves
        loader = DataLoader(
            Batches(leaves),
            batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=lambda batch: batch,
            generator=torch.Generator().manual_seed(batches),
        )
        with _seeded(leaves[0].device, noise):
            losses, acceptance = _sample(
                Standing(objective),
                loader,
                chain,
                schedule,
                f"{label} {row + 1}/{len(chains)}",
                on_draw,
            )
        yield range(row, row + 1), Samples(losses[None], np.array([acceptance]))


class Batches(Dataset):
    """The data set in memory; a whole batch is fetched with one index."""

    def __init__(self, leaves: tuple[Tensor, ...]):
        self.leaves = leaves

    def __len__(self) -> int:
        return len(self.leaves[0])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(indices, device=self.leaves[0].device)
        return tuple(leaf[index] for leaf in self.leaves)


class _Shared:
    """Something that is not copied with what holds it."""

    def __init__(self, value: Objective):
        self.value = value

    def __deepcopy__(self, memo: dict) -> "_Shared":
        return self


class Standing(nn.Module):
    """The sampled weights as a module that devinterp can copy and move, whatever they are of."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.shared, self.names = _Shared(objective), list(objective.weights)
        self.weights = nn.ParameterList(w.clone() for w in objective.weights.values())

    def named(self) -> dict[str, Tensor]:
        """The weights by the names that the model has for them."""
        return dict(zip(self.names, self.weights, strict=True))

    def forward(self, *leaves: Tensor) -> Tensor:
        """The loss of a batch's tensors."""
        return self.shared.value.loss(self.named(), *leaves)


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
    model: Standing,
    loader: DataLoader,
    chain: Chain,
    schedule: Schedule,
    label: str,
    on_draw: OnDraw | None,
) -> tuple[np.ndarray, float]:
    """Losses (num_draws,) of one chain, from the draw on where the loss was NaN, NaN; and its MALA
    acceptance.
    """

    seen: dict[str, Tensor] = {}  # weights that the last loss is of: devinterp calls back after

    def minibatch_loss(sampled: Standing, batch: tuple[Tensor, ...]) -> Tensor:
        if on_draw is not None:
            seen.update({name: w.detach().clone() for name, w in sampled.named().items()})
        return sampled(*batch)

    def tell(draw: int, model: Standing, loss: Tensor, **_) -> None:
        if on_draw is not None:
            whole = model.shared.value.whole(seen)
            on_draw(Draw(chain.seed[1], chain.seed[2], draw, float(loss), dict(whole)))

    device = loader.dataset.leaves[0].device
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
                num_steps_bw_draws=schedule.thinning,
                verbose=False,
                device=device,
                callbacks=[estimator, tell, *([mala] if mala else []), lambda **_: bar.update()],
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
        self, draw: int, model: Standing, data, optimizer: SGLD, loss: Tensor, **_
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
