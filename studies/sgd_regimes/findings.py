"""What do SGD's regimes and their theory say? A verdict, its numbers and sentences a part."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, listed
from studies.sgd_regimes.figures import BAND, COLOURS, bridge_positions, regimes_figures

FEW = 4  # checkpoints below which no order is called one


def findings(results: Mapping) -> Findings:
    """A card for each part that is there, and the derived formulas."""
    parts = results["parts"]
    makers = {
        "regimes": regimes_card,
        "stability": stability_card,
        "asymptotics": asymptotics_card,
        "momentum": momentum_card,
        "budget": budget_card,
        "spectrum": spectrum_card,
    }
    cards = [make(parts[name]) for name, make in makers.items() if parts.get(name)]
    if "bridge" in parts:
        cards.append(bridge_card(parts["bridge"]))
    tables = [formula_table(parts["derivation"])] if parts.get("derivation") else []
    if parts.get("regimes"):
        tables.insert(0, regimes_table(parts["regimes"]))
    if list(bridge_positions(parts.get("bridge", {}))):
        tables.append(bridge_table(parts["bridge"]))
    return Findings(cards or [Card("SGD's regimes", "Nothing has been measured yet.")], tables)


# ---- the four regimes ----------------------------------------------------------------------------


def apart(found: Mapping, name: str, beside: str = "averaged") -> float | None:
    """Largest |loss/loss of the averaged regime − 1| over steps; None where one is missing."""
    regimes = {**found["regimes"], **found["spectral"]}
    if name not in regimes or beside not in regimes:
        return None
    one, other = (np.array(regimes[key]["loss"], dtype=float) for key in (name, beside))
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(one / other - 1)
    return float(np.nanmax(gap)) if np.isfinite(gap).any() else None


def regimes_card(part: Mapping) -> Card:
    """How far network, linearised and SD(τ) are from the average."""
    rows = {name: [apart(found, name) for found in part.values()] for name in COLOURS}
    worst = {n: max((v for v in of if v is not None), default=None) for n, of in rows.items()}
    taus = list(next(iter(part.values()))["spectral"])
    by_tau = {t: [v for f in part.values() if (v := apart(f, t)) is not None] for t in taus}
    best = min((t for t in taus if by_tau[t]), key=lambda t: max(by_tau[t]), default=None)
    gap = max((f["network_gap"] for f in part.values() if f.get("network_gap")), default=None)
    overflow = {k: found["overflow"] for k, found in part.items() if found["overflow"]}
    text = (
        f"the best τ is {best}, at most {_percent(max(by_tau[best]))} off" if best else "no τ ran"
    )
    return Card(
        "The four regimes",
        f"Over {count_of(len(part), 'setting')} the network stays within {_percent(gap)} of its"
        " linearisation along the same batches, and the mean of sampled linear runs within"
        f" {_percent(worst['linearised'])} of the average over all; of SD(τ) {text}.",
        tiles=[
            Tile("network, off linearised", _percent(gap), "at most", COLOURS["network"]),
            Tile(
                "linearised, off the average",
                _percent(worst["linearised"]),
                "at most",
                COLOURS["linearised"],
            ),
        ],
        drawing=next(iter(regimes_figures(part))),
        text=[
            "Distances are the largest of |L/L_averaged − 1| over all steps shown. That of sampled"
            " runs is noise of their number; the network's is noise of a few runs and its own"
            " curvature, which falls with its width."
        ],
        notes=[
            Note(f"{key}: {listed(list(of))} overflowed.", " ".join(of.values()))
            for key, of in overflow.items()
        ],
    )


def regimes_table(part: Mapping) -> Table:
    """Distances from the averaged regime, a row a setting."""
    names = ["network", "linearised", *next(iter(part.values()))["spectral"]]
    heads = [name if name in COLOURS else f"SD(τ = {name})" for name in names]
    rows = []
    for key, found in part.items():
        edges = found["boundary"]
        rows.append(
            [
                key,
                f"{found['lr'] / edges['averaged']:.2f}",
                _percent(found.get("network_gap")),
                *(_percent(apart(found, name)) for name in names),
            ]
        )
    return Table(
        "How far the regimes are from the average over batches",
        "Largest |L/L_averaged − 1| over the steps shown; a dash where a run overflowed. First the"
        " network beside its linearisation along the same batches, over all steps.",
        ["setting", "α / boundary", "network / linearised", *heads],
        rows,
        row_headers=True,
    )


# ---- theory --------------------------------------------------------------------------------------


def stability_card(part: Mapping) -> Card:
    """Whether simulation and theory agree on convergence."""
    found = part["map"]
    said, falls = np.array(found["converges"]), np.array(found["falls"])
    agree = float((said == falls).mean())
    lrs, edges = np.array(found["lrs"])[:, None], np.array(found["spectral"])[None]
    near = np.abs(np.log(lrs / edges)) < 0.06
    off = int(((said != falls) & ~near).sum())
    at = np.array(found["averaged"]["momenta"])
    spectral = np.interp(at, found["momenta"], found["spectral"])
    gap = float(np.max(np.abs(np.array(found["averaged"]["lrs"]) / spectral - 1)))
    return Card(
        "Where SGD converges",
        f"Theory and simulation agree at {_percent(agree)} of {said.size:,} settings; of those"
        f" further than 6 % from the boundary {off or 'none'} differ.",
        tiles=[
            Tile("agree", _percent(agree), f"of {said.size:,} settings"),
            Tile("averaged beside SD(1)", _percent(gap), "boundaries differ by at most"),
        ],
        drawing="stability",
        text=[
            "A simulated run converges where its loss falls in the second half of the steps. Near"
            " the boundary that takes longer than the simulation."
        ],
    )


def asymptotics_card(part: Mapping) -> Card:
    """How near predictions come, where they hold."""
    held, others = [], []
    for key, found in part.items():
        if "refused" in found:
            others.append(f"{key}: {found['refused']}")
            continue
        ratio = np.array(found["loss"], float) / np.array(found["predicted"], float)
        late = np.array(found["steps"]) >= max(found["steps"]) / 10
        low, high = ratio[late].min(), ratio[late].max()
        inside = BAND[0] <= low and high <= BAND[1]
        text = f"{low:.3f} to {high:.3f} at {key} ({found['phase']} phase)"
        (held if inside else others).append(text + transition_text(found))
    return Card(
        "Predicted and measured",
        f"In the last decade of steps the measured loss is within 3 % of the predicted sum of both"
        f" phases for {len(held)} of {len(part)} laws.",
        drawing="asymptotics",
        text=[f"Measured over predicted: {line}." for line in [*held, *others]],
        notes=[
            Note(
                "Elsewhere corrections fall as t^(1/ν−1).",
                "The constants are the first terms of an expansion at late times, from Ũ(1) and"
                " Ṽ(1) at the learning rate as it is. They hold for τ <= 1.",
            )
        ],
    )


def transition_text(found: Mapping) -> str:
    """What may not be said: one phase alone, before ten transitions have gone by."""
    if found["holds"][-1] or not found["transition"]:
        return ""
    return (
        f"; its last step is not yet ten transitions (t = {found['transition']:,.3g}) on, so that"
        " no one exponent may be read off"
    )


def momentum_card(part: Mapping) -> Card:
    """Which momentum is best, by time and law."""
    laws = {key: found for key, found in part.items() if key != "condition"}
    texts = []
    for key, found in laws.items():
        for when, best in found["best"].items():
            values = np.array(best["value"], dtype=float)
            at = int(np.nanargmin(values))
            saved = _percent(1 - values[at])
            texts.append(
                f"{key} ({found['phase']} phase), {when}: best β = {found['momenta'][at]:g} with"
                f" α = {best['lr'][at]:.3g}, which saves {saved} of the loss at β = 0."
            )
    limits = [text for text in texts if "∞" in text]
    if "condition" in part:
        margins = np.array(part["condition"]["margins"], dtype=float)
        share = float((margins[np.isfinite(margins)] > 0).mean())
        texts.append(
            f"For pure power laws the condition for β < 0 holds in {_percent(share)} of the noise"
            " phase shown."
        )
    return Card(
        "Momentum",
        " ".join(limits[:2]) or "No law was compared.",
        drawing="momentum",
        text=texts,
        notes=[
            Note(
                "The finite-time optimum can have the other sign.",
                "While t is near the transition the best momentum may be positive where the"
                " condition for late times says negative.",
            )
        ],
    )


def budget_card(part: Mapping) -> Card:
    """How far the batch sizes end apart."""
    texts = [
        f"{key}: {found['refused']}"
        if "refused" in found
        else f"{key}: {_percent(found['spread'])}"
        for key, found in part.items()
    ]
    return Card(
        "Batch size and budget",
        f"At the same number of samples the losses of all batch sizes end apart: {listed(texts)}.",
        drawing="budget",
        text=["The spread is the largest last loss over the smallest, minus 1."],
    )


def spectrum_card(part: Mapping) -> Card:
    """The exponents of real kernels."""
    texts = []
    for name, found in part.items():
        fit = found["fit"]
        zeta, late = fit["kappa"] / fit["nu"], 2 - 1 / fit["nu"]
        phase = "signal" if zeta < late else "noise"
        texts.append(
            f"{name}: ν = {fit['nu']:.2f}, ϰ = {fit['kappa']:.2f}, so ζ = {zeta:.2f} against"
            f" 2 − 1/ν = {late:.2f}: the {phase} phase"
        )
    return Card(
        "A real kernel",
        f"{'. '.join(texts)}.",
        drawing="spectrum",
        text=[
            "Exponents depend on the modes that are fitted: the first modes are no power law, and"
            " the last ones feel the end of the data."
        ],
    )


def formula_table(part: Mapping) -> Table:
    """What SymPy derived, and what is left over."""
    steps = part["formulas"]["steps"]
    return Table(
        "Derived by SymPy",
        "Residue: derived minus closed form; 0 where the closed form follows from the recursion.",
        ["formula", "closed form", "residue"],
        [[step["name"], step["formula"], step["residue"]] for step in steps],
        row_headers=True,
    )


# ---- the main experiment -------------------------------------------------------------------------


def bridge_card(part: Mapping) -> Card:
    """Where the main experiment's SGD lies, and whether λ̂ goes with it."""
    found = [one for _, one in bridge_positions(part)]
    refused = [f"{run}: {of['refused']}" for run, of in part.items() if "refused" in of]
    if not found:
        return Card(
            "The main experiment",
            "No finished run of the main experiment with checkpoints of SGD was found; `make run`"
            " makes one, and this part then reads it.",
            text=refused,
        )
    nearness = np.array([one["closeness"] for one in found])
    return Card(
        "The main experiment",
        f"SGD's learning rates lie at {nearness.min():.2g} to {nearness.max():.2g} of the boundary"
        f" over {count_of(len(found), 'checkpoint')} of {count_of(len(part), 'run')}."
        f" {order_sentence(found)}",
        drawing="bridge",
        text=[
            "Above 1 a linear model with the checkpoint's kernel would diverge; a network that does"
            " not has moved to where its curvature is smaller, or will.",
            "Closeness contains the learning rate and the curvature: an order of λ̂ with it names no"
            " cause. λ̂ is what the run's own sampler settings give, local or not.",
            *refused,
        ],
        notes=[
            Note(
                "The boundary is that of a model of SGD.",
                "SD(1) with the softmax-weighted kernel of a few training images, each output a"
                " sample of its own; heavy-ball momentum also where the run used Nesterov's.",
            )
        ],
    )


