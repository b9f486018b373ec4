"""The NIC: its rings, in loopback."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from backends import stats
from backends.control import ControlOptions
from backends.fabric import Fabric
from backends.net_device import NetDevice
from backends.stop_policy import StopKind, StopPolicy
from tests.backends.nic import RX_HEADER, Attach, Nic, frame, mac, nics
from tests.timeouts import TIMEOUT
from vhost_user.codec import HEADER, NEED_REPLY, VERSION
from vhost_user.errors import Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest, Request
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, Config, VringState
from vhost_user.readiness import readable
from vhost_user.virtio.net import VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS

if TYPE_CHECKING:
    from backends.loop import Loop

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def nic(loop: Loop, attach: Attach) -> Nic:
    return nics([loop], Fabric(switch=False), attach)[0]


def test_a_frame_comes_back_by_its_own_pair(nic: Nic) -> None:
    nic.refill(2, pair=0)
    nic.refill(2, pair=1)
    for pair in (1, 0, 1):
        data = frame(mac(1), mac(2), b"pair %d" % pair)
        nic.send(data, pair)
        assert nic.receive(pair) == data


def test_frames_keep_their_order(nic: Nic) -> None:
    nic.refill(40)
    for number in range(30):
        nic.send(frame(mac(1), mac(2), b"%d" % number), wait=False)
    for number in range(30):
        assert nic.receive() == frame(mac(1), mac(2), b"%d" % number)
    assert nic.count(stats.PACKETS_TX) == nic.count(stats.PACKETS_RX) == 30


def test_dropped_when_there_is_no_buffer(nic: Nic) -> None:
    nic.send(frame(mac(1), mac(2), b"lost"))
    nic.refill(1)
    nic.send(frame(mac(1), mac(2), b"seen"))
    assert b"seen" in nic.receive()
    nic.send(frame(mac(1), mac(2), b"lost"))
    assert nic.count(stats.PACKETS_DROPPED) == 2
    assert nic.count(stats.PACKETS_TX) == 3


def test_buffers_in_pieces_and_too_small(nic: Nic) -> None:
    rig = nic.rig
    gpa, memory = rig.alloc(128)
    rig.rings[0].add([], [(gpa, 12), (gpa + 12, 20), (gpa + 32, 96)])
    data = frame(mac(1), mac(2), b"scattered")
    nic.send(data)
    assert rig.rings[0].wait().written == 12 + len(data)
    assert bytes(memory[: 12 + len(data)]) == RX_HEADER + data
    rig.rings[0].add([], [(gpa, 30)])
    nic.send(data)
    assert rig.rings[0].wait().written == 0
    assert nic.count(stats.PACKETS_DROPPED) == 1


def test_a_runt_is_an_error(nic: Nic) -> None:
    nic.refill(1)
    nic.send(b"short")
    assert nic.silent()
    assert nic.count(stats.ERRORS) == 1


def test_disabled_transmit_ring_is_read_and_dropped(nic: Nic) -> None:
    nic.refill(2)
    nic.rig.ack(F.SET_VRING_ENABLE, VringState(1, 0))
    nic.send(frame(mac(1), mac(2), b"nowhere"))
    assert nic.silent()
    nic.rig.ack(F.SET_VRING_ENABLE, VringState(1, 1))
    nic.send(frame(mac(1), mac(2), b"somewhere"))
    assert b"somewhere" in nic.receive()


def test_disabled_receive_ring_gets_nothing(nic: Nic) -> None:
    nic.refill(1)
    nic.rig.ack(F.SET_VRING_ENABLE, VringState(0, 0))
    nic.send(frame(mac(1), mac(2)))
    assert nic.silent()
    assert nic.count(stats.PACKETS_DROPPED) == 1


def test_base_of_the_receive_ring_counts_delivered_frames(nic: Nic) -> None:
    nic.refill(5)
    for _ in range(3):
        nic.send(frame(mac(1), mac(2)), wait=False)
    for _ in range(3):
        nic.receive()
    assert [ring.stop() for ring in nic.rig.rings] == [3, 3, 0, 0]


def test_unpublished_frames_survive_new_addresses(nic: Nic, loop: Loop) -> None:
    """As when the dirty log is enabled in the turn in which frames come from outside."""
    nic.refill(3)
    nic.send(frame(mac(1), mac(2), b"first"))  # the ring has started
    assert b"first" in nic.receive()
    ring = nic.rig.backend.rings[0]
    done = threading.Event()

    def deliver_and_rebuild() -> None:
        nic.device.deliver(0, frame(mac(1), mac(2), b"held back"))
        assert ring.memory.addr is not None
        ring.set_addr(ring.memory.addr)
        nic.device.deliver(0, frame(mac(1), mac(2), b"after"))
        nic.device.publish()
        done.set()

    loop.post(deliver_and_rebuild)
    assert done.wait(TIMEOUT)
    assert b"held back" in nic.receive()
    assert b"after" in nic.receive()


@pytest.mark.parametrize("kind", list(StopKind))
def test_receive_ring_takes_no_frames_while_its_stop_waits(
    loop: Loop, attach: Attach, kind: StopKind
) -> None:
    options = ControlOptions(StopPolicy(kind, 200_000_000))
    nic = Nic(NetDevice("net", loop, 4, Fabric(switch=False)), partial(attach, options=options))
    nic.refill(3)
    nic.send(frame(mac(1), mac(2), b"before"))
    assert b"before" in nic.receive()
    nic.rig.connection.submit([Request(F.GET_VRING_BASE, VringState(0, 0))])
    assert not readable([nic.rig.connection.fileno()], 0.02)
    nic.send(frame(mac(1), mac(2), b"meanwhile"))
    assert nic.silent()
    assert nic.count(stats.PACKETS_DROPPED) == 1
    assert readable([nic.rig.connection.fileno()], TIMEOUT)
    assert nic.rig.connection.receive()[0].payload == VringState(0, 1)


def test_mtu(nic: Nic) -> None:
    nic.rig.ack(F.NET_SET_MTU, U64(9000))
    for mtu in (0, 20, 65536):
        with pytest.raises(Refused):
            nic.rig.ack(F.NET_SET_MTU, U64(mtu))


def test_longer_packets_than_the_mtu_do_not_pass(nic: Nic) -> None:
    """In either direction, once the driver knows it (VIRTIO_NET_F_MTU)."""
    nic.refill(5)
    long = frame(mac(1), mac(2)).ljust(14 + 1001, b"l")
    nic.send(long)
    assert nic.receive() == long
    nic.rig.ack(F.NET_SET_MTU, U64(1000))
    nic.send(long)
    nic.send(long[:-1])
    assert nic.receive() == long[:-1]
    assert nic.count(stats.ERRORS) == 1, "an error of the driver"
    nic.device.loop.post(partial(nic.device.deliver, 0, long))
    nic.device.loop.post(partial(nic.device.deliver, 0, long[:-1]))
    nic.device.loop.post(nic.device.publish)
    assert nic.receive() == long[:-1]
    assert nic.count(stats.PACKETS_DROPPED) == 1, "no error"
    nic.rig.set_features(nic.rig.features & ~(1 << VIRTIO_NET_F_MTU))
    nic.send(long)
    assert nic.receive() == long


def test_own_mtu(loop: Loop, attach: Attach) -> None:
    nic = Nic(NetDevice("net", loop, 4, Fabric(switch=False), mtu=1200), attach)
    nic.refill(2)
    long = frame(mac(1), mac(2)).ljust(14 + 1201, b"l")
    nic.send(long)
    nic.send(long[:-1])
    assert nic.receive() == long[:-1]
    with pytest.raises(Refused):
        nic.rig.ack(F.NET_SET_MTU, U64(1201))
    nic.rig.ack(F.NET_SET_MTU, U64(1000))
    nic.send(long[:-1])
    assert nic.silent()
    assert nic.count(stats.ERRORS) == 2


def config(nic: Nic, size: int = 12) -> bytes:
    reply = nic.rig.call(Request(F.GET_CONFIG, Config(0, 0, bytes(size))))
    assert reply is not None
    assert isinstance(reply.payload, Config)
    return reply.payload.data


def test_configuration_space(loop: Loop, attach: Attach) -> None:
    nic = Nic(NetDevice("net", loop, 4, Fabric(switch=False), mac=mac(9)), attach)
    for bit in (VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS):
        assert nic.rig.connection.offered_features >> bit & 1
    assert config(nic) == mac(9) + b"\0" + b"\0" + (1500).to_bytes(2, "little")
    assert nic.rig.backend.read_config(12, 244) == bytes(244), "zeroes after the last field"
    assert nic.rig.backend.read_config(12, 245) is None


def test_link_that_goes_down_is_reported(loop: Loop, attach: Attach) -> None:
    nic = Nic(NetDevice("net", loop, 4, Fabric(switch=False), mac=mac(9)), attach)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        nic.rig.ack(F.SET_BACKEND_REQ_FD, None, (theirs.fileno(),))
        for _ in range(2):
            loop.post(nic.device.set_link_down)
        assert readable([ours.fileno()], TIMEOUT)
        expected = HEADER.pack(BackendRequest.CONFIG_CHANGE_MSG, VERSION | NEED_REPLY, 0)
        assert ours.recv(100) == expected
        assert config(nic, 8)[6:] == b"\0\0"
        assert nic.device.queue_num == 2


def test_no_configuration_space_without_an_address(nic: Nic) -> None:
    """Front-ends such as QEMU have it themselves, and warn of a back-end that has one."""
    offered = nic.rig.connection.offered_features
    assert not offered >> VIRTIO_NET_F_MAC & 1
    assert not offered >> VIRTIO_NET_F_STATUS & 1
    agreed = nic.rig.connection.protocol_features
    assert not agreed & (ProtocolFeature.CONFIG | ProtocolFeature.BACKEND_REQ)


def test_queue_num_counts_pairs(nic: Nic) -> None:
    assert nic.device.queue_num == 2
    offered = nic.rig.connection.offered_features
    assert offered >> 22 & 1, "multi-queue"
    assert not offered >> 15 & 1, "no mergeable buffers"
