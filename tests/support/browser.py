"""Which browser opens a report, how, and what overlaps in a figure? Skips a module without one.

from browser import ARGS, CHROMIUM, OVERLAPS, needs_chromium, sync_api

pytestmark = needs_chromium
"""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"
)
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

# Pairs of parts of a figure that meet.
OVERLAPS = """figure => {
    const boxes = (selector) => [...figure.querySelectorAll(selector)]
        .map((element) => element.getBoundingClientRect()).filter((box) => box.width && box.height);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const plot = ".nsewdrag", xtitle = "[class^=g-x] text", ytitle = "[class^=g-y] text";
    const tick = ".xtick text, .x2tick text", ytick = ".ytick text, .y2tick text";
    const pairs = [[".legend", plot], [".legend", xtitle], [".legend", tick], [".gtitle", plot],
        [xtitle, plot], [ytitle, plot], [xtitle, tick], [ytick, plot], [ytitle, ytick],
        [".cbaxis text", plot]];
    return pairs.filter(([a, b]) => boxes(a).some((p) => boxes(b).some((q) => meet(p, q))))
        .map(String);
}"""
