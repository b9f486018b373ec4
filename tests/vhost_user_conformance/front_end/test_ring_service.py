"""The rings of a session: how they are configured, kicked, served and stopped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.front_end.guest import (
    AVAIL,
    BYTES,
    DATA,
    DESC,
    GPA,
    SIZE,
    USED,
    USER,
    Guest,
)
from vhost_user.payloads import (
    U64,
    VRING_NO_FD,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.device import Device, Entropy
from vhost_user_conformance.front_end.recording import F, Received, Recording
from vhost_user_conformance.front_end.ring import WRITE
from vhost_user_conformance.front_end.ring_service import PROTOCOL_BIT, RingService
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.peer.wire import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = MemoryRegion(GPA, BYTES, USER, 0)


class Served:
    """A service, and messages to it as a session passes them on."""

    def __init__(self, guest: Guest, script: Script, device: Device) -> None:
        self.guest = guest
        self.recording = Recording()
        self.service = RingService(script, device, self.recording)
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)

    def message(self, number: F, payload: bytes, *fds: int) -> None:
        """A message of the front-end."""
        at = len(self.recording.messages)
        self.recording.messages.append(
            Received(at, START, number, 1, payload, (), None, 0, False, at)
        )
        message = Message(number, 1, payload, fds)
        if number in (F.SET_MEM_TABLE, F.ADD_MEM_REG, F.REM_MEM_REG):
            self.service.share_memory(message)
        else:
            self.service.configure(message)

    def set_up(self, *, enabled: bool = True) -> None:
        """Memory and ring 0, without its first kick."""
        self.message(F.SET_MEM_TABLE, MemTable((REGION,)).pack(), self.guest.fd)
        self.message(F.SET_VRING_NUM, VringState(0, SIZE).pack())
        self.message(F.SET_VRING_BASE, VringState(0, 0).pack())
        address = VringAddr(0, 0, USER + DESC, USER + USED, USER + AVAIL, 0)
        self.message(F.SET_VRING_ADDR, address.pack())
        self.message(F.SET_VRING_CALL, U64(0).pack(), self.call)
        self.message(F.SET_VRING_KICK, U64(0).pack(), self.kick)
        self.message(F.SET_VRING_ENABLE, VringState(0, int(enabled)).pack())

    def kicked(self) -> None:
        """The kick descriptor is readable."""
        os.eventfd_write(self.kick, 1)
        ring = self.service.rings[0]
        assert ring.kick is not None
        self.service.kicked(ring, ring.kick, START)

    @property
    def used(self) -> int:
        """The used index."""
        return int.from_bytes(self.guest.read(USED + 2, 2), "little")

    def close(self) -> None:
        """Close everything."""
        self.service.close()
        os.close(self.kick)
        os.close(self.call)


@pytest.fixture
def served(guest: Guest, request: pytest.FixtureRequest) -> Iterator[Served]:
    """An entropy device that is served by the parameter's script."""
    made = Served(guest, getattr(request, "param", PLAIN), Entropy())
    guest.describe(0, GPA + DATA, 8, WRITE)
    guest.offer(0, 0)
    yield made
    made.close()


def test_requests_are_served_after_a_kick(served: Served) -> None:
    """All that are available, with a call."""
    served.set_up()
    assert (served.service.running, served.used) == (False, 0)
    served.kicked()
    assert (served.service.running, served.used) == (True, 2)
    assert os.eventfd_read(served.call)
    assert served.recording.kicks == {(START, 0)}
    assert len(served.recording.chains) == 2
    assert [
        (start.ring, start.base, start.available) for start in served.recording.ring_starts
    ] == [(0, 0, 2)]


def test_a_ring_that_is_disabled_is_served_when_it_is_enabled(served: Served) -> None:
    """The kick came before."""
    served.set_up(enabled=False)
    served.kicked()
    assert served.used == 0
    served.message(F.SET_VRING_ENABLE, VringState(0, 1).pack())
    assert served.used == 2


@pytest.mark.parametrize(("features", "enabled"), [(0, True), (PROTOCOL_BIT, False)])
def test_without_bit_30_all_rings_are_enabled(served: Served, features: int, enabled: bool) -> None:
    """Those that follow as well."""
    served.service.ring(0)
    served.service.negotiated(features)
    assert [served.service.ring(index).enabled for index in (0, 1)] == [enabled] * 2


@pytest.mark.parametrize("served", [Script("x", holds=True)], indirect=True)
def test_held_requests_are_completed_one_by_one(served: Served) -> None:
    """In the order in which they were taken; a stop completes the rest."""
    served.set_up()
    served.kicked()
    assert (served.used, len(served.recording.chains)) == (0, 2)
    assert served.service.complete_one()
    assert served.used == 1
    assert served.service.stop(0) == 2
    assert served.used == 2
    assert not served.service.complete_one()


@pytest.mark.parametrize("served", [Script("x", idle=True)], indirect=True)
def test_an_idle_script_serves_nothing(served: Served) -> None:
    """The kick is recorded."""
    served.set_up()
    served.kicked()
    assert (served.used, served.recording.chains) == (0, [])
    assert served.recording.kicks == {(START, 0)}


def test_requests_without_a_kick_are_known(served: Served) -> None:
    """With the index of the next one."""
    served.set_up()
    assert served.service.waiting() == {0: 0}
    served.kicked()
    assert served.service.waiting() == {}


def test_rings_that_the_device_does_not_handle_are_only_looked_at(guest: Guest) -> None:
    """Nothing is taken from them."""
    made = Served(guest, PLAIN, Device())
    guest.describe(0, GPA + DATA, 8)
    guest.offer(0)
    made.set_up()
    made.kicked()
    assert (made.used, len(made.recording.offered), made.recording.chains) == (0, 1, [])
    made.close()


def test_memory_slots_are_added_and_removed(served: Served) -> None:
    """Each change is in the recording."""
    slot = MemoryRegion(1 << 32, 4096, 1 << 33, 0)
    served.message(F.ADD_MEM_REG, SingleRegion(REGION).pack(), served.guest.fd)
    served.message(F.ADD_MEM_REG, SingleRegion(slot).pack(), served.guest.fd)
    served.message(F.REM_MEM_REG, SingleRegion(REGION).pack())
    assert [table.regions for table in served.recording.tables] == [
        (REGION,),
        (REGION, slot),
        (slot,),
    ]


def test_a_notifier_takes_the_place_of_the_one_before(served: Served) -> None:
    """Which is closed; without a descriptor there is none."""
    served.set_up()
    before = served.service.rings[0].kick
    assert before is not None
    served.message(F.SET_VRING_KICK, U64(VRING_NO_FD).pack())
    assert served.service.rings[0].kick is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(before)


def test_a_stop_closes_the_notifiers_and_returns_the_base(served: Served) -> None:
    """What is available is served first."""
    served.set_up()
    served.kicked()
    served.guest.offer(0, 0, 0)
    assert served.service.stop(0) == 3
    ring = served.service.rings[0]
    assert (ring.kick, ring.call) == (None, None)
    assert not served.service.running
