"""How does a run become one HTML file? Verdict, tables and figures on a page that works offline.

The page holds plotly.js once and asks the network for nothing; a Content-Security-Policy enforces
that. Jinja escapes every value, and figures travel as JSON in which no `<` is left.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from degeneracy.files import write_atomically
from degeneracy.report.run_figures import Traces, model_figures
from degeneracy.report.style import label
from degeneracy.runs.results import CHAIN_SERIES
from degeneracy.texts import chain_counts, difference_texts, drift_text, number, with_error
from studies.ngd_sgd.robustness_verdict import NBETA_RULES, CellOrder, grid_orders
from studies.ngd_sgd.verdict import Verdict, at, verdicts

__all__ = ["series_csv", "verdicts", "write_figs_to_html", "write_report"]

PLOTLY_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


ROBUSTNESS = ("llc-grid", "rescaling")  # figures that stand in a section of their own
MAX_CHAINS = 20  # rows of the table of chains


@dataclass(frozen=True)
class Table:
    """A table as the page shows it: every cell is a text and a smaller one below it."""

    caption: str
    note: str
    head: list[tuple[str, str]]  # (text, the optimizer it belongs to or "")
    rows: list[list[tuple[str, str]]]


@dataclass(frozen=True)
class Section:
    """Figures under one heading, each as (key, caption, figure), then tables; an empty heading
    shows none.
    """

    heading: str
    figures: list[tuple[str, str, go.Figure]]
    tables: list[Table] = field(default_factory=list)


def write_figs_to_html(
    figs: Iterable[go.Figure | tuple[str, str, go.Figure]],
    dest: str | Path,
    title: str,
    summary: str | Markup = "",
) -> Path:
    """Writes figures into one self-contained HTML file, whole or not at all, and returns its path.

    Args:
        figs: Figures, or (key, caption, figure) as `figures.model_figures` gives them; the key
            becomes the anchor.
        dest: The file. Its folder must exist.
        title: Heading of the page.
        summary: Stands above the figures. Text is escaped; `markupsafe.Markup` goes in as it is.
    """
    named = [
        (f"figure-{i}", "", fig) if isinstance(fig, go.Figure) else fig
        for i, fig in enumerate(figs, start=1)
    ]
    return _write_page(dest, title, [Section("", named)], summary=summary)


def write_report(results: Mapping, traces: Traces, dest: str | Path) -> Path:
    """Writes the report of a run, complete or still running, to `dest` and returns its path.

    Args:
        results: As in `results.json`, with `status`, `nbeta` and `train_size`.
        traces: (title, optimizer, epoch) to sampled losses, shape (num_chains, num_draws).
        dest: The file. Its folder must exist.
    """
    config = results["config"]
    run = {
        "running": results["status"] == "running",
        "verdicts": [(verdict, _tiles(verdict)) for verdict in verdicts(results)],
        "metrics": [
            (_metrics_table(title, results), _chains_table(title, results))
            for title in results["models"]
        ],
        "tables": (
            [
                (f"Config: {name}", _rows(config[name]))
                for name in ("experiment", "data", "devinterp")
            ]
            + [
                ("Environment", _rows(results["environment"])),
                ("Time", _timing_rows(results["timing_s"])),
            ]
        ),
        "csv_uri": f"data:text/csv;charset=utf-8,{quote(series_csv(results))}",
    }
    sections = [
        section for title in results["models"] for section in _sections(title, results, traces)
    ]
    title = (
        f"NGD and SGD on {config['data']['dataset']}, {config['experiment']['experiment_type']} run"
    )
    return _write_page(dest, title, sections, run=run)


def series_csv(results: Mapping) -> str:
    """Every per-epoch series but κ as CSV, one row per model, optimizer and epoch; empty where not
    measured.

    Of the chains it has the verdicts, in one column.
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
                rows.append({"title": title, "optimizer": optimizer, "epoch": epoch, **row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["title", "optimizer", "epoch", *columns], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_value(key: str, value) -> float | str | None:
    if key in CHAIN_SERIES:
        return "; ".join(chain["verdict"] for chain in value or ())
    return number(value)


def _sections(title: str, results: Mapping, traces: Traces) -> list[Section]:
    """The figures of one model, then those of its robustness, with the numbers behind them, where
    it was measured.
    """
    figures = model_figures(title, results, traces)
    sections = [Section(title, [entry for entry in figures if entry[0] not in ROBUSTNESS])]
    robust = [entry for entry in figures if entry[0] in ROBUSTNESS]
    if robust:
        tables = [_grid_table(title, results)] if grid_orders(title, results) else []
        sections.append(Section(f"Robustness: {title}", robust, tables))
    return sections


def _write_page(
    dest, title: str, sections: list[Section], summary: str | Markup = "", run: dict | None = None
) -> Path:
    page = TEMPLATES.get_template("report_template.html").render(
        title=title,
        summary=summary,
        run=run,
        sections=sections,
        inline_json=_inline_json,
        unbroken=_unbroken,
        plotly_js=Markup(get_plotlyjs()),
        plotly_config=Markup(json.dumps(PLOTLY_CONFIG)),
    )
    dest = Path(dest)
    write_atomically(dest, page.encode())
    return dest


def _inline_json(figure: go.Figure) -> Markup:
    """The figure as JSON that cannot end the script element it stands in."""
    text = figure.to_json()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _tiles(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    """(optimizer, name, number, smaller number) of what stands large in a verdict."""
    finals = verdict.finals
    tiles = [
        (f.optimizer, f"{label(f.optimizer)}, {f.name}", with_error(f.llc, f.std_error), "")
        for f in finals
    ]
    if verdict.interval is not None:
        tiles.append(
            (
                "",
                "NGD − SGD, 95 % interval",
                *difference_texts(verdict.difference, verdict.interval),
            )
        )
    return tiles


def _unbroken(text: str) -> str:
    """`text` without line breaks inside `γ = 100`, `43.6 ± 0.7` and `95 %`."""
    return (
        text.replace(" = ", "\u00a0=\u00a0")
        .replace(" ± ", "\u00a0±\u00a0")
        .replace(" %", "\u00a0%")
    )


METRICS = (  # (name, unit or meaning, key, standard error's key, format)
    ("Training loss", "nats, mean over the epoch's minibatches", "train_loss", None, "#.4g"),
    ("L(w*)", "nats, mean over the training set", "llc_init_loss", None, "#.4g"),
    ("Validation loss", "nats", "val_loss", None, "#.4g"),
    ("Validation accuracy", "", "val_accuracy", None, ".2%"),
    ("Update norm", "Σ over tensors of ‖Δw‖₂, mean over steps", "update_norm", None, "#.3g"),
    ("LLC λ̂", "± standard error", "llc", "llc_std_error", ""),
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


def _metrics_table(title: str, results: Mapping) -> dict:
    """Final metrics of one model: a row a metric, a column an optimizer, each at its last epoch
    that has the metric.
    """
    model = results["models"][title]
    optimizers = model["optimizers"]
    last = results["config"]["experiment"]["num_epochs"]
    rows = []
    for name, unit, key, error_key, style in METRICS:
        cells = [_cell(series, key, error_key, style, last) for series in optimizers.values()]
        rows.append((name, unit, cells))
    return {
        "title": title,
        "num_parameters": f"{model['num_parameters']:,}",
        "optimizers": [(name, label(name)) for name in optimizers],
        "last": last,
        "rows": rows,
    }


def _cell(
    series: Mapping, key: str, error_key: str | None, style: str, last: int
) -> tuple[str, int | None]:
    """(text, epoch), the epoch only where it is not the run's last."""
    epochs = [epoch for epoch in range(last + 1) if at(series, key, epoch) is not None]
    if not epochs:
        return "–", None
    value = at(series, key, epochs[-1])
    text = (
        with_error(value, at(series, error_key, epochs[-1])) if error_key else format(value, style)
    )
    return text, None if epochs[-1] == last else epochs[-1]


def _chains_table(title: str, results: Mapping) -> Table | None:
    """What each chain found at the last epoch that each optimizer's chains were sampled; None
    without any.
    """
    last = {}
    for name, series in results["models"][title]["optimizers"].items():
        epochs = [epoch for epoch, chains in enumerate(series.get("llc_chains") or ()) if chains]
        if epochs:
            last[name] = max(epochs), series["llc_chains"][max(epochs)]
    if not last:
        return None
    head = [("chain", "")]
    for name, (epoch, _) in last.items():
        head += [(f"{label(name)} λ̂, epoch {epoch}", name), ("verdict", "")]
    longest = max(len(chains) for _, chains in last.values())
    rows = []
    for index in range(min(longest, MAX_CHAINS)):
        row = [(str(index + 1), "")]
        for _, chains in last.values():
            chain = chains[index] if index < len(chains) else {"llc": None, "verdict": ""}
            row += [
                ("–" if number(chain["llc"]) is None else f"{chain['llc']:#.4g}", ""),
                (chain["verdict"], ""),
            ]
        rows.append(row)
    counts = "; ".join(
        f"{label(name)} {chain_counts(chains)}" for name, (_, chains) in last.items()
    )
    more = f" The first {MAX_CHAINS} chains." if longest > MAX_CHAINS else ""
    note = f"{title}: {counts}.{more} A chain that diverged counts in no estimate."
    return Table("Chains at the last sampled epoch", note, head, rows)


def _grid_table(title: str, results: Mapping) -> Table:
    """The numbers of the grid's cells."""
    sampler = results["config"]["devinterp"]
    optimizers = [(name, label(name)) for name in results["models"][title]["optimizers"]]
    note = (
        f"{title}: SGLD, {sampler['num_chains']} chains × {sampler['num_draws']} draws, the first"
        " half burn-in, ε = 0.2/(nβ h_max + γ) with h_max ="
        f" {results['models'][title]['llc_grid']['max_curvature']:.4g}. λ̂ ± standard error."
    )
    head = [("nβ", ""), ("γ", ""), ("ε", ""), *((f"{text} λ̂", name) for name, text in optimizers)]
    rows = [
        _grid_row(cell, [name for name, _ in optimizers]) for cell in grid_orders(title, results)
    ]
    return Table(
        "LLC on the grid of γ × nβ",
        note,
        [*head, ("NGD − SGD, 95 % interval", ""), ("order", "")],
        rows,
    )


def _grid_row(cell: CellOrder, optimizers: Iterable[str]) -> list[tuple[str, str]]:
    row = [(f"{cell.nbeta:.4g}", NBETA_RULES.get(cell.nbeta_setting, ""))]
    row += [(f"{cell.localization:g}", ""), (f"{cell.sampler_lr:.3g}", "")]
    for name in optimizers:
        found = cell.findings.get(name)
        row.append(("–", "") if found is None else _found(found))
    if cell.interval is None:
        row.append(
            ("–", "") if cell.difference is None else (f"{cell.difference:+.4g}", "no interval")
        )
    else:
        row.append(difference_texts(cell.difference, cell.interval))
    return [*row, (cell.order, "")]


def _found(found: Mapping) -> tuple[str, str]:
    llc, error, drift, acceptance = (
        number(found[key]) for key in ("llc", "std_error", "drift", "acceptance")
    )
    parts = [] if drift is None else [f"drift {drift_text(drift, error)}"]
    parts += [] if acceptance is None else [f"acceptance {acceptance:.2f}"]
    return with_error(llc, error), "; ".join([*parts, chain_counts(found["chains"])])


def _rows(section: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """(key, value as JSON), keys of nested objects joined by dots."""
    rows = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def _timing_rows(timing_s: Mapping) -> list[tuple[str, str]]:
    return [
        (key, "–" if number(value) is None else f"{value:,.1f} s")
        for key, value in timing_s.items()
    ]
