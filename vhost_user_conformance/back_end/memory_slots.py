"""Memory that is shared slot by slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import MemoryRegion, SingleRegion
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import (
        Memory,
        Region,
        TestRing,
    )


FEATURE = "CONFIGURE_MEM_SLOTS"
REM = "VHOST_USER_REM_MEM_REG"
MAX = "VHOST_USER_GET_MAX_MEM_SLOTS"


def packed(region: MemoryRegion) -> bytes:
    """ADD_MEM_REG's and REM_MEM_REG's payload."""
    return SingleRegion(region).pack()


def add(be: BackEnd, region: Region) -> None:
    """ADD_MEM_REG, which must be accepted."""
    be.accepted(F.ADD_MEM_REG, packed(region.on_wire), fds=(region.fd,))


def remove(be: BackEnd, region: Region) -> None:
    """REM_MEM_REG, which must be accepted."""
    be.accepted(F.REM_MEM_REG, packed(region.on_wire))


def slotted(be: BackEnd, *sizes: int, added: bool = True, offset: int = 0) -> Memory:
    """Negotiate, and share memory of these regions, each in a slot."""
    be.negotiate(FEATURE)
    memory = be.memory(*sizes, share=False, offset=offset)
    if added:
        for region in memory.regions:
            add(be, region)
    return memory


def ring_in(be: BackEnd, memory: Memory, region: int = 0) -> TestRing:
    """A running ring in that region; buffers are in the first region."""
    ring = be.ring(memory, be.work.ring, region=region)
    be.start(ring)
    return ring


def slots(be: BackEnd) -> int:
    """The number of slots that it reports."""
    slots = be.ask_u64(F.GET_MAX_MEM_SLOTS)
    check(slots >= 1, "a slot or more", f"{slots}")
    return slots
