"""What did a training with annealed branches find? A card and a table."""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Table
from degeneracy.texts import with_error

MEASURES = {
    "balanced": "λ̂, balanced",
    "raw": "λ̂, as given",
    "gauge_free": "λ̂, relative",
    "published": "λ̂, as published",
}


def findings(results: Mapping) -> Findings:
    """How far training came, and what each branch measured."""
    training = results["parts"].get("training", {}).get("branches")
    if training is None:
        return Findings([Card("Annealed branches", "Nothing has been trained yet.")])
    config = results["config"]["training"]
    switched = training["switched_at"]
    epochs = training["steps_an_epoch"]
    text = (
        f"{config['early']} at {config['early_lr']:.3g}"
        + (
            f", from epoch {switched / epochs:.1f} on {config['late']} at {config['late_lr']:.3g}"
            if switched is not None
            else ", which did not come down to where the other takes over"
        )
        + f": {len(training['branches'])} branches were annealed; training: {training['outcome']}."
    )
    tables = [branch_table(training, results["parts"].get("degeneracy", {}).get("points"))]
    return Findings([Card("Annealed branches", text)], tables=tables)


def branch_table(training: Mapping, points: Mapping | None) -> Table:
    """A row a branch."""
    found = {} if points is None else dict(zip(points["branches"], points["found"], strict=True))
    rows = []
    for place, branch in enumerate(training["branches"]):
        row = [
            ", ".join(f"{target:g}" for target in branch["targets"]),
            *(loss_text(branch[key]) for key in ("train_loss", "val_loss")),
        ]
        there = found.get(place, {})
        for name in MEASURES:
            row.append(estimate_text(there.get(name)))
        row.append("–" if not there else f"{there['balanced_trace']:.1f}")
        rows.append(row)
    head = ["left at loss", "annealed loss", "validation loss", *MEASURES.values(), "trace"]
    return Table("Branches", "Losses in nats; λ̂ with its standard error.", head, rows)


def estimate_text(estimate: Mapping | None) -> str:
    """`4.2 ± 0.1, local estimate`; published samplers give no verdict."""
    if not estimate or estimate["llc"] is None:
        return "–"
    value = with_error(estimate["llc"], estimate["std_error"])
    return f"{value}, {estimate['verdict']}" if estimate.get("verdict") else value


def loss_text(loss: float | None) -> str:
    """A loss in nats; `–` of a branch that is not finite."""
    return "–" if loss is None else f"{loss:.4f}"
