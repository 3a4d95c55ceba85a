"""Which table shows what a run measured? Final metrics, chains, and the series as CSV.

`results` is the dict of `results.json`; a column an optimizer, as many as it has.
"""

import csv
import io
from collections.abc import Mapping

from degeneracy.llc.settings import AUTO, PUBLISHED_LOCALIZATION
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table, csv_text
from degeneracy.runs.results import CHAIN_SERIES, at
from degeneracy.texts import chain_counts, label, number, with_error

TEMPERED = "tempered sensitivity"  # what the published measure is where `auto` samples it
MAX_CHAINS = 20  # rows of the table of chains
METRICS = (  # (name, unit or meaning, key, standard error's key, format)
    ("Training loss", "nats, mean over the epoch's minibatches", "train_loss", None, "#.4g"),
    ("L(w*)", "nats, mean over the training set", "llc_init_loss", None, "#.4g"),
    ("Validation loss", "nats", "val_loss", None, "#.4g"),
    ("Validation accuracy", "", "val_accuracy", None, ".2%"),
    ("Update norm", "Σ over tensors of ‖Δw‖₂, mean over steps", "update_norm", None, "#.3g"),
    ("LLC λ̂", "± standard error", "llc", "llc_std_error", ""),
    ("Locality ℓ", "0 at L(w*), 1 at chance", "llc_locality", None, ".2g"),
    ("Distance of the chains", "|w − w*| / |w*|", "llc_relative_distance", None, ".2g"),
    ("Basin shift", "nβ(L(w*) − L(w_b)), nats", "llc_basin_shift", None, ".3g"),
    ("Basin λ̂_b", "about the bottom of the basin", "llc_basin_llc", None, ".4g"),
    ("Relaxation time", "steps, of the slowest direction", "llc_relaxation", None, ".0f"),
    ("LLC drift", "second half of the draws minus all", "llc_drift", None, "+.2g"),
    ("Diverged chains", "excluded from every estimate", "num_diverged_chains", None, ".0f"),
    ("Unsettled chains", "still rising or still falling", "num_unsettled_chains", None, ".0f"),
    ("MALA acceptance", "of a step; 1 for ε → 0", "llc_acceptance", None, ".3f"),
    ("R-hat", "split; blind here, because all chains start at w*", "llc_rhat", None, ".3f"),
    ("Effective sample size", "draws", "llc_ess", None, ".0f"),
    ("WBIC", "nats, ± standard error", "wbic", "wbic_std_error", ""),
    (
        "Hessian trace",
        "± standard error over probes",
        "hessian_trace",
        "hessian_trace_std_error",
        "",
    ),
    ("Skipped updates", "tensors, in all epochs", "num_skipped_updates", None, ".0f"),
    ("Raw gradients taken", "tensors, in all epochs", "num_restarts", None, ".0f"),
)

CERTIFICATES = (
    "llc_locality",
    "llc_relative_distance",
    "llc_basin_shift",
    "llc_basin_llc",
    "llc_relaxation",
)


def is_auto(results: Mapping) -> bool:
    """Whether the run's chains are those of `auto`, whose intervals are from chain means."""
    return results["config"]["devinterp"]["sampler"] == AUTO


def is_tempered(results: Mapping) -> bool:
    """Whether the run's trajectory measure is the published one (nβ = m/ln m, γ = 100), sampled by
    `auto`, and so is called a tempered sensitivity, not an LLC.
    """
    sampler = results["config"]["devinterp"]
    published = sampler.get("nbeta"), sampler.get("localization")
    return is_auto(results) and published == ("batch", PUBLISHED_LOCALIZATION)


def measure_name(results: Mapping) -> str:
    """What the run's trajectory measure is called inside a sentence."""
    return f"{TEMPERED}, as published" if is_tempered(results) else "LLC"


def any_value(series: Mapping, key: str) -> bool:
    """Whether a series knows anything under `key`."""
    return any(value is not None for value in series.get(key) or ())


def metrics_table(title: str, results: Mapping) -> Table:
    """Final metrics of one model: a row a metric, each at the last epoch that has it."""
    model = results["models"][title]
    optimizers, colours = model["optimizers"], optimizer_colours(list(model["optimizers"]))
    last = results["config"]["experiment"]["num_epochs"]
    rows = [
        [_metric_name(row, results), *(_metric(s, *row[2:], last) for s in optimizers.values())]
        for row in METRICS
        if row[2] not in CERTIFICATES or any(any_value(s, row[2]) for s in optimizers.values())
    ]
    if any(any_value(series, "llc_verdict") for series in optimizers.values()):
        rows.append([("Verdict", "on λ̂"), *(_word(s, last) for s in optimizers.values())])
    head = [("metric", ""), *((label(name), colours[name]) for name in optimizers)]
    note = f"{title}: {model['num_parameters']:,} parameters, after epoch {last}."
    return Table("Final metrics", note, head, rows, row_headers=True)


