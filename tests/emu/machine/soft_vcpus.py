"""vCPUs of the soft accelerator, for the tests of their threads and of their scheduler."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from devices.notifiers import Irqfd
from emu.machine.accel import registry
from emu.machine.vcpus import VcpuSet
from vhost_user import eventfd

if TYPE_CHECKING:
    from emu.machine.accel.base import GuestProgram


class SoftVcpus:
    """vCPUs with one eventfd each; vector N interrupts vCPU N."""

    def __init__(self, count: int) -> None:
        self.accel = registry.create("soft", lambda *_: None)
        self.vcpus = VcpuSet(count, self.accel)
        self.fds = eventfd.default().create(count)
        self.accel.set_routes({index: index for index in range(count)})
        for index, fd in enumerate(self.fds):
            self.accel.change_irqfds((), [Irqfd(index, fd)])

    def run(self, guest: GuestProgram) -> None:
        """Start the threads, and resume the vCPUs."""
        self.vcpus.start(guest)
        self.vcpus.resume()

    def signal(self, vcpu: int) -> None:
        """Signal a vCPU's eventfd."""
        os.eventfd_write(self.fds[vcpu], 1)

    def close(self) -> None:
        """End the threads, and close the accelerator and the eventfds."""
        self.vcpus.stop()
        self.accel.close()
        eventfd.default().close(self.fds)
