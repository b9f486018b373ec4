"""The completion reports of both sides, and the downtime that is computed from them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import MigrationError
from emu.migration import clocks, completion
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from emu.migration.clocks import Offset

MS = 1_000_000
SECOND = 1000 * MS
#: A report of a destination that has done nothing.
REPORT: dict[str, Any] = {"spans": [], "marks": {"running_ns": 0}, "commits": 0, "guest_gap_ns": 0}


class Destination:
    """A destination in a thread, with a clock that is ahead by some nanoseconds."""

    def __init__(self, stream: MigrationStream, report: dict[str, Any], *, ahead: int = 0) -> None:
        self.received: dict[str, Any] = {}
        self._stream = stream
        self._report = report
        self._ahead = ahead
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        if self._ahead:
            clocks.answer(self._stream, clock=lambda: now() + self._ahead)
            completion.send(self._stream, self._report)
            self.received = completion.receive(self._stream, completion.OF_SOURCE)
        else:
            self.received = completion.exchange_at_destination(
                self._stream, same_clock=True, report=self._report
            )

    def finish(self) -> dict[str, Any]:
        """The report that it has received."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        return self.received


def described(downtime: int, offset: Offset) -> dict[str, Any]:
    return {
        "strategy": "split",
        "downtime_ns": downtime,
        "downtime_error_ns": None if offset.same else offset.error_ns,
        "precopy": {"bytes": 0, "rounds": 0},
    }


def test_on_one_clock_the_downtime_is_the_difference(
    ends: tuple[MigrationStream, MigrationStream],
) -> None:
    destination = Destination(ends[1], {**REPORT, "marks": {"running_ns": 150 * MS}, "commits": 3})
    found = completion.exchange_at_source(ends[0], 100 * MS, [], described)
    assert found == {
        **REPORT,
        "marks": {"running_ns": 150 * MS},
        "commits": 3,
        "downtime_ns": 50 * MS,
        "offset_ns": 0,
        "downtime_error_ns": None,
    }
    assert destination.finish() == described(50 * MS, clocks.Offset())


@pytest.mark.parametrize("booted", ["earlier", "later"])
def test_between_two_clocks_the_offset_is_subtracted(
    ends: tuple[MigrationStream, MigrationStream], booted: str
) -> None:
    """The error bound follows from the round trips."""
    # A monotonic clock is not negative, and this host may have booted a minute ago.
    ahead = 3600 * SECOND if booted == "earlier" else -now() // 2
    answering = threading.Thread(
        target=clocks.answer, args=(ends[1],), kwargs={"clock": lambda: now() + ahead}
    )
    answering.start()
    before = clocks.probe(ends[0])
    answering.join(TIMEOUT)
    start = now()
    end = start + 70 * MS
    destination = Destination(
        ends[1], {**REPORT, "marks": {"running_ns": end + ahead}}, ahead=ahead
    )
    found = completion.exchange_at_source(ends[0], start, before, described)
    assert abs(found["downtime_ns"] - 70 * MS) <= found["downtime_error_ns"]
    assert abs(found["offset_ns"] - ahead) <= found["downtime_error_ns"]
    received = destination.finish()
    assert received["downtime_ns"] == found["downtime_ns"]
    assert received["downtime_error_ns"] == found["downtime_error_ns"]


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (b"{}", "spans is missing"),
        (json.dumps({**REPORT, "marks": {}}).encode(), "marks.running_ns is missing"),
        (json.dumps({**REPORT, "marks": 1}).encode(), "marks is not an object"),
        (json.dumps({**REPORT, "spans": [[]]}).encode(), r"spans\[0\] is not a list of 9"),
        (json.dumps({**REPORT, "commits": -1}).encode(), "commits is -1"),
        *(
            (json.dumps(REPORT).replace('"running_ns": 0', f'"running_ns": {value}').encode(), why)
            for value, why in (
                ("Infinity", "Infinity is not a number of JSON"),
                ("NaN", "NaN is not a number of JSON"),
                ("1e999", "1e999 is too large"),
                ("1" * 30, "more than 64 bits"),
                ("1.5", "marks.running_ns is not a whole number"),
                ('"soon"', "marks.running_ns is not a whole number"),
                ("true", "marks.running_ns is not a whole number"),
                ("-1", "marks.running_ns is -1"),
                ("18446744073709551615", "marks.running_ns is 18446744073709551615"),
            )
        ),
    ],
)
def test_a_report_of_another_shape_is_invalid(
    ends: tuple[MigrationStream, MigrationStream], report: bytes, text: str
) -> None:
    ends[1].send(Kind.COMPLETION, report)
    with pytest.raises(MigrationError, match=f"an invalid COMPLETION: .*{text}"):
        completion.exchange_at_source(ends[0], 0, [], described)


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (Kind.RUNNING, b"", "received RUNNING, expected COMPLETION"),
        (Kind.COMPLETION, b"no JSON", "an invalid COMPLETION"),
        (Kind.COMPLETION, b"[1]", "an invalid COMPLETION"),
    ],
)
def test_another_section_is_an_error(
    ends: tuple[MigrationStream, MigrationStream], kind: Kind, payload: bytes, text: str
) -> None:
    ends[1].send(kind, payload)
    with pytest.raises(MigrationError, match=text):
        completion.receive(ends[0], completion.OF_SOURCE)


def test_a_side_that_has_disconnected_is_an_error(
    ends: tuple[MigrationStream, MigrationStream],
) -> None:
    ends[1].close()
    with pytest.raises(MigrationError):
        completion.receive(ends[0], completion.OF_SOURCE)
