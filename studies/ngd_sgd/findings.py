"""What does the report say of a run? A card a model, tables, and the series for download."""

from collections.abc import Mapping

from degeneracy.report.page import Card, Findings, Tile
from degeneracy.report.run_tables import chains_table, metrics_table, series_csv
from degeneracy.report.style import optimizer_colours
from degeneracy.report.tables import Table
from degeneracy.texts import chain_counts, difference_texts, drift_text, label, number, with_error
from studies.ngd_sgd.figures import drawing_key
from studies.ngd_sgd.robustness_verdict import (
    NBETA_RULES,
    CellOrder,
    grid_cells,
    grid_orders,
    not_on_grid,
)
from studies.ngd_sgd.sentences import headline, notes, sentences
from studies.ngd_sgd.verdict import Verdict, verdict_of


def findings(results: Mapping) -> Findings:
    """Verdicts, tables and series of a run, complete or still going.

    Args:
        results: As in `results.json`.
    """
    tables = [
        table(title, results)
        for title in results["models"]
        for table in (metrics_table, chains_table, grid_table)
    ]
    return Findings(
        cards=[card(title, results) for title in results["models"]],
        tables=[table for table in tables if table is not None],
        csv=series_csv(results),
    )


def card(title: str, results: Mapping) -> Card:
    """The verdict on one model; what shows it is the figure of LLC against training loss."""
    verdict = verdict_of(title, results)
    measured = any(final.llc is not None for final in verdict.finals)
    return Card(
        title,
        headline(verdict, results),
        tiles=_tiles(verdict),
        drawing=drawing_key("llc-against-loss", title, results) if measured else None,
        text=sentences(verdict, results),
        notes=notes(verdict, results),
    )


def grid_table(title: str, results: Mapping) -> Table | None:
    """The numbers of the grid's cells; None without a grid."""
    cells, orders = grid_cells(title, results), grid_orders(title, results)
    if not cells:
        return None
    sampler = results["config"]["devinterp"]
    names = list(results["models"][title]["optimizers"])
    colours, baseline = optimizer_colours(names), label(names[0])
    optimizers = [name for name in names if name not in not_on_grid(title, results)]
    note = (
        f"{title}: SGLD, {sampler['num_chains']} chains × {sampler['num_draws']} draws, the first"
        " half burn-in, ε = 0.2/(nβ h_max + γ) with h_max ="
        f" {results['models'][title]['llc_grid']['max_curvature']:.4g}. λ̂ ± standard error, and 95"
        " % intervals of differences."
    )
    head = ["nβ", "γ", "ε", *((f"{label(name)} λ̂", colours[name]) for name in optimizers)]
    for other in orders:
        head += [(f"{label(other)} − {baseline}", colours[other]), "order"]
    rows = []
    for place, cell in enumerate(cells):
        row = [(f"{cell['nbeta']:.4g}", NBETA_RULES.get(cell["nbeta_setting"], ""))]
        row += [f"{cell['localization']:g}", f"{cell['sampler_lr']:.3g}"]
        row += [_found(cell["optimizers"].get(name)) for name in optimizers]
        for others_cells in orders.values():
            row += [_difference(others_cells[place]), others_cells[place].order]
        rows.append(row)
    return Table("LLC on the grid of γ × nβ", note, head, rows)


def _tiles(verdict: Verdict) -> list[Tile]:
    """The final LLCs, then the differences to the baseline with their intervals."""
    colours = optimizer_colours(verdict.optimizers)
    tiles = [
        Tile(
            f"{label(final.optimizer)}, {final.name}",
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


def _found(found: Mapping | None) -> tuple[str, str]:
    """λ̂ with what is needed to judge it below."""
    if found is None:
        return "–", ""
    llc, error, drift, acceptance = (
        number(found[key]) for key in ("llc", "std_error", "drift", "acceptance")
    )
    parts = [] if drift is None else [f"drift {drift_text(drift, error)}"]
    parts += [] if acceptance is None else [f"acceptance {acceptance:.2f}"]
    return with_error(llc, error), "; ".join([*parts, chain_counts(found["chains"])])
