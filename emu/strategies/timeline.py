"""What happened when: spans of the phases, and the marks between which the VM was down."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

now = time.monotonic_ns


class Span(NamedTuple):
    """One piece of work.

    Attributes:
        side: ``src`` or ``dst``.
        device_class: ``blk``, ``net``, or ``vm`` for what belongs to no device.
        device: its name, or the empty string.
        ring: index of the ring, or None for a whole device.
        phase: one of `devices.procedure.PHASES`, or another name for what is never in a blackout.
        start, end: CLOCK_MONOTONIC nanoseconds.
        units: how many (rings, edits) it covers.
        in_blackout: whether the VM was down meanwhile.
    """

    side: str
    device_class: str
    device: str
    ring: int | None
    phase: str
    start: int
    end: int
    units: int
    in_blackout: bool


class Timeline:
    """Collects the spans and marks of one side. Safe to be filled from several threads.

    Attributes:
        in_blackout: set by whoever runs the migration; every span is stamped with it.
    """

    def __init__(self, side: str) -> None:
        self.side = side
        self.spans: list[Span] = []
        self.marks: dict[str, int] = {}
        self.in_blackout = False

    def mark(self, name: str) -> int:
        """Note that something happened now, and return when that is."""
        at = self.marks[name] = now()
        return at

    def add(
        self,
        phase: str,
        start: int,
        *,
        device_class: str = "vm",
        device: str = "",
        ring: int | None = None,
        units: int = 1,
        end: int | None = None,
    ) -> int:
        """Add a span that ends now, or at another time, and return its end."""
        end = now() if end is None else end
        self.spans.append(
            Span(self.side, device_class, device, ring, phase, start, end, units, self.in_blackout)
        )
        return end

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        """A span of the whole VM around a block."""
        start = now()
        try:
            yield
        finally:
            self.add(phase, start)


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's cycle collector does not run meanwhile: it may take as long as a whole blackout.

    Nor does it run just before: it would stop the guest's threads as well.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
