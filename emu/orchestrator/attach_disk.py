"""Whether the guest of `emu attach` may overwrite a disk: it must be all zeroes.

The disk is read through the VM's own device, before the guest boots, as firmware would: a second
connection would end a back-end that serves only one.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from devices import lifecycle
from devices.device import SharedMemory
from emu.errors import EmuError
from emu.strategies.split import Split
from emu.strategies.task import Stage, Task
from emu.strategies.timeline import Timeline
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.virtio.blk import SECTOR_SIZE
from vhost_user.virtqueue import RingAddresses
from vhost_user_conformance.back_end.disk_contents import DiskContentsError, check_disk
from vhost_user_conformance.peer.memory import Memory, TestRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.blk import VhostUserBlk
    from devices.notifiers import Edit
    from devices.procedure import Procedure


class _NoGuest:
    """Ignores edits: this process uses the ring's eventfds, so no notifiers are assigned."""

    def apply(self, edits: Sequence[Edit]) -> None:
        """See `emu.strategies.task.Committer`."""


def check_zeroes(disk: VhostUserBlk, timeout: float) -> None:
    """Read a disk through its first ring, in memory of its own, and stop the ring again.

    Args:
        disk: connected, and not set up by a driver yet.
        timeout: seconds for each reply, and for the reads that are in flight at once.

    Raises:
        EmuError: the disk holds data, or may hold data; the text names the remedy.
        VhostUserError: the back-end has failed.
    """
    size = disk.capacity(timeout=timeout) * SECTOR_SIZE
    guest_memory, features = disk.memory, disk.acked_features
    with closing(Memory()) as memory, closing(TestRing(memory, 0)) as ring:
        disk.memory = [SharedMemory(part.gpa, part.size, part.fd) for part in memory.regions]
        # Without EVENT_IDX each completion is called.
        disk.use_features(features & ~(1 << VIRTIO_RING_F_EVENT_IDX))
        disk.rings[0].take_eventfds(ring.kick_fd, ring.call_fd)
        disk.rings[0].set_up(RingAddresses(ring.size, ring.desc, ring.avail, ring.used))
        _drive(disk, lifecycle.start(disk), timeout)
        try:
            check_disk(ring, size, timeout)
        except DiskContentsError as error:
            raise EmuError(f"{disk.name}: {error}") from None
        _drive(disk, lifecycle.reset(disk), timeout)
    disk.use_features(features)
    disk.memory = guest_memory


def _drive(disk: VhostUserBlk, procedure: Procedure, timeout: float) -> None:
    task = Task(disk.name, disk.device_class, procedure)
    task.begin()
    Split().drive([task], Stage(_NoGuest(), Timeline(), timeout))
