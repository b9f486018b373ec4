"""What the guest's request log was compared with: it depends on the devices and their back-ends."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Collection

    from emu.config.plan import MachinePlan


class Proof(StrEnum):
    """What the guest's request log is compared with, as the report says it."""

    BLOCKS = "all blocks read back by the guest"
    IMAGES = "the disk images"
    COUNTERS = "the back-ends' counters"


def compared(plan: MachinePlan, proofs: Collection[Proof]) -> list[str]:
    """The guest's request log, and what this VM has to compare it with and was compared.

    Args:
        plan: the VM and its back-ends.
        proofs: what was compared, if the VM has it (`Integrity.proofs`).
    """
    return ["the guest's request log", *(each.value for each in _possible(plan) if each in proofs)]


def complete(plan: MachinePlan, proofs: Collection[Proof]) -> bool:
    """Whether everything was compared that this VM has."""
    return all(each in proofs for each in _possible(plan))


def _possible(plan: MachinePlan) -> list[Proof]:
    classes = {group.device_class for group in plan.spec.groups}
    disks = [device for device in plan.spec.devices if KINDS[device.device_class].has_image]
    images = [
        device
        for device in disks
        if device.device_class not in plan.listening and not (plan.disk and device.number == 0)
    ]
    requests = {name for name in classes if "requests" in KINDS[name].counters}
    possible = {
        Proof.BLOCKS: bool(disks),
        Proof.IMAGES: bool(images),
        Proof.COUNTERS: bool(requests) and plan.counted,
    }
    return [proof for proof, has in possible.items() if has]
