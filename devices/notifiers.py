"""Notifiers: eventfds for a guest's notifications and for interrupts; and edits of them.

A *host notifier* is an ioeventfd: a guest's write to a ring's notify address becomes a signal on
the ring's kick eventfd. A *guest notifier* is an irqfd: a signal on the ring's call eventfd becomes
an interrupt. The terms are QEMU's.
"""

from __future__ import annotations

from typing import NamedTuple

#: `Ioeventfd.datamatch` of one that takes any value.
ANY_VALUE = -1
#: Bytes of the write to a ring's notify address.
NOTIFY_BYTES = 4


class Ioeventfd(NamedTuple):
    """A guest's write becomes a signal. The order is that of QEMU's list of all ioeventfds.

    Attributes:
        address: guest-physical address.
        size: bytes of the write that matches: 1, 2, 4, 8, or 0 for any.
        datamatch: the only value that matches, or `ANY_VALUE`.
        fd: the eventfd that is signalled.
        owner: the ring that it is for, such as ``blk3 ring 2``; for messages.
    """

    address: int
    size: int
    datamatch: int
    fd: int
    owner: str = ""

    def __str__(self) -> str:
        match = "" if self.datamatch == ANY_VALUE else f" = {self.datamatch}"
        return f"the ioeventfd at {self.address:#x}{match}"


class Irqfd(NamedTuple):
    """A signal on ``fd`` becomes the interrupt ``vector``, which is unique in the machine."""

    vector: int
    fd: int


class HostNotifier(NamedTuple):
    """An edit of the machine: assign or deassign a ring's ioeventfd.

    Attributes:
        assign: True to assign it, False to deassign it.
        device: name of the device.
        device_class: ``blk``, ``net`` or ``rng``.
        ring: index of the vring.
        ioeventfd: from the ring's notify address to its kick eventfd.
    """

    assign: bool
    device: str
    device_class: str
    ring: int
    ioeventfd: Ioeventfd


class GuestNotifier(NamedTuple):
    """An edit of the machine: assign or deassign a ring's irqfd.

    Attributes:
        assign: True to assign it, False to deassign it.
        device: name of the device.
        device_class: ``blk``, ``net`` or ``rng``.
        ring: index of the vring.
        irqfd: from the ring's call eventfd to its interrupt vector.
    """

    assign: bool
    device: str
    device_class: str
    ring: int
    irqfd: Irqfd


Edit = HostNotifier | GuestNotifier
