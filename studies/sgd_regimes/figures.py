"""What do SGD's regimes and their theory look like?"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import (
    DASHES,
    HEIGHT,
    INK,
    PARAMETER_COLOURS,
    SOFT,
    SYMBOLS,
    axis_scale,
    empty_figure,
    shorten,
)

COLOURS = {"network": "#0072b2", "linearised": "#009e73", "averaged": "#cc3311"}
TAU_COLOURS = ("#332288", "#aa4499", "#e69f00", "#663333", "#88ccee", "#999933")
BAND = (0.97, 1.03)  # what the prediction is held to where it holds
SCALE = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]

CAPTIONS = {
    "regimes": (
        "The same learning rate, momentum and batch size in all regimes: the network itself, its"
        " linearisation with the batches drawn, the average over all batches, and SD(τ), which"
        " knows the spectrum only. Rates are in units of N/λ_max of the network's kernel."
        " Left: losses; right: over that of the average. Bars are ± two standard errors over runs."
        " The dotted line is what a power law through"
        " the kernel's spectrum predicts, a crude fit at this size; it is left out where that"
        " diverges."
    ),
    "stability": (
        "Colour: how far the loss of SD(1) has come, simulated. Lines: up to where theory says that"
        " SD(1) and the averaged regime converge; the dotted one is gradient descent's, 2(1+β)."
        " Blue up to a line and red beyond it is what the theory promises."
    ),
    "asymptotics": (
        "Left: measured (lines) and predicted losses (dots), C_sig t^−ζ + C_noise t^−(2−1/ν)."
        " Right: the one over the other; the band is ± 3 %. Corrections fall as t^(1/ν−1),"
        " slowly for ν near 1. Dotted where the part of the other phase is more than 10 % of the"
        " prediction, or where ζ <= 1 and the noise's part is no such power."
    ),
    "momentum": (
        "The best loss over α for each momentum β, relative to that at β = 0: below 1 momentum"
        " helps. After finitely many steps, and in the limit of t → ∞ (the constant of the phase)."
    ),
    "condition": (
        "Where in the noise phase does a negative momentum help? Blue: Σλ·Σc exceeds"
        " ((ν−1)/ν) Σλ²·Σ(c/λ), so it does; red: it does not; empty: the signal phase. Colour is"
        " the log of the ratio."
    ),
    "budget": (
        "Loss over its start against samples used, b·t, a line for each batch size b. With α in"
        " proportion to b, and αλ_max small, only the budget counts and the lines coincide; with"
        " one α for all they do not."
    ),
    "spectrum": (
        "The analytic NTK of a two-layer ReLU network on real data, rescaled to λ_max = 1. Left:"
        " eigenvalues; right: what of the standardised targets lies in modes k and beyond. Straight"
        " lines are power laws, fitted over the modes that they span."
    ),
    "bridge": (
        "The main experiment's SGD runs. Left: the boundary of convergence over momentum, from each"
        " checkpoint's own kernel (softmax-weighted), and the learning rate that was used. Right:"
        " λ̂ of the checkpoint against how near to its boundary it was trained."
    ),
}


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """The figures of the parts that are there; this study keeps no traces."""
    parts = results["parts"]
    sections = {
        "The four regimes": regimes_figures(parts.get("regimes", {})),
        "Where SGD converges": _one("stability", parts, stability_figure),
        "Predicted and measured": _one("asymptotics", parts, asymptotics_figure),
        "Momentum": {
            **_one("momentum", parts, momentum_figure),
            **_one("condition", parts, condition_figure, "momentum"),
        },
        "Batch size and budget": _one("budget", parts, budget_figure),
        "A real kernel": _one("spectrum", parts, spectrum_figure),
        "The main experiment": _one("bridge", parts, bridge_figure),
    }
    return [
        Section(heading, [Drawing(k, CAPTIONS[_kind(k)], f) for k, f in drawn.items()])
        for heading, drawn in sections.items()
        if drawn
    ]


def _kind(key: str) -> str:
    return key.split("-")[0]


def _one(key: str, parts: Mapping, draw, part: str = "") -> dict[str, go.Figure]:
    """A part's figure, where there is what it draws."""
    found = parts.get(part or key)
    figure = draw(found) if found else None
    return {key: figure} if figure is not None else {}


