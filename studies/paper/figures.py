"""What do the paper's figures look like, with seeds and intervals?"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import plotly.graph_objects as go

from degeneracy.report.page import Drawing, Section
from degeneracy.report.style import HEIGHT, SOFT, empty_figure, optimizer_colours
from degeneracy.sweeps.statistics import welch
from studies.paper.lines import (
    add_means,
    add_published,
    over_epochs,
    panel_title,
    scale_to_values,
    with_count,
)
from studies.paper.published import PUBLISHED, differing_settings
from studies.paper.records import (
    Network,
    Row,
    called,
    final,
    network_of,
    networks,
    of_optimizer,
    optimizers_of,
    rows_of,
    value_at,
    values_of,
)

RED, BLUE = optimizer_colours(["ngd", "sgd"]).values()
GREEN, PURPLE = "#117733", "#882255"
QUANTITIES = {  # key of a drawing → (quantity, axis title, whether its axis may be logarithmic)
    "llc": ("llc", "LLC λ̂ ({sampling})", False),
    "trace": ("hessian_trace", "Tr(H), Hessian of the mean loss", True),
    "norm": ("update_norm", "update norm (weight units)", True),
}
SEEDS = (
    "Lines are means over seeds, bands their 95 % intervals (Student), small dots the seeds, open"
    " diamonds published values; an axis is cut to what the seeds have."
)
CAPTIONS = {
    "differences": (
        "How much higher does NGD's LLC end than SGD's? A line for each network: the difference of"
        " the means with Welch's 95 % interval; diamonds are differences of published means. Where"
        " there is one seed there is no interval. The optimizers end at different training losses."
    ),
    "llc": f"The LLC along the swap run. Up to the dotted line only SGD trains. {SEEDS}",
    "trace": f"The Hessian's trace at the same checkpoints. {SEEDS}",
    "norm": (
        f"Update norms: a step's L2 norms, summed over tensors, mean over an epoch's steps. {SEEDS}"
    ),
    "smoothing": (
        "LLC after the last epoch against NGD's smoothing α and against the floor ε, all from one"
        " trunk of SGD for each seed; the blue line is SGD's from the same trunks."
        f" {SEEDS}"
    ),
    "kappa": (
        "The κ that α and ε produce: the geometric mean over parameters and axes in the last epoch."
        " Right: LLC against that κ. If κ alone decided, both scans would lie on one line."
    ),
    "swap": f"What the swap does, epoch by epoch after it. Dashed: validation loss. {SEEDS}",
    "rates": (
        "Is it the optimizer or the learning rate? SGD after the swap at its own rate and at"
        f" multiples of it, and NGD, all from one trunk for each seed. {SEEDS}"
    ),
    "rates-loss": (
        "The same against training loss L(w) at the checkpoint: a point a seed and measured epoch."
        " Compare at equal loss, not at equal epochs."
    ),
    "overfitting": (
        "Losses while each optimizer trains on from the same initial weights; solid validation,"
        f" dashed training. {SEEDS}"
    ),
    "wbic": (
        "WBIC at the same checkpoints. Left as published, at nβ = m/ln m, where n times the mean"
        " sampled loss is no WBIC in Watanabe's sense; right at nβ = n/ln n, the temperature of"
        f" his, but local: a pull γ keeps the chains near the checkpoint. {SEEDS}"
    ),
}


def study_figures(results: Mapping, traces: Mapping) -> list[Section]:
    """The figures of what is there; this study keeps no traces."""
    found = networks(results)
    sections = []
    if found:
        drawn = [Drawing("differences", CAPTIONS["differences"], difference_figure(results))]
        sections.append(Section("Every network", drawn))
    if swap_network(results) is not None:
        sections.append(Section("The swap", [_drawing("swap", swap_figure(results))]))
    if rows_of(results, "smoothing"):
        drawn = [_drawing("smoothing", smoothing_figure(results))]
        sections.append(Section("Smoothing", [*drawn, _drawing("kappa", kappa_figure(results))]))
    if rows_of(results, "rates"):
        drawn = [_drawing("rates", rates_figure(results))]
        drawn.append(_drawing("rates-loss", rates_loss_figure(results)))
        sections.append(Section("Learning rate", drawn))
    if rows_of(results, "overfitting"):
        drawn = [_drawing("overfitting", overfitting_figure(results))]
        sections.append(Section("Over-fitting", [*drawn, _drawing("wbic", wbic_figure(results))]))
    return [*sections, *_sections_of_kinds(results)]


def figure_of(results: Mapping, key: str) -> go.Figure:
    """One figure of the report by its key; an empty one where it has not been measured."""
    drawings = [one for section in study_figures(results, {}) for one in section.drawings]
    found = {one.key: one.figure for one in drawings}
    return found[key] if key in found else empty_figure("Not measured yet", key)


def _drawing(key: str, figure: go.Figure) -> Drawing:
    return Drawing(key, CAPTIONS[key], figure)


def _sections_of_kinds(results: Mapping) -> Iterator[Section]:
    for kind, group in groupby(networks(results).items(), lambda pair: pair[0].kind):
        rows = dict(group)
        slug = re.sub(r"[^a-z0-9]+", "-", kind.lower())
        drawn = [
            Drawing(f"{key}-{slug}", CAPTIONS[key], kind_figure(results, key, kind, rows))
            for key in QUANTITIES
        ]
        yield Section(kind, drawn)


def swap_network(results: Mapping) -> Network | None:
    """The network whose swap is shown: the published one, else the largest of `sizes`."""
    found = list(dict.fromkeys(map(network_of, rows_of(results, "sizes"))))
    wanted = Network("mnist", 2, 256)
    return wanted if wanted in found else max(found, key=lambda n: n.size, default=None)


def sampling(row: Row) -> str:
    """What a row's LLC depends on: `nβ = 26.4, γ = 100`."""
    return f"nβ = {row['nbeta']:.3g}, γ = {row['factors']['localization']:g}"


