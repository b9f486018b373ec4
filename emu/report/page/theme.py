"""Colours of the charts, in light and in dark; the style sheet has the same for the page.

Marks have one colour in both themes, which differs from either background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.qmp.protocol import JsonObject

#: The source's phases are of warm colours, the destination's of cold ones.
PHASE_COLOURS: Mapping[str, str] = {
    Phase.PAUSE_VCPUS: "#8a8f98",
    Phase.DRAIN_REQUESTS: "#b26fb0",
    Phase.GET_VRING_BASE: "#e4572e",
    Phase.DISABLE_GUEST_NOTIFY: "#f0a35e",
    Phase.DISABLE_HOST_NOTIFY: "#c98a00",
    Phase.FINAL_RAM: "#a9714b",
    Phase.DEVICE_STATE: "#7d6b5d",
    Phase.LOAD_STATE: "#8b7fd6",
    Phase.SET_MEM_TABLE: "#5a6fd8",
    Phase.ENABLE_HOST_NOTIFY: "#1f93c4",
    Phase.ENABLE_GUEST_NOTIFY: "#6fb7d6",
    Phase.START_VRINGS: "#2a9d6f",
    Phase.RESUME_VCPUS: "#9aa0a6",
    Phase.DIRTY_LOG: "#b0a48a",
    Phase.PROBE: "#b5b9bf",
}
#: Of strategies, in the order in which they were run, and of other series; again from the first.
SERIES_COLOURS = (
    "#e4572e",
    "#c98a00",
    "#1f93c4",
    "#2a9d6f",
    "#8b7fd6",
    "#b26fb0",
    "#a9714b",
    "#8a8f98",
)
#: The parts of a downtime.
PART_COLOURS: Mapping[str, str] = {
    "stop the devices": "#e4572e",
    "memory, state, vCPUs": "#8a8f98",
    "start the devices": "#1f93c4",
}
VERDICT_COLOURS: Mapping[str, str] = {
    "FAIL": "#d64545",
    "ERROR": "#c98a00",
    "PASS": "#2a9d6f",
    "OBSERVED": "#8b7fd6",
    "UNSUPPORTED": "#9aa0a6",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def series_colours(names: list[str]) -> dict[str, str]:
    """A colour for each name."""
    return {name: SERIES_COLOURS[at % len(SERIES_COLOURS)] for at, name in enumerate(names)}


def config(*, dark: bool) -> JsonObject:
    """The configuration of all charts."""
    text, faint, line = (
        ("#d7dce2", "#a9b1bb", "#39414c") if dark else ("#222b36", "#55606e", "#dfe3e8")
    )
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": "transparent"},
        "axis": {
            "labelColor": faint,
            "titleColor": text,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
        },
        "axisQuantitative": {"labelOverlap": "parity", "labelSeparation": 8, "tickCount": 8},
        "legend": {"labelColor": text, "titleColor": text, "labelFontSize": 11},
        "header": {"labelColor": text, "titleColor": text},
        "title": {"color": text, "subtitleColor": faint, "fontSize": 14, "anchor": "start"},
        "text": {"color": text, "fontSize": 11},
        "rule": {"color": faint},
        "style": {"value": {"color": text}, "area": {"color": faint}},
    }
