"""A recording of one session, which the cases judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import NEED_REPLY
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import VringAddr, VringState
from vhost_user_conformance.front_end.acts import MIGRATE, START
from vhost_user_conformance.model.verdict import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user.payloads import Inflight, MemoryRegion
    from vhost_user_conformance.front_end.descriptors import Descriptor
    from vhost_user_conformance.front_end.ring import Chain
    from vhost_user_conformance.peer.wire import Message

F = FrontendRequest
NAMES = {member.value: member.name for member in F}
#: These always have a reply, and QEMU sets need_reply whether REPLY_ACK was negotiated or not.
REGARDLESS = (F.IOTLB_MSG, F.POSTCOPY_LISTEN, F.POSTCOPY_END)
#: The messages that stop a ring.
STOPS = (F.GET_VRING_BASE, F.GET_VRING_BASE_SKIP_DRAIN)
RING_STATES = (F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ENABLE, *STOPS)
RING_FDS = (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR)


class Received(NamedTuple):
    """A message as the front-end sent it.

    Attributes:
        at: index of the message in the session.
        act: in whose course it came.
        id, flags, payload: of the message.
        fds: its descriptors.
        features: feature bits that were acknowledged before it, or None.
        protocol: protocol features that were acknowledged before it.
        followed: it requires a reply, and the next message came before the reply was sent.
        line: number of transcript lines up to and including this message.
    """

    at: int
    act: str
    id: int
    flags: int
    payload: bytes
    fds: tuple[Descriptor, ...]
    features: int | None
    protocol: int
    followed: bool
    line: int

    @property
    def name(self) -> str:
        """Name of the message."""
        return F(self.id).name if self.id in F._value2member_map_ else f"id {self.id}"

    @property
    def need_reply(self) -> bool:
        """Whether an acknowledgement is requested."""
        return bool(self.flags & NEED_REPLY)

    @property
    def u64(self) -> int:
        """The payload as a number."""
        return int.from_bytes(self.payload[:8], "little")

    @property
    def state(self) -> VringState:
        """The payload as a vring state; zeros where it is too short."""
        return VringState.unpack(self.payload[:8].ljust(8, b"\0"))

    @property
    def address(self) -> VringAddr:
        """The payload as a vring's addresses."""
        return VringAddr.unpack(self.payload[:40].ljust(40, b"\0"))

    @property
    def ring(self) -> int | None:
        """Index of the ring that it concerns, or None."""
        if self.id in RING_STATES:
            return self.state.ring
        if self.id == F.SET_VRING_ADDR:
            return self.address.ring
        return self.u64 & 0xFF if self.id in RING_FDS else None

    def __repr__(self) -> str:
        return f"{self.name} (message {self.at + 1}, at {self.act})"


class ReturnedBase(NamedTuple):
    """A base that the suite's back-end returned: index of the message, ring, and base."""

    at: int
    ring: int
    base: int


class RingStart(NamedTuple):
    """The base and the indices of a ring when it had a kick descriptor and was enabled.

    Attributes:
        at: index of the message.
        ring: index.
        base: of SET_VRING_BASE.
        used, available: the two indices in guest memory.
    """

    at: int
    ring: int
    base: int
    used: int
    available: int

    @property
    def waiting(self) -> bool:
        """Whether requests were available that had not been taken."""
        return self.base != self.available


class MemoryTable(NamedTuple):
    """The regions that were shared after a message, and those of them that cannot be mapped."""

    at: int
    regions: tuple[MemoryRegion, ...]
    unmapped: tuple[MemoryRegion, ...]