# ---- every network -------------------------------------------------------------------------------


def difference_figure(results: Mapping) -> go.Figure:
    """Final LLC, NGD minus SGD, of every network."""
    names, points, published = [], [], []
    for network, rows in networks(results).items():
        values = [values_of(of_optimizer(rows, name), "llc") for name in ("ngd", "sgd")]
        if not all(values):
            continue
        count = min(map(len, values))
        difference = float(np.mean(values[0]) - np.mean(values[1]))
        half = (welch(*values).high - difference) if count > 1 else None
        names.append(f"{network} (n = {count})")
        points.append((difference, half))
        published.append(None if differing_settings(results) else _published_difference(network))
    figure = empty_figure("NGD − SGD, LLC after the last epoch", "swap runs")
    _add_points(figure, points, names, "ours", RED, "circle")
    known = [i for i, value in enumerate(published) if value is not None]
    if known:
        marks = [(published[i], None) for i in known]
        _add_points(figure, marks, [names[i] for i in known], "published", SOFT, "diamond-open")
    figure.add_vline(x=0, line={"color": SOFT, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title_text="difference of λ̂")
    figure.update_yaxes(autorange="reversed", type="category", categoryarray=names)
    return figure.update_layout(hovermode="closest", height=200 + 40 * max(len(names), 3))


def _add_points(
    figure: go.Figure, points: Sequence, names: Sequence[str], name: str, colour: str, symbol: str
) -> None:
    marks = go.Scatter(x=[x for x, _ in points], y=list(names), mode="markers", name=name)
    marks.update(marker={"color": colour, "size": 10, "symbol": symbol, "line_width": 2})
    marks.error_x = {"type": "data", "array": [half or 0 for _, half in points], "width": 4}
    texts = [f"{x:.2f}" + (f" ± {half:.2g} (95 %)" if half else "") for x, half in points]
    marks.update(
        customdata=texts, hovertemplate="%{y}: %{customdata}<extra>%{fullData.name}</extra>"
    )
    figure.add_trace(marks)


def _published_difference(network: Network) -> float | None:
    """NGD − SGD of the published means over seeds."""
    means = {
        p.optimizer: p.value
        for p in PUBLISHED
        if p.network == network and p.part == "sizes" and p.deviation is not None
    }
    return means["ngd"] - means["sgd"] if len(means) == 2 else None


def kind_figure(
    results: Mapping, key: str, kind: str, rows: Mapping[Network, Sequence[Row]]
) -> go.Figure:
    """A quantity against epochs, a panel a size."""
    quantity, axis, may_be_log = QUANTITIES[key]
    example = next(iter(rows.values()))[0]
    heading = {"llc": "LLC", "trace": "Hessian trace", "norm": "Update norm"}[key]
    figure = empty_figure(heading, kind, columns=len(rows))
    drawn: list[float] = []
    for column, (network, of) in enumerate(rows.items(), start=1):
        for name in ("sgd", "ngd"):
            own = of_optimizer(of, name)
            values = over_epochs(own, quantity)
            look = {"in_legend": column == 1, "positive": may_be_log}
            _add_optimizer(figure, values, name, own, (1, column), **look)
            drawn += [value for found in values.values() for value in found]
            if not differing_settings(results):
                points = _marks(network, quantity, name)
                add_published(figure, points, {"sgd": BLUE, "ngd": RED}[name], (1, column))
        panel_title(figure, network.name, column)
    cut_off = example["factors"]["cut_off_epochs"]
    figure.add_vline(
        x=cut_off, row="all", col="all", line={"color": SOFT, "width": 1.5, "dash": "dot"}
    )
    for column in range(1, len(rows) + 1):
        scale_to_values(figure, drawn, column, may_be_log)
    figure.update_yaxes(title_text=axis.format(sampling=sampling(example)), col=1)
    return figure.update_xaxes(title_text="epoch")


def _marks(
    network: Network, quantity: str, optimizer: str
) -> list[tuple[float, float, float | None]]:
    """(epoch, value, deviation) of what is published of a network's swap run."""
    wanted = ("sizes", network, quantity, optimizer)
    return [
        (p.epoch, p.value, p.deviation)
        for p in PUBLISHED
        if (p.part, p.network, p.quantity, p.optimizer) == wanted
    ]


def _add_optimizer(
    figure: go.Figure,
    values: Mapping,
    optimizer: str,
    rows: Sequence[Row],
    place: tuple[int, int],
    *,
    in_legend: bool,
    colours: Mapping[str, str] | None = None,
    dash: str = "solid",
    positive: bool = True,
) -> None:
    colour = (colours or {"sgd": BLUE, "ngd": RED})[optimizer]
    name = with_count(optimizer, rows)
    look = {"dash": dash, "in_legend": in_legend, "positive": positive}
    add_means(figure, values, name, colour, place, **look)


# ---- the swap, and the learning rate -------------------------------------------------------------


def swap_figure(results: Mapping) -> go.Figure:
    """LLC, update norm and losses after the switch, of one network."""
    network = swap_network(results)
    rows = networks(results)[network]
    shown = None if differing_settings(results) else network
    return _after_swap(f"After the swap: {network.name}", str(network), rows, shown)


def rates_figure(results: Mapping) -> go.Figure:
    """The same with SGD at multiples of its rate."""
    rows = rows_of(results, "rates")
    return _after_swap("SGD at other rates after the swap", _title(rows), rows, None)


def _after_swap(
    heading: str, title: str, rows: Sequence[Row], published: Network | None
) -> go.Figure:
    """Three panels of epochs; with what is published of a network."""
    figure = empty_figure(heading, title, columns=3)
    names = optimizers_of(rows)
    colours = optimizer_colours(names)
    cut_off = rows[0]["factors"]["cut_off_epochs"]
    panels = (
        (1, "llc", f"LLC λ̂ ({sampling(rows[0])})", "solid"),
        (2, "update_norm", "update norm (weight units)", "solid"),
        (3, "train_loss", "loss (nats)", "solid"),
        (3, "val_loss", "loss (nats)", "dash"),
    )
    drawn: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for column, quantity, axis, dash in panels:
        for name in names:
            own = of_optimizer(rows, name)
            first = cut_off if quantity == "llc" else cut_off + 1
            values = over_epochs(own, quantity, first)
            look = {"in_legend": (column, dash) == (1, "solid"), "positive": column > 1}
            look |= {"colours": colours, "dash": dash}
            _add_optimizer(figure, values, name, own, (1, column), **look)
            drawn[column] += [value for found in values.values() for value in found]
            if published is not None:
                points = _marks(published, quantity, name)
                add_published(figure, points, colours[name], (1, column))
        figure.update_yaxes(title_text=axis, col=column)
    for column, values in drawn.items():
        scale_to_values(figure, values, column, may_be_log=column > 1)
    figure.update_layout(height=HEIGHT + 40)
    return figure.update_xaxes(title_text=f"epoch (swap after {cut_off})")


def rates_loss_figure(results: Mapping) -> go.Figure:
    """LLC against training loss at the checkpoint, a point a seed and epoch."""
    rows = rows_of(results, "rates")
    figure = empty_figure("LLC against training loss", _title(rows))
    names = optimizers_of(rows)
    for name, colour in optimizer_colours(names).items():
        own = of_optimizer(rows, name)
        for place, row in enumerate(own):
            points = _loss_points(row)
            line = go.Scatter(x=[p[0] for p in points], y=[p[1] for p in points])
            line.update(mode="lines+markers", name=with_count(name, own), legendgroup=name)
            line.update(line={"color": colour, "width": 1.5}, showlegend=place == 0)
            line.update(meta=called(name), customdata=[p[2] for p in points])
            line.update(
                hovertemplate="epoch %{customdata}: L %{x:.3g}, λ̂ %{y:.4g}<extra>%{meta}</extra>"
            )
            figure.add_trace(line)
    figure.update_xaxes(
        title_text="training loss L(w) (nats)", type="log", dtick="D2", tickformat="~g"
    )
    figure.update_yaxes(title_text=f"LLC λ̂ ({sampling(rows[0])})")
    return figure.update_layout(hovermode="closest")


def _loss_points(row: Row) -> list[tuple[float, float, int]]:
    """(training loss, λ̂, epoch) from the swap on."""
    epochs = range(row["factors"]["cut_off_epochs"], row["factors"]["num_epochs"] + 1)
    pairs = [(value_at(row, "llc_init_loss", e), value_at(row, "llc", e), e) for e in epochs]
    return [pair for pair in pairs if None not in pair]


# ---- smoothing -----------------------------------------------------------------------------------

SCANS = {"alpha": ("α", RED), "epsilon": ("ε (gradient²)", PURPLE)}


def scan_rows(results: Mapping, key: str) -> dict[float, list[Row]]:
    """Value of α or ε → the rows of its scan, one a seed; ascending."""
    rows = [
        row for row in rows_of(results, "smoothing") if row["optimizer"].startswith(f"ngd {key} ")
    ]
    values = sorted({row["factors"][key] for row in rows})
    return {value: [row for row in rows if row["factors"][key] == value] for value in values}


def smoothing_figure(results: Mapping) -> go.Figure:
    """LLC after the last epoch against α and ε."""
    rows = rows_of(results, "smoothing")
    figure = empty_figure("LLC against NGD's smoothing", _title(rows), columns=2)
    sgd = sgd_trunks(results)
    drawn = trunk = values_of(sgd, "llc")
    for column, (key, (symbol, colour)) in enumerate(SCANS.items(), start=1):
        scan = {value: values_of(of, "llc") for value, of in scan_rows(results, key).items()}
        drawn = [*drawn, *(value for found in scan.values() for value in found)]
        if not scan:
            continue
        add_means(figure, scan, f"NGD, {symbol.split()[0]}", colour, (1, column))
        if not differing_settings(results):
            add_published(figure, _scan_marks(key), colour, (1, column))
        if trunk:
            ends = dict.fromkeys((min(scan), max(scan)), trunk)
            look = {"in_legend": column == 1}
            add_means(figure, ends, with_count("sgd", sgd), BLUE, (1, column), **look)
        figure.update_xaxes(title_text=f"NGD's {symbol}", **log_ticks([*scan]), col=column)
    for column in (1, 2):
        scale_to_values(figure, drawn, column)
    return figure.update_yaxes(title_text=f"LLC λ̂ ({sampling(rows[0])})")


def sgd_trunks(results: Mapping) -> list[Row]:
    """SGD's rows of the smoothing runs, one a seed: both scans train the same."""
    rows = of_optimizer(rows_of(results, "smoothing"), "sgd")
    return list({row["factors"]["seed"]: row for row in rows}.values())


def _scan_marks(key: str) -> list[tuple[float, float, None]]:
    return [(p.setting[1], p.value, None) for p in PUBLISHED if p.setting and p.setting[0] == key]


def log_ticks(values: Sequence[float]) -> dict:
    """A log axis with a tick each decade, or every few; room beside the outermost values."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = 0.05 * (high - low) or 0.5
    step = max(1, math.ceil((high - low) / 6))
    form = "~g" if low >= -4 and high <= 4 else "~e"
    ends = [low - margin, high + margin]
    return {"type": "log", "dtick": step, "tickformat": form, "range": ends}


def kappa_figure(results: Mapping) -> go.Figure:
    """κ against α and ε, and LLC against κ."""
    rows = rows_of(results, "smoothing")
    figure = empty_figure("The κ that α and ε produce", _title(rows), columns=3)
    everything: list[float] = []
    for column, (key, (symbol, colour)) in enumerate(SCANS.items(), start=1):
        scan, name = scan_rows(results, key), f"NGD, {symbol.split()[0]}"
        kappas = {value: values_of(of, "kappa") for value, of in scan.items()}
        kappas = {value: found for value, found in kappas.items() if found}
        if not kappas:
            continue
        everything += [value for found in kappas.values() for value in found]
        add_means(figure, kappas, name, colour, (1, column), positive=True)
        figure.update_xaxes(title_text=f"NGD's {symbol}", **log_ticks([*kappas]), col=column)
        pairs = [(final(r, "kappa"), final(r, "llc")) for of in scan.values() for r in of]
        pairs = sorted(pair for pair in pairs if None not in pair)
        marks = go.Scatter(x=[k for k, _ in pairs], y=[llc for _, llc in pairs], mode="markers")
        marks.update(marker={"color": colour, "size": 7}, legendgroup=name, showlegend=False)
        marks.update(hovertemplate="κ %{x:.2e}: λ̂ %{y:.4g}<extra></extra>")
        figure.add_trace(marks, row=1, col=3)
    for column in (1, 2) if everything else ():
        figure.update_yaxes(title_text="κ (gradient²)", **log_ticks(everything), col=column)
    if everything:
        figure.update_xaxes(title_text="κ (gradient²)", **log_ticks(everything), col=3)
    figure.update_yaxes(title_text=f"LLC λ̂ ({sampling(rows[0])})", col=3)
    return figure.update_layout(hovermode="closest")


# ---- over-fitting --------------------------------------------------------------------------------


def overfitting_figure(results: Mapping) -> go.Figure:
    """Training and validation loss against epochs; both samplings train the same."""
    rows = _sampled(results, "batch") or _sampled(results, "dataset")
    figure = empty_figure("Through over-fitting", _title(rows), columns=2)
    for column, (quantities, axis) in enumerate(
        (
            ((("val_loss", "solid"), ("train_loss", "dash")), "loss (nats)"),
            ((("llc", "solid"),), f"LLC λ̂ ({sampling(rows[0])})"),
        ),
        start=1,
    ):
        drawn: list[float] = []
        for quantity, dash in quantities:
            for name in optimizers_of(rows):
                own = of_optimizer(rows, name)
                values = over_epochs(own, quantity)
                look = {"in_legend": column == 1 and dash == "solid", "positive": column == 1}
                _add_optimizer(figure, values, name, own, (1, column), dash=dash, **look)
                drawn += [value for found in values.values() for value in found]
        scale_to_values(figure, drawn, column, may_be_log=column == 1)
        figure.update_yaxes(title_text=axis, col=column)
    return figure.update_xaxes(title_text="epoch")


def wbic_figure(results: Mapping) -> go.Figure:
    """WBIC as published and at n/ln n, a panel each."""
    kinds = [(nbeta, rows) for nbeta in ("batch", "dataset") if (rows := _sampled(results, nbeta))]
    figure = empty_figure("WBIC through over-fitting", _title(kinds[0][1]), columns=len(kinds))
    for column, (nbeta, rows) in enumerate(kinds, start=1):
        drawn: list[float] = []
        for name in optimizers_of(rows):
            own = of_optimizer(rows, name)
            values = over_epochs(own, "wbic", 1)
            _add_optimizer(figure, values, name, own, (1, column), in_legend=column == 1)
            drawn += [value for found in values.values() for value in found]
        scale_to_values(figure, drawn, column, may_be_log=True)
        what = "as published (tempered)" if nbeta == "batch" else "at nβ = n/ln n"
        panel_title(figure, f"{what}: {sampling(rows[0])}", column)
        figure.update_yaxes(title_text="WBIC (nats)", col=column)
    return figure.update_xaxes(title_text="epoch")


def _sampled(results: Mapping, nbeta: str) -> list[Row]:
    return rows_of(results, "overfitting", nbeta=nbeta)


def _title(rows: Sequence[Row]) -> str:
    return str(network_of(rows[0]))
