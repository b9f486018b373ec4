"""What connects NICs: the switch and the uplink."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends import stats
from backends.control import ControlOptions
from backends.fabric import Fabric, Uplink
from backends.loop import Loop
from backends.net_device import NetDevice
from backends.server import DeviceServer, ServerError, listen
from tests.backends.nic import BROADCAST, OUTSIDE, Attach, Nic, frame, mac, nics
from tests.backends.rig import LOG_ALL, Rig
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.dirty_log import DirtyLog
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, LogArea, VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def second_loop() -> Iterator[Loop]:
    running = Loop("second")
    running.start()
    yield running
    running.stop()
    running.close()


@pytest.fixture(params=["one thread", "a thread each"])
def loops(request: pytest.FixtureRequest, loop: Loop, second_loop: Loop) -> list[Loop]:
    return [loop, loop, loop] if request.param == "one thread" else [loop, second_loop, loop]


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


@pytest.mark.parametrize("served", [0, 1])
def test_switch_sends_nothing_to_pairs_that_are_disabled(
    loops: list[Loop], attach: Attach, served: int
) -> None:
    """A guest enables one pair of two: it gets the frames of both."""
    a, b, _ = nics(loops, Fabric(switch=True), attach)
    other = b.rig.rings[2 * (1 - served)]
    b.rig.ack(F.SET_VRING_ENABLE, VringState(other.index, 0))
    b.refill(20, pair=served)
    for number in range(10):
        for pair in range(2):
            text = b"%d %d" % (number, pair)
            a.send(frame(BROADCAST, mac(1), text), pair=pair)
            assert b.receive(pair=served) == frame(BROADCAST, mac(1), text)


@pytest.mark.parametrize("stopped", [0, 1])
def test_frames_of_a_pair_that_is_stopped_are_dropped(
    loops: list[Loop], attach: Attach, stopped: int
) -> None:
    """In the other pair's ring they would be received after those that follow on their own."""
    a, b, _ = nics(loops, Fabric(switch=True), attach)
    for pair in range(2):
        b.refill(20, pair=pair)
    b.rig.rings[2 * stopped].stop()
    for number in range(10):
        for pair in (stopped, 1 - stopped):
            a.send(frame(BROADCAST, mac(1), b"%d %d" % (number, pair)), pair=pair)
        text = b"%d %d" % (number, 1 - stopped)
        assert b.receive(pair=1 - stopped) == frame(BROADCAST, mac(1), text)
    assert b.count(stats.PACKETS_DROPPED) == 10


@pytest.mark.parametrize("used", [False, True], ids=["buffers", "used-ring"])
def test_receiver_that_cannot_log_breaks_its_own_ring_only(
    loops: list[Loop], attach: Attach, used: bool
) -> None:
    """Its log came before its memory, and does not cover it."""
    log = DirtyLog.create(64)

    def attach_with_log(device: NetDevice) -> Rig:
        rig = attach(device)
        rig.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
        rig.features |= 0 if used else LOG_ALL
        return rig

    fabric = Fabric(switch=True)
    a, c = nics(loops[::2], fabric, attach)
    b = Nic(NetDevice("short", loops[1], 4, fabric), attach_with_log)
    b.rig.ack(F.SET_VRING_ADDR, b.rig.rings[0].addr(log=used))
    for one in (b, c):
        one.refill(4)
    first = frame(BROADCAST, mac(1), b"all")
    a.send(first)
    assert c.receive() == first
    assert readable([b.rig.rings[0].err_fd], TIMEOUT)
    assert not any(readable([ring.err_fd], 0) for ring in a.rig.rings)
    assert b.rig.get_base(2) == 0
    a.send(first)
    assert c.receive() == first
    log.close()


def test_switch_sends_nothing_back(loop: Loop, attach: Attach) -> None:
    a, b = nics([loop, loop], Fabric(switch=True), attach)
    a.refill(2)
    b.refill(2)
    a.send(frame(mac(9), mac(1)))
    b.receive()
    a.send(frame(mac(1), mac(1), b"to myself"))
    assert a.silent()
    assert b.silent()


def test_nic_without_a_front_end_drops(loop: Loop, attach: Attach, tmp_path: Path) -> None:
    fabric = Fabric(switch=True)
    absent = NetDevice("absent", loop, 2, fabric)
    path = str(tmp_path / "absent.sock")
    server = DeviceServer(absent, listen(path), ControlOptions())
    (present,) = nics([loop], fabric, attach)
    present.send(frame(BROADCAST, mac(1)))
    wait_until(lambda: absent.counters[stats.PACKETS_DROPPED], "the frame is dropped")
    assert absent.counters[stats.PACKETS_DROPPED] == 1
    assert loop.stop(TIMEOUT)
    server.close()


# Uplink


class Outside:
    """A program at the other end of the uplink."""

    def __init__(self, folder: Path, uplink: str) -> None:
        self.path = str(folder / "outside")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(TIMEOUT)
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


def test_loopback_replies_to_frames_from_outside(
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


def test_uplink_that_is_not_read_does_not_block(
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