# ---- the four regimes ----------------------------------------------------------------------------


def regimes_figures(part: Mapping) -> dict[str, go.Figure]:
    """A figure for each setting."""
    return {
        f"regimes-{re.sub(r'[^0-9a-z.]+', '_', key)}": regimes_figure(key, found)
        for key, found in part.items()
    }


def regimes_figure(key: str, found: Mapping) -> go.Figure:
    """Losses of all regimes of one setting, and each over the averaged one's."""
    edge = found["boundary"]["averaged"]
    note = f"converges up to α = {edge:.3g} (averaged), {found['boundary']['spectral']:.3g} (SD(1))"
    figure = empty_figure(f"Four regimes at {key}", note, columns=2)
    steps, drawn = found["steps"], []
    beside = found["regimes"].get("averaged")
    for name, of, colour, dash, width in _regime_looks(found):
        drawn.append(_array(of["loss"]))
        for column, one in enumerate([None, beside][: 2 if beside else 1], start=1):
            line = _curve(steps, of, name, colour, dash, width, one)
            figure.add_trace(line.update(showlegend=column == 1), row=1, col=column)
    expected = _array(found["asymptote"].get("loss", ()))
    if len(expected) and drawn:
        expected = np.where(expected <= 1.2 * drawn[0][0], expected, np.nan)
        look = {"loss": expected, "error": None}
        figure.add_trace(_curve(steps, look, "fitted power law", INK, "dot", 1.6), row=1, col=1)
    figure.update_xaxes(title_text="step", **log_ticks(steps[1:]))
    scale = axis_scale(_positive(drawn)) or {"type": "log", "dtick": "D2", "tickformat": "~g"}
    figure.update_yaxes(title_text="loss E‖Δ‖²/(2N)", **scale, col=1)
    figure.update_yaxes(title_text="loss / averaged", range=[0.8, 1.2], col=2)
    return figure.update_layout(height=HEIGHT + 60, hovermode="closest")


def _regime_looks(found: Mapping) -> Iterator[tuple[str, Mapping, str, str, float]]:
    """(name, losses, colour, dash, width) of each curve, the average first."""
    order = sorted(found["regimes"], key=lambda name: name != "averaged")
    for name in order:
        yield name, found["regimes"][name], COLOURS[name], "solid", 2.2
    for i, (tau, of) in enumerate(found["spectral"].items()):
        yield f"SD(τ = {tau})", of, TAU_COLOURS[i % len(TAU_COLOURS)], "dash", 1.4


def _curve(
    steps, of: Mapping, name: str, colour: str, dash: str, width: float, over: Mapping | None = None
) -> go.Scatter:
    """A regime's losses from step 1 on, as they are or over another's."""
    scale = _array(over["loss"])[1:] if over else 1.0
    line = go.Scatter(x=steps[1:], y=_array(of["loss"])[1:] / scale, mode="lines", meta=name)
    line.update(name=name, legendgroup=name)
    line.update(line={"color": colour, "dash": dash, "width": width})
    if of["error"] is not None:
        some = np.arange(len(steps) - 1) % 8 == 0
        bars = np.where(some, 2 * _array(of["error"])[1:] / scale, np.nan)
        line.error_y = {"type": "data", "array": bars, "thickness": 1, "width": 2}
    return line.update(hovertemplate="step %{x}: %{y:.4g}<extra>%{meta}</extra>")


# ---- stability -----------------------------------------------------------------------------------


