"""The page of `emu sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.json_input import check
from emu.report.cells import milliseconds, times
from emu.report.page import charts
from emu.report.page.content import BAD, GOOD, Cell, Column, Figure, Page, Section, Table, Tile
from emu.report.page.documents import SWEEP, facts_of
from emu.report.page.migration_page import outcome_of
from emu.report.page.theme import series_colours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.qmp.protocol import JsonObject

_FIGURES = ("downtime_ms", "stop_ms", "start_ms")


def page(document: JsonObject) -> Page:
    """The page of a document of ``emu sweep --json``.

    Raises:
        JsonInputError: the document has another shape.
    """
    known = check(document, SWEEP)
    points = _series(known["points"])
    names = list(dict.fromkeys(point["strategy"] for point in points))
    colours = series_colours(names)
    own = {
        name: sorted(
            (point for point in points if point["strategy"] == name),
            key=lambda point: (point["rings"], point["devices"]),
        )
        for name in names
    }
    sentence = _sentence(known, own)
    runs = [run for each in known["migrations"] for run in each["runs"]]
    by_rings = charts.growth(points, "rings", ["downtime_ms"], colours)
    parts = charts.growth(points, "rings", ["stop_ms", "start_ms"], colours)
    figures = [
        Figure("rings", "Downtime against rings", by_rings, colours),
        Figure(
            "devices",
            "Downtime against devices",
            charts.growth(points, "devices", ["downtime_ms"], colours),
            colours,
        ),
        Figure(
            "parts",
            "Stop (solid) and start (dashed) of the devices against rings",
            parts,
            colours,
        ),
    ]
    sections = [
        Section(
            "How the blackout grows",
            "Medians in ms; both axes are logarithmic, so a time that grows like the number of "
            "rings is a diagonal, and one that does not grow is level.",
            figures,
            beside=True,
        ),
        Section("The figures", "Growth is relative to the smallest VM.", [_table(points, own)]),
    ]
    outcome = outcome_of(runs, known)
    return Page(
        title="How the downtime grows with the number of devices",
        sentence=sentence,
        tiles=_tiles(own),
        outcome=outcome,
        sections=sections if points else [],
        facts=facts_of(known),
        command=known.get("command", ""),
        picture=charts.stacked(
            sentence,
            outcome.text,
            [
                ("Downtime against rings, ms", by_rings),
                ("Stop (solid) and start (dashed) of the devices, ms", parts),
            ],
            colours,
        ),
    )


def _series(points: Sequence[JsonObject]) -> list[JsonObject]:
    """The points; with several accelerators each series is a strategy with one of them."""
    if len({point.get("accel") for point in points}) <= 1:
        return list(points)
    return [{**point, "strategy": f"{point['strategy']}, {point['accel']}"} for point in points]


def _sentence(document: JsonObject, own: dict[str, list[JsonObject]]) -> str:
    migrations = document["migrations"]
    runs = sum(len(each["runs"]) for each in migrations)
    text = f"{len(migrations)} VMs of different sizes were migrated live, {runs} times in all"
    rings = [point["rings"] for points in own.values() for point in points]
    least, most = min(rings, default=0), max(rings, default=0)
    growths = [
        f"{points[-1]['downtime_ms'] / points[0]['downtime_ms']:.1f} times as long with {name}"
        for name, points in own.items()
        # Others have migrated some of the VMs only.
        if (points[0]["rings"], points[-1]["rings"]) == (least, most) and points[0]["downtime_ms"]
    ]
    if not growths or not 0 < least < most:
        return f"{text}."
    return (
        f"{text}; with {most / least:.3g} times the rings the downtime was {' and '.join(growths)}."
    )


def _tiles(own: dict[str, list[JsonObject]]) -> list[Tile]:
    return [
        Tile(
            name,
            f"{milliseconds(points[-1]['downtime_ms'])} ms",
            [
                f"with {points[-1]['devices']} devices, {points[-1]['rings']} rings",
                f"{milliseconds(points[0]['downtime_ms'])} ms with {points[0]['rings']} rings",
            ],
        )
        for name, points in own.items()
    ]


def _table(points: Sequence[JsonObject], own: dict[str, list[JsonObject]]) -> Table:
    shapes = any(point.get("shape") for point in points)
    titles = ("devices", "rings", "x", "downtime", "x", "stop", "x", "start", "x")
    columns = [Column("strategy", numeric=False)]
    columns += [Column("VM", numeric=False)] if shapes else []
    columns += [Column(title, numeric=True) for title in titles]
    rows = []
    for point in points:
        base = own[point["strategy"]][0]
        rings = point["rings"] / base["rings"] if base["rings"] else 0.0
        cells = [Cell(point["strategy"]), *([Cell(point.get("shape", ""))] if shapes else [])]
        cells += [Cell(str(point["devices"])), Cell(str(point["rings"])), Cell(times(rings))]
        for name in _FIGURES:
            factor = point[name] / base[name] if base[name] else 0.0
            tone = GOOD if factor < rings else BAD if factor > rings else ""
            cells += [Cell(milliseconds(point[name])), Cell(f"{factor:.1f}x", tone)]
        rows.append(cells)
    return Table(columns, rows)
