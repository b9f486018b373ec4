"""The steps of a device's stop and start.

A *procedure* is a generator. It yields a step, and is resumed with the answer to it; it never
uses a socket, a lock or the machine. A *strategy* (`emu.strategies.registry`) drives the
procedures of all devices: one after the other, from a pool of threads, or with all requests in
flight at once. So the order of a device's steps is written once, for all strategies.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from vhost_user.messages import Reply, Request

if TYPE_CHECKING:
    from devices.notifiers import Edit
    from vhost_user.frontend import FrontendConnection
    from vhost_user.prepared import Batch

#: The two sides of a migration: source and destination.
Side = Literal["src", "dst"]


class Phase(StrEnum):
    """The phase that a step belongs to. The values are the names in tables, JSON and traces.

    The first thirteen are the phases of a migration's blackout, in order. A device that is stopped
    or started without a migration takes the same steps, under the same names.
    """

    PAUSE_VCPUS = "src.pause_vcpus"
    DRAIN_REQUESTS = "src.drain_requests"
    GET_VRING_BASE = "src.get_vring_base"
    DISABLE_GUEST_NOTIFY = "src.disable_guest_notify"
    DISABLE_HOST_NOTIFY = "src.disable_host_notify"
    FINAL_RAM = "src.final_ram"
    DEVICE_STATE = "src.device_state"
    LOAD_STATE = "dst.load_state"
    SET_MEM_TABLE = "dst.set_mem_table"
    ENABLE_HOST_NOTIFY = "dst.enable_host_notify"
    ENABLE_GUEST_NOTIFY = "dst.enable_guest_notify"
    START_VRINGS = "dst.start_vrings"
    RESUME_VCPUS = "dst.resume_vcpus"
    DIRTY_LOG = "precopy.dirty_log"
    PROBE = "precopy.probe"

    @property
    def side(self) -> str:
        """``src`` or ``dst``; ``precopy`` for a phase that is never part of a blackout."""
        return self.value.partition(".")[0]

    @property
    def step(self) -> str:
        """The name without the side."""
        return self.value.partition(".")[2]

    @property
    def order(self) -> int:
        """Its position among the phases."""
        return _ORDER[self]


_ORDER = {phase: number for number, phase in enumerate(Phase)}


class Ask(NamedTuple):
    """Send these messages on this connection; resume with their replies, in order.

    The answer has the length of ``messages``, with None for each message that has no reply.
    """

    phase: Phase
    connection: FrontendConnection
    messages: Batch

    @classmethod
    def of(cls, phase: Phase, connection: FrontendConnection, requests: Iterable[Request]) -> Self:
        """An Ask with the requests encoded."""
        return cls(phase, connection, connection.prepare(requests))


class Change(NamedTuple):
    """Apply these edits to the machine; resume when they are committed."""

    phase: Phase
    edits: Sequence[Edit]


class AwaitSwitchover(NamedTuple):
    """The next steps depend on the contents of guest memory; resume when these are final.

    A strategy that prepares the destination drives procedures up to this step while the source
    still runs. The others start procedures after the switchover, and resume this step at once.
    """


Step = Ask | Change | AwaitSwitchover
Answer = Sequence[Reply | None] | None
Procedure = Generator[Step, Answer, None]