def stability_figure(part: Mapping) -> go.Figure | None:
    """The map of simulated losses with the boundaries over it."""
    found = part.get("map")
    if not found:
        return None
    ratio = np.clip(_array(found["log_ratio"]), -4, 4)
    figure = empty_figure("Where SGD converges", "power law, SD(1) simulated, boundaries by theory")
    figure.add_trace(
        go.Heatmap(
            x=found["momenta"],
            y=found["lrs"],
            z=ratio,
            zmid=0,
            colorscale=SCALE,
            colorbar={"title": {"text": "log₁₀ L_T/L₀"}, "thickness": 14},
            hovertemplate="β = %{x:.2f}, α = %{y:.3g}: 10^%{z:.2f}<extra></extra>",
        )
    )
    beta = np.array(found["momenta"])
    for x, y, name, look in (
        (beta, found["spectral"], "boundary of SD(1)", {"color": INK, "width": 2.4}),
        (
            found["averaged"]["momenta"],
            found["averaged"]["lrs"],
            "boundary of the averaged regime",
            {"color": "#aa4499", "width": 2, "dash": "dash"},
        ),
        (beta, 2 * (1 + beta), "gradient descent, 2(1+β)", {"color": INK, "dash": "dot"}),
    ):
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", line=look))
    figure.update_xaxes(title_text="momentum β", range=[beta.min(), beta.max()])
    low, high = np.log10(found["lrs"][0]), np.log10(found["lrs"][-1])
    figure.update_yaxes(
        title_text="learning rate α (1/λ_max)", range=[low, high], **axis_scale([found["lrs"]])
    )
    return figure.update_layout(height=HEIGHT + 60, hovermode="closest")


# ---- asymptotics ---------------------------------------------------------------------------------


def asymptotics_figure(part: Mapping) -> go.Figure | None:
    """Losses and their ratio to the prediction, a colour each law."""
    laws = {key: found for key, found in part.items() if "loss" in found}
    if not laws:
        return None
    figure = empty_figure("Predicted and measured losses", "SD(1), endless stream", columns=2)
    drawn, steps = [], [1]
    for i, (key, found) in enumerate(laws.items()):
        colour, steps = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)], found["steps"]
        loss, predicted = _array(found["loss"]), _array(found["predicted"])
        drawn.append(loss)
        some = slice(0, None, 6)
        shared = {"legendgroup": key, "meta": key, "name": key}
        figure.add_trace(_line(steps, loss, colour, **shared), row=1, col=1)
        dots = {"color": colour, "size": 5, "symbol": "circle-open"}
        points = go.Scatter(x=steps[some], y=predicted[some], mode="markers", marker=dots)
        figure.add_trace(points.update(showlegend=False, **shared), row=1, col=1)
        holds = np.array(found["holds"])
        late = np.where(holds, loss / predicted, np.nan)
        early = np.where(holds, np.nan, loss / predicted)
        figure.add_trace(_line(steps, late, colour, showlegend=False, **shared), row=1, col=2)
        dotted = _line(steps, early, colour, "dot", showlegend=False, **shared)
        figure.add_trace(dotted, row=1, col=2)
    figure.add_hrect(*BAND, row=1, col=2, fillcolor=SOFT, opacity=0.2, line_width=0)
    figure.update_xaxes(title_text="step", **log_ticks(steps))
    figure.update_yaxes(title_text="loss ΣC/(2N)", **axis_scale(_positive(drawn)), col=1)
    figure.update_yaxes(title_text="measured / predicted", range=[0.7, 1.3], col=2)
    return figure.update_layout(height=HEIGHT + 80, hovermode="closest")


def _line(x, y, colour: str, dash: str = "solid", width: float = 2, **more) -> go.Scatter:
    line = go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "dash": dash, "width": width})
    line.update(hovertemplate="%{x}: %{y:.4g}<extra>%{meta}</extra>")
    return line.update(**more)


# ---- momentum ------------------------------------------------------------------------------------


def momentum_figure(part: Mapping) -> go.Figure | None:
    """Best losses over momentum, relative to none: a panel a law."""
    laws = {key: found for key, found in part.items() if key != "condition"}
    if not laws:
        return None
    figure = empty_figure("The best momentum", "α free for each β, SD(1)", columns=len(laws))
    for column, (key, found) in enumerate(laws.items(), start=1):
        for i, (when, best) in enumerate(found["best"].items()):
            colour = INK if "∞" in when else TAU_COLOURS[i % len(TAU_COLOURS)]
            line = _line(found["momenta"], _array(best["value"]), colour, meta=when, name=when)
            line.update(mode="lines+markers", legendgroup=when, showlegend=column == 1)
            figure.add_trace(line, row=1, col=column)
        figure.add_hline(1, line={"color": SOFT, "dash": "dot"}, row=1, col=column)
        title = f"best loss / that at β = 0; {key}, {found['phase']} phase"
        values = np.concatenate([_array(best["value"]) for best in found["best"].values()])
        low, high = np.nanmin(values), min(np.nanmax(values), 1.5)
        room = 0.08 * (high - low)
        figure.update_yaxes(title_text=title, range=[low - room, high + room], col=column)
    figure.update_xaxes(title_text="momentum β")
    return figure.update_layout(hovermode="closest", height=HEIGHT + 40)


