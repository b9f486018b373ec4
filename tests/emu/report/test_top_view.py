"""The table and the JSON of `emu top`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from emu.report.top_view import TopSample, view

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject


def device(name: str, completed: int, state: str = "running") -> JsonObject:
    """A device as x-query-devices describes it."""
    return {
        "id": name,
        "state": state,
        "completed": completed,
        "outstanding": 3,
        "kicks": 2 * completed,
        "calls": completed // 2,
        "host-notifiers": True,
        "guest-notifiers": state == "running",
        "rings": [{"state": state}, {"state": "unused"}],
    }


def sample(now_s: float, *devices: JsonObject, migration: JsonObject | None = None) -> TopSample:
    """A sample at a time in seconds."""
    return TopSample("running", migration or {}, int(now_s * 1e9), devices)


def printed(now: TopSample, before: TopSample | None) -> list[str]:
    """The lines on a terminal of 80 columns."""
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system=None, markup=False).print(
        view("unix:/a/b", now, before)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_rates_are_for_a_second() -> None:
    """Of a device that was there before; one that was plugged again starts at 0."""
    before = sample(1, device("blk0", 100), device("blk1", 500))
    now = sample(3, device("blk0", 300), device("blk1", 20), device("blk2", 7))
    assert now.rates(before) == {
        "blk0": {"completed": 100, "kicks": 200, "calls": 50},
        "blk1": {"completed": 0, "kicks": 0, "calls": 0},
    }
    assert now.rates(None) == now.rates(now) == {}
    blk0, _, blk2 = now.to_json(before)["devices"]
    assert blk0["rates"]["kicks"] == 200
    assert "rates" not in blk2


def test_the_table_fits_80_columns() -> None:
    """All columns are there, also with large numbers, a long id and a migration."""
    migration = {
        "status": "failed",
        "ram": {"transferred": 1 << 30, "remaining": 5},
        "expected-downtime": 7,
        "error-desc": "x" * 200,
    }
    name = "a-device-with-a-long-name"
    before = sample(1, device(name, 0, "unplugging"), migration=migration)
    lines = printed(sample(2, device(name, 10_000_000, "unplugging"), migration=migration), before)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "unix:/a/b" in lines[0]
    assert "running: 1 device, 1 ring unplugging, 1 ring unused" in text
    assert "migration failed, 1 GiB sent, 5 B left, expected downtime 7 ms" in text
    for cell in ("a-device-", " unplugging ", "0/2", "10.0M", "20.0M", "5.0M", "host"):
        assert cell in text


def test_a_vm_that_is_not_built_has_no_devices() -> None:
    """And no rates are known at the first sample."""
    assert "running: 0 devices, no rings" in printed(sample(0), None)[1]
    assert " - " in "\n".join(printed(sample(1, device("blk0", 1)), None))


def test_text_of_the_monitor_does_not_reach_the_terminal_as_it_is() -> None:
    """Escape sequences are shown; a terminal does not obey them."""
    bad = "\x1b[2J[red]"
    migration = {"status": bad, "error-desc": bad}
    now = TopSample(bad, migration, 1, (device(bad, 1, bad),))
    text = "\n".join(printed(now, None))
    assert "\x1b[2J" not in text
    assert text.count("\\x1b[2J[red]") >= 4


@pytest.mark.parametrize(("width", "left_out"), [(120, ""), (80, ""), (60, "notifiers")])
def test_a_narrow_terminal_has_fewer_columns(width: int, left_out: str) -> None:
    """Those that are there are whole, and a line names the others."""
    before = sample(1, device("blk0", 0))
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False)
    console.print(view("unix:/a/b", sample(2, device("blk0", 10)), before, width=width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in out.getvalue()
    assert (lines[-1].startswith("too narrow for: notifiers")) is bool(left_out)


@pytest.mark.parametrize("width", [80, 60, 40, 30])
def test_the_note_of_what_is_not_shown_is_whole(width: int) -> None:
    """Also where the terminal wraps it, and the title; and the devices have their names."""
    devices = [device(f"blk{number}", 0) for number in range(40)]
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False)
    console.print(view("unix:/a/b", sample(1, *devices), None, width=width, height=12))
    lines = out.getvalue().splitlines()
    shown = [line for line in lines if line.startswith(" blk")]
    assert len(lines) == 12
    assert shown[0].split()[0] == "blk0"
    note = " ".join(" ".join(lines[lines.index(shown[-1]) + 1 :]).split())
    assert note.startswith(f"and {40 - len(shown)} more devices")
    assert note.endswith(("state", "in flight")) or width > 40


def test_a_terminal_without_columns_is_no_error() -> None:
    """Such as COLUMNS=0 in the environment."""
    assert view("unix:/a/b", sample(1, device("blk0", 0)), None, width=0, height=0)


def test_a_low_terminal_has_fewer_devices() -> None:
    """A line says how many there are besides; without a terminal all are there."""
    now = sample(1, *(device(f"blk{number}", 0) for number in range(40)))
    for height, rows in ((24, 17), (None, 40)):
        out = io.StringIO()
        console = Console(file=out, width=80, markup=False)
        console.print(view("unix:/a/b", now, None, height=height))
        lines = out.getvalue().splitlines()
        assert sum(line.startswith(" blk") for line in lines) == rows
        assert len(lines) <= 24 or height is None
        assert ("and 23 more devices" in lines[-1]) is (height is not None)
