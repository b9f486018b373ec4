"""Bounds on frames, and on what is between the NICs of a program."""
# ruff: noqa: D102, D103 - the table says what they try

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backends.stats import StatsReader
from backends.tap import open_tap
from tests.backends.bounds.lab import interrupts, tries
from tests.backends.namespace import Namespace, packet_socket
from tests.backends.nic import BROADCAST, HEADER, OUTSIDE, RX_HEADER, frame, mac
from tests.backends.rig import ALL_FEATURES, LOG_ALL, QEMU_ORDER
from tests.backends.served import Net
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.backends.bounds.lab import Lab
    from tests.backends.rig import Rig, RigRing

TAP = "emu-bound"
GET_FEATURES = Request(F.GET_FEATURES)


class Receiver:
    """The receive ring of a NIC's first pair.

    Args:
        rig: the front-end.
        ring: the ring, which has been set up.
        count: how many buffers the driver makes available.
        size: bytes of each.
    """

    def __init__(self, rig: Rig, ring: RigRing, count: int, size: int = 256) -> None:
        self._ring = ring
        self._buffers: dict[int, memoryview] = {}
        for _ in range(count):
            gpa, memory = rig.alloc(size)
            self._buffers[ring.driver.add([], [(gpa, size)])] = memory
        if ring.driver.publish():
            ring.kick()
        rig.call(GET_FEATURES)  # the ring is started when that is answered

    def receive(self) -> bytes:
        done = self._ring.wait()
        data = bytes(self._buffers.pop(done.head)[: done.written])
        assert data[: len(RX_HEADER)] == RX_HEADER
        return data[len(RX_HEADER) :]


def prepare(rig: Rig) -> Rig:
    rig.set_features()
    rig.set_mem_table()
    return rig


def add_frames(rig: Rig, ring: RigRing, frames: Sequence[bytes]) -> None:
    """Make frames available, without a kick."""
    gpa, memory = rig.alloc(sum(len(HEADER + each) for each in frames))
    at = 0
    for each in frames:
        data = HEADER + each
        memory[at : at + len(data)] = data
        ring.driver.add([(gpa + at, len(data))], [])
        at += len(data)
    ring.driver.publish()


def send(rig: Rig, ring: RigRing, frames: Sequence[bytes]) -> None:
    """Send frames, and wait until the device has taken all of them."""
    add_frames(rig, ring, frames)
    ring.kick()
    for _ in frames:
        ring.wait()


@tries("bytes of a frame")
def longest(lab: Lab, most: int) -> None:
    rig = prepare(lab.attach(lab.run(Net())))
    for ring in rig.rings[:2]:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    receiver = Receiver(rig, rig.rings[0], 2, 2 * most)
    for length in (most, most + 1):
        data = frame(BROADCAST, mac(1)).ljust(length - len(HEADER), b"x")
        send(rig, rig.rings[1], [data])
        if length == most:
            assert receiver.receive() == data
    send(rig, rig.rings[1], [frame(BROADCAST, mac(1), b"next")])
    assert receiver.receive() == frame(BROADCAST, mac(1), b"next")


@tries("polls between two reads of the sockets")
def checks(lab: Lab, most: int) -> None:
    """Twice as many rings are kicked at once, and each sends a frame to everybody.

    The uplink is a socket, and leads back to the program: its frames come when sockets are checked.
    """
    uplink = str(lab.folder / "uplink")
    options = ("--mode", "switch", "--uplink", uplink, "--uplink-peer", uplink)
    nets = lab.run(Net(), *options, "--num-queues", str(4 * most), devices=2)
    sender, other = prepare(lab.attach(nets, rings=4 * most)), prepare(lab.attach(nets, 1, 1))
    other.rings[0].set_up(QEMU_ORDER)
    other.rings[0].kick()
    receiver = Receiver(other, other.rings[0], 4 * most)
    rings = sender.rings[1::2]
    for ring in rings:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    frames = [frame(BROADCAST, mac(9), str(n).encode()) for n in range(2 * most)]
    # The rings are served in the order of their kicks, so none may be left of the set-up.
    for ring in rings:
        wait_until(lambda fd=ring.kick_fd: not readable([fd], 0), "the kick is taken")  # type: ignore[misc]
    sender.call(GET_FEATURES)
    with nets.stopped():
        for ring, each in zip(rings, frames, strict=True):
            add_frames(sender, ring, [each])
            ring.kick()
    first, second = frames[:most], frames[most:]
    assert [receiver.receive() for _ in range(4 * most)] == first + first + second + second


