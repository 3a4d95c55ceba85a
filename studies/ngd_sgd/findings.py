"""What does the report say of a run? A card a model, tables, and the series for download."""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Tile
from degeneracy.report.run_tables import chains_table, is_auto, metrics_table, series_csv
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table
from degeneracy.texts import chain_counts, difference_texts, drift_text, label, number, with_error
from studies.ngd_sgd import local_sentences
from studies.ngd_sgd.figures import drawing_key
from studies.ngd_sgd.local_verdict import local_verdict_of
from studies.ngd_sgd.robustness_verdict import (
    NBETA_RULES,
    CellOrder,
    grid_cells,
    grid_measure,
    grid_orders,
    not_on_grid,
)
from studies.ngd_sgd.sentences import headline, notes, sampler_text, sentences
from studies.ngd_sgd.verdict import Verdict, verdict_of


def findings(results: Mapping) -> Findings:
    """Verdicts, tables and series of a run, complete or still going.

    Args:
        results: As in `results.json`.
    """
    tables = [
        table(title, results)
        for title in results["models"]
        for table in (local_table, metrics_table, chains_table, grid_table)
    ]
    return Findings(
        cards=[card(title, results) for title in results["models"]],
        tables=[table for table in tables if table is not None],
        csv=series_csv(results),
    )


def card(title: str, results: Mapping) -> Card:
    """The verdict on one model; what shows it are the local estimates, else the figure of LLC
    against training loss.
    """
    verdict, local = verdict_of(title, results), local_verdict_of(title, results)
    measured = any(final.llc is not None for final in verdict.finals)
    shows = "llc-against-loss" if measured else None
    if local is not None and local.has_numbers:
        shows = "local-llc"
    return Card(
        title,
        headline(verdict, results),
        tiles=_tiles(verdict) if local is None else local_sentences.tiles(local),
        drawing=drawing_key(shows, title, results) if shows else None,
        text=sentences(verdict, results),
        notes=notes(verdict, results),
    )


def local_table(title: str, results: Mapping) -> Table | None:
    """The local estimates with their certificates; None where the run has none."""
    local = local_verdict_of(title, results)
    return None if local is None else local_sentences.certificates_table(local)


def grid_table(title: str, results: Mapping) -> Table | None:
    """The numbers of the grid's cells; None without a grid."""
    cells, orders = grid_cells(title, results), grid_orders(title, results)
    if not cells:
        return None
    names = list(results["models"][title]["optimizers"])
    colours, baseline = optimizer_colours(names), label(names[0])
    optimizers = [name for name in names if name not in not_on_grid(title, results)]
    own_steps = not is_auto(results)
    head = ["nβ", "γ", *(["ε"] if own_steps else [])]
    head += [(f"{label(name)} λ̂", colours[name]) for name in optimizers]
    for other in orders:
        head += [(f"{label(other)} − {baseline}", colours[other]), "order"]
    rows = []
    for place, cell in enumerate(cells):
        row = [(f"{cell['nbeta']:.4g}", NBETA_RULES.get(cell["nbeta_setting"], ""))]
        row += [f"{cell['localization']:g}"]
        row += [_style(cell.get("sampler_lr"), ".3g")] if own_steps else []
        row += [_found((cell.get("optimizers") or {}).get(name)) for name in optimizers]
        for others_cells in orders.values():
            row += [_difference(others_cells[place]), _order(others_cells[place])]
        rows.append(row)
    caption = f"{grid_measure(results)} on the grid of γ × nβ"
    return Table(caption, _grid_note(title, results), head, rows)


def _grid_note(title: str, results: Mapping) -> str:
    """How the cells were sampled."""
    sampler = results["config"]["devinterp"]
    shown = "λ̂ ± standard error, and 95 % intervals of differences."
    if is_auto(results):
        chains = sampler_text(results).split(", γ")[0]
        return (
            f"{title}: {chains}, each with the step that its pilot found. {shown} A cell in which a"
            " chain cannot come to rest in the steps it may take was not sampled; an estimate that"
            " is negative or not at rest counts for no order."
        )
    curvature = _style(results["models"][title]["llc_grid"].get("max_curvature"), ".4g")
    return (
        f"{title}: SGLD, {sampler['num_chains']} chains × {sampler['num_draws']} draws, the first"
        f" half burn-in, ε = 0.2/(nβ h_max + γ) with h_max = {curvature}. {shown}"
    )


def _tiles(verdict: Verdict) -> list[Tile]:
    """The final LLCs, then the differences to the baseline with their intervals."""
    colours = optimizer_colours(verdict.optimizers)
    tiles = [
        Tile(
            f"{label(final.optimizer)}, {final.full_name}",
            with_error(final.llc, final.std_error),
            colour=colours[final.optimizer],
        )
        for final in verdict.finals
    ]
    for one in verdict.comparisons:
        if one.interval is not None:
            value, ends = difference_texts(one.difference, one.interval)
            tiles.append(Tile(f"{one.names}, 95 % interval", value, ends))
    return tiles


def _difference(cell: CellOrder) -> tuple[str, str]:
    if cell.difference is None:
        return "–", ""
    if cell.interval is None:
        return f"{cell.difference:+.4g}", "no interval"
    return difference_texts(cell.difference, cell.interval)


def _order(cell: CellOrder) -> tuple[str, str]:
    if cell.is_sampled or cell.needed_steps is None:
        return cell.order, ""
    return cell.order, f"needs {cell.needed_steps:,} steps a chain"


def _found(found: Mapping | None) -> tuple[str, str]:
    """λ̂ with what is needed to judge it below."""
    if not found:
        return "–", ""
    llc, error, drift, acceptance = (
        number(found.get(key)) for key in ("llc", "std_error", "drift", "acceptance")
    )
    parts = [] if drift is None else [f"drift {drift_text(drift, error)}"]
    parts += [] if acceptance is None else [f"acceptance {acceptance:.2f}"]
    verdict = found.get("verdict")
    counts = chain_counts(found.get("chains") or ())
    parts += [counts] if verdict is None else [verdict]
    return with_error(llc, error), "; ".join(parts)


def _style(value: float | None, style: str) -> str:
    return "–" if number(value) is None else format(value, style)
