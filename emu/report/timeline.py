"""What ran when in a migration: spans of both sides, by device and phase, on one time axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from devices.procedure import Phase
    from emu.qmp.protocol import JsonObject
    from emu.strategies.timeline import Span

#: Nanoseconds: pauses up to this do not divide a phase.
_PAUSE_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One phase of one device, or of a whole class or VM, in or outside of the blackout.

    A phase that a device does in two parts, with other devices in between, has two rows.

    Attributes:
        phase: which.
        device_class: a name of `KINDS`, or ``vm`` if the phase belongs to no device.
        device: its name; empty if the phase belongs to no single device.
        start_ms, end_ms: first start and last end, from the begin of the source's pause.
        busy_ms: sum of the spans.
        count: messages or notifiers that the spans cover.
        in_blackout: whether the VM was down meanwhile.
    """

    phase: Phase
    device_class: str
    device: str
    start_ms: float
    end_ms: float
    busy_ms: float
    count: int
    in_blackout: bool

    def to_json(self) -> JsonObject:
        """An element of ``timeline``."""
        return {
            "phase": self.phase.value,
            "class": self.device_class,
            "device": self.device,
            "start_ms": round(self.start_ms, 4),
            "end_ms": round(self.end_ms, 4),
            "busy_ms": round(self.busy_ms, 4),
            "count": self.count,
            "in_blackout": self.in_blackout,
        }


def timeline_rows(
    source: Iterable[Span], destination: Iterable[Span], start_ns: int, offset_ns: int = 0
) -> list[TimelineRow]:
    """The spans of both sides, in the order of their starts.

    Args:
        source: spans by the source's clock.
        destination: spans by the destination's clock.
        start_ns: when the source began to pause the vCPUs, by its clock.
        offset_ns: how far the destination's clock is ahead.
    """
    rows = [*_rows(source, start_ns), *_rows(destination, start_ns + offset_ns)]
    return sorted(rows, key=lambda row: (row.start_ms, row.phase.order))


def _rows(spans: Iterable[Span], zero_ns: int) -> Iterable[TimelineRow]:
    groups: dict[tuple[Phase, str, str, bool], list[Span]] = {}
    for span in spans:
        key = (span.phase, span.device_class, span.device, span.in_blackout)
        groups.setdefault(key, []).append(span)
    for (phase, device_class, device, in_blackout), group in groups.items():
        for part in _parts(group):
            yield TimelineRow(
                phase,
                device_class,
                device,
                (min(span.start for span in part) - zero_ns) / 1e6,
                (max(span.end for span in part) - zero_ns) / 1e6,
                sum(span.end - span.start for span in part) / 1e6,
                sum(span.units for span in part),
                in_blackout,
            )


def _parts(group: Iterable[Span]) -> Iterable[list[Span]]:
    """The spans, divided where nothing is done for longer than the part has taken until then."""
    part: list[Span] = []
    end = 0
    for span in sorted(group, key=lambda span: span.start):
        if part and span.start - end > max(end - part[0].start, _PAUSE_NS):
            yield part
            part = []
        end = max(end, span.end) if part else span.end
        part.append(span)
    yield part
