"""What each message does: its reply, the device's state, and the descriptors that it brings."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from backends.limits import MAX_MEM_SLOTS
from backends.virtio_device import VirtioDevice
from tests.backends.rig import MIB, QEMU_ORDER, RamRegion, no_fd
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user.errors import Disconnected, Refused, VhostUserError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import (
    U64,
    Config,
    Inflight,
    LogArea,
    VringState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop
    from backends.ring import Ring
    from tests.backends.rig import Rig
    from vhost_user.payload_layout import Payload
    from vhost_user.virtqueue import Chain

RINGS = 3
PROTOCOL = 1 << VHOST_USER_F_PROTOCOL_FEATURES


class Configured(VirtioDevice):
    """A device with a configuration space, which does nothing with its requests."""

    def serve(self, ring: Ring, chain: Chain) -> int:
        """See `VirtioDevice.serve`."""
        return 0

    def config(self) -> bytes:
        """See `VirtioDevice.config`."""
        return b"config"


@pytest.fixture
def rig(loop: Loop, attach: Callable[..., Rig]) -> Rig:
    device = Configured("device", loop, RINGS)
    device.protocol_features |= ProtocolFeature.CONFIG | ProtocolFeature.INFLIGHT_SHMFD
    return attach(device)


def payload(rig: Rig, request: Request) -> Payload | None:
    reply = rig.call(request)
    assert reply is not None
    return reply.payload


def test_what_the_device_is(rig: Rig) -> None:
    assert payload(rig, Request(F.GET_FEATURES)) == U64(rig.backend.features)
    assert payload(rig, Request(F.GET_PROTOCOL_FEATURES)) == U64(int(rig.backend.protocol_features))
    assert payload(rig, Request(F.GET_QUEUE_NUM)) == U64(RINGS)
    assert payload(rig, Request(F.GET_MAX_MEM_SLOTS)) == U64(MAX_MEM_SLOTS)
    assert payload(rig, Request(F.GET_STATUS)) == U64(0)


def test_features_are_those_that_were_acknowledged(rig: Rig) -> None:
    """Without bit 30 all rings are enabled."""
    rig.set_features(rig.backend.features)
    assert rig.backend.guest.acked == rig.backend.features
    assert not any(ring.enabled for ring in rig.backend.rings)
    rig.set_features(rig.backend.features & ~PROTOCOL)
    assert all(ring.enabled for ring in rig.backend.rings)


def test_the_configuration_space_is_read_in_parts(rig: Rig) -> None:
    """Beyond 256 bytes the reply is empty."""
    asked = Config(3, 0, bytes(5))
    assert payload(rig, Request(F.GET_CONFIG, asked)) == asked._replace(data=b"fig\0\0")
    assert payload(rig, Request(F.GET_CONFIG, Config(250, 0, bytes(7)))) is None


@pytest.mark.parametrize(("size", "valid"), [(16, True), (3, False), (1 << 16, False)])
def test_a_ring_has_the_size_that_was_set(rig: Rig, size: int, valid: bool) -> None:
    if valid:
        rig.ack(F.SET_VRING_NUM, VringState(1, size))
        assert [ring.memory.size for ring in rig.backend.rings] == [0, size, 0]
    else:
        with pytest.raises(Refused):
            rig.ack(F.SET_VRING_NUM, VringState(1, size))


def test_a_base_has_16_bits(rig: Rig) -> None:
    rig.ack(F.SET_VRING_BASE, VringState(2, 0xFFFF))
    assert rig.backend.rings[2].base == 0xFFFF
    with pytest.raises(Refused):
        rig.ack(F.SET_VRING_BASE, VringState(2, 0x10000))


def test_each_slot_is_memory_of_its_own(rig: Rig) -> None:
    """And a slot that is not there cannot be removed."""
    rig.add_mem_reg(rig.low)
    rig.add_mem_reg(rig.high)
    assert len(rig.backend.memory.regions) == 2
    rig.rem_mem_reg(rig.low)
    assert [region.gpa for region in rig.backend.memory.regions] == [rig.high.region.gpa]
    with pytest.raises(Refused):
        rig.rem_mem_reg(rig.low)


def test_there_are_so_many_slots(rig: Rig) -> None:
    """The descriptor of one too many is closed."""
    slots = [RamRegion(MIB + 4096 * n, 4096, 0x7F00_0000 + 4096 * n) for n in range(MAX_MEM_SLOTS)]
    for slot in slots:
        rig.add_mem_reg(slot)
    before = open_fds()
    with pytest.raises(Refused):
        rig.add_mem_reg(rig.high)
    wait_until(lambda: open_fds() <= before, "it is closed")
    assert len(rig.backend.memory.regions) == MAX_MEM_SLOTS
    for slot in slots:
        slot.close()


@pytest.mark.parametrize(("rings", "size"), [(0, 16), (RINGS + 1, 16), (1, 3)])
def test_an_inflight_region_for_other_rings_is_refused(rig: Rig, rings: int, size: int) -> None:
    """The reply has a type of its own, so the connection is closed."""
    with pytest.raises(Disconnected):
        rig.call(Request(F.GET_INFLIGHT_FD, Inflight(0, 0, rings, size)))


def test_an_inflight_region_is_sent_and_taken_back(rig: Rig) -> None:
    """A region takes the place of the one before; no descriptor of that stays."""

    def exchange() -> Inflight:
        reply = rig.call(Request(F.GET_INFLIGHT_FD, Inflight(0, 0, RINGS, 16)))
        assert reply is not None
        region, (fd,) = reply.payload, reply.fds
        assert isinstance(region, Inflight)
        assert (region.num_queues, region.queue_size) == (RINGS, 16)
        assert os.fstat(fd).st_size == region.mmap_size
        rig.ack(F.SET_INFLIGHT_FD, region, (fd,))
        os.close(fd)
        return region

    region = exchange()
    assert rig.backend.guest.inflight_of(RINGS - 1) is not None
    first = len(open_fds())
    for _ in range(10):
        exchange()
    wait_until(lambda: len(open_fds()) <= first, "descriptors are closed")
    with pytest.raises(Refused):
        rig.ack(F.SET_INFLIGHT_FD, region._replace(queue_size=3), (rig.low.fd,))


def test_a_log_needs_its_file(rig: Rig) -> None:
    """And the file must be as large as the message says."""
    rig.set_mem_table()
    with pytest.raises(VhostUserError):
        rig.call(Request(F.SET_LOG_BASE, LogArea(rig.low.region.size * 2, 0), (rig.low.fd,)))


def test_notifiers_are_replaced_and_removed(rig: Rig) -> None:
    """The descriptors of before are closed."""
    before = open_fds()
    ring = rig.rings[0]
    for _ in range(3):
        rig.ack(F.SET_VRING_CALL, U64(0), (ring.call_fd,))
        rig.ack(F.SET_VRING_ERR, U64(0), (ring.err_fd,))
    for number in (F.SET_VRING_CALL, F.SET_VRING_ERR):
        rig.call(no_fd(number, 0))
    wait_until(lambda: open_fds() <= before, "they are closed")


@pytest.mark.parametrize("started", [True, False])
def test_a_kick_that_is_pending_when_its_descriptor_is_replaced_counts(
    rig: Rig, loop: Loop, *, started: bool
) -> None:
    """The loop finds the kick and the message together, and handles the message first."""
    rig.set_features()
    rig.set_mem_table()
    ring = rig.rings[0]
    ring.set_up(QEMU_ORDER)
    if started:
        ring.kick()
        wait_until(lambda: rig.backend.rings[0].active, "the ring is active")
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go_on.wait(TIMEOUT)

    loop.post(hold)
    assert held.wait(TIMEOUT)
    gpa, _ = rig.alloc(16)
    ring.driver.add([(gpa, 16)], [])
    ring.driver.publish()
    ring.kick()
    os.close(ring.kick_fd)
    ring.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
    rig.connection.submit([ring.requests()[F.SET_VRING_KICK]._replace(need_reply=True)])
    go_on.set()
    ring.wait()
