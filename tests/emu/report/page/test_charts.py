"""Charts are of the grammar, whatever their data is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import vl_convert

from emu.report.page import charts
from emu.report.page.render import VEGA_LITE

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

COLOURS = {"a step": "#112233"}
BAR = charts.Bar("net0", "a step", 0.0, 1.0, {"wall": "1 ms"})
PARTS = charts.Parts("split", 10.0, 4.0, 3.0, None, 12.0, [9.0, 11.0])
POINT = {"devices": 4, "rings": 8, "strategy": "split", "downtime_ms": 0.0, "stop_ms": 1.0}


@pytest.mark.parametrize(
    "spec",
    [
        charts.timeline([BAR], ["net0"], COLOURS, 1.0),
        charts.timeline([], [], {}, 0.0),
        charts.downtimes([PARTS]),
        charts.growth([POINT], "rings", ["downtime_ms", "stop_ms"], {"split": "#112233"}),
        charts.verdicts([("framing", "PASS", 3)]),
        charts.ranges([("split", 1.0, 1.0)], {"split": "#112233"}),
        charts.stacked("title", "", [], {}),
        charts.stacked("title " * 99, "", [("one", charts.downtimes([PARTS]))], COLOURS),
    ],
)
def test_vega_lite_takes_it(spec: JsonObject) -> None:
    """As it is drawn."""
    assert "marks" in json.dumps(vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE))


def test_the_parts_of_a_downtime_add_up_to_it() -> None:
    """What is neither stop nor start is between them."""
    bars = charts.downtimes([PARTS])["layer"][0]["data"]["values"]
    assert [(bar["from"], bar["to"]) for bar in bars] == [(0, 4), (4, 7), (7, 10)]


@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_a_timeline_of_many_devices_is_not_taller_than_can_be_scrolled(rows: int) -> None:
    """Rows become thinner, to some limit."""
    height = charts.timeline([], [str(row) for row in range(rows)], {}, 1.0)["height"]["step"]
    assert 4 <= height <= 14
    assert height * rows <= max(560, 4 * rows)


def test_zero_is_drawn_on_a_logarithmic_axis() -> None:
    """A millionth of a second stands for it."""
    spec = charts.growth([POINT], "rings", ["downtime_ms"], {})
    assert spec["data"]["values"][0]["ms"] == 0.001
