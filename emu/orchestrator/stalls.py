"""Which devices of a VM under load have stopped to complete requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.vm.vm import Vm

#: Seconds without a completion after which a device with requests in flight counts as stalled.
STALL = 5.0


class StallDetector:
    """Observes how the devices of a VM progress.

    Args:
        vm: runs, or will run.

    Attributes:
        PERIOD: seconds between two calls of `look`.
    """

    PERIOD = 1.0

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        #: Of each device: its completions, and when this number was seen first.
        self._seen = [(0, time.monotonic()) for _ in vm.spec.devices]

    def look(self) -> None:
        """Note which devices have completed something since the last call."""
        now = time.monotonic()
        paused = self._vm.machine.paused
        for index, device in enumerate(self._vm.guest.progress()):
            if paused or not device.outstanding or device.completed != self._seen[index][0]:
                self._seen[index] = device.completed, now

    def describe(self) -> str:
        """The stalled devices as a line of text, or an empty string.

        A device that has never completed anything is one of them at once.
        """
        self.look()
        now = time.monotonic()
        found = []
        for spec, device, (_, since) in zip(
            self._vm.spec.devices, self._vm.guest.progress(), self._seen, strict=True
        ):
            if not device.outstanding:
                continue
            if not device.completed:
                found.append(f"{spec.name}: none of {device.outstanding} requests is completed")
            elif now - since >= STALL:
                found.append(
                    f"{spec.name}: no request is completed for {now - since:.0f} s, with "
                    f"{device.outstanding} in flight"
                )
        return "; ".join(found)