def order_sentence(found: Sequence[Mapping]) -> str:
    """Whether λ̂ goes with closeness to the boundary, at trained checkpoints; never a cause."""
    pairs = {
        (one["model"], one["lr"], one["momentum"], one["batch_size"], one["epoch"]): one
        for one in found
        if one["llc"] is not None and one["epoch"] > 0
    }
    rates = {one["lr"] for one in pairs.values()}
    if len(pairs) < FEW or len(rates) < 2:
        return (
            f"Whether λ̂ goes with it cannot be said: {count_of(len(pairs), 'trained checkpoint')}"
            f" at {count_of(len(rates), 'learning rate')}."
        )
    rank = spearmanr(
        [one["closeness"] for one in pairs.values()], [one["llc"] for one in pairs.values()]
    )
    return (
        f"Over {len(pairs)} trained checkpoints the rank correlation of λ̂ with closeness is"
        f" {rank.statistic:+.2f} (p = {rank.pvalue:.2g}, as if they were independent)."
    )


def bridge_table(part: Mapping) -> Table:
    """A row a checkpoint."""
    rows = [
        [
            (one["model"], run),
            str(one["epoch"]),
            f"{one['lr']:g}, {one['momentum']:g}, {one['batch_size']}",
            f"{one['largest_eigenvalue']:.3g}, {one['trace']:.3g}",
            f"{one['boundary']:.3g}",
            f"{one['closeness']:.2f}",
            "∞" if one["gain"] is None else f"{one['gain']:.3g}",
            "–" if one["llc"] is None else f"{one['llc']:.3g}",
        ]
        for run, one in bridge_positions(part)
    ]
    return Table(
        "The main experiment's SGD",
        "λ_max and trace of the softmax-weighted kernel; Ũ(1), what noise returns, is at most 1.",
        ["run", "epoch", "α, β, b", "λ_max, trace", "boundary", "α / boundary", "Ũ(1)", "λ̂"],
        rows,
        row_headers=True,
    )


def _percent(fraction: float | None) -> str:
    if fraction is None or not np.isfinite(fraction):
        return "–"
    return f"{100 * fraction:.3g} %"
