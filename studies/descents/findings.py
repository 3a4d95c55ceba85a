"""What did a descent find? A card and a table."""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Table
from degeneracy.texts import with_error
from studies.descents.figures import title_of


def findings(results: Mapping) -> Findings:
    """How far training came, and what was measured on the way."""
    training = results["parts"].get("training", {}).get("descent")
    if training is None:
        return Findings([Card("A descent", "Nothing has been trained yet.")])
    points = results["parts"].get("degeneracy", {})
    losses = results["config"]["training"]["losses"]
    steps, seconds, _ = training["looks"][-1]
    headline = (
        f"{title_of(results)}: {passed_text(training, losses)} after {steps:,} steps and"
        f" {seconds:.1f} s of processor time; training: {training['outcome']}."
    )
    text = [last_text(points)] if points else []
    return Findings([Card("A descent", headline, text=text)], [passage_table(training, points)])


def passed_text(training: Mapping, losses: list[float]) -> str:
    """`3 of 3 losses passed`."""
    count = sum(len(passage["targets"]) for passage in training["passages"])
    return f"{count} of {len(losses)} {'loss' if len(losses) == 1 else 'losses'} passed"


def last_text(points: Mapping) -> str:
    """What the last point that was measured says."""
    key = min(points, key=float)
    llc = points[key]["llc"]
    return (
        f"At a training loss of {key} λ̂ = {with_error(llc['llc'], llc['std_error'])}"
        f" ({llc['verdict']}), the Hessian's trace is {points[key]['trace']:.1f} and its largest"
        f" eigenvalue {points[key]['largest']:.2f}."
    )


def passage_table(training: Mapping, points: Mapping) -> Table:
    """A row a loss that was passed."""
    rows = []
    for passage in training["passages"]:
        keys = [f"{target:g}" for target in passage["targets"]]
        found = next((points[key] for key in keys if key in points), None)
        row = [", ".join(keys), f"{passage['loss']:.4f}", f"{passage['step']:,}"]
        row.append(f"{passage['seconds']:.2f}")
        if found is None:
            rows.append([*row, "–", "–", "–", "–"])
            continue
        llc = found["llc"]
        row += [with_error(llc["llc"], llc["std_error"]), llc["verdict"]]
        row.append(with_error(found["trace"], found["trace_std_error"]))
        rows.append([*row, f"{found['largest']:.2f}"])
    return Table(
        "First passages",
        "Losses in nats over the whole training set; seconds are process time of the optimizer's"
        " steps.",
        ["loss", "loss there", "step", "seconds", "λ̂", "verdict", "trace", "largest eigenvalue"],
        rows,
    )
