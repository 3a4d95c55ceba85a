"""What do the regimes and their theory say? Runs, maps and constants, as JSON."""

import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from degeneracy.runs.store import RunStoreError
from degeneracy.runs.work import Measured, Work, from_project
from studies.sgd_regimes import bridge
from studies.sgd_regimes.averaging import averaged
from studies.sgd_regimes.boundaries import averaged_boundary, convergence_boundary, verdict
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.generating import Setting
from studies.sgd_regimes.kernels import analytic_ntk, fit_power_laws, rescaled, spectrum
from studies.sgd_regimes.linearised import linearised, sampled_batches
from studies.sgd_regimes.network import initial_weights, network_ntk, outputs, train_network
from studies.sgd_regimes.samples import load_samples, synthetic
from studies.sgd_regimes.settings import Law, exactly
from studies.sgd_regimes.spectral import spectral_diagonal
from studies.sgd_regimes.symbolic import derivation
from studies.sgd_regimes.theory import (
    PowerLaw,
    asymptote,
    best_by_momentum,
    budget_losses,
    budget_spread,
    constant_of_phase,
    helpful_exponents,
    loss_at,
    negative_momentum_margin,
)

SHOWN = 120  # points of a curve that are kept
FIT_FIRST = 5  # mode from which on a network's kernel is fitted


def shown_steps(num_steps: int) -> list[int]:
    """0, and steps evenly spaced in log t."""
    at = np.geomspace(1, num_steps, SHOWN).round().astype(int)
    return [0, *(int(t) for t in np.unique(at))]


# ---- the four regimes ----------------------------------------------------------------------------


def measure_regimes(work: Work) -> Measured:
    """Network, linearised, averaged and SD(τ) of one network, a combination of settings each."""
    settings = work.settings.regimes
    keys = {
        f"α = {exactly(lr)}, β = {exactly(m)}, b = {b}": (lr, m, b)
        for lr, m, b in product(settings.lrs, settings.momenta, settings.batch_sizes)
    }
    made = None
    for key in work.todo(keys, "setting"):
        made = made or linear_problem(settings)
        yield key, at_setting(settings, made, *keys[key])


def linear_problem(settings) -> dict[str, Any]:
    """A network at its start, its samples, kernel and residual."""
    samples = load_samples(settings.dataset, settings.size, settings.root, settings.seed)
    inputs, targets = torch.as_tensor(samples.inputs), torch.as_tensor(samples.targets)
    weights = initial_weights(settings.width, inputs.shape[1], settings.seed)
    raw = network_ntk(weights, inputs)
    kernel, unit = rescaled(raw)
    return {
        "weights": weights,
        "inputs": inputs,
        "targets": targets,
        "raw": raw,
        "kernel": kernel,
        "unit": unit,
        "residual": (outputs(weights, inputs) - targets).numpy(),
    }


def at_setting(settings, made: dict[str, Any], lr: float, momentum: float, batch_size: int) -> dict:
    """Losses of all regimes at `shown_steps`; a regime that overflows says so instead."""
    steps, size = shown_steps(settings.num_steps), settings.size
    kernel, residual = made["kernel"], made["residual"]
    values, moments = spectrum(kernel, residual)
    how = (batch_size, lr, momentum)
    found: dict[str, Any] = {"lr": lr, "momentum": momentum, "batch_size": batch_size}
    found |= {"steps": steps, "regimes": {}, "spectral": {}, "overflow": {}}

    def keep(name: str, run: Callable[[], np.ndarray], into: str = "regimes") -> None:
        try:
            losses = np.atleast_2d(run())[:, steps]
        except OverflowError as error:
            found["overflow"][name] = str(error)
            return
        kept = {"loss": losses.mean(0).tolist(), "error": None}
        if len(losses) > 1:
            kept["error"] = (losses.std(0, ddof=1) / len(losses) ** 0.5).tolist()
        found[into][name] = kept

    def network() -> np.ndarray:
        losses, found["network_gap"] = networks(settings, made, *how)
        return losses

    keep("network", network)
    sampled = (*how, settings.num_steps, settings.num_runs, settings.seed)
    keep("linearised", lambda: linearised(kernel, residual, *sampled).losses)
    keep("averaged", lambda: averaged(kernel, residual, *how, settings.num_steps))
    for tau in settings.taus:
        run = (values, moments, *how, tau, settings.num_steps)
        keep(exactly(tau), lambda run=run: spectral_diagonal(*run), "spectral")
    edge = convergence_boundary(values, batch_size, momentum)
    found["boundary"] = {"spectral": edge}
    found["boundary"]["averaged"] = averaged_boundary(kernel, batch_size, momentum)
    found["asymptote"] = fitted_asymptote(values, moments, how, size, steps)
    return found


