"""Lines of a trace: with and without the last one they are an array."""

from __future__ import annotations

import json

from emu.report import trace_format


def test_the_lines_are_an_array() -> None:
    """With the end as they are; without it when the comma is taken away."""
    event = {"ph": "i", "name": "x"}
    lines = [trace_format.BEGIN, trace_format.line(event), trace_format.line(event)]
    whole = json.loads("\n".join([*lines, trace_format.end("emu tap")]))
    assert whole[:2] == [event] * 2
    assert whole[2]["args"] == {"name": "emu tap"}
    assert json.loads("\n".join(lines)[:-1] + "]") == [event] * 2
