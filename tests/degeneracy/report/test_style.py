"""Are colours told apart by every reader, and is a figure told to one who does not see it?"""

from itertools import combinations

import numpy as np
import plotly.graph_objects as go
import pytest

from degeneracy.optimizers.kinds import KINDS
from degeneracy.report.style import (
    COLOURS,
    OTHER_COLOURS,
    alt_text,
    empty_figure,
    optimizer_colour,
    optimizer_colours,
    optimizer_line,
    optimizer_symbols,
    shorten,
)

# What is left of linear RGB in complete colour blindness (Machado, Oliveira, Fernandes 2009).
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, sight):
    """CIELAB (L*, a*, b*) of `#rrggbb` as that sight sees it; 2.3 apart is just noticeable."""
    rgb = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_colours_of_optimizers_are_far_apart_in_every_sight(sight):
    palette = [*COLOURS.values(), *OTHER_COLOURS]
    seen = {colour: lab(colour, sight) for colour in palette}
    near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(seen, 2)}
    assert min(near.values()) > 15, min(near, key=near.get)


def test_the_simulation_loses_the_difference_of_red_and_olive_as_deuteranopes_do():
    apart = {sight: lab("#cc3311", sight) - lab("#997700", sight) for sight in SIGHTS}
    assert np.linalg.norm(apart["normal"]) > 50
    assert np.linalg.norm(apart["deuteranopia"]) < 5


def test_every_kind_of_optimizer_has_a_colour_of_its_own():
    assert set(KINDS) <= set(COLOURS)
    assert (COLOURS["sgd"], COLOURS["ngd"]) == ("#0072b2", "#cc3311")
    for name, colour in COLOURS.items():
        assert optimizer_colour(name) == colour
        assert optimizer_colours(["mine", "yours", name])[name] == colour


@pytest.mark.parametrize(
    "names",
    [
        ["sgd", "ngd", "mine", "yours"],
        ["mine", "yours", "his", "hers", "its", "ours", "theirs"],
        [*COLOURS, "a", "b", "c"],
    ],
)
def test_no_two_of_up_to_eleven_optimizers_are_alike(names):
    assert len(set(optimizer_colours(names).values())) == len(names)
    assert set(optimizer_symbols(names).values()) == {"circle"}


def test_more_optimizers_than_colours_differ_by_their_markers():
    names = ["sgd", "ngd", *(f"optimizer {i}" for i in range(28))]
    colours, symbols = optimizer_colours(names), optimizer_symbols(names)
    assert list(colours) == list(symbols) == names
    assert len({(colours[name], symbols[name]) for name in names}) == len(names)


def test_a_line_takes_the_colour_and_marker_of_its_run():
    line = optimizer_line([0, 1], np.array([1.0, 2.0]), "mine", colour="#663333", symbol="square")
    assert (line.line.color, line.marker.color, line.marker.symbol) == (
        "#663333",
        "#663333",
        "square",
    )
    assert optimizer_line([0], np.array([1.0]), "ngd").line.color == COLOURS["ngd"]


def test_a_long_text_is_cut_in_the_middle_and_holds_no_tag():
    assert shorten("<b>w</b>", 20) == "&lt;b&gt;w&lt;/b&gt;"
    assert shorten("encoder.weight", 9) == "enco…ight"


def test_the_alternative_text_has_title_axes_and_the_names_of_the_lines():
    figure = empty_figure("LLC and loss", "FFNN <2> HL", columns=2)
    figure.add_scatter(y=[1, 2], name="SGD", row=1, col=1)
    figure.add_scatter(y=[1, 2], name="SGD", row=1, col=2)
    figure.add_scatter(y=[1, 2], name="band", showlegend=False, row=1, col=1)
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="LLC λ̂<br>(nβ = 26.4)", col=1)
    figure.update_yaxes(title_text="loss", col=2)
    assert alt_text(figure) == (
        "LLC and loss, FFNN <2> HL. axes: epoch; LLC λ̂, (nβ = 26.4); loss. shown: SGD."
    )


def test_the_alternative_text_names_what_a_colour_means():
    figure = go.Figure(go.Heatmap(z=[[1]], colorbar={"title": {"text": "standard<br>errors"}}))
    assert alt_text(figure) == "Figure without a title. colour: standard, errors."
    figure = go.Figure(layout={"coloraxis": {"colorbar": {"title": {"text": "epoch"}}}})
    assert alt_text(figure) == "Figure without a title. colour: epoch."


def test_a_figure_without_axes_has_an_alternative_text():
    figure = go.Figure([go.Pie(values=[1, 2]), go.Scatter3d(x=[1], y=[1], z=[1], name="path")])
    assert alt_text(figure.update_layout(title="In space")) == "In space. shown: path."
