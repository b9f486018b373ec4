"""Compares the guest's request log with the back-ends' counters and the disk images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.guest.request_log import RequestLog
from emu.report.proofs import Proof
from emu.report.results import Integrity, integrity_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.orchestrator.vm_host import VmHost


class RequestAccounting:
    """Compares the guest's request log with the counters of the back-ends of all sides.

    Each `compare` covers the time since the one before, or since the guest booted.

    Args:
        sides: all sides of this run.
        elsewhere: requests that back-ends of another run had served before the VM migrated from
            there; None if unknown: then only the guest's own log is checked, as it is if other
            programs serve the disks, which have no counters.
    """

    def __init__(self, sides: Sequence[VmHost], elsewhere: int | None = 0) -> None:
        self._sides = sides
        counted = all(side.counted for side in sides)
        self._elsewhere = elsewhere if counted else None
        self._before = RequestLog()
        self._served_before = 0

    def compare(self, side: VmHost) -> Integrity:
        """Stop the load of the VM on ``side``, wait for its requests, and compare.

        The counters are left out if they count other requests (`VmHost.counters_match`).

        A request that a back-end served and the guest did not see completed counts as duplicated,
        and a request that the guest saw completed and no back-end served as lost.

        Raises:
            EmuError: requests stay outstanding, the guest cannot read back its disks, or requests
                failed because no space is left for the images.
        """
        side.quiesce()
        after, _gap = side.request_log()
        served = self._served() - self._served_before
        seen = after.completed - self._before.completed
        verified = side.verify()
        counted = self._elsewhere is not None and side.counters_match
        integrity = dataclasses.replace(
            integrity_between(self._before, after, verified.corrupted),
            proofs=_proofs(images=verified.all_images, counters=counted),
        )
        if integrity.errors and (shortage := side.shortage()):
            raise EmuError(f"{integrity.errors} requests failed: {shortage}")
        self._before, _gap = side.request_log()
        self._served_before = self._served()
        if not counted:
            return dataclasses.replace(integrity, lost=integrity.lost + after.outstanding)
        return dataclasses.replace(
            integrity,
            duplicated=max(integrity.duplicated, served - seen),
            lost=max(integrity.lost + after.outstanding, seen - served),
        )

    def _served(self) -> int:
        return (self._elsewhere or 0) + sum(side.backends.served() for side in self._sides)


def _proofs(*, images: bool, counters: bool) -> frozenset[Proof]:
    left_out = {Proof.IMAGES: not images, Proof.COUNTERS: not counters}
    return frozenset(proof for proof in Proof if not left_out.get(proof))
