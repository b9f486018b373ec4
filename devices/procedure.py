"""What a device's stop and start are made of: steps that a scheduler answers.

A *procedure* is a generator. It yields a step, and is resumed with the answer to it; it never
touches a socket, a lock or the machine. A *strategy* (`emu.strategies.registry`) drives the
procedures of all devices: whether one after the other, from a pool, or all in flight at once is
the strategy's affair alone. So the order of a device's own steps is written once, and every
strategy runs the same one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from vhost_user.messages import Reply, Request

if TYPE_CHECKING:
    from vhost_user.frontend import FrontendConnection
    from vhost_user.session import Message

#: The phases of a migration's blackout, in order: in tables, in JSON and in traces.
PHASES = (
    "src.pause_vcpus",
    "src.get_vring_base",
    "src.disable_guest_notify",
    "src.disable_host_notify",
    "src.final_ram",
    "src.device_state",
    "dst.load_state",
    "dst.set_mem_table",
    "dst.enable_host_notify",
    "dst.enable_guest_notify",
    "dst.start_vrings",
    "dst.resume_vcpus",
)


class HostNotifier(NamedTuple):
    """An edit of the machine: the ioeventfd that turns a doorbell write into a kick.

    Attributes:
        assign: True to assign it, False to take it away.
        device: name of the device.
        device_class: ``blk`` or ``net``.
        ring: index of the vring.
        address: guest physical address of the ring's doorbell.
        fd: the kick eventfd.
    """

    assign: bool
    device: str
    device_class: str
    ring: int
    address: int
    fd: int


class GuestNotifier(NamedTuple):
    """An edit of the machine: the irqfd that turns the back-end's call into an interrupt.

    Attributes:
        assign: True to assign it, False to take it away.
        device: name of the device.
        device_class: ``blk`` or ``net``.
        ring: index of the vring.
        vector: the interrupt vector, unique in the machine.
        fd: the call eventfd.
    """

    assign: bool
    device: str
    device_class: str
    ring: int
    vector: int
    fd: int


Edit = HostNotifier | GuestNotifier


class Ask(NamedTuple):
    """Send these messages on this connection; resume me with their replies, in order.

    Messages to which no reply is due give None at their place, so that the answer has the length
    of ``messages``.
    """

    phase: str
    connection: FrontendConnection
    messages: Sequence[Message]

    @classmethod
    def of(cls, phase: str, connection: FrontendConnection, requests: Iterable[Request]) -> Self:
        """An Ask whose messages are put together now, so that sending them is all that is left."""
        return cls(phase, connection, connection.prepare(requests))


class Change(NamedTuple):
    """Apply these edits to the machine; resume me when they are committed."""

    phase: str
    edits: Sequence[Edit]


class AwaitSwitchover(NamedTuple):
    """What follows depends on what guest memory holds; resume me when it is final.

    A strategy that prepares the destination ahead drives procedures up to this step while the
    source still runs. The others start when the switch-over has been made, and go straight on.
    """


Step = Ask | Change | AwaitSwitchover
Answer = Sequence[Reply | None] | None
Procedure = Generator[Step, Answer, None]