@dataclass
class Recording:
    """One session.

    Attributes:
        acts: acts that were done.
        undone: reason for each act that was not done.
        messages: that the front-end sent.
        chains: requests that were taken from its rings.
        flag_faults: invalid flags of available rings.
        offered: some of the requests in rings that the suite does not serve.
        bases: replies to messages that stop a ring.
        ring_starts: base and indices of each ring when it was started.
        regions: replies to GET_INFLIGHT_FD, each with the region's file.
        unmapped: indices of messages with a log or an inflight region that cannot be mapped.
        tables: guest memory after each change.
        kicks: (act, ring) of each kick.
        unkicked: rings with a request for which a kick was due and none came.
        left: the front-end closed the connection before it was asked to end.
        ended: exit description of a program that ended unasked, or "".
        crashed: the program was ended by a signal that the suite did not send.
        marks: what the script's reactions did: (index of the next message, what).
        channel: replies on the back-end channel.
        channel_files: identities of the descriptors that came with them.
        reconnected: the front-end connected again after the connection was closed.
        second: the session after the reconnection, or with the destination of a migration, where
            the script plays one.
        open_files: number of files the program has open after each CONT and RESET.
        transcript: of the connection.
    """

    acts: list[str] = field(default_factory=list)
    undone: dict[str, str] = field(default_factory=dict)
    messages: list[Received] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    flag_faults: set[str] = field(default_factory=set)
    offered: list[Chain] = field(default_factory=list)
    bases: list[ReturnedBase] = field(default_factory=list)
    ring_starts: list[RingStart] = field(default_factory=list)
    regions: list[tuple[Inflight, Descriptor]] = field(default_factory=list)
    tables: list[MemoryTable] = field(default_factory=list)
    unmapped: set[int] = field(default_factory=set)
    kicks: set[tuple[str, int]] = field(default_factory=set)
    unkicked: set[int] = field(default_factory=set)
    left: bool = False
    ended: str = ""
    crashed: bool = False
    marks: list[tuple[int, str]] = field(default_factory=list)
    channel: dict[str, Message | str] = field(default_factory=dict)
    channel_files: dict[str, list[str]] = field(default_factory=dict)
    reconnected: bool = False
    second: Recording | None = None
    open_files: list[int] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    def of(self, *numbers: int, act: str = "") -> list[Received]:
        """The messages with these ids, in order; with ``act``, of this act only."""
        return [
            each for each in self.messages if each.id in numbers and (not act or each.act == act)
        ]

    def some(self, *numbers: int, act: str = "") -> list[Received]:
        """As `of`, but at least one message.

        Raises:
            Unsupported: there is none.
        """
        found = self.of(*numbers, act=act)
        if not found:
            names = " or ".join(F(number).name for number in numbers)
            unsupported(f"the front-end sent no {names}" + (f" at {act}" if act else ""))
        return found

    def kicked(self, act: str = "") -> set[int]:
        """Rings that were kicked; with ``act``, in this act only."""
        return {ring for at, ring in self.kicks if not act or at == act}

    def first(self, number: int) -> Received:
        """The first message with this id. Raises as `some`."""
        return self.some(number)[0]

    def after(self, message: Received) -> list[Received]:
        """The later messages."""
        return self.messages[message.at + 1 :]

    def since(self, mark: str) -> list[Received]:
        """The messages after a reaction set this mark.

        Raises:
            Unsupported: no reaction set it.
        """
        indices = [at for at, what in self.marks if what == mark]
        if not indices:
            unsupported(f"there was no occasion for it: {mark}")
        return self.messages[indices[0] :]

    def did(self, act: str) -> None:
        """Require that this act was done.

        Raises:
            Unsupported: it was not.
        """
        if act not in self.acts:
            unsupported(self.undone.get(act, f"the session did not reach {act!r}"))

    def arrived(self) -> Recording:
        """The session with the destination, where the VM was migrated. Raises as `did`."""
        self.did(MIGRATE)
        if self.second is None:
            unsupported("there was no session with the destination")
        return self.second

    def running_at_migration(self) -> set[int]:
        """Rings that ran when the migration began."""
        begun = [each.at for each in self.messages if each.act == MIGRATE]
        return self.running(begun[0] if begun else len(self.messages))

    def started(self) -> None:
        """Require that a ring was started. Raises as `did`."""
        self.did(START)

    def rings(self) -> dict[int, list[Received]]:
        """The messages that concern each ring."""
        found: dict[int, list[Received]] = {}
        for each in self.messages:
            if each.ring is not None:
                found.setdefault(each.ring, []).append(each)
        return found

    def running(self, at: int) -> set[int]:
        """Rings that were started, and not stopped or reset, when this message came."""
        rings: set[int] = set()
        for each in self.messages[:at]:
            if each.id == F.RESET_DEVICE or (each.id == F.SET_STATUS and not each.u64):
                rings.clear()
            elif each.ring is not None and each.id == F.SET_VRING_KICK:
                rings.add(each.ring)
            elif each.ring is not None and each.id in STOPS:
                rings.discard(each.ring)
        return rings

    def starts(self) -> Iterator[tuple[int, list[Received]]]:
        """For each start of a ring: its index, and its messages since the last stop."""
        for ring, messages in self.rings().items():
            so_far: list[Received] = []
            for each in messages:
                if each.id in STOPS:
                    so_far = []
                    continue
                so_far.append(each)
                if each.id == F.SET_VRING_KICK:
                    yield ring, list(so_far)

    def table_at(self, at: int) -> tuple[MemoryRegion, ...]:
        """The regions that were shared when a message came."""
        found: tuple[MemoryRegion, ...] = ()
        for table in self.tables:
            if table.at <= at:
                found = table.regions
        return found
