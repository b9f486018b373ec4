"""The timing of a migration: spans of the phases, and the marks that bound the downtime."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from devices.procedure import Phase
from emu.trace_events import MARK, PHASE_BEGIN, PHASE_END

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.qmp.protocol import JsonObject
    from vhost_user.tracing import TraceEvent

now = time.monotonic_ns


class Span(NamedTuple):
    """An interval of work on a device or on the VM.

    Attributes:
        device_class: ``blk``, ``net``, ``rng``, or ``vm`` if the work belongs to no device.
        device: its name, or the empty string.
        ring: index of the ring, or None for a whole device.
        phase: the phase of the migration.
        start, end: CLOCK_MONOTONIC nanoseconds.
        units: the number of rings or edits that it covers.
        in_blackout: whether the VM was down meanwhile.
    """

    device_class: str
    device: str
    ring: int | None
    phase: Phase
    start: int
    end: int
    units: int
    in_blackout: bool

    @property
    def side(self) -> str:
        """The side of the migration, ``src`` or ``dst``."""
        return self.phase.side

    def to_json(self) -> list[str | int | None]:
        """The row in QMP responses and in the migration stream: the side, then the fields."""
        return [self.side, *self]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> Self:
        """The reverse of `to_json`.

        Raises:
            ValueError, TypeError: the row is invalid.
        """
        _side, device_class, device, ring, phase, start, end, units, in_blackout = row
        return cls(
            str(device_class),
            str(device),
            None if ring is None else int(ring),
            Phase(phase),
            int(start),
            int(end),
            int(units),
            bool(in_blackout),
        )


class OpenSpan(NamedTuple):
    """A piece of work that has begun; the fields are as of `Span`."""

    phase: Phase
    device_class: str
    device: str
    ring: int | None
    start: int


class Timeline:
    """Collects spans and marks of one process. Several threads may add to it at once.

    Attributes:
        in_blackout: set by the migration; copied into every span.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.marks: dict[str, int] = {}
        self.in_blackout = False

    def to_json(self) -> JsonObject:
        """Spans and marks, for a monitor or the other side."""
        return {"spans": [span.to_json() for span in self.spans], "marks": dict(self.marks)}

    def mark(self, name: str, at: int | None = None) -> int:
        """Record a time under a name, and return it.

        Args:
            name: of the mark.
            at: CLOCK_MONOTONIC nanoseconds; None for now.
        """
        at = self.marks[name] = now() if at is None else at
        if MARK.enabled:
            MARK.emit(mark=name, at_ns=at)
        return at

    def begin(
        self,
        phase: Phase,
        *,
        device_class: str = "vm",
        device: str = "",
        ring: int | None = None,
    ) -> OpenSpan:
        """Begin a span now, for `end`."""
        if PHASE_BEGIN.enabled:
            self._trace(PHASE_BEGIN, OpenSpan(phase, device_class, device, ring, 0))
        return OpenSpan(phase, device_class, device, ring, now())

    def end(self, begun: OpenSpan, *, units: int = 1, at: int | None = None) -> None:
        """Add a span that ends now, or at another time.

        Args:
            begun: result of `begin`; or the same of work that another process has measured.
            units: how many rings or edits it covers.
            at: CLOCK_MONOTONIC nanoseconds.
        """
        at = now() if at is None else at
        phase, device_class, device, ring, start = begun
        self.spans.append(
            Span(device_class, device, ring, phase, start, at, units, self.in_blackout)
        )
        if PHASE_END.enabled:
            self._trace(PHASE_END, begun, units=units, start_ns=start, us=(at - start) / 1000)

    def _trace(self, event: TraceEvent, span: OpenSpan, **more: float) -> None:
        event.emit(
            side=span.phase.side,
            phase=span.phase.value,
            device_class=span.device_class,
            device=span.device or None,
            ring=span.ring,
            in_blackout=self.in_blackout,
            **more,
        )

    @contextmanager
    def span(self, phase: Phase) -> Iterator[None]:
        """Add a span of the whole VM for the ``with`` block."""
        begun = self.begin(phase)
        try:
            yield
        finally:
            self.end(begun)


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Disable Python's cycle collector meanwhile: it may take as long as a whole blackout.

    The collector does not run just before either, as it would stop the guest's threads as well.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
