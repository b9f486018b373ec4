"""The parts of a page, without their look: text, tables, figures. Templates escape all text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.qmp.protocol import JsonObject

#: Tones of cells, tiles and notes, which the style sheet colours.
GOOD, BAD, DIM = "good", "bad", "dim"


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure in large type.

    Attributes:
        label: what it is.
        value: the figure, with its unit.
        notes: lines below it.
        tone: `GOOD`, `BAD` or empty.
    """

    label: str
    value: str
    notes: Sequence[str] = ()
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: its contents.
        tone: `GOOD`, `BAD`, `DIM` or empty.
        share: length of the bar behind it, from 0 to 1; None for no bar.
    """

    text: str
    tone: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column; the cells of a numeric one are aligned to the right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        columns: from left to right.
        rows: each with a cell for each column.
        total: whether the last row is a total.
        notes: lines below it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    total: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart.

    Attributes:
        name: unique in the page, of letters, digits and hyphens.
        title: what it shows.
        spec: in the grammar of Vega-Lite, without width and colours of the theme.
        legend: names and colours of what it shows.
        caption: how to read it.
        zooms: whether its time axis can be zoomed and moved; the signal is named ``zoom``.
    """

    name: str
    title: str
    spec: JsonObject
    legend: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
    zooms: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A verdict of the conformance suite; ``known`` is why it is known to fail, if it is."""

    id: str
    area: str
    severity: str
    verdict: str
    rule: str
    spec: str
    expected: str
    seen: str
    ms: float
    known: str | None = None


@dataclass(frozen=True, slots=True)
class Cases:
    """Verdicts with filters; cases that nothing has to be done about are hidden at first."""

    cases: Sequence[Case]

    @property
    def areas(self) -> Sequence[str]:
        """In the order of their first cases."""
        return list(dict.fromkeys(case.area for case in self.cases))


Block = Table | Figure | Cases


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        title: the heading.
        text: a paragraph below it; empty for none.
        blocks: what it shows.
        beside: whether the blocks stand beside each other where there is room.
    """

    title: str
    text: str
    blocks: Sequence[Block]
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: a few words.
        sentence: what was measured.
        tiles: the figures that matter most.
        outcome: the line on integrity, or on what failed; with its tone.
        sections: the rest, in order.
        facts: the host and the settings.
        command: the command that makes it again; empty if unknown.
        picture: the same as one chart, for `emu.report.page.render.picture`.
    """

    title: str
    sentence: str
    tiles: Sequence[Tile]
    outcome: Cell
    sections: Sequence[Section]
    facts: Mapping[str, str]
    command: str
    picture: JsonObject

    @property
    def figures(self) -> Sequence[Figure]:
        """All charts, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block for block in blocks if isinstance(block, Figure)]