def condition_figure(part: Mapping) -> go.Figure | None:
    """Where negative momentum helps, over (ν, ϰ)."""
    found = part.get("condition")
    if not found:
        return None
    figure = empty_figure("Where a negative momentum helps", "noise phase, late times")
    margins = np.clip(_array(found["margins"]), -3, 3)
    figure.add_trace(
        go.Heatmap(
            x=found["nus"],
            y=found["kappas"],
            z=margins,
            zmid=0,
            colorscale=SCALE,
            reversescale=True,
            colorbar={"title": {"text": "log ratio"}, "thickness": 14},
            hovertemplate="ν = %{x:.2f}, ϰ = %{y:.2f}: %{z:.2f}<extra></extra>",
        )
    )
    nus = np.array(found["nus"])
    edge = go.Scatter(x=nus, y=2 * nus - 1, mode="lines", name="ζ = 2 − 1/ν, signal phase below")
    figure.add_trace(edge.update(line={"color": INK, "width": 2}))
    figure.update_xaxes(title_text="ν of the spectrum", range=[nus[0], nus[-1]])
    kappas = found["kappas"]
    figure.update_yaxes(title_text="ϰ of the residual", range=[kappas[0], kappas[-1]])
    return figure.update_layout(hovermode="closest")


# ---- budget --------------------------------------------------------------------------------------


def budget_figure(part: Mapping) -> go.Figure | None:
    """L/L₀ against b·t: α ∝ b on the left, one α on the right."""
    laws = {key: found for key, found in part.items() if "curves" in found}
    if not laws:
        return None
    figure = empty_figure("Loss against samples used", "colour: batch size; dash: ϰ", columns=2)
    kinds = ("α ∝ b", "same α")
    dashes = {key.split(", ")[1]: "" for key in laws}
    dashes = {kappa: DASHES[i % len(DASHES)] for i, kappa in enumerate(dashes)}
    drawn, budgets = [], [1]
    for key, found in laws.items():
        kind, kappa = key.split(", ")
        for i, curve in enumerate(found["curves"]):
            colour = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)]
            name = f"b = {curve['batch_size']}, {kappa}"
            column = 1 + kinds.index(kind)
            line = _line(curve["budget"], curve["ratio"], colour, dashes[kappa], 1.6, meta=name)
            line.update(name=name, legendgroup=name, showlegend=column == 1)
            figure.add_trace(line, row=1, col=column)
            drawn.append(_array(curve["ratio"]))
            budgets = sorted({*budgets, *curve["budget"]})
    for column, kind in enumerate(kinds, start=1):
        figure.update_yaxes(title_text=f"L/L₀, {kind}", **axis_scale(_positive(drawn)), col=column)
    figure.update_xaxes(title_text="samples used, b·t", **log_ticks(budgets))
    return figure.update_layout(hovermode="closest", height=HEIGHT + 60)


# ---- a real kernel -------------------------------------------------------------------------------


