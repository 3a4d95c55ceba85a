"""What does a command of the study run and write? Regimes over settings, a CSV file and a page."""

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from degeneracy.files import write_atomically
from degeneracy.report.page import Card, Drawing, Findings, Section, write_page
from degeneracy.report.style import HEIGHT, INK, PARAMETER_COLOURS, SOFT, axis_scale, empty_figure
from degeneracy.report.tables import key_values
from studies.sgd_regimes.averaging import Curves, averaged_curves
from studies.sgd_regimes.checks import noise_strength
from studies.sgd_regimes.figures import COLOURS, log_ticks
from studies.sgd_regimes.generating import Setting as Theory
from studies.sgd_regimes.kernels import (
    analytic_ntk,
    features_of,
    jacobian,
    load_kernel,
    rescaled,
    spectrum,
)
from studies.sgd_regimes.linearised import linearised, linearised_adam
from studies.sgd_regimes.network import initial_weights, network_ntk, outputs, train_network
from studies.sgd_regimes.samples import load_samples, synthetic
from studies.sgd_regimes.schedules import Jacobi
from studies.sgd_regimes.settings import exactly
from studies.sgd_regimes.spectral import spectral_curves, spectral_diagonal
from studies.sgd_regimes.theory import PowerLaw, asymptote

REGIMES = ("network", "linearised", "averaged", "spectral")
CAPTION = (
    "Losses by step. Dotted: what theory predicts for SD(1) and the power law with infinitely many"
    " modes, the sum of both phases; dark where one phase alone is the loss and the modes beyond N"
    " are at most 0.5 % of it, light where it is the form that is approached and no prediction."
)
TAIL = 0.005  # of the loss, in modes beyond N
THEORY = ("theory, where it holds", "theory, t → ∞ and N → ∞")
EMBEDDED = 20  # figures on the page; the CSV file has all


@dataclass(frozen=True)
class Setting:
    """One combination of what the command line lists."""

    lr: float
    momentum: float
    batch_size: int
    nu: float
    kappa: float


class Given(NamedTuple):
    """A problem as all regimes see it.

    Attributes:
        kernel: K̂, λ_max = 1.
        residual: Δ at the start.
        network: (weights, inputs, targets, K) where there are inputs, else None.
        others: (K(x', x)/N, Δ') of validation samples in K̂'s units, else None.
        other_samples: Their inputs and targets, else None.
        features: Makes Φ for Adam.
    """

    kernel: np.ndarray
    residual: np.ndarray
    network: tuple | None
    others: tuple | None
    other_samples: tuple | None
    features: Callable[[], np.ndarray]


def given_problem(options: argparse.Namespace, setting: Setting) -> Given:
    """The kernel and residual that the flags name.

    Raises:
        ValueError, data.files.DataError: As `samples.load_samples` and `kernels.load_kernel`.
    """
    if options.kernel is not None:
        saved = load_kernel(options.kernel)
        kernel, _ = rescaled(saved.kernel)
        residual = saved.residual
        if residual is None:  # k^−(ϰ+1)/2 in its eigenbasis
            vectors = np.linalg.eigh(kernel)[1][:, ::-1]
            start = PowerLaw(1.0, setting.kappa).moments(len(kernel)) ** 0.5
            residual = vectors @ (start / np.linalg.norm(start))
        return Given(kernel, residual, None, None, None, lambda: features_of(kernel))
    if options.dataset == "synthetic":
        kernel, residual = synthetic(options.N, setting.nu, setting.kappa, options.lambda_min)
        return Given(kernel, residual, None, None, None, lambda: features_of(kernel))
    return data_problem(options)


def data_problem(options: argparse.Namespace) -> Given:
    """A data set's network and its kernel, empirical or analytic."""
    found = load_samples(options.dataset, options.N, options.root, options.seed, options.validation)
    inputs, targets, other, goals = (torch.as_tensor(part) for part in found)
    weights = initial_weights(options.width, inputs.shape[1], options.seed)
    everything = torch.cat([inputs, other])
    size = len(inputs)
    empirical = network_ntk(weights, everything)
    joint = empirical if options.ntk == "empirical" else analytic_ntk(everything.numpy())
    starts = outputs(weights, everything).numpy() if options.ntk == "empirical" else 0.0
    residuals = starts - np.r_[targets.numpy(), goals.numpy()]
    kernel, _ = rescaled(joint[:size, :size])
    largest = joint[0, 0] / kernel[0, 0]
    others = (joint[size:, :size] / largest, residuals[size:]) if len(goals) else None
    return Given(
        kernel,
        residuals[:size],
        (weights, inputs, targets, empirical[:size, :size]),
        others,
        (other, goals) if len(goals) else None,
        lambda: jacobian(outputs, weights, inputs).numpy(),
    )