@tries("frames that wait for another thread")
def inbox(lab: Lab, most: int) -> None:
    """The thread of the receiver sleeps in a stop while the frames are sent."""
    options = ("--mode", "switch", "--cost-get-vring-base", "3s")
    nets = lab.run(Net(), *options, devices=2)
    sender, other = prepare(lab.attach(nets)), prepare(lab.attach(nets, 1))
    for ring in other.rings[:2]:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    other.call(GET_FEATURES)
    ring = lab.ring(sender, 1, 2 * most)
    stats = StatsReader(nets.stats)
    lab.stack.callback(stats.close)
    nets.mark()
    stop = Request(F.GET_VRING_BASE, VringState(1, 0))
    other.connection.submit([stop])
    assert other.connection.flush()
    wait_until(
        lambda: any(each.message == F.GET_VRING_BASE.name for each in nets.traced()),
        "the stop has begun",
    )
    send(sender, ring, [frame(BROADCAST, mac(1))] * (most + 1000))
    dropped = stats.per_device()[1]["packets_dropped"]
    assert not readable([other.connection.fileno()], 0), "the receiver sleeps no more"
    assert dropped == 1000
    assert readable([other.connection.fileno()], TIMEOUT)


@tries("frames from outside in one turn")
def outside(lab: Lab, most: int) -> None:
    """All frames are there when the program goes on; the driver is interrupted once a turn."""
    namespace = Namespace()
    lab.stack.callback(namespace.close)
    if namespace.refusal:
        pytest.skip(namespace.refusal)
    (fd,) = namespace.do(lambda: open_tap(TAP, 1))
    sock = lab.stack.enter_context(namespace.do(lambda: packet_socket(TAP)))
    nets = lab.run(Net(), "--tap-fd", str(fd), pass_fds=[fd])
    lab.stack.callback(os.close, fd)
    event_idx = 1 << VIRTIO_RING_F_EVENT_IDX
    rig = prepare(lab.attach(nets, features=ALL_FEATURES & ~LOG_ALL & ~event_idx))
    count = 3 * most + most // 8
    ring = lab.ring(rig, 0, 8 * most)
    gpa, _ = rig.alloc(2048)
    for _ in range(8 * most):
        ring.driver.add([], [(gpa, 2048)])
    ring.driver.publish()
    ring.kick()
    rig.call(GET_FEATURES)
    with nets.stopped():
        for _ in range(count):
            sock.send(frame(mac(1), OUTSIDE))
    assert interrupts(rig, ring, count) in (4, 5)  # the kernel may send a frame of its own


@tries("addresses in a table of the switch")
def addresses(lab: Lab, most: int) -> None:
    nets = lab.run(Net(), "--mode", "switch", devices=3)
    known = [b"\x02\x00" + number.to_bytes(4, "big") for number in range(1, most + 1)]
    sender, second, third = (prepare(lab.attach(nets, n)) for n in range(3))
    for rig, index in ((second, 1), (third, 0)):
        rig.rings[index].set_up(QEMU_ORDER)
        rig.rings[index].kick()
    receiver = Receiver(third, third.rings[0], 4)
    # The destination is the sender, so none of the frames goes to another port.
    send(sender, lab.ring(sender, 1, 2 * most), [frame(known[0], source) for source in known])
    # The first address of the second NIC is one too many.
    for to in (known[-1], known[1], known[0]):
        send(second, second.rings[1], [frame(to, mac(2), to)])
    assert receiver.receive() == frame(known[0], mac(2), known[0])
