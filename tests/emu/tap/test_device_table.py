"""The table of devices: counts, rates, the slowest reply."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import os
import pty

import pytest
from rich.console import Console

from emu.tap.device_table import DeviceCounts, DeviceView, Slowest, table
from tests.emu.tap.talk import F, Talk
from vhost_user.payloads import U64, VringState


def test_rows_of_devices() -> None:
    counts = DeviceCounts()
    talk = Talk([counts.take], "a")
    other = Talk(device="b", clock=talk.clock, reader=talk.reader)
    talk.ask(F.GET_FEATURES)
    other.ask(F.SET_VRING_NUM, VringState(1, 64))
    talk.answer(F.GET_FEATURES, U64(0))
    talk.ask(F.GET_QUEUE_NUM)
    first, second = counts.rows(talk.reader, 2.0)
    assert first == ("a", 1.5, 3, 1, Slowest(2000, "GET_FEATURES"), (0, 0, 0))
    assert second == ("b", 0.5, 1, 0, None, (1, 0, 0))
    other.close()
    other.ask(F.SET_OWNER)
    again = counts.rows(talk.reader, 1.0)
    assert [(row.device, row.rate, row.messages) for row in again] == [("a", 0, 3), ("b", 0, 1)]
    assert again[1].rings is None


def test_a_device_that_is_not_connected_has_a_row() -> None:
    """And the table says how it ends."""
    counts = DeviceCounts(["a"])
    talk = Talk([counts.take], "b")
    talk.close()
    out = io.StringIO()
    Console(file=out, width=80).print(table(counts.rows(talk.reader, 1.0), 10, 80))
    assert [line.split()[0] for line in out.getvalue().splitlines() if "not conn" in line] == ["a"]
    assert "Ctrl-C ends the tap" in out.getvalue()


def test_the_table_has_room_for_as_many_as_fit() -> None:
    counts = DeviceCounts()
    talk = Talk([counts.take], "dev0")
    for number in range(1, 40):
        Talk(device=f"dev{number}", clock=talk.clock, reader=talk.reader).ask(F.SET_OWNER)
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(table(counts.rows(talk.reader, 1.0), 10, 80))
    lines = out.getvalue().splitlines()
    names = [line.split()[0] for line in lines if line.startswith("dev")]
    assert names == ["device", *(f"dev{number}" for number in range(1, 11))]
    assert "and 30 more devices" in out.getvalue()
    assert max(map(len, lines)) <= 80


def test_a_terminal_is_drawn_on() -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w") as stream:
        view = DeviceView(Console(file=stream, force_terminal=True, width=80, height=24))
        view.show([])
        view.close()
        stream.flush()
        drawn = b""
        while b"messages/s" not in drawn:  # a terminal returns what it has, in parts
            drawn += os.read(main, 4096)
    os.close(main)


@pytest.mark.parametrize("width", [80, 40])
def test_a_low_terminal_shows_how_to_end_the_tap(width: int) -> None:
    """Below as many devices as there is room for."""
    counts = DeviceCounts([f"dev{number}" for number in range(40)])
    talk = Talk([counts.take], "dev0")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=14, color_system=None)
    view = DeviceView(console)
    view.show(counts.rows(talk.reader, 1.0))
    drawn = " ".join(out.getvalue().split())
    view.close()
    assert "and with it the connections" in drawn
    rows = sum(line.startswith("dev") for line in out.getvalue().splitlines()) - 1
    assert f"and {40 - rows} more devices" in drawn


def test_connections_that_have_ended_are_counted_with_their_pair() -> None:
    """However often a front-end connects again, the table has one row for it."""
    counts = DeviceCounts(["a"])
    talk = Talk([counts.take], "a")
    talk.ask(F.SET_OWNER)
    talk.close()
    for number in range(2, 50):
        again = Talk(device="a", clock=talk.clock, reader=talk.reader, number=number)
        again.ask(F.GET_FEATURES)
        (row,) = counts.rows(talk.reader, 1.0)
        assert (row.device, row.messages, row.waiting) == (f"a#{number}", 1, 1)
        again.answer(F.GET_FEATURES, U64(0))
        again.close()
    (row,) = counts.rows(talk.reader, 1.0)
    assert row == ("a", 1, 97, 0, Slowest(1000, "GET_FEATURES"), None)


def test_the_heads_of_the_columns_are_whole_in_80_columns() -> None:
    """Also beside a slow reply with a long name."""
    counts = DeviceCounts()
    talk = Talk([counts.take], "src/tapped-disk0")
    talk.ask(F.GET_PROTOCOL_FEATURES)
    talk.clock.now += 10**10
    talk.answer(F.GET_PROTOCOL_FEATURES, U64(0))
    out = io.StringIO()
    Console(file=out, width=80).print(table(counts.rows(talk.reader, 1.0), 10, 80))
    head, _, rows = out.getvalue().partition("─")
    for word in ("messages/s", "messages", "due", "slowest", "started,", "enabled"):
        assert word in head.split()
    (row,) = [line for line in rows.splitlines() if "10000.0" in line]
    assert row.split()[0].startswith("src/tapped")
    assert row.rstrip().endswith("0/0 of 0")


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_columns_are_left_out_where_there_is_no_room(width: int) -> None:
    """Those that are there are whole, and a line names the others."""
    counts = DeviceCounts(["src/tapped-disk1"])
    talk = Talk([counts.take], "src/tapped-disk0")
    talk.ask(F.GET_PROTOCOL_FEATURES)
    talk.answer(F.GET_PROTOCOL_FEATURES, U64(0))
    out = io.StringIO()
    Console(file=out, width=width).print(table(counts.rows(talk.reader, 1.0), 10, width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for cell in ("src/tapped", "0/0 of 0", "not connected", "0.00"):
        assert cell in text
    assert ("its request" in text) == (width >= 80)
    left_out = " ".join(text.split())
    assert ("too narrow for: messages" in left_out) == (width < 80)
    assert "GET_PROTOCOL_FEATURES" in text or width < 120
