"""The page by which the guest in QEMU (`guest.c`) and the control run communicate."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError

if TYPE_CHECKING:
    from bench.qemu_baseline.guest_memory import MemoryPage

#: Its guest-physical address, which is its offset in QEMU's memory file as well.
ADDRESS = 0x200000
#: Offsets in the page: of the heartbeat, and of the words `asked` and `answered`.
BEATS = 64
_ASKED, _ANSWERED = 128, 132
_STATUS = struct.Struct("<7I")
_BOOTING, _READY, _FAILED = range(3)


class GuestStatus(NamedTuple):
    """What the guest has set up.

    Attributes:
        ready: all of its devices are set up, and each ring has completed a request.
        devices, rings: how many, without the control queues of NICs.
        vectors: how many rings have an MSI-X vector, control queues included.
        interrupts: how many it has taken; those that arrive together count as one.
        vcpus: how many have been started.
    """

    ready: bool
    devices: int
    rings: int
    vectors: int
    interrupts: int
    vcpus: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """vCPUs, devices and rings."""
        return self.vcpus, self.devices, self.rings


class GuestBoard:
    """The guest's page.

    Args:
        page: at `ADDRESS`.
    """

    def __init__(self, page: MemoryPage) -> None:
        self._page = page.bytes
        self._words = page.bytes.cast("I")
        self.beats = page.counter(BEATS)

    def status(self) -> GuestStatus:
        """Read it.

        Raises:
            EmuError: the guest has failed.
        """
        state, line, *counts = _STATUS.unpack_from(self._page)
        if state == _FAILED:
            raise EmuError(f"the guest in QEMU has failed at line {line} of guest.c")
        return GuestStatus(state == _READY, *counts)

    def ask(self) -> None:
        """Ask for a request on each ring of a disk, and for a frame on each one that transmits."""
        self._words[_ASKED // 4] += 1

    @property
    def answered(self) -> bool:
        """Whether all that was asked for is completed."""
        return self._words[_ASKED // 4] == self._words[_ANSWERED // 4]