def networks(
    settings, made, batch_size: int, lr: float, momentum: float
) -> tuple[np.ndarray, float]:
    """Losses of runs from the same weights with batches of their own, and how far they are apart
    from the linear model's along the same batches: the largest |L/L_linearised − 1|.
    """
    runs, gaps = [], []
    for run in range(settings.num_networks):
        shape = (1, settings.size, batch_size, settings.num_steps)
        batches = list(sampled_batches(*shape, settings.seed + run))
        how = (batch_size, lr, momentum, settings.num_steps)
        start = (made[name] for name in ("weights", "inputs", "targets"))
        runs.append(train_network(*start, *how, kernel=made["raw"], batches=batches).losses)
        linear = linearised(made["kernel"], made["residual"], *how, batches=batches).losses[0]
        gaps.append(np.abs(runs[-1] / linear - 1).max())
    return np.array(runs), float(max(gaps))


def fitted_asymptote(values, moments, how, size: int, steps: list[int]) -> dict[str, Any]:
    """The loss that a power law through the kernel's spectrum predicts, or why there is none."""
    batch_size, lr, momentum = how
    try:
        fit = fit_power_laws(values, moments, min(FIT_FIRST, max(1, size // 4)))
        law = PowerLaw(fit.nu, fit.kappa, fit.scale, fit.amplitude)
        setting = Setting(float(noise_strength(batch_size, size)), lr, momentum)
        found = asymptote(law, size, setting, size)
    except ValueError as error:
        return {"refused": str(error)}
    return {
        "nu": law.nu,
        "kappa": law.kappa,
        "phase": law.phase,
        "transition": found.transition,
        "loss": [None, *found.loss(steps[1:]).tolist()],
    }


# ---- stability -----------------------------------------------------------------------------------


def measure_stability(work: Work) -> Measured:
    """Losses of SD(1) over (α, β), and the boundaries of theory."""
    for key in work.todo(["map"], "map"):
        yield key, stability_map(work.settings.stability)


def stability_map(settings) -> dict[str, Any]:
    """log₁₀ L_T/L_0 on a grid, from −300 to 300: of runs that reached 0, and infinite ones."""
    law = PowerLaw(settings.nu, settings.kappa)
    values, moments = law.eigenvalues(settings.size), law.moments(settings.size)
    lrs = np.geomspace(0.05, 4.0, settings.num_lrs)
    momenta = np.linspace(-0.6, 0.96, settings.num_momenta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # diverging runs are what is looked for
        losses = spectral_diagonal(
            values, moments, settings.batch_size, lrs[:, None], momenta, 1.0, settings.num_steps
        )
    with np.errstate(over="ignore"):
        ratio = np.log10(np.clip(losses[..., -1] / losses[..., 0], 1e-300, 1e300))
    problem = synthetic(settings.size, settings.nu, settings.kappa)
    few = momenta[:: max(1, len(momenta) // 12)]
    gamma = float(noise_strength(settings.batch_size, settings.size))
    said = [
        [verdict(values, Setting(gamma, float(lr), float(m))).converges for m in momenta]
        for lr in lrs
    ]
    gone = losses[..., -1] <= np.finfo(float).tiny  # a loss of 0 falls no more
    late = gone | (losses[..., -1] < losses[..., settings.num_steps // 2])
    return {
        "lrs": lrs.tolist(),
        "momenta": momenta.tolist(),
        "log_ratio": ratio.tolist(),
        "converges": said,
        "falls": late.tolist(),
        "spectral": [convergence_boundary(values, settings.batch_size, m) for m in momenta],
        "averaged": {
            "momenta": few.tolist(),
            "lrs": [averaged_boundary(problem.kernel, settings.batch_size, m) for m in few],
        },
    }


# ---- asymptotics ---------------------------------------------------------------------------------


def law_text(law: Law) -> str:
    """How a law is called in results and figures."""
    nu, kappa, lr = (exactly(value) for value in (law.nu, law.kappa, law.lr))
    text = f"ν = {nu}, ϰ = {kappa}, b = {law.batch_size}, α = {lr}"
    return text + (f", β = {exactly(law.momentum)}" if law.momentum else "")


def measure_asymptotics(work: Work) -> Measured:
    """Losses of SD(1) with batches from a stream, and what theory predicts, a law each."""
    settings = work.settings.asymptotics
    laws = {law_text(law): law for law in settings.laws}
    for key in work.todo(laws, "law"):
        yield key, along_law(laws[key], settings.size, settings.num_steps)


def along_law(given: Law, size: int, num_steps: int) -> dict[str, Any]:
    """Measured and predicted losses, or why there is no prediction."""
    law = PowerLaw(given.nu, given.kappa)
    how = (given.batch_size, given.lr, given.momentum, 1.0, num_steps)
    steps = shown_steps(num_steps)
    found: dict[str, Any] = {"phase": law.phase, "zeta": law.zeta, "late": law.noise_exponent}
    try:
        losses = spectral_diagonal(law.eigenvalues(size), law.moments(size), *how, noise="online")
        expected = asymptote(law, size, Setting(1 / given.batch_size, given.lr, given.momentum))
    except (ValueError, OverflowError) as error:
        return found | {"refused": str(error)}
    tail = size**-law.kappa / law.kappa / (2 * size)  # of the loss at the start
    return found | {
        "steps": steps[1:],
        "loss": losses[steps[1:]].tolist(),
        "predicted": expected.loss(steps[1:]).tolist(),
        "holds": expected.holds(steps[1:]).tolist(),
        "signal": expected.signal,
        "noise": expected.noise,
        "gain": expected.gain,
        "transition": expected.transition,
        "size": size,
        "tail": tail / losses[-1],
    }


# ---- momentum ------------------------------------------------------------------------------------


def measure_momentum(work: Work) -> Measured:
    """The best loss at each momentum, by time and in the limit; and where β < 0 helps."""
    settings = work.settings.momentum
    laws = {f"ϰ = {exactly(kappa)}": PowerLaw(settings.nu, kappa) for kappa in settings.kappas}
    for key in work.todo([*laws, "condition"], "law"):
        if key == "condition":
            yield key, condition_map()
        else:
            yield key, over_momenta(laws[key], settings)


def over_momenta(law: PowerLaw, settings) -> dict[str, Any]:
    """Best losses at `times` and best constants, each over α, relative to β = 0."""
    values, moments = law.eigenvalues(settings.size), law.moments(settings.size)
    gamma = 1 / settings.batch_size
    momenta = sorted({0.0, *settings.momenta})
    found = {}
    measures = {
        f"t = {t:,}": loss_at(values, moments, settings.batch_size, t) for t in settings.times
    }
    measures["t → ∞"] = constant_of_phase(law, settings.size, gamma)
    for name, value in measures.items():
        best = best_by_momentum(values, gamma, momenta, value)
        found[name] = {
            "lr": [best[m][0] for m in momenta],
            "value": [best[m][1] / best[0.0][1] for m in momenta],
        }
    margin = negative_momentum_margin(values, moments, law.nu)
    return {"phase": law.phase, "momenta": momenta, "best": found, "margin": margin}


def condition_map() -> dict[str, Any]:
    """log of both sides of the condition for β < 0, over (ν, ϰ)."""
    nus, kappas = np.linspace(1.1, 3.0, 39), np.linspace(0.5, 8.0, 41)
    margins = helpful_exponents(nus, kappas, 2000)
    return {"nus": nus.tolist(), "kappas": kappas.tolist(), "margins": margins.tolist()}


# ---- budget --------------------------------------------------------------------------------------


def measure_budget(work: Work) -> Measured:
    """Losses against b·t for several batch sizes, with α ∝ b and with one α."""
    settings = work.settings.budget
    keys = {
        f"{kind}, ϰ = {exactly(kappa)}": (kind, kappa)
        for kind, kappa in product(("α ∝ b", "same α"), settings.kappas)
    }
    for key in work.todo(keys, "law"):
        kind, kappa = keys[key]
        batches = settings.batch_sizes
        scaled = [settings.lr_per_sample * b for b in batches]
        yield (
            key,
            at_budget(
                settings, kappa, scaled if kind == "α ∝ b" else [settings.fixed_lr] * len(batches)
            ),
        )


def at_budget(settings, kappa: float, lrs: list[float]) -> dict[str, Any]:
    """L/L₀ of each batch size, and how far apart they end."""
    law = PowerLaw(settings.nu, kappa)
    values, moments = law.eigenvalues(settings.size), law.moments(settings.size)
    try:
        losses = budget_losses(
            values, moments, settings.batch_sizes, lrs, settings.budget, noise="online"
        )
    except OverflowError as error:
        return {"refused": str(error)}
    curves = []
    for b, lr, of in zip(settings.batch_sizes, lrs, losses, strict=True):
        steps = shown_steps(len(of) - 1)[1:]
        ratio = (of[steps] / of[0]).tolist()
        curves.append({"batch_size": b, "lr": lr, "budget": [b * t for t in steps], "ratio": ratio})
    return {"curves": curves, "spread": budget_spread(losses)}


# ---- a real kernel -------------------------------------------------------------------------------


def measure_spectrum(work: Work) -> Measured:
    """Eigenvalues and residual tails of data sets' analytic NTKs, with power laws."""
    settings = work.settings.spectrum
    for name in work.todo(settings.datasets, "data set"):
        samples = load_samples(name, settings.size, settings.root, settings.seed)
        kernel, unit = rescaled(analytic_ntk(samples.inputs))
        values, moments = spectrum(kernel, -samples.targets)
        try:
            fit = fit_power_laws(values, moments, settings.first, settings.last)
            found = fit._asdict() | {"tail": fit.amplitude / fit.kappa / moments.sum()}
            fitted = {"fit": found}
        except ValueError as error:
            fitted = {"fit": None, "refused": str(error)}
        k = np.unique(np.geomspace(1, settings.size, SHOWN).round().astype(int))
        tails = np.cumsum(moments[::-1])[::-1] / moments.sum()
        yield (
            name,
            {
                "k": k.tolist(),
                "eigenvalues": values[k - 1].tolist(),
                "tails": tails[k - 1].tolist(),
                **fitted,
                "unit": unit,
                "trace": float(values.sum()),
            },
        )


# ---- the main experiment, and the derivation -----------------------------------------------------


def measure_bridge(work: Work) -> Measured:
    """Where finished runs of the main experiment lie, and their λ̂; a run directory each."""
    settings = work.settings.bridge
    root = from_project(settings.root)
    runs = {bridge.name_below(run, root): run for run in bridge.complete_runs(root)}
    work.found()  # there, and empty, where no run is found
    for key in work.todo(runs, "run"):
        try:
            yield key, {"positions": positions(runs[key], settings)}
        except UNREADABLE as error:
            if isinstance(error, RunStoreError) and "in use" in str(error):
                tqdm.write(f"bridge: {error}; it is read when the study is run again")
                continue
            yield key, {"refused": _reason(error)}


# Of one run that cannot be read: the others are. Data that is missing, results without a key,
# weights that fit no model (RuntimeError), files that are gone.
UNREADABLE = (RuntimeError, ValueError, LookupError, OSError)


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, LookupError):
        return f"its results hold no {error}"
    return " ".join(str(error).split())


def positions(directory: Path, settings) -> list[dict[str, Any]]:
    """Of each checkpoint of SGD in a run."""
    found, images = [], None
    for checkpoint in bridge.checkpoints(directory, settings.num_epochs):
        images = images or bridge.training_images(checkpoint.config, settings.num_images)
        found.append(bridge.position(checkpoint, *images))
    return found


def measure_derivation(work: Work) -> Measured:
    """The closed forms, derived anew by SymPy."""
    for key in work.todo(["formulas"], "derivation"):
        steps = derivation()
        yield key, {"steps": [vars(step) for step in steps]}
