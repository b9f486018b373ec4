"""The offset of two clocks, and its error bound."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import MigrationError
from emu.migration import clocks
from emu.migration.clocks import DRIFT, RoundTrip, estimate
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now
from tests.timeouts import TIMEOUT

SECOND = 1_000_000_000
_ways = st.integers(1, 50_000_000)


@given(
    st.integers(-(10**15), 10**15),
    st.integers(-500, 500),
    st.lists(st.tuples(_ways, _ways, st.integers(0, SECOND)), min_size=1, max_size=8),
    st.integers(0, 60 * SECOND),
)
def test_the_true_offset_is_within_the_error_bound(
    offset: int, ppm: int, trips: list[tuple[int, int, int]], at: int
) -> None:
    """For any time of each way of each round trip, while the clocks drift."""

    def other(ns: int) -> int:
        return ns + offset + ns * ppm // 1_000_000

    probes = []
    begin = 0
    for there, back, rest in trips:
        answered = begin + there
        probes.append(RoundTrip(begin, other(answered), answered + back))
        begin = answered + back + rest
    found = estimate(probes, at)
    truth = other(at) - at
    slack = 2 + int(60 * SECOND * DRIFT * DRIFT)
    assert abs(found.ns - truth) <= found.error_ns + slack


def test_the_shortest_round_trip_counts() -> None:
    """A longer one that is much nearer to the moment may be better."""
    probes = [
        RoundTrip(0, 1_000_600, 1000),
        RoundTrip(2000, 1_002_050, 2100),
        RoundTrip(3000, 1_009_000, 9000),
    ]
    assert estimate(probes, 2100) == (1_000_000, 51, False)
    far = RoundTrip(0, 500, 10)
    near = RoundTrip(SECOND, SECOND + 600, SECOND + 200)
    assert estimate([far, near], SECOND).error_ns == 101


@pytest.mark.parametrize("shift", [0, 7_200 * SECOND, -86_400 * SECOND])
def test_the_offset_of_a_shifted_clock_is_measured(
    ends: tuple[MigrationStream, MigrationStream], shift: int
) -> None:
    """By round trips on a real stream; the destination receives the result."""
    source, destination = ends
    received: list[int] = []

    def answer() -> None:
        clocks.answer(destination, clock=lambda: now() + shift)
        received.append(clocks.receive_offset(destination))

    thread = threading.Thread(target=answer)
    thread.start()
    probes = clocks.probe(source)
    found = estimate(probes, now())
    sent = clocks.send_offset(source, probes)
    thread.join(TIMEOUT)
    assert received == [sent]
    assert abs(found.ns - shift) <= found.error_ns
    assert not found.same


def test_an_unexpected_section_is_an_error(ends: tuple[MigrationStream, MigrationStream]) -> None:
    """On both sides; the error names both kinds."""
    source, destination = ends
    destination.send(Kind.READY)
    with pytest.raises(MigrationError, match="received READY, expected PONG with the time"):
        clocks.probe(source)
    source.send(Kind.DEVICES)
    assert destination.receive()[0] is Kind.PING
    with pytest.raises(MigrationError, match="received DEVICES, expected PING"):
        clocks.answer(destination)


@pytest.mark.parametrize("time", [-(1 << 63), (1 << 63) - 1, clocks.MAX_OFFSET + 1])
def test_a_time_that_no_clock_has_is_an_error(
    ends: tuple[MigrationStream, MigrationStream], time: int
) -> None:
    """An offset is computed from it, which has to fit its section."""
    source, destination = ends
    destination.send(Kind.PONG, time.to_bytes(8, "little", signed=True))
    with pytest.raises(MigrationError, match="a clock at"):
        clocks.probe(source)


def test_one_clock_has_one_identity() -> None:
    """The identity is the same for each call, and not empty."""
    assert clocks.identity() == clocks.identity() != ""
