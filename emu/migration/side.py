"""The base class of source and destination, as the monitor of the VM's process uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from emu.strategies.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.qmp.protocol import JsonObject


class MigrationSide(ABC):
    """The source or the destination of one migration.

    Attributes:
        timeline: spans and marks of this side.
        commits_before: commits of the machine before this migration.
        lost: after a failure, the devices without a back-end, and the error of each.
        guest_gap_ns: the gap that the blackout made in the guest's heartbeat, at the side where the
            VM runs afterwards.
        awaits_vm: the VM has not arrived yet.
    """

    def __init__(self, commits_before: int) -> None:
        self.timeline = Timeline()
        self.commits_before = commits_before
        self.lost: Mapping[str, Exception] = {}
        self.guest_gap_ns = 0
        self.awaits_vm = False

    @abstractmethod
    def figures(self) -> JsonObject:
        """What x-timeline returns of this side besides spans, marks and commits."""

    def query(self, status: str, remaining: int) -> JsonObject:  # noqa: ARG002
        """What query-migrate returns of this side besides status and times.

        Args:
            status: QMP's status of the migration.
            remaining: bytes that were dirty when the last round had been sent.
        """
        return {}
