"""A stop or a start as a table, and in JSON."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from rich.console import Console

from emu.tap.transition_table import object_of, render, title
from tests.emu.tap.test_json_log import DOCUMENT
from tests.emu.tap.test_transition_finder import Vm

if TYPE_CHECKING:
    from emu.tap.transitions import Transition


def text_of(transition: Transition, *, plain: bool = True) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(render(transition, plain=plain))
    return out.getvalue()


def migration() -> list[Transition]:
    """Eight devices."""
    sources = [f"src/{number}" for number in range(8)]
    vm = Vm(*sources, "dst")
    for number, device in enumerate(sources):
        vm.stop(device, rings=1 + number)
    vm.start("dst", rings=1)
    vm.finder.finish()
    return vm.found


def test_the_table_of_a_stop() -> None:
    """With the slowest devices."""
    stop, _ = migration()
    lines = text_of(stop).splitlines()
    assert lines[0] == "stop of 8 devices, 36 rings: 0.07 ms"
    (row,) = [line for line in lines if "| serial" in line]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "get vring base", "0.07", "0.04", "36", "serial",
    ]  # fmt: skip
    named = [line.split("|")[1].strip() for line in lines if "src/" in line]
    assert named == ["src/7", "src/6", "src/5", "src/4", "src/3"]


def test_a_terminal_of_80_columns_has_room() -> None:
    for transition in migration():
        assert max(map(len, text_of(transition, plain=False).splitlines())) <= 80


def test_the_title_of_a_migration() -> None:
    _, start = migration()
    assert title(start) == (
        "start of 1 device, 1 ring: 0.00 ms; the migration: 0.07 ms from the stop's beginning"
    )
    assert "slowest" not in text_of(start)


def test_the_object_has_every_device_and_ring() -> None:
    stop, start = map(object_of, migration())
    assert (stop["event"], stop["since_ns"], stop["migration"]) == ("stop", None, False)
    assert (start["event"], start["since_ns"], start["migration"]) == (
        "start", stop["time_ns"], True,
    )  # fmt: skip
    (row,) = stop["rows"]
    assert (row["row"], row["messages"], row["at_once"]) == ("get vring base", 36, 1)
    assert row["devices"][1]["rings"] == {"0": 1000, "1": 1000}
    assert sum(device["replies_ns"] for device in row["devices"]) == row["replies_ns"]


def test_the_documentation_has_every_field() -> None:
    def names(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names, value))
        if isinstance(value, dict):
            return {key for key in value if not key.isdigit()}.union(*map(names, value.values()))
        return set()

    text = DOCUMENT.read_text(encoding="utf-8")
    fields = names(json.loads(json.dumps([object_of(each) for each in migration()])))
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []
