"""The clocks of two hosts: whether they are the same one, and their offset if not.

CLOCK_MONOTONIC starts at another moment on each host. The offset is estimated as in NTP
(RFC 5905, section 8): a round trip that leaves at ``a``, is answered at the other clock's ``t``
and is back at ``b`` shows that the offset lies between ``t - b`` and ``t - a``. The shortest
round trip has the smallest error. Two clocks also drift apart, so the error grows with the time
between the round trip and the moment of interest.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import MigrationError, Operation
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Round trips of one estimate.
PROBES = 32
#: The largest drift between two clocks: the kernel slews each by up to 500 ppm (adjtimex).
DRIFT = 1e-3
#: Nanoseconds: CLOCK_MONOTONIC starts at 0 when a host boots, and none has run for 36 years.
MAX_OFFSET = 1 << 60
_TIME = struct.Struct("<q")


def identity() -> str:
    """The identity of this clock: processes with the same identity read the same CLOCK_MONOTONIC.

    Each boot of a machine, and each time namespace in it, has its own.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    space = Path("/proc/self/ns/time")
    return f"{boot} {space.readlink() if space.exists() else ''}".strip()


class RoundTrip(NamedTuple):
    """One round trip: begin and end by this clock, and the answer by the other one, nanoseconds."""

    begin: int
    answer: int
    end: int

    @property
    def ns(self) -> int:
        """How long it took."""
        return self.end - self.begin


class Offset(NamedTuple):
    """How far the other clock is ahead, in nanoseconds, and the error bound.

    Attributes:
        ns: to subtract from a time of the other clock.
        error_ns: upper bound of the error.
        same: both sides read the same clock.
    """

    ns: int = 0
    error_ns: int = 0
    same: bool = True


def send_offset(stream: MigrationStream, probes: Sequence[RoundTrip]) -> int:
    """Send the destination how far its clock is ahead; return that, in nanoseconds."""
    offset = estimate(probes, probes[-1].end).ns
    stream.send(Kind.PING, _TIME.pack(offset))
    return offset


def receive_offset(stream: MigrationStream) -> int:
    """Receive what `send_offset` sends: nanoseconds that this clock is ahead of the source's.

    Raises:
        MigrationError: another section arrived, or the source has disconnected.
    """
    kind, _count, payload = stream.receive()
    if kind is not Kind.PING or len(payload) != _TIME.size:
        raise MigrationError(
            Operation.STREAM, f"received {kind.name}, expected PING with the clocks' offset"
        )
    offset = int(_TIME.unpack(payload)[0])
    if abs(offset) > MAX_OFFSET:
        raise MigrationError(Operation.STREAM, f"clocks that differ by {offset / 1e9:g} s")
    return offset


def probe(
    stream: MigrationStream, count: int = PROBES, clock: Callable[[], int] = now
) -> list[RoundTrip]:
    """Request the time of the other side, ``count`` times; the other side calls `answer`.

    Raises:
        MigrationError: it does not answer, answers a time that no clock has, or has disconnected.
    """
    probes = []
    for _ in range(count):
        begin = clock()
        stream.send(Kind.PING)
        kind, _count, payload = stream.receive()
        end = clock()
        if kind is Kind.FAILED:
            raise MigrationError(Operation.DESTINATION, payload.decode(errors="replace"))
        if kind is not Kind.PONG or len(payload) != _TIME.size:
            raise MigrationError(
                Operation.STREAM, f"received {kind.name}, expected PONG with the time"
            )
        answered = int(_TIME.unpack(payload)[0])
        if abs(answered) > MAX_OFFSET:
            raise MigrationError(Operation.STREAM, f"a clock at {answered / 1e9:g} s")
        probes.append(RoundTrip(begin, answered, end))
    return probes


def answer(stream: MigrationStream, count: int = PROBES, clock: Callable[[], int] = now) -> None:
    """Answer ``count`` requests for the time.

    Raises:
        MigrationError: another section arrived, or the other side has disconnected.
    """
    for _ in range(count):
        kind, _count, _payload = stream.receive()
        at = clock()
        if kind is not Kind.PING:
            raise MigrationError(Operation.STREAM, f"received {kind.name}, expected PING")
        stream.send(Kind.PONG, _TIME.pack(at))


def estimate(probes: Iterable[RoundTrip], at: int) -> Offset:
    """The offset of the clocks at a moment, estimated from round trips around it.

    Args:
        probes: at least one round trip.
        at: the moment, in nanoseconds of this side's clock.
    """

    def error(sample: RoundTrip) -> float:
        away = max(sample.begin - at, at - sample.end, 0)
        return sample.ns / 2 + away * DRIFT

    best = min(probes, key=error)
    middle = (best.begin + best.end) // 2
    return Offset(best.answer - middle, int(error(best)) + 1, same=False)