def run_all(
    regimes: Sequence[str], settings: Sequence[Setting], options: argparse.Namespace
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """All settings in all regimes: a row a step, and C_k by curve where asked for.

    Raises:
        ValueError, data.files.DataError: Input that is refused.
    """
    tables, modes, made = [], {}, {}
    for setting in settings:
        key = (setting.nu, setting.kappa)
        if key not in made:
            made = {key: given_problem(options, setting)}
        for regime in regimes:
            for tau, curves in _runs(regime, made[key], setting, options):
                tables.append(_rows(regime, setting, tau, curves))
                if curves.modes is not None:
                    modes[_curve_name(regime, setting, tau)] = curves.modes
    if not tables:
        raise ValueError("every run overflowed; allowed: a smaller --lr, or fewer --n_steps")
    return pd.concat(tables, ignore_index=True), modes


def _runs(
    regime: str, given: Given, setting: Setting, options: argparse.Namespace
) -> Iterator[tuple[float | None, Curves]]:
    """(τ or None, curves), of runs that stay within float64; of the others, where they left."""
    for tau in options.tau if regime == "spectral" else [None]:
        try:
            yield tau, one_run(regime, given, setting, options, tau)
        except OverflowError as error:
            print(f"{_curve_name(regime, setting, tau)}: {error}", file=sys.stderr)


def one_run(
    regime: str, given: Given, setting: Setting, options: argparse.Namespace, tau: float | None
) -> Curves:
    """The curves of one regime and setting."""
    schedule = None if options.sched == "constant" else Jacobi(*options.jacobi)
    how = (setting.batch_size, setting.lr, setting.momentum)
    steps, extra = options.n_steps, {"modes": options.modes, "validation": given.others}
    if regime == "network":
        return _networks(given, how, options, schedule)
    if regime == "linearised" and options.opt == "adam":
        run = (setting.batch_size, setting.lr, steps, options.n_runs, options.seed)
        return Curves(linearised_adam(given.features(), given.residual, *run))
    if regime == "linearised":
        run = (*how, steps, options.n_runs, options.seed, schedule)
        return linearised(given.kernel, given.residual, *run, **extra)
    if regime == "averaged":
        return averaged_curves(given.kernel, given.residual, *how, steps, schedule, **extra)
    shapes = spectrum(given.kernel, given.residual)
    run = (*shapes, *how, tau, steps, None, options.noise, schedule)
    return spectral_curves(*run) if options.modes else Curves(spectral_diagonal(*run))


def _networks(given: Given, how: tuple, options: argparse.Namespace, schedule) -> Curves:
    """Runs of the network with other batches each."""
    weights, inputs, targets, kernel = given.network
    runs = [
        train_network(
            *(weights, inputs, targets, *how, options.n_steps, options.seed + run, schedule),
            optimizer=options.opt,
            kernel=kernel,
            validation=given.other_samples,
        )
        for run in range(options.n_networks)
    ]
    others = None if given.others is None else np.stack([run.validation for run in runs])
    return Curves(np.stack([run.losses for run in runs]), None, others)


def _rows(regime: str, setting: Setting, tau: float | None, curves: Curves) -> pd.DataFrame:
    losses = np.atleast_2d(curves.losses)
    error = losses.std(0, ddof=1) / len(losses) ** 0.5 if len(losses) > 1 else np.nan
    table = pd.DataFrame({"step": np.arange(losses.shape[1]), "loss": losses.mean(0)})
    table["std_error"] = error
    missing = curves.validation is None
    table["validation"] = np.nan if missing else np.atleast_2d(curves.validation).mean(0)
    for name, value in reversed(list({"regime": regime, **vars(setting), "tau": tau}.items())):
        table.insert(0, name, np.nan if value is None else value)
    return table


def _curve_name(regime: str, setting: Setting, tau: float | None) -> str:
    text = ", ".join(f"{name} = {exactly(value)}" for name, value in vars(setting).items())
    return f"{regime}{'' if tau is None else f'(τ = {exactly(tau)})'}: {text}"


# ---- what is written -----------------------------------------------------------------------------


def tell(table: pd.DataFrame, modes: dict[str, np.ndarray], options: argparse.Namespace) -> Path:
    """Writes losses, modes and the page; returns the page's path."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False)
    write_atomically(out / "losses.csv", text.encode())
    if modes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **modes)
        write_atomically(out / "modes.npz", buffer.getvalue())
    drawings = [
        Drawing(f"setting-{i}", CAPTION, drawn) for i, drawn in enumerate(_figures(table, options))
    ]
    last = table.loc[table["step"] == table["step"].max()]
    headline = f"{len(last)} curves of {options.n_steps:,} steps, all in losses.csv."
    findings = Findings([Card("Losses", headline)], csv=text if len(text) < 10**7 else None)
    context = [("Command", key_values({k: _plain(v) for k, v in vars(options).items()}))]
    page = write_page(
        out / "report.html",
        "SGD's regimes",
        findings,
        [Section("Losses", drawings)],
        context=context,
    )
    return page


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _figures(table: pd.DataFrame, options: argparse.Namespace) -> Iterator:
    """A figure for each of the first settings."""
    by = ["lr", "momentum", "batch_size", "nu", "kappa"]
    for number, (key, rows) in enumerate(table.groupby(by, sort=False)):
        if number == EMBEDDED:
            return
        setting = Setting(*key)
        title = ", ".join(f"{name} = {value:g}" for name, value in vars(setting).items())
        figure = empty_figure("Losses", re.sub("_", " ", title))
        drawn = []
        for i, ((regime, tau), of) in enumerate(
            rows.groupby(["regime", "tau"], sort=False, dropna=False)
        ):
            of = of[of["step"] > 0]
            colour = COLOURS.get(regime, PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)])
            name = regime if np.isnan(tau) else f"SD(τ = {tau:g})"
            figure.add_scatter(x=of["step"], y=of["loss"], name=name, line={"color": colour})
            drawn.append(of["loss"].to_numpy())
            if of["validation"].notna().any():
                look = {"color": colour, "dash": "dash"}
                figure.add_scatter(
                    x=of["step"], y=of["validation"], name=f"{name}, validation", line=look
                )
                drawn.append(of["validation"].to_numpy())
        steps = np.unique(np.geomspace(1, options.n_steps, 60).astype(int))
        if (expected := predicted(setting, options, steps)) is not None:
            for name, colour, part in zip(THEORY, (INK, SOFT), expected, strict=True):
                if np.isfinite(part).any():
                    look = {"color": colour, "dash": "dot"}
                    figure.add_scatter(x=steps, y=part, name=name, line=look)
        figure.update_xaxes(title_text="step", **log_ticks([1, options.n_steps]))
        figure.update_yaxes(title_text="loss", **axis_scale([of[of > 0] for of in drawn]))
        yield figure.update_layout(height=HEIGHT + 40)


def predicted(setting: Setting, options: argparse.Namespace, steps: np.ndarray):
    """Theory's loss of a synthetic power law where it holds, and where not, each NaN elsewhere;
    None where there is none.
    """
    plain = options.sched == "constant" and options.opt == "sgd" and not options.lambda_min
    if options.kernel is not None or options.dataset != "synthetic" or not plain:
        return None
    law = PowerLaw(setting.nu, setting.kappa)
    law = PowerLaw(law.nu, law.kappa, 1.0, 1 / law.moments(options.N).sum())
    gamma = float(noise_strength(setting.batch_size, options.N, options.noise))
    try:
        given = Theory(gamma, setting.lr, setting.momentum)
        found = asymptote(law, options.N, given, options.N)
    except ValueError:
        return None
    loss = found.loss(steps)
    beyond = law.amplitude * options.N**-law.kappa / law.kappa / (2 * options.N)
    holds = found.holds(steps) & (beyond <= TAIL * loss)
    return np.where(holds, loss, np.nan), np.where(holds, np.nan, loss)
