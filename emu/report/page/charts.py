"""Charts, in the grammar of Vega-Lite (https://vega.github.io/vega-lite/docs/).

They have no width: a page sets that of its column, and a picture its own. A name that begins with
an underscore is a field of the data that no tooltip shows.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.report.page.theme import PART_COLOURS, VERDICT_COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.qmp.protocol import JsonObject

#: Pixels: the least and the most height of a row of a timeline, and of all rows together.
_ROW, _MAX_ROW, _MAX_HEIGHT = 4, 14, 560
#: Pixels of a row of a bar chart.
_BAR_ROW = 46
_MS = ".4~r"
#: The wheel scrolls the page unless a key is held; moving is by dragging.
_ZOOM = {
    "name": "zoom",
    "select": {
        "type": "interval",
        "encodings": ["x"],
        "zoom": "wheel![event.ctrlKey || event.metaKey]",
    },
    "bind": "scales",
}


class Bar(NamedTuple):
    """A bar of a timeline, in milliseconds.

    Attributes:
        row: the row's label.
        step: what it is called, and coloured by.
        start, end: its bounds.
        details: of its tooltip, by their titles.
        faint: whether it lies outside of what matters.
    """

    row: str
    step: str
    start: float
    end: float
    details: Mapping[str, str]
    faint: bool = False


def timeline(
    bars: Sequence[Bar], rows: Sequence[str], colours: Mapping[str, str], length: float
) -> JsonObject:
    """Bars on a time axis that can be zoomed and moved.

    Args:
        bars: what it shows.
        rows: the labels of the rows, from top to bottom.
        colours: by step.
        length: milliseconds from 0 that are shown at first, and shaded.
    """
    height = max(_ROW, min(_MAX_ROW, _MAX_HEIGHT // max(len(rows), 1)))
    details = list(dict.fromkeys(name for bar in bars for name in bar.details))
    values = [
        {
            "row": bar.row,
            "step": bar.step,
            "start": round(bar.start, 4),
            "end": round(bar.end, 4),
            "faint": bar.faint,
            **bar.details,
        }
        for bar in bars
    ]
    margin = max(length, 0.001) * 0.015
    axis = {
        "field": "start",
        "type": "quantitative",
        "title": "ms",
        "scale": {"domain": [-margin, length + margin], "nice": False, "zero": False},
        "axis": {"tickCount": 8},
    }
    row = {
        **_rows("row", rows, labelOverlap="greedy", labelFontSize=10, labelLimit=90),
        "scale": {"domain": list(rows), "paddingInner": 0.12, "paddingOuter": 0.1},
    }
    step = _colours("step", colours)
    return {
        "height": {"step": height},
        "layer": [
            {
                "data": {"values": [{"start": 0, "end": length}]},
                "mark": {"type": "rect", "opacity": 0.1, "clip": True, "style": "area"},
                "encoding": {"x": axis, "x2": {"field": "end"}},
            },
            {
                "data": {"values": values},
                "params": [_ZOOM],
                # The stroke keeps bars visible that are shorter than a pixel.
                "mark": {"type": "bar", "clip": True, "strokeWidth": 0.6, "cursor": "grab"},
                "encoding": {
                    "x": axis,
                    "x2": {"field": "end"},
                    "y": row,
                    "fill": step,
                    "stroke": step,
                    "opacity": {"condition": {"test": "datum.faint", "value": 0.5}, "value": 1},
                    "tooltip": [
                        {"field": "row", "title": "what", "type": "nominal"},
                        {"field": "step", "title": "phase", "type": "nominal"},
                        *(_tooltip(name) for name in details),
                    ],
                },
            },
        ],
    }


class Parts(NamedTuple):
    """The downtime of a strategy in milliseconds, medians; unknown figures are None."""

    strategy: str
    downtime: float
    stop: float
    start: float
    guest: float | None
    network: float | None
    runs: Sequence[float]


def downtimes(parts: Sequence[Parts]) -> JsonObject:
    """A bar for each strategy, in its parts, with the guest's and the network's figures."""
    names = [part.strategy for part in parts]
    values: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for part in parts:
        rest = max(0.0, part.downtime - part.stop - part.start)
        at = 0.0
        for name, taken in zip(PART_COLOURS, (part.stop, rest, part.start), strict=True):
            values.append(
                {"strategy": part.strategy, "part": name, "from": at, "to": at + taken, "ms": taken}
            )
            at += taken
        for name, value in (("guest", part.guest), ("network", part.network)):
            if value is not None:
                marks.append({"strategy": part.strategy, "seen": name, "ms": value})
    runs = [
        {"strategy": part.strategy, "ms": ms}
        for part in parts
        if len(part.runs) > 1
        for ms in part.runs
    ]
    labels = [
        {"strategy": part.strategy, "ms": part.downtime, "text": f"{part.downtime:.4g} ms"}
        for part in parts
    ]
    row = _rows("strategy", names, domain=False, labelFontSize=12, labelOffset=6)
    shapes = {"guest": "diamond", "network": "triangle-right"}
    ticks = {
        "data": {"values": runs},
        "mark": {
            "type": "tick",
            "style": "value",
            "thickness": 1.5,
            "size": 24,
            "yOffset": 6,
        },
        "encoding": {
            "x": {"field": "ms", "type": "quantitative"},
            "y": row,
            "tooltip": [_tooltip("strategy"), _tooltip("ms", _MS)],
        },
    }
    return {
        "height": {"step": _BAR_ROW},
        "layer": [
            {
                "data": {"values": values},
                "mark": {"type": "bar", "height": {"band": 0.45}, "yOffset": 6},
                "encoding": {
                    "x": {"field": "from", "type": "quantitative", "title": "ms"},
                    "x2": {"field": "to"},
                    "y": row,
                    "color": _colours("part", PART_COLOURS),
                    "tooltip": [_tooltip("strategy"), _tooltip("part"), _tooltip("ms", _MS)],
                },
            },
            {
                "data": {"values": marks},
                "mark": {
                    "type": "point",
                    "size": 70,
                    "filled": True,
                    "opacity": 1,
                    "style": "value",
                    "yOffset": 6,
                },
                "encoding": {
                    "x": {"field": "ms", "type": "quantitative"},
                    "y": row,
                    "shape": {
                        "field": "seen",
                        "type": "nominal",
                        "scale": {"domain": list(shapes), "range": list(shapes.values())},
                        "legend": None,
                    },
                    "tooltip": [_tooltip("strategy"), _tooltip("seen"), _tooltip("ms", _MS)],
                },
            },
            *([ticks] if runs else []),
            {
                "data": {"values": labels},
                "mark": {
                    "type": "text",
                    "align": "left",
                    "fontWeight": "bold",
                    "dx": 3,
                    "dy": -13,
                },
                "encoding": {"y": row, "text": {"field": "text"}, "x": {"value": 0}},
            },
        ],
    }


def growth(
    points: Sequence[Mapping[str, Any]],
    over: str,
    figures: Sequence[str],
    colours: Mapping[str, str],
) -> JsonObject:
    """Times against the size of the VM, on logarithmic axes.

    Args:
        points: with ``devices``, ``rings``, ``strategy``, and the figures in milliseconds.
        over: ``rings`` or ``devices``.
        figures: the names of the figures, each with a kind of line.
        colours: by strategy.
    """
    values = [
        {
            "strategy": point["strategy"],
            "devices": point["devices"],
            "rings": point["rings"],
            "figure": name.removesuffix("_ms"),
            "ms": max(point[name], 0.001),
        }
        for point in points
        for name in figures
    ]
    ticks = sorted({point[over] for point in points})
    encoding: dict[str, Any] = {
        "x": {
            "field": over,
            "type": "quantitative",
            "title": f"{over} of the VM",
            "scale": {"type": "log", "nice": False, "padding": 16},
            "axis": {"values": ticks, "format": "d"},
        },
        "y": {
            "field": "ms",
            "type": "quantitative",
            "title": "ms",
            "scale": {"type": "log", "nice": False, "padding": 16},
            "axis": {"format": _MS, "tickCount": 6},
        },
        "color": _colours("strategy", colours),
        "tooltip": [
            *(_tooltip(name) for name in ("strategy", "figure", "devices", "rings")),
            _tooltip("ms", _MS),
        ],
    }
    if len(figures) > 1:
        names = [name.removesuffix("_ms") for name in figures]
        encoding["strokeDash"] = {
            "field": "figure",
            "type": "nominal",
            "sort": names,
            "scale": {"domain": names, "range": [[1, 0], [6, 4]]},
            "legend": None,
        }
    return {
        "height": 260,
        "data": {"values": values},
        "mark": {"type": "line", "point": {"size": 70}, "strokeWidth": 2.5},
        "encoding": encoding,
    }


def verdicts(counts: Sequence[tuple[str, str, int]]) -> JsonObject:
    """A bar for each area of the suite.

    Args:
        counts: area, verdict, number of cases.
    """
    areas = list(dict.fromkeys(area for area, _, _ in counts))
    order = list(VERDICT_COLOURS)
    values = [
        {"area": area, "verdict": verdict, "cases": number, "_order": order.index(verdict)}
        for area, verdict, number in counts
    ]
    return {
        "height": {"step": 20},
        "data": {"values": values},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "cases",
                "type": "quantitative",
                "title": "cases",
                "axis": {"tickMinStep": 1},
            },
            "y": _rows("area", areas, labelLimit=130),
            "color": _colours("verdict", VERDICT_COLOURS),
            "order": {"field": "_order", "type": "quantitative"},
            "tooltip": [_tooltip("area"), _tooltip("verdict"), _tooltip("cases")],
        },
    }


def ranges(values: Sequence[tuple[str, float, float]], colours: Mapping[str, str]) -> JsonObject:
    """A range of milliseconds for each name, with its bounds.

    Args:
        values: name, least, most.
        colours: by name.
    """
    rows = [
        {"strategy": name, "least": least, "most": most, "_text": _range(least, most)}
        for name, least, most in values
    ]
    names = [name for name, _, _ in values]
    row = _rows("strategy", names, domain=False, labelFontSize=12)
    tooltip = [_tooltip("strategy"), _tooltip("least", _MS), _tooltip("most", _MS)]
    return {
        "height": {"step": _BAR_ROW},
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.5}},
                "encoding": {
                    "x": {"field": "least", "type": "quantitative", "title": "ms"},
                    "y": row,
                    "color": _colours("strategy", colours),
                    "tooltip": tooltip,
                },
            },
            {
                "mark": {"type": "bar", "height": {"band": 0.5}, "opacity": 0.45},
                "encoding": {
                    "x": {"field": "least", "type": "quantitative"},
                    "x2": {"field": "most"},
                    "y": row,
                    "color": _colours("strategy", colours),
                    "tooltip": tooltip,
                },
            },
            {
                "mark": {"type": "text", "align": "left", "fontWeight": "bold", "dx": 3, "dy": -17},
                "encoding": {"y": row, "text": {"field": "_text"}, "x": {"value": 0}},
            },
        ],
    }


def stacked(
    title: str,
    subtitle: str,
    parts: Sequence[tuple[str, JsonObject]],
    legend: Mapping[str, str],
) -> JsonObject:
    """One picture with charts below each other.

    Args:
        title: of the picture.
        subtitle: a line below it.
        parts: title and chart.
        legend: names and colours.
    """
    heading: JsonObject = {
        "text": _lines(title, 96),
        "subtitle": _lines(subtitle, 150),
        "fontSize": 18,
        "subtitleFontSize": 13,
        "lineHeight": 24,
        "subtitleLineHeight": 18,
        "subtitlePadding": 8,
        "offset": 22,
        "anchor": "start",
        "frame": "group",
    }
    return {
        "padding": 28,
        "title": heading,
        "spacing": 24,
        "resolve": {"scale": dict.fromkeys(("color", "fill", "stroke", "x", "y"), "independent")},
        "vconcat": [
            *({**spec, "title": _heading(name), "width": 1040} for name, spec in parts),
            _legend(legend),
        ],
    }


def _heading(text: str) -> JsonObject:
    """The title of a chart, which begins where its axis does, as those of the others do."""
    return {"text": text, "anchor": "start", "frame": "group"}


def _legend(colours: Mapping[str, str]) -> JsonObject:
    """The names and colours, as a chart without axes."""
    columns = 5
    values = [
        {"name": name, "colour": colour, "x": at % columns, "y": at // columns}
        for at, (name, colour) in enumerate(colours.items())
    ]
    rows = -(-len(values) // columns)
    position = {
        "x": {
            "field": "x",
            "type": "quantitative",
            "axis": None,
            "scale": {"domain": [0, columns], "nice": False},
        },
        "y": {
            "field": "y",
            "type": "quantitative",
            "axis": None,
            "scale": {"domain": [rows - 0.5, -0.5], "nice": False, "zero": False},
        },
    }
    return {
        "width": 1040,
        "height": 20 * rows,
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "square", "size": 120, "opacity": 1, "xOffset": 8},
                "encoding": {**position, "color": {"field": "colour", "scale": None}},
            },
            {
                "mark": {"type": "text", "align": "left", "xOffset": 20, "limit": 180},
                "encoding": {**position, "text": {"field": "name"}},
            },
        ],
    }


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [""]


def _range(least: float, most: float) -> str:
    few = f"{least:.4g} ms"
    return few if f"{most:.4g} ms" == few else f"{least:.4g} to {most:.4g} ms"


def _rows(field: str, names: Sequence[str], **axis: object) -> JsonObject:
    """The rows of a chart, in this order from top to bottom."""
    return {
        "field": field,
        "type": "nominal",
        "sort": list(names),
        "title": None,
        "axis": {"ticks": False, **axis},
    }


def _colours(field: str, colours: Mapping[str, str]) -> JsonObject:
    scale = {"domain": list(colours), "range": list(colours.values())}
    return {"field": field, "type": "nominal", "scale": scale, "legend": None}


def _tooltip(field: str, form: str | None = None) -> JsonObject:
    made: JsonObject = {"field": field, "title": field}
    if form is not None:
        return {**made, "type": "quantitative", "format": form}
    return {**made, "type": "nominal"}