def spectrum_figure(part: Mapping) -> go.Figure:
    """Eigenvalues and tails, with their power laws."""
    heading = "The kernel of a two-layer network on real data"
    figure = empty_figure(heading, "analytic NTK, λ_max = 1", columns=2)
    drawn: tuple[list, list] = ([], [])
    for i, (name, found) in enumerate(part.items()):
        colour, fit = PARAMETER_COLOURS[i % len(PARAMETER_COLOURS)], found["fit"]
        for column, (key, scale, exponent, sign) in enumerate(
            (("eigenvalues", "scale", "nu", "ν"), ("tails", "tail", "kappa", "ϰ")), start=1
        ):
            dots = go.Scatter(x=found["k"], y=found[key], mode="markers", name=name, meta=name)
            dots.update(marker={"color": colour, "size": 4}, legendgroup=name)
            dots.update(showlegend=column == 1)
            figure.add_trace(dots, row=1, col=column)
            drawn[column - 1].append(_array(found[key]))
            if fit is None:
                continue
            ks, text = np.geomspace(fit["first"], fit["last"], 30), f"{sign} = {fit[exponent]:.2f}"
            straight = fit[scale] * ks ** -fit[exponent]
            line = _line(ks, straight, INK, DASHES[1 + i % 3], 2, meta=f"{name}: {text}")
            line.update(name=f"{name}: {text}", legendgroup=name)
            figure.add_trace(line, row=1, col=column)
    for column, title in enumerate(("eigenvalue λ_k of K̂", "share of Σc in modes >= k"), start=1):
        values = _positive(drawn[column - 1])
        figure.update_yaxes(title_text=title, **axis_scale(values), col=column)
    figure.update_xaxes(title_text="mode k", **log_ticks([1, max(found["k"])]))
    return figure.update_layout(hovermode="closest")


# ---- the main experiment -------------------------------------------------------------------------


def bridge_positions(part: Mapping) -> Iterator[tuple[str, Mapping]]:
    """(run, checkpoint) of all runs that could be read."""
    for run, found in part.items():
        yield from ((run, one) for one in found.get("positions", ()))


def bridge_figure(part: Mapping) -> go.Figure | None:
    """Boundaries and settings on the left, λ̂ against closeness on the right."""
    found = list(bridge_positions(part))
    if not found:
        return None
    figure = empty_figure("The main experiment's SGD on the map", "SD(1)", columns=2)
    runs = list(dict.fromkeys(run for run, _ in found))
    shown = set()
    for run, one in found:
        colour = PARAMETER_COLOURS[runs.index(run) % len(PARAMETER_COLOURS)]
        symbol = SYMBOLS[runs.index(run) % len(SYMBOLS)]
        name = shorten(run, 40)
        text = f"{run}, {one['model']}, epoch {one['epoch']}"
        curve = _line(one["curve"]["momentum"], one["curve"]["lr"], colour, width=1.2, meta=text)
        figure.add_trace(curve.update(showlegend=False, legendgroup=run), row=1, col=1)
        dot = {"mode": "markers", "name": name, "legendgroup": run, "meta": text}
        dot["marker"] = {"color": colour, "size": 9, "symbol": symbol}
        used = go.Scatter(x=[one["momentum"]], y=[one["lr"]], **dot)
        figure.add_trace(used.update(showlegend=run not in shown), row=1, col=1)
        shown.add(run)
        if one["llc"] is not None:
            at = go.Scatter(x=[one["closeness"]], y=[one["llc"]], **dot, showlegend=False)
            if one["llc_std_error"] is not None:
                at.error_y = {"type": "data", "array": [2 * one["llc_std_error"]]}
            figure.add_trace(at, row=1, col=2)
    edges = [_array(one["curve"]["lr"]) for _, one in found]
    figure.update_yaxes(
        title_text="learning rate", **axis_scale([*edges, [o["lr"] for _, o in found]]), col=1
    )
    figure.update_xaxes(title_text="momentum β", col=1)
    figure.update_yaxes(title_text="λ̂ of the checkpoint", col=2)
    figure.update_xaxes(title_text="learning rate / boundary", rangemode="tozero", col=2)
    return figure.update_layout(hovermode="closest", height=HEIGHT + 40)


# ---- parts of figures ----------------------------------------------------------------------------


def _array(values: Sequence) -> np.ndarray:
    return np.array(values, dtype=float)  # None, where a number was not finite, becomes NaN


def _positive(drawn: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [array[array > 0] for array in drawn]


def log_ticks(values: Sequence[float]) -> dict:
    """A log axis with ticks at powers of ten, written out."""
    low, high = np.log10(max(min(values), 1)), np.log10(max(values))
    margin = 0.03 * (high - low) or 0.5
    return {"type": "log", "dtick": 1, "tickformat": "~s", "range": [low - margin, high + margin]}
