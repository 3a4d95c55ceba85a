"""How does a study become one HTML file? Verdicts, figures and tables on a page that works offline.

The page holds plotly.js once and asks the network for nothing; a Content-Security-Policy enforces
that. Jinja escapes every value, and figures travel as JSON in which no `<` is left. What the page
shows comes as `Findings` and `Section`s: it knows no study.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from degeneracy.files import write_atomically
from degeneracy.report.style import HEIGHT, alt_text
from degeneracy.report.tables import Table, check_colour, unbroken

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Context = Sequence[tuple[str, Sequence[tuple[str, str]]]]  # (caption, [(key, value)])


@dataclass(frozen=True)
class Drawing:
    """A figure on the page. Raises ValueError for a key that is not fit for an anchor."""

    key: str  # its anchor is `figure-KEY`; no other drawing of the page has this key
    caption: str  # what to look for
    figure: go.Figure

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+", self.key):
            raise ValueError(
                f"drawing {self.key!r}: its key is an anchor; allowed: letters, digits, _ . and -"
            )


@dataclass(frozen=True)
class Tile:
    """A number that stands large, its name above it."""

    name: str
    value: str
    detail: str = ""  # smaller, beside the value
    colour: str = ""  # of the value, as #rrggbb; the text's own where empty

    def __post_init__(self):
        check_colour(self.colour, f"tile {self.name!r}")


class Note(NamedTuple):
    """What qualifies a verdict: a short line, and a detail that it opens to."""

    line: str
    detail: str = ""


@dataclass(frozen=True)
class Card:
    """A verdict, its numbers, and the drawing that shows it."""

    title: str
    headline: str  # at most two sentences
    tiles: Sequence[Tile] = ()
    drawing: str | None = None  # key of a drawing of some section, which then stands here instead
    text: Sequence[str] = ()  # the sentences behind the verdict
    notes: Sequence[Note] = ()

    def told(self) -> str:
        """The verdict as text, a line a sentence, for a notebook."""
        return "\n".join([self.headline, *self.text, *(note.line for note in self.notes)])


@dataclass(frozen=True)
class Section:
    """Drawings under one heading, then tables; an empty heading shows none."""

    heading: str
    drawings: Sequence[Drawing]
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Findings:
    """What a study found. The first card is what a reader sees first."""

    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()
    csv: str | None = None  # content of the file that the page offers for download


def write_page(
    dest: str | Path,
    title: str,
    findings: Findings,
    sections: Sequence[Section],
    *,
    running: bool = False,
    failures: Sequence[tuple[str, str]] = (),
    context: Context = (),
) -> Path:
    """Writes a study's page into one self-contained HTML file and returns its path.

    Args:
        dest: The file, which appears whole or not at all. Its folder must exist.
        title: Heading of the page.
        findings: Its cards open the page, its tables follow the drawings.
        sections: What else there is to see. A drawing that a card takes is left out there.
        running: Whether the study still goes on, which the page then says.
        failures: (what was measured, why it failed), which the page says first.
        context: Closing tables of keys and values: config, environment, time.

    Raises:
        ValueError: Two drawings have one key, or a card names a drawing that no section has or
            that another card took.
    """
    drawings = _drawings_by_key(sections)
    taken = _taken_by_cards(findings.cards, drawings)
    left = [_without(section, taken) for section in sections]
    return _write(
        dest,
        title=title,
        findings=findings,
        drawings=drawings,
        sections=[section for section in left if section.drawings or section.tables],
        running=running,
        failures=failures,
        context=context,
    )


def write_figs_to_html(
    figs: Iterable[go.Figure | tuple[str, str, go.Figure]],
    dest: str | Path,
    title: str,
    summary: str | Markup = "",
) -> Path:
    """Writes figures into one self-contained HTML file, whole or not at all, and returns its path.

    Args:
        figs: Figures, or (key, caption, figure); a figure's anchor is `figure-KEY`.
        dest: The file. Its folder must exist.
        title: Heading of the page.
        summary: Stands above the figures. Text is escaped; `markupsafe.Markup` goes in as it is.

    Raises:
        ValueError: Two figures have one key, or a key is not fit for an anchor.
    """
    drawings = [
        Drawing(str(place), "", fig) if isinstance(fig, go.Figure) else Drawing(*fig)
        for place, fig in enumerate(figs, start=1)
    ]
    section = Section("", drawings)
    by_key = _drawings_by_key([section])
    return _write(dest, title=title, summary=summary, drawings=by_key, sections=[section])


def _write(dest: str | Path, **content) -> Path:
    """Renders the template with `content`; what is not in it is empty."""
    nothing = {
        "findings": Findings(),
        "drawings": {},
        "running": False,
        "failures": (),
        "context": (),
        "summary": "",
    }
    page = TEMPLATES.get_template("template.html").render(
        **(nothing | content),
        alt_text=alt_text,
        height_of=lambda figure: figure.layout.height or HEIGHT,
        inline_json=_inline_json,
        quote=quote,
        unbroken=unbroken,
        plotly_js=Markup(get_plotlyjs()),
    )
    dest = Path(dest)
    write_atomically(dest, page.encode())
    return dest


def _drawings_by_key(sections: Sequence[Section]) -> dict[str, Drawing]:
    drawings = [drawing for section in sections for drawing in section.drawings]
    counts = Counter(drawing.key for drawing in drawings)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(
            f"more than one drawing given with the key {', '.join(twice)}; allowed: one"
        )
    return {drawing.key: drawing for drawing in drawings}


def _taken_by_cards(cards: Sequence[Card], drawings: dict[str, Drawing]) -> set[str]:
    taken = set()
    for card in cards:
        if card.drawing is None:
            continue
        left = [key for key in drawings if key not in taken]
        if card.drawing not in left:
            raise ValueError(
                f"card {card.title!r}: drawing {card.drawing!r} given; allowed: one that a section"
                f" has and no other card: {', '.join(left) or 'there is none'}"
            )
        taken.add(card.drawing)
    return taken


def _without(section: Section, taken: set[str]) -> Section:
    drawings = [drawing for drawing in section.drawings if drawing.key not in taken]
    return Section(section.heading, drawings, section.tables)


def _inline_json(figure: go.Figure) -> Markup:
    """The figure as JSON that cannot end the script element it stands in."""
    text = figure.to_json()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
