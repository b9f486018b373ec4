"""The guest's request log: how many were submitted and completed, and the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class RequestLog(NamedTuple):
    """Totals of all drivers since the boot, as guest memory has them.

    Attributes:
        requests: requests of all drivers that were submitted, without packets.
        completed: completions seen of requests that were outstanding.
        outstanding: requests submitted and not yet seen completed.
        lost: requests that are neither, and those overdue after a quiesce.
        duplicated: completions of requests that were not outstanding.
        corrupted: blocks and packets whose contents were not what they should be.
        errors: requests that the device answered with an error status.
        packets_sent, packets_received: numbered packets; each is received at most once.
        packets_lost: packets that were not received, and are no longer in flight.
        packets_duplicated: packets that were received more than once.
        packets_reordered: packets that were received after a later one of their flow.
        packets_corrupted: of ``corrupted``, those that were packets.
        probes_answered, probes_dropped: frames from outside that were, or could not be, answered.
        blk_interrupts, net_interrupts: interrupts that the drivers handled.
    """

    requests: int = 0
    completed: int = 0
    outstanding: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    errors: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    packets_duplicated: int = 0
    packets_reordered: int = 0
    packets_corrupted: int = 0
    probes_answered: int = 0
    probes_dropped: int = 0
    blk_interrupts: int = 0
    net_interrupts: int = 0

    @classmethod
    def total(cls, parts: Iterable[RequestLog]) -> RequestLog:
        """The sums over the drivers' parts."""
        return cls(*map(sum, zip(cls(), *parts, strict=True)))

    @property
    def intact(self) -> bool:
        """Whether nothing was lost, duplicated or corrupted; packets may be lost, as on a wire."""
        return not (
            self.lost
            or self.duplicated
            or self.corrupted
            or self.errors
            or self.packets_duplicated
            or self.packets_reordered
        )
