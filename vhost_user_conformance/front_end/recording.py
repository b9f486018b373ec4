"""What a front-end did in one session, for the cases to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import NEED_REPLY
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import VringAddr, VringState
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.model.verdict import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user.payloads import Inflight, MemoryRegion
    from vhost_user_conformance.front_end.descriptors import Descriptor
    from vhost_user_conformance.front_end.ring import Chain
    from vhost_user_conformance.peer.wire import Message

F = FrontendRequest
RING_STATES = (F.SET_VRING_NUM, F.SET_VRING_BASE, F.GET_VRING_BASE, F.SET_VRING_ENABLE)
RING_FDS = (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR)


class Received(NamedTuple):
    """A message as the front-end sent it.

    Attributes:
        at: its place in the session.
        act: what was being done to the front-end.
        id, flags, payload: of the message.
        fds: what its descriptors were.
        features: feature bits that it had acknowledged before, or None.
        protocol: protocol features that it had acknowledged before.
        followed: it wants a reply, and the next one came before it had that.
        line: of the transcript, behind the one that shows it.
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
        """Of the message."""
        return F(self.id).name if self.id in F._value2member_map_ else f"id {self.id}"

    @property
    def need_reply(self) -> bool:
        """An acknowledgement is asked for."""
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
        """The ring that it is about, if it is about one."""
        if self.id in RING_STATES:
            return self.state.ring
        if self.id == F.SET_VRING_ADDR:
            return self.address.ring
        return self.u64 & 0xFF if self.id in RING_FDS else None

    def __repr__(self) -> str:
        return f"{self.name} (message {self.at + 1}, at {self.act})"


class Answered(NamedTuple):
    """A base that the suite's back-end gave: at which message, for which ring, and which."""

    at: int
    ring: int
    base: int


class Begun(NamedTuple):
    """Where a ring was to begin, and what lay in it when it was given its kick.

    Attributes:
        at: the message.
        ring: index.
        base: of SET_VRING_BASE.
        used, available: the two indices in guest memory.
    """

    at: int
    ring: int
    base: int
    used: int
    available: int


class Table(NamedTuple):
    """Guest memory as it was shared after a message, and which regions could be mapped."""

    at: int
    regions: tuple[MemoryRegion, ...]
    unmapped: tuple[MemoryRegion, ...]


@dataclass
class Recording:
    """One session.

    Attributes:
        acts: what was done to the front-end, as far as it could be.
        undone: why an act was not done.
        messages: what it sent.
        chains: requests that lay in its rings.
        flag_faults: what was wrong with the flags of available rings when they were looked at.
        offered: some of those that lie in rings on which the suite does no work.
        bases: replies to GET_VRING_BASE.
        begun: where rings began, and what lay in them.
        regions: replies to GET_INFLIGHT_FD, each with the region's file.
        unmapped: messages that gave a log or a region which cannot be mapped as it is to be used.
        tables: guest memory, each time that it changed.
        kicks: (act, ring) of each kick.
        unkicked: rings in which a request lay for which no kick came, though one was due.
        left: it closed the connection before it was told to end.
        ended: how its program ended while it had not been told to, or nothing.
        crashed: a signal ended it that the suite did not send.
        marks: what the script's reactions did: (place of the next message, what).
        channel: replies on the back-end channel.
        again: it connected anew after that.
        second: the session that then began, where the script asks for it.
        held: its open files after each time that it was told to continue, or to reset.
        transcript: of the wire.
    """

    acts: list[str] = field(default_factory=list)
    undone: dict[str, str] = field(default_factory=dict)
    messages: list[Received] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    flag_faults: set[str] = field(default_factory=set)
    offered: list[Chain] = field(default_factory=list)
    bases: list[Answered] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    regions: list[tuple[Inflight, Descriptor]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    unmapped: set[int] = field(default_factory=set)
    kicks: set[tuple[str, int]] = field(default_factory=set)
    unkicked: set[int] = field(default_factory=set)
    left: bool = False
    ended: str = ""
    crashed: bool = False
    marks: list[tuple[int, str]] = field(default_factory=list)
    channel: dict[str, Message | str] = field(default_factory=dict)
    again: bool = False
    second: Recording | None = None
    held: list[int] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    def of(self, *numbers: int, act: str = "") -> list[Received]:
        """The messages with these ids, in order; of one act only if it is named."""
        return [
            each for each in self.messages if each.id in numbers and (not act or each.act == act)
        ]

    def some(self, *numbers: int, act: str = "") -> list[Received]:
        """The same, of which there must be one.

        Raises:
            Unsupported: there is none.
        """
        found = self.of(*numbers, act=act)
        if not found:
            names = " or ".join(F(number).name for number in numbers)
            unsupported(f"the front-end sent no {names}" + (f" at {act}" if act else ""))
        return found

    def kicked(self, act: str = "") -> set[int]:
        """Rings whose kick was signalled; at one act only if it is named."""
        return {ring for at, ring in self.kicks if not act or at == act}

    def first(self, number: int) -> Received:
        """The first message with this id. Raises as `some`."""
        return self.some(number)[0]

    def after(self, message: Received) -> list[Received]:
        """What came later."""
        return self.messages[message.at + 1 :]

    def since(self, mark: str) -> list[Received]:
        """What came after a reaction did this.

        Raises:
            Unsupported: it had no occasion to.
        """
        places = [at for at, what in self.marks if what == mark]
        if not places:
            unsupported(f"there was no occasion for it: {mark}")
        return self.messages[places[0] :]

    def did(self, act: str) -> None:
        """Go on only if this has been done to the front-end.

        Raises:
            Unsupported: it has not.
        """
        if act not in self.acts:
            unsupported(self.undone.get(act, f"the session did not come to {act!r}"))

    def started(self) -> None:
        """Go on only if a ring was started. Raises as `did`."""
        self.did(START)

    def rings(self) -> dict[int, list[Received]]:
        """The messages about each ring."""
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
            elif each.ring is not None and each.id == F.GET_VRING_BASE:
                rings.discard(each.ring)
        return rings

    def starts(self) -> Iterator[tuple[int, list[Received]]]:
        """Each start of a ring: its messages since the one before was over, up to its kick.

        A ring that has stopped begins anew with its next message.
        """
        for ring, messages in self.rings().items():
            so_far: list[Received] = []
            for each in messages:
                if each.id == F.GET_VRING_BASE:
                    so_far = []
                    continue
                so_far.append(each)
                if each.id == F.SET_VRING_KICK:
                    yield ring, list(so_far)

    def table_at(self, at: int) -> tuple[MemoryRegion, ...]:
        """Guest memory as it was shared when a message came."""
        found: tuple[MemoryRegion, ...] = ()
        for table in self.tables:
            if table.at <= at:
                found = table.regions
        return found