def chains_table(title: str, results: Mapping) -> Table | None:
    """What each chain found at the last epoch that each optimizer's chains were sampled; None
    without any.
    """
    optimizers = results["models"][title]["optimizers"]
    colours, last = optimizer_colours(list(optimizers)), {}
    for name, series in optimizers.items():
        epochs = [epoch for epoch, chains in enumerate(series.get("llc_chains") or ()) if chains]
        if epochs:
            last[name] = max(epochs), series["llc_chains"][max(epochs)]
    if not last:
        return None
    head = ["chain"]
    for name, (epoch, _) in last.items():
        head += [(f"{label(name)} λ̂, epoch {epoch}", colours[name]), "verdict"]
    longest = max(len(chains) for _, chains in last.values())
    rows = []
    for index in range(min(longest, MAX_CHAINS)):
        cells = [_chain(chains, index) for _, chains in last.values()]
        rows.append([str(index + 1), *(text for pair in cells for text in pair)])
    counts = [f"{label(name)} {chain_counts(chains)}" for name, (_, chains) in last.items()]
    more = f" The first {MAX_CHAINS} chains." if longest > MAX_CHAINS else ""
    what = f"{title}, {measure_name(results)}" if is_tempered(results) else title
    note = f"{what}: {'; '.join(counts)}.{more} A chain that diverged counts in no estimate."
    return Table("Chains at the last sampled epoch", note, head, rows, row_headers=True)


def series_csv(results: Mapping) -> str:
    """Every series over epochs as CSV, one row a model, optimizer and epoch; empty where not
    measured.

    What is nested, as κ, is left out; of the chains there are the verdicts, in one column.
    """
    rows, columns = [], []
    for title, model in results["models"].items():
        for optimizer, series in model["optimizers"].items():
            lists = {key: values for key, values in series.items() if isinstance(values, list)}
            columns += [key for key in lists if key not in columns]
            for epoch in range(results["config"]["experiment"]["num_epochs"] + 1):
                row = {
                    key: _csv_value(key, values[epoch])
                    for key, values in lists.items()
                    if epoch < len(values)
                }
                whose = {"title": csv_text(title), "optimizer": csv_text(optimizer)}
                rows.append({**whose, "epoch": epoch, **row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["title", "optimizer", "epoch", *columns], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _metric_name(row: tuple, results: Mapping) -> tuple[str, str]:
    """(name, unit or meaning) of a row of `METRICS`, as it is in this run."""
    name, unit, key = row[:3]
    if key == "llc" and is_tempered(results):
        return "Tempered sensitivity λ̂", f"as published; {unit}"
    if key == "llc_drift" and is_tempered(results):
        return "Drift of λ̂", unit
    if key == "llc_rhat" and is_auto(results):
        spread = results["config"]["devinterp"].get("starts") != "checkpoint"
        return name, "split; chains start apart" if spread else unit
    return name, unit


def _word(series: Mapping, last: int) -> tuple[str, str]:
    """(verdict, epoch) at the last epoch that has one."""
    words = list(enumerate(series.get("llc_verdict") or ()))
    known = [(epoch, word) for epoch, word in words if word]
    if not known:
        return "–", ""
    epoch, word = known[-1]
    return word, "" if epoch == last else f"epoch {epoch}"


def _metric(
    series: Mapping, key: str, error_key: str | None, style: str, last: int
) -> tuple[str, str]:
    """(text, epoch), the epoch only where it is not the run's last."""
    epochs = [epoch for epoch in range(last + 1) if at(series, key, epoch) is not None]
    if not epochs:
        return "–", ""
    epoch = epochs[-1]
    value = at(series, key, epoch)
    text = with_error(value, at(series, error_key, epoch)) if error_key else format(value, style)
    return text, "" if epoch == last else f"epoch {epoch}"


def _chain(chains: list[Mapping], index: int) -> tuple[str, str]:
    """(λ̂, verdict) of a chain; dashes where there are fewer."""
    if index >= len(chains):
        return "–", ""
    llc = number(chains[index]["llc"])
    return "–" if llc is None else f"{llc:#.4g}", chains[index]["verdict"]


def _csv_value(key: str, value) -> float | str | None:
    if key in CHAIN_SERIES:
        return "; ".join(chain["verdict"] for chain in value or ())
    if isinstance(value, list | tuple):  # the ends of an interval
        return "; ".join("" if number(end) is None else f"{end!r}" for end in value)
    return value if isinstance(value, str) else number(value)
