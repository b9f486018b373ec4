"""The network card and what connects it: loopback, switch, uplink."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends import stats
from backends.fabric import Fabric, Uplink
from backends.loop import Loop
from backends.net_device import NetDevice
from backends.server import ServerError
from tests.backends.rig import DEADLINE, Rig
from vhost_user.errors import Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, VringState

Attach = Callable[..., Rig]
HEADER = bytes(12)
RX_HEADER = bytes(10) + b"\x01\0"
BROADCAST = b"\xff" * 6
OUTSIDE = b"\x02\0\0\0\0\x99"


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(to: bytes, source: bytes, text: bytes = b"") -> bytes:
    return to + source + b"\x88\xb5" + text.ljust(46, b".")


class Nic:
    """A NIC with its front-end, and its frames as a driver would send and receive them."""

    def __init__(self, device: NetDevice, attach: Attach) -> None:
        self.device = device
        self.rig = attach(device).start()
        self._buffers: dict[tuple[int, int], memoryview] = {}

    def refill(self, count: int = 1, pair: int = 0, size: int = 2048) -> None:
        ring = self.rig.rings[2 * pair]
        for _ in range(count):
            gpa, memory = self.rig.alloc(size)
            self._buffers[pair, ring.add([], [(gpa, size)])] = memory

    def send(self, data: bytes, pair: int = 0, *, wait: bool = True) -> None:
        gpa, memory = self.rig.alloc(12 + len(data))
        memory[:] = HEADER + data
        ring = self.rig.rings[2 * pair + 1]
        ring.add([(gpa, 12), (gpa + 12, len(data))], [])
        if wait:
            ring.wait()

    def receive(self, pair: int = 0) -> bytes:
        done = self.rig.rings[2 * pair].wait()
        data = bytes(self._buffers.pop((pair, done.head))[: done.written])
        assert data[:12] == RX_HEADER
        return data[12:]

    def count(self, counter: int) -> int:
        return int(self.device.counters[counter])

    def silent(self, pair: int = 0) -> bool:
        return self.rig.rings[2 * pair].idle()


def nics(loops: list[Loop], fabric: Fabric, attach: Attach, rings: int = 4) -> list[Nic]:
    devices = [NetDevice(f"net{n}", loop, rings, fabric) for n, loop in enumerate(loops)]
    return [Nic(device, attach) for device in devices]


@pytest.fixture
def second_loop() -> Iterator[Loop]:
    running = Loop("second")
    running.start()
    yield running
    running.stop()
    running.close()


@pytest.fixture
def nic(loop: Loop, attach: Attach) -> Nic:
    return nics([loop], Fabric(switch=False), attach)[0]


@pytest.fixture(params=["one thread", "a thread each"])
def loops(request: pytest.FixtureRequest, loop: Loop, second_loop: Loop) -> list[Loop]:
    return [loop, loop, loop] if request.param == "one thread" else [loop, second_loop, loop]


# Loopback


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


def test_runt_is_an_error_and_no_frame(nic: Nic) -> None:
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


def test_base_of_the_receive_ring_counts_what_was_delivered(nic: Nic) -> None:
    nic.refill(5)
    for _ in range(3):
        nic.send(frame(mac(1), mac(2)), wait=False)
    for _ in range(3):
        nic.receive()
    assert [ring.stop() for ring in nic.rig.rings] == [3, 3, 0, 0]


def test_mtu(nic: Nic) -> None:
    nic.rig.ack(F.NET_SET_MTU, U64(9000))
    with pytest.raises(Refused):
        nic.rig.ack(F.NET_SET_MTU, U64(20))


def test_queue_num_counts_pairs(nic: Nic) -> None:
    assert nic.device.queue_num == 2
    offered = nic.rig.connection.offered_features
    assert offered >> 22 & 1, "multi-queue"
    assert not offered >> 15 & 1, "no mergeable buffers"


# Switch


def test_switch_learns(loops: list[Loop], attach: Attach) -> None:
    a, b, c = nics(loops, Fabric(switch=True), attach)
    for one in (a, b, c):
        one.refill(8)
    first = frame(mac(2), mac(1), b"who is 2")
    a.send(first)
    assert b.receive() == first
    assert c.receive() == first
    answer = frame(mac(1), mac(2), b"it is me")
    b.send(answer)
    assert a.receive() == answer
    again = frame(mac(2), mac(1), b"hello 2")
    a.send(again)
    assert b.receive() == again
    for one in (a, c):
        assert one.silent()
    for_all = frame(BROADCAST, mac(3), b"all")
    c.send(for_all)
    assert a.receive() == b.receive() == for_all


def test_switch_keeps_flows_in_order(loops: list[Loop], attach: Attach) -> None:
    a, b, _ = nics(loops, Fabric(switch=True), attach)
    b.refill(40, pair=1)
    b.refill(1)
    b.send(frame(mac(9), mac(2)))  # now its address is known
    for number in range(30):
        a.send(frame(mac(2), mac(1), b"%d" % number), pair=1, wait=False)
    for number in range(30):
        assert b.receive(pair=1) == frame(mac(2), mac(1), b"%d" % number)


def test_switch_sends_nothing_back(loop: Loop, attach: Attach) -> None:
    a, b = nics([loop, loop], Fabric(switch=True), attach)
    a.refill(2)
    b.refill(2)
    a.send(frame(mac(9), mac(1)))
    b.receive()
    a.send(frame(mac(1), mac(1), b"to myself"))
    assert a.silent()
    assert b.silent()


def test_nic_without_a_front_end_drops(loop: Loop, attach: Attach) -> None:
    fabric = Fabric(switch=True)
    absent = NetDevice("absent", loop, 2, fabric)
    (present,) = nics([loop], fabric, attach)
    present.send(frame(BROADCAST, mac(1)))
    end = time.monotonic() + DEADLINE
    while not absent.counters[stats.PACKETS_DROPPED]:
        assert time.monotonic() < end
    assert absent.counters[stats.PACKETS_DROPPED] == 1


# Uplink


class Outside:
    """Somebody at the other end of the uplink."""

    def __init__(self, folder: Path, uplink: str) -> None:
        self.path = str(folder / "outside")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(DEADLINE)
        self.sock.bind(self.path)
        self._uplink = uplink

    def send(self, data: bytes) -> None:
        self.sock.sendto(data, self._uplink)

    def receive(self) -> bytes:
        return self.sock.recv(65536)


@pytest.fixture
def uplink_path(tmp_path: Path) -> str:
    return str(tmp_path / "uplink")


@pytest.fixture
def outside(tmp_path: Path, uplink_path: str) -> Iterator[Outside]:
    made = Outside(tmp_path, uplink_path)
    yield made
    made.sock.close()


def with_uplink(
    loops: list[Loop], attach: Attach, path: str, *, switch: bool, peer: str | None = None
) -> tuple[list[Nic], Uplink]:
    fabric = Fabric(switch=switch)
    uplink: list[Uplink] = []
    loops[0].post(lambda: uplink.append(Uplink(fabric, loops[0], path, peer)))
    made = nics(loops, fabric, attach)
    return made, uplink[0]


def test_loopback_answers_what_came_from_outside(
    loop: Loop, second_loop: Loop, attach: Attach, outside: Outside, uplink_path: str
) -> None:
    loops = [loop, second_loop]
    (first, second), uplink = with_uplink(loops, attach, uplink_path, switch=False)
    first.refill(4)
    second.refill(4)
    outside.send(frame(BROADCAST, OUTSIDE, b"probe"))
    assert first.receive() == frame(BROADCAST, OUTSIDE, b"probe"), "the first NIC's"
    answer = frame(OUTSIDE, mac(1), b"here")
    first.send(answer)
    assert outside.receive() == answer
    inside = frame(mac(7), mac(1), b"mine")
    first.send(inside)
    assert first.receive() == inside, "the rest comes back"
    second.send(frame(mac(8), mac(2)))
    second.receive()
    outside.send(frame(mac(2), OUTSIDE, b"to the second"))
    assert b"to the second" in second.receive()
    loop.stop()
    uplink.close()
    assert not Path(uplink_path).exists()


def test_switch_reaches_outside(
    loop: Loop, attach: Attach, outside: Outside, uplink_path: str
) -> None:
    (a, b), uplink = with_uplink([loop, loop], attach, uplink_path, switch=True, peer=outside.path)
    a.refill(4)
    b.refill(4)
    announced = frame(BROADCAST, mac(1), b"first")
    a.send(announced)
    assert outside.receive() == announced
    assert b.receive() == announced
    reply = frame(mac(1), OUTSIDE, b"reply")
    outside.send(reply)
    assert a.receive() == reply
    b.send(frame(OUTSIDE, mac(2), b"direct"))
    assert b"direct" in outside.receive()
    assert a.silent()
    loop.stop()
    uplink.close()


def test_rarp_announces_the_address(
    loop: Loop, attach: Attach, outside: Outside, uplink_path: str
) -> None:
    (nic,), uplink = with_uplink([loop], attach, uplink_path, switch=False, peer=outside.path)
    nic.rig.ack(F.SEND_RARP, U64(int.from_bytes(mac(5) + bytes(2), "little")))
    data = outside.receive()
    assert data[:14] == BROADCAST + mac(5) + b"\x80\x35"
    assert len(data) == 60
    assert data[20:22] == b"\0\x03"
    assert data[22:28] == data[32:38] == mac(5)
    loop.stop()
    uplink.close()


def test_uplink_that_nobody_reads_does_not_block(
    loop: Loop, attach: Attach, outside: Outside, uplink_path: str
) -> None:
    (nic,), uplink = with_uplink([loop], attach, uplink_path, switch=True, peer=outside.path)
    for _ in range(600):
        nic.send(frame(BROADCAST, mac(1), b"x" * 1400))
    assert nic.count(stats.PACKETS_DROPPED) > 0
    loop.stop()
    uplink.close()


def test_uplink_path_in_use(loop: Loop, outside: Outside) -> None:
    with pytest.raises(ServerError, match="in use"):
        Uplink(Fabric(switch=True), loop, outside.path)
    with pytest.raises(ServerError, match="107"):
        Uplink(Fabric(switch=True), loop, "/tmp/" + "x" * 120)
