"""How does a run become one HTML file? Verdict, tables and figures on a page that works offline.

The page holds plotly.js once and asks the network for nothing; a Content-Security-Policy enforces that. Jinja escapes
every value, and figures travel as JSON in which no `<` is left.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from figures import Traces, label, model_figures
from run_store import write_atomically
from verdict import Verdict, at, difference_texts, number, verdicts, with_error

__all__ = ["series_csv", "verdicts", "write_figs_to_html", "write_report"]

PLOTLY_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """Figures under one heading, each as (key, caption, figure); an empty heading shows none."""

    heading: str
    figures: list[tuple[str, str, go.Figure]]


def write_figs_to_html(
    figs: Iterable[go.Figure | tuple[str, str, go.Figure]],
    dest: str | Path,
    title: str,
    summary: str | Markup = "",
) -> Path:
    """Writes figures into one self-contained HTML file, whole or not at all, and returns its path.

    Args:
        figs: Figures, or (key, caption, figure) as `figures.model_figures` gives them; the key becomes the anchor.
        dest: The file. Its folder must exist.
        title: Heading of the page.
        summary: Stands above the figures. Text is escaped; `markupsafe.Markup` goes in as it is.
    """
    named = [(f"figure-{i}", "", fig) if isinstance(fig, go.Figure) else fig for i, fig in enumerate(figs, start=1)]
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
        "metrics": [_metrics_table(title, results) for title in results["models"]],
        "tables": [(f"Config: {name}", _rows(config[name])) for name in ("experiment", "data", "devinterp")]
        + [("Environment", _rows(results["environment"])), ("Time", _timing_rows(results["timing_s"]))],
        "csv_uri": f"data:text/csv;charset=utf-8,{quote(series_csv(results))}",
    }
    sections = [Section(title, model_figures(title, results, traces)) for title in results["models"]]
    title = f"NGD and SGD on {config['data']['dataset']}, {config['experiment']['experiment_type']} run"
    return _write_page(dest, title, sections, run=run)


def series_csv(results: Mapping) -> str:
    """Every per-epoch series but κ as CSV, one row per model, optimizer and epoch; empty where not measured."""
    rows, columns = [], []
    for title, model in results["models"].items():
        for optimizer, series in model["optimizers"].items():
            lists = {key: values for key, values in series.items() if isinstance(values, list)}
            columns += [key for key in lists if key not in columns]
            for epoch in range(results["config"]["experiment"]["num_epochs"] + 1):
                row = {key: number(values[epoch]) for key, values in lists.items() if epoch < len(values)}
                rows.append({"title": title, "optimizer": optimizer, "epoch": epoch, **row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["title", "optimizer", "epoch", *columns], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_page(dest, title: str, sections: list[Section], summary: str | Markup = "", run: dict | None = None) -> Path:
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
    tiles = [(f.optimizer, f"{label(f.optimizer)}, {f.name}", with_error(f.llc, f.std_error), "") for f in finals]
    if verdict.interval is not None:
        tiles.append(("", "NGD − SGD, 95 % interval", *difference_texts(verdict.difference, verdict.interval)))
    return tiles


def _unbroken(text: str) -> str:
    """`text` without line breaks inside `γ = 100`, `43.6 ± 0.7` and `95 %`."""
    return text.replace(" = ", "\u00a0=\u00a0").replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


METRICS = (  # (name, unit or meaning, key, standard error's key, format)
    ("Training loss", "nats, mean over the epoch's minibatches", "train_loss", None, "#.4g"),
    ("L(w*)", "nats, mean over the training set", "llc_init_loss", None, "#.4g"),
    ("Validation loss", "nats", "val_loss", None, "#.4g"),
    ("Validation accuracy", "", "val_accuracy", None, ".2%"),
    ("Update norm", "Σ over tensors of ‖Δw‖₂, mean over steps", "update_norm", None, "#.3g"),
    ("LLC λ̂", "± standard error", "llc", "llc_std_error", ""),
    ("LLC drift", "second half of the draws minus all", "llc_drift", None, "+.2g"),
    ("Diverged chains", "", "num_diverged_chains", None, ".0f"),
    ("R-hat", "near 1 is no proof of convergence", "llc_rhat", None, ".3f"),
    ("Effective sample size", "draws", "llc_ess", None, ".0f"),
    ("WBIC", "nats, ± standard error", "wbic", "wbic_std_error", ""),
    ("Hessian trace", "± standard error over probes", "hessian_trace", "hessian_trace_std_error", ""),
    ("Skipped updates", "tensors, in all epochs", "num_skipped_updates", None, ".0f"),
    ("Raw gradients taken", "tensors, in all epochs", "num_restarts", None, ".0f"),
)


def _metrics_table(title: str, results: Mapping) -> dict:
    """Final metrics of one model: a row a metric, a column an optimizer, each at its last epoch that has the metric."""
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


def _cell(series: Mapping, key: str, error_key: str | None, style: str, last: int) -> tuple[str, int | None]:
    """(text, epoch), the epoch only where it is not the run's last."""
    epochs = [epoch for epoch in range(last + 1) if at(series, key, epoch) is not None]
    if not epochs:
        return "–", None
    value = at(series, key, epochs[-1])
    text = with_error(value, at(series, error_key, epochs[-1])) if error_key else format(value, style)
    return text, None if epochs[-1] == last else epochs[-1]


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
    return [(key, "–" if number(value) is None else f"{value:,.1f} s") for key, value in timing_s.items()]
