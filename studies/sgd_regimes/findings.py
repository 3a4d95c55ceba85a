"""What do SGD's regimes and their theory say? A verdict, its numbers and sentences a part."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from degeneracy.report.page import Card, Findings, Note, Tile
from degeneracy.report.tables import Table
from degeneracy.texts import count_of, listed
from studies.sgd_regimes.figures import BAND, COLOURS, bridge_positions, regimes_figures
from studies.sgd_regimes.theory import PowerLaw

FEW = 4  # checkpoints below which no order is called one
TAIL = 0.005  # of the loss: more in modes that are cut off, and a law cannot be judged
CHECKPOINT = ("run", "seed", "dataset", "model", "lr", "momentum", "batch_size", "epoch")
ALIKE = ("model", "dataset", "nbeta_choice", "sampler")  # within which λ̂ may be compared


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
    ran = [found for found in part.values() if set(COLOURS) <= set(found["regimes"])]
    sampled = max((v for f in ran if (v := apart(f, "linearised")) is not None), default=None)
    gap = max((f["network_gap"] for f in ran if f.get("network_gap") is not None), default=None)
    overflow = {k: found["overflow"] for k, found in part.items() if found["overflow"]}
    if ran:
        count = count_of(len(ran), "setting") + ("" if len(ran) == len(part) else " that ran")
        headline = (
            f"Over {count} the network stays within {_percent(gap)} of its linearisation along the"
            f" same batches, and the mean of sampled linear runs within {_percent(sampled)} of the"
            f" average over all; of SD(τ) {best_tau_text(part)}."
        )
    else:
        headline = f"At none of {count_of(len(part), 'setting')} did all regimes run."
    gaps = {"network": gap, "linearised": sampled}
    besides = {"network": "linearised", "linearised": "the average"}
    return Card(
        "The four regimes",
        headline,
        tiles=[
            Tile(f"{name}, off {besides[name]}", _percent(value), "at most", COLOURS[name])
            for name, value in gaps.items()
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


def best_tau_text(part: Mapping) -> str:
    """Which τ is nearest to the average, over the settings at which every τ ran."""
    taus = list(dict.fromkeys(tau for found in part.values() for tau in found["spectral"]))
    gaps = [[apart(found, tau) for tau in taus] for found in part.values()]
    whole = [row for row in gaps if None not in row]
    if not taus or not whole:
        return "no setting ran with every τ"
    worst = dict(zip(taus, np.max(whole, axis=0), strict=True))
    best = min(worst, key=worst.get)
    return f"the best τ is {best}, at most {_percent(worst[best])} off"


def regimes_table(part: Mapping) -> Table:
    """Distances from the averaged regime, a row a setting."""
    taus = dict.fromkeys(tau for found in part.values() for tau in found["spectral"])
    names = ["network", "linearised", *taus]
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
    held, others, unsaid = [], [], []
    for key, found in part.items():
        if "refused" in found:
            unsaid.append(f"{key}: {found['refused']}")
            continue
        if found["tail"] > TAIL:
            unsaid.append(
                f"{key}: the tail beyond {found['size']:,} modes is {_percent(found['tail'])} of L;"
                " no verdict"
            )
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
        f" phases for {len(held)} of {count_of(len(held) + len(others), 'law')} with a prediction"
        f"{f'; of {len(unsaid)} more nothing can be said' if unsaid else ''}.",
        drawing="asymptotics",
        text=[*(f"Measured over predicted: {line}." for line in [*held, *others]), *unsaid],
        notes=[
            Note(
                "Elsewhere corrections fall as t^(1/ν−1).",
                "The constants are the first terms of an expansion at late times, from Ũ(1) and"
                " Ṽ(1) at the learning rate as it is. They hold for τ <= 1.",
            )
        ],
    )


def transition_text(found: Mapping) -> str:
    """What may not be said: one phase alone, while the other part is more than 10 % of the sum."""
    if found["holds"][-1]:
        return ""
    at = found["transition"]
    if at is None or np.isnan(at):
        why = "at ζ <= 1 and at ζ = 2 − 1/ν no step is known from which on one part is the loss"
    else:
        why = f"at its last step the other part is more than 10 % (transition at t = {at:,.3g})"
    return f"; {why}, so that no one exponent may be read off"


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
        if found["fit"] is None:
            texts.append(f"{name}: no power law fitted, {found['refused']}")
        else:
            texts.append(f"{name}: {phase_text(found['fit']['nu'], found['fit']['kappa'])}")
    return Card(
        "A real kernel",
        f"{'. '.join(texts)}.",
        drawing="spectrum",
        text=[
            "Exponents depend on the modes that are fitted: the first modes are no power law, and"
            " the last ones feel the end of the data."
        ],
    )


def phase_text(nu: float, kappa: float) -> str:
    """Which phase fitted exponents are in, where they are in one."""
    given = f"ν = {nu:.2f}, ϰ = {kappa:.2f}"
    try:
        law = PowerLaw(nu, kappa)
    except ValueError:
        return f"{given}, which is no law that falls, so it has no phase"
    if law.phase == "divergent":
        return f"{given}: no phase, for at ν <= 1 Σλ_k grows without end with the number of modes"
    against = f"{given}, so ζ = {law.zeta:.2f} against 2 − 1/ν = {law.noise_exponent:.2f}"
    return f"{against}: {law.phase} phase{'s' if law.phase == 'between' else ''}"


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
    found = [{**one, "run": run} for run, one in bridge_positions(part)]
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
        f" over {count_of(len(found), 'checkpoint')} of"
        f" {count_of(len({one['run'] for one in found}), 'run')}."
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
    """Whether λ̂ goes with closeness to the boundary, at trained checkpoints; never a cause.

    Only checkpoints of one model, data set, nβ and sampler are compared.
    """
    trained = {
        tuple(one.get(key) for key in CHECKPOINT): one
        for one in found
        if one["llc"] is not None and one["epoch"] > 0
    }
    groups: dict[tuple, list[Mapping]] = {}
    for one in trained.values():
        groups.setdefault(tuple(one.get(key) for key in ALIKE), []).append(one)
    said = [text for group in groups.values() if (text := rank_text(group))]
    if said:
        return " ".join(said)
    rates = {one["lr"] for one in trained.values()}
    apart = ""
    if len(groups) > 1:
        apart = f", in {len(groups)} groups of a model, data set, nβ and sampler each"
    return (
        f"Whether λ̂ goes with it cannot be said: {count_of(len(trained), 'trained checkpoint')}"
        f" at {count_of(len(rates), 'learning rate')}{apart}."
    )


def rank_text(group: Sequence[Mapping]) -> str:
    """The rank correlation of checkpoints that are alike; "" where there are too few."""
    if len(group) < FEW or len({one["lr"] for one in group}) < 2:
        return ""
    named = ", ".join(str(group[0].get(key)) for key in ALIKE[:2])
    over = f"Over {len(group)} trained checkpoints ({named})"
    closeness, llc = ([one[key] for one in group] for key in ("closeness", "llc"))
    if len(set(closeness)) < 2 or len(set(llc)) < 2:
        return f"{over} λ̂ or closeness is the same everywhere, so that they have no correlation."
    rank = spearmanr(closeness, llc)
    return (
        f"{over} the rank correlation of λ̂ with closeness is {rank.statistic:+.2f}"
        f" (p = {rank.pvalue:.2g}, as if they were independent)."
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
        "λ_max and trace of the softmax-weighted kernel; Ũ(1), what noise returns, is below 1"
        " where SGD converges.",
        ["run", "epoch", "α, β, b", "λ_max, trace", "boundary", "α / boundary", "Ũ(1)", "λ̂"],
        rows,
        row_headers=True,
    )


def _percent(fraction: float | None) -> str:
    if fraction is None or not np.isfinite(fraction):
        return "–"
    return f"{100 * fraction:.3g} %"
