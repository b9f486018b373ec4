"""One ring of a virtio device at its front-end: where it is, its eventfds, and its state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.virtqueue import RingAddresses

#: The base of a split ring is an available index, which has 16 bits.
MAX_BASE = 0xFFFF


@dataclass(slots=True)
class Vring:
    """One ring of a device.

    Attributes:
        index: its number within the device.
        notify_address: guest physical address; a write to it kicks the ring.
        vector: the interrupt vector that its call eventfd raises.
        kick_fd, call_fd: the two eventfds.
        addresses: where it is; None until the driver has set it up.
        base: the next available index to process (vring base); valid while the ring is stopped.
        held: of the buffers before ``base``, how many its back-end has taken and will not return.
        started: it has been started at the back-end, and not stopped since.
        ran: it has been started before, so a kick may be pending in its eventfd.
        served: it has been started since the driver set it up.
        enabled: the driver has enabled it: a started ring that is disabled is not processed.
    """

    index: int
    notify_address: int
    vector: int
    kick_fd: int
    call_fd: int
    addresses: RingAddresses | None = None
    base: int = 0
    held: int = 0
    started: bool = False
    ran: bool = False
    served: bool = False
    enabled: bool = True

    def mark_started(self) -> None:
        """The back-end has started it."""
        self.started = self.ran = self.served = True

    def mark_stopped(self, base: int) -> None:
        """The back-end has stopped it at this base."""
        self.started = False
        self.base = base
        self.held = 0

    @property
    def base_elsewhere(self) -> int:
        """The base for another back-end, which takes the buffers again that this one holds."""
        return (self.base - self.held) & MAX_BASE

    def set_up(self, addresses: RingAddresses | None, base: int = 0) -> None:
        """The driver has set it up, or reset it (None); it starts at ``base``."""
        self.addresses = addresses
        self.base = base
        self.held = 0
        self.served = False

    def take_eventfds(self, kick_fd: int, call_fd: int) -> None:
        """Replace both eventfds by duplicates of these; the descriptors keep their numbers.

        Raises:
            OSError: one of the descriptors is not open.
        """
        os.dup2(kick_fd, self.kick_fd, inheritable=False)
        os.dup2(call_fd, self.call_fd, inheritable=False)
