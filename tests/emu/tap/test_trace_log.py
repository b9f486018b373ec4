"""The trace: its processes and tracks, and that its spans add up."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emu.tap import trace_log as module
from emu.tap.connection import Sender, Unreadable
from emu.tap.trace_log import TraceWriter
from emu.tap.transition_finder import TransitionFinder
from tests.emu.tap.talk import TICK, Clock, F, Talk
from vhost_user.messages import BackendRequest
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from emu.tap.reader import Record
    from emu.tap.transitions import Transition


def document(records: Sequence[Record], found: Sequence[Transition] = ()) -> list[dict[str, Any]]:
    """The events of a file."""
    writer = TraceWriter()
    lines = [writer.begin()]
    for record in records:
        lines += writer.lines_of(record)
    for transition in found:
        lines += writer.lines_of_transition(transition)
    events: list[dict[str, Any]] = json.loads("\n".join([*lines, writer.end()]))
    return events


def tracks(events: Sequence[dict[str, Any]]) -> dict[tuple[int, int], str]:
    """The name of each process and track, by numbers; that of a process is of track 0."""
    return {
        (event["pid"], event.get("tid", 0)): event["args"]["name"]
        for event in events
        if event["ph"] == "M"
    }


def spans(events: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    """Name, track, beginning and length of each, in microseconds."""
    return [
        (event["name"], event["tid"], event["ts"], event["dur"])
        for event in events
        if event["ph"] == "X"
    ]


def test_a_request_with_its_reply_is_a_span_and_others_are_moments() -> None:
    talk = Talk(device="disk")
    talk.ask(F.SET_OWNER)
    talk.ask(F.GET_VRING_BASE, VringState(2, 0))
    talk.answer(F.GET_VRING_BASE, VringState(2, 9))
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True)
    talk.reader.take(Unreadable(talk.connection, Sender.FRONT_END, False, 4000, "why"))
    talk.close()
    events = document(talk.records)
    assert tracks(events) == {
        (0, 0): "emu tap",
        (1, 0): "disk",
        (1, 1): "main channel",
        (1, 2): "back-end channel",
    }
    assert spans(events) == [("GET_VRING_BASE", 1, 2.0, 1.0)]
    (span,) = [event for event in events if event["ph"] == "X"]
    assert (span["args"]["request num"], span["args"]["num"]) == (0, 9)
    moments = [(event["name"], event["tid"]) for event in events if event["ph"] == "i"]
    assert moments == [
        ("connected", 1),
        ("SET_OWNER", 1),
        ("CONFIG_CHANGE_MSG", 2),
        ("no longer decoded: why", 1),
        ("disconnected: by the front-end", 1),
    ]


def test_requests_in_flight_have_tracks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same name, and not without end."""
    monkeypatch.setattr(module, "MAX_TRACKS", 2)
    talk = Talk()
    for ring in range(3):
        talk.ask(F.GET_VRING_BASE, VringState(ring, 0))
    for ring in range(3):
        talk.answer(F.GET_VRING_BASE, VringState(ring, 0))
    talk.ask(F.GET_FEATURES)
    talk.answer(F.GET_FEATURES, U64(1))
    events = document(talk.records)
    assert [(name, tid) for name, tid, _, _ in spans(events)] == [
        ("GET_VRING_BASE", 1),
        ("GET_VRING_BASE", 2),
        ("GET_FEATURES", 1),
    ]
    assert [name for (pid, tid), name in tracks(events).items() if pid and tid] == [
        "main channel"
    ] * 2
    assert [event["name"] for event in events if event["ph"] == "i"] == [
        "connected",
        "GET_VRING_BASE",
    ]


def test_connections_of_a_pair_are_one_process() -> None:
    clock = Clock()
    talk = Talk(device="disk", clock=clock)
    again = Talk(device="disk", clock=clock, reader=talk.reader, number=2)
    again.ask(F.SET_OWNER)
    events = document(talk.records)
    assert {event["pid"] for event in events if event["ph"] == "i"} == {1}
    assert events[-2]["args"]["device"] == "disk#2"


def test_the_spans_of_a_stop_add_up_to_its_row() -> None:
    """In lock-step; a device's row is a span, and so is the whole."""
    found: list[Transition] = []
    finder = TransitionFinder(found.append)
    one = Talk([finder.take], "a")
    two = Talk(device="b", clock=one.clock, reader=one.reader)
    for talk in (one, two):
        for ring in range(3):
            talk.ask(F.GET_VRING_BASE, VringState(ring, 0))
            talk.answer(F.GET_VRING_BASE, VringState(ring, 0))
    finder.finish()
    (stop,) = found
    events = document(one.records, found)
    replies = [length for name, _, _, length in spans(events) if name == "GET_VRING_BASE"]
    assert sum(replies) == stop.rows[0].busy / 1000 == 6.0
    rows = [length for name, _, _, length in spans(events) if name == "get vring base"]
    assert rows == [span.wall / 1000 for span in stop.rows[0].spans]
    (whole,) = [length for name, _, _, length in spans(events) if name.startswith("stop of 2")]
    assert whole == (stop.end - stop.start) / 1000 == 11 * TICK / 1000


def test_a_pair_may_have_a_number_in_its_name() -> None:
    """It is not the third connection of another one."""
    talk = Talk(device="disk#3")
    talk.ask(F.SET_OWNER)
    assert tracks(document(talk.records))[1, 0] == "disk#3"
