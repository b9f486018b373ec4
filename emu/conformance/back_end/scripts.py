"""VU-B-23xx: how known front-ends order their messages, replayed against a back-end.

The specification fixes no order. Each front-end here is in use, so a back-end has to take all of
these. A script names messages; those that start a ring are sent for each ring of the smallest
device, ring after ring, or message after message where the front-end does it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.conformance.back_end.tester import BackEnd, F, u64, vring
from emu.conformance.case import BACK_END, Area
from emu.conformance.verdict import check
from emu.conformance.work import WORKS

if TYPE_CHECKING:
    from emu.conformance.memory import Memory, TestRing

area = Area("scripts", BACK_END, "no order is fixed: what this front-end does")


class Script(NamedTuple):
    """A front-end.

    Attributes:
        name: what people call it.
        rings: messages that start a ring, in order; ENABLE is sent when all rings have these.
        by_message: each of them goes to all rings before the next one does.
        enable_first: ENABLE comes before everything else that is said of a ring.
        disable: a ring is disabled before it is stopped.
        acks: messages for which an acknowledgement is asked, where REPLY_ACK was agreed on.
        without: protocol features that it does not agree to.
    """

    name: str
    rings: tuple[F, ...]
    by_message: bool = False
    enable_first: bool = False
    disable: bool = False
    acks: frozenset[F] = frozenset()
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


_QEMU_RING = (
    F.SET_VRING_NUM,
    F.SET_VRING_BASE,
    F.SET_VRING_ADDR,
    F.SET_VRING_KICK,
    F.SET_VRING_CALL,
)
_TABLE = frozenset({F.SET_MEM_TABLE})
#: Sources: QEMU's hw/virtio/vhost.c (vhost_dev_start, vhost_virtqueue_start) and what it sends
#: for a disk (enabled last) and a NIC (enabled first); d7dc0682f5 and 1ba9a52203 for the
#: acknowledgements of ENABLE, KICK and CALL. Of cloud-hypervisor it is known that NUM goes to all
#: rings first, of it and crosvm that rings are disabled before they are stopped. The rest of
#: their order, and virtio-user's, was not recorded from the programs yet: it is legal in any case.
SCRIPTS = (
    Script("QEMU 7.2 with a disk", _QEMU_RING, disable=True, acks=_TABLE),
    Script("QEMU 7.2 with a NIC", _QEMU_RING, enable_first=True, acks=_TABLE),
    Script(
        "QEMU 10 with a disk",
        _QEMU_RING,
        disable=True,
        acks=_TABLE | {F.SET_VRING_ENABLE},
    ),
    Script(
        "QEMU 11 with a disk",
        _QEMU_RING,
        disable=True,
        acks=_TABLE | {F.SET_VRING_ENABLE, F.SET_VRING_KICK, F.SET_VRING_CALL},
    ),
    # SET_VRING_NUM for all rings first: SPDK wants to know early how many there are
    Script(
        "cloud-hypervisor",
        (
            F.SET_VRING_NUM,
            F.SET_VRING_ADDR,
            F.SET_VRING_BASE,
            F.SET_VRING_CALL,
            F.SET_VRING_KICK,
        ),
        by_message=True,
        disable=True,
        acks=_TABLE | {F.SET_VRING_ENABLE},
    ),
    Script(
        "crosvm",
        (
            F.SET_VRING_NUM,
            F.SET_VRING_ADDR,
            F.SET_VRING_BASE,
            F.SET_VRING_CALL,
            F.SET_VRING_KICK,
        ),
        disable=True,
        acks=_TABLE,
    ),
    Script(
        "DPDK virtio-user",
        (
            F.SET_VRING_CALL,
            F.SET_VRING_NUM,
            F.SET_VRING_BASE,
            F.SET_VRING_ADDR,
            F.SET_VRING_KICK,
        ),
        acks=_TABLE,
    ),
    Script("a front-end without REPLY_ACK", _QEMU_RING, without=("REPLY_ACK",)),
)


class _Replay:
    """One back-end, one script."""

    def __init__(self, be: BackEnd, script: Script) -> None:
        self.be = be
        self.script = script
        be.agree(without=script.without, set_features=False)
        self.memory: Memory = be.memory(share=False)
        self.rings = [be.ring(self.memory, index) for index in range(WORKS[be.device].rings)]

    @property
    def working(self) -> TestRing:
        """The ring that takes requests."""
        return self.rings[self.be.work.ring]

    def say(self, number: F, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        if number in self.script.acks:
            self.be.accepted(number, payload, fds=fds)
        else:
            self.be.tell(number, payload, fds=fds)

    def start(self, bases: list[int]) -> None:
        if self.script.enable_first:
            self.enable(on=True)
        self.say(F.SET_FEATURES, u64(self.be.driver_features))
        self.say(F.SET_MEM_TABLE, self.memory.table, self.memory.fds)
        pairs = list(zip(self.rings, bases, strict=True))
        if self.script.by_message:
            steps = [(number, *pair) for number in self.script.rings for pair in pairs]
        else:
            steps = [(number, *pair) for pair in pairs for number in self.script.rings]
        for number, ring, base in steps:
            self.ring_message(number, ring, base)
        if not self.script.enable_first:
            self.enable(on=True)
        self.be.barrier()

    def ring_message(self, number: F, ring: TestRing, base: int) -> None:
        if number is F.SET_VRING_NUM:
            self.say(number, vring(ring.index, ring.size))
        elif number is F.SET_VRING_BASE:
            self.say(number, vring(ring.index, base))
        elif number is F.SET_VRING_ADDR:
            self.say(number, self.be.address(ring))
        else:
            fd = ring.kick_fd if number is F.SET_VRING_KICK else ring.call_fd
            self.say(number, u64(ring.index), (fd,))

    def enable(self, *, on: bool) -> None:
        for ring in self.rings:
            self.say(F.SET_VRING_ENABLE, vring(ring.index, int(on)))

    def stop(self) -> list[int]:
        if self.script.disable:
            self.enable(on=False)
        return [self.be.stop(ring) for ring in self.rings]


@area.each(2301, SCRIPTS, "A ring serves after the start of {}", works=True)
def starts(be: BackEnd, script: Script) -> None:
    replay = _Replay(be, script)
    replay.start([0] * len(replay.rings))
    be.serve(replay.working)


@area.each(2321, SCRIPTS, "Stop, and start again on the same connection, as {}", works=True)
def restarts(be: BackEnd, script: Script) -> None:
    replay = _Replay(be, script)
    replay.start([0] * len(replay.rings))
    for _ in range(3):
        be.serve(replay.working)
    bases = replay.stop()
    base = bases[be.work.ring]
    check(base == 3, "base 3 after 3 requests", f"base {base}")
    replay.start(bases)
    be.serve(replay.working)


@area.each(
    2341,
    SCRIPTS,
    "Logging is switched on while rings run, and they are stopped, as {} migrates",
    needs=("LOG_SHMFD",),
    works=True,
)
def migrates(be: BackEnd, script: Script) -> None:
    replay = _Replay(be, script)
    replay.start([0] * len(replay.rings))
    be.serve(replay.working)
    be.log(replay.memory)
    be.accepted(F.SET_FEATURES, u64(be.driver_features | be.features & 1 << 26))
    for ring in replay.rings:
        be.accepted(F.SET_VRING_ADDR, be.address(ring, log=True))
    be.serve(replay.working)
    base = replay.stop()[be.work.ring]
    check(base == 2, "base 2 after 2 requests", f"base {base}")
