"""Bounds on rings, chains and turns of the loop."""
# ruff: noqa: D102, D103 - the table says what they try

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.bounds.lab import signals, tries
from tests.backends.rig import ALL_FEATURES, LOG_ALL
from tests.backends.served import Blk, Rng
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, VringState
from vhost_user.readiness import readable
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_IN,
)
from vhost_user.virtqueue.layout import DESCRIPTOR_SIZE, F_NEXT

if TYPE_CHECKING:
    from tests.backends.bounds.lab import Lab
    from tests.backends.rig import Rig, RigRing

#: Without it the device interrupts each time that it publishes: once for each poll.
POLLS_ARE_SEEN = ALL_FEATURES & ~LOG_ALL & ~(1 << VIRTIO_RING_F_EVENT_IDX)
#: A type of request that a disk does not have: it completes at once.
UNKNOWN = 0x99


class Request:
    """A disk request of as many descriptors as it takes, with its header and status."""

    def __init__(self, rig: Rig, kind: int) -> None:
        self.gpa, self.data = rig.alloc(17)
        self.data[:] = REQUEST_HEADER.pack(kind, 0, 0) + b"\xff"

    def readable(self, count: int) -> list[tuple[int, int]]:
        return [(self.gpa, 16), *([(self.gpa, 1)] * (count - 1))]

    @property
    def writable(self) -> list[tuple[int, int]]:
        return [(self.gpa + 16, 1)]

    @property
    def status(self) -> int:
        return self.data[16]


def fails(ring: RigRing) -> None:
    """Wait until the ring has failed."""
    if ring.driver.publish():
        ring.kick()
    assert readable([ring.err_fd], TIMEOUT)


@tries("descriptors of a ring, and of a chain in it")
def chain(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    rig = lab.attach(disk)
    rig.set_features()
    rig.set_mem_table()
    with pytest.raises(VhostUserError, match="refused"):
        rig.ack(F.SET_VRING_NUM, VringState(0, 2 * most))
    request, ring = Request(rig, VIRTIO_BLK_T_FLUSH), lab.ring(rig, 0, most)
    ring.add(request.readable(most - 1), request.writable)
    ring.wait()
    assert request.status == VIRTIO_BLK_S_OK
    endless = lab.ring(rig, 1, most)
    endless.driver.add(request.readable(most), [])
    halves = endless.ram.bytes[: most * DESCRIPTOR_SIZE].cast("H")
    halves[8 * most - 2], halves[8 * most - 1] = F_NEXT, 0  # the last one leads to the first
    fails(endless)
    disk.logs(f"more than {most} descriptors, or a loop")


@tries("descriptors of an indirect table, if the ring has fewer")
def indirect(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    rig = lab.attach(disk).start()
    request, ring = Request(rig, VIRTIO_BLK_T_FLUSH), rig.rings[0]
    table = rig.alloc((most + 1) * DESCRIPTOR_SIZE)
    ring.driver.add(request.readable(most - 1), request.writable, table)
    ring.driver.publish()
    ring.kick()
    ring.wait()
    assert request.status == VIRTIO_BLK_S_OK
    ring.driver.add(request.readable(most), request.writable, table)
    fails(ring)
    disk.logs(f"an indirect table of {(most + 1) * DESCRIPTOR_SIZE} bytes")


@tries("requests of a ring in one poll")
def poll(lab: Lab, most: int) -> None:
    rig = lab.attach(lab.run(Blk()), features=POLLS_ARE_SEEN)
    rig.set_features()
    rig.set_mem_table()
    request, ring = Request(rig, UNKNOWN), lab.ring(rig, 0, 16 * most)
    for _ in range(4 * most):
        ring.driver.add(request.readable(1), request.writable)
    assert signals(rig, ring, 4 * most) == 4
    assert request.status == VIRTIO_BLK_S_UNSUPP


@tries("requests of a ring in one poll, by a compiled function")
def compiled_poll(lab: Lab, most: int) -> None:
    rig = lab.attach(lab.run(Blk()), features=POLLS_ARE_SEEN)
    rig.set_features()
    rig.set_mem_table()
    ring, (gpa, data) = lab.ring(rig, 0, 16 * most), rig.alloc(1024)
    data[:16] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, 0)
    for _ in range(3 * most):
        ring.driver.add([(gpa, 16)], [(gpa + 512, 512), (gpa + 16, 1)])
    assert signals(rig, ring, 3 * most) == 3


@tries("bytes of these requests")
def compiled_bytes(lab: Lab, most: int) -> None:
    rig = lab.attach(lab.run(Blk()), features=POLLS_ARE_SEEN)
    rig.set_features()
    rig.set_mem_table()
    each = 128 << 10
    ring, (gpa, data) = lab.ring(rig, 0, 64), rig.alloc(each + 4096)
    data[:16] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, 0)
    for _ in range(2 * most // each):
        ring.driver.add([(gpa, 16)], [(gpa + 4096, each), (gpa + 16, 1)])
    assert signals(rig, ring, 2 * most // each) == 2


@tries("kicks without a request, besides one for each descriptor")
def idle_kicks(lab: Lab, most: int) -> None:
    """The kick is readable for ever, for all that the program knows."""
    disk = lab.run(Blk())
    rig = lab.attach(disk)
    rig.set_features()
    rig.set_mem_table()
    request, ring, size = Request(rig, UNKNOWN), lab.ring(rig, 0, 64), 64
    kick = os.eventfd(0, os.EFD_SEMAPHORE)
    lab.stack.callback(os.close, kick)
    os.eventfd_write(kick, 2 * most)
    rig.ack(F.SET_VRING_KICK, U64(0), (kick,))
    disk.logs("is polled: its kicks bring no requests")
    (count,) = re.findall(r"eventfd-count:\s*(\w+)", Path(f"/proc/self/fdinfo/{kick}").read_text())
    taken = 2 * most - int(count, 16)
    assert most + size < taken <= most + size + 2, "the first ones start the ring"
    ring.driver.add(request.readable(1), request.writable)
    ring.driver.publish()
    ring.wait()
    assert request.status == VIRTIO_BLK_S_UNSUPP


@tries("descriptors of a chain that counts as one request")
def share(lab: Lab, most: int) -> None:
    """Chains of one more count as two requests, so that a poll serves 8 of them."""
    rig = lab.attach(lab.run(Blk()), features=POLLS_ARE_SEEN).start()
    request, ring = Request(rig, UNKNOWN), rig.rings[0]
    table = rig.alloc((most + 1) * DESCRIPTOR_SIZE)
    for count, polls in ((most, 2), (most + 1, 4)):
        for _ in range(32):
            ring.driver.add(request.readable(count - 1), request.writable, table)
        assert signals(rig, ring, 32) == polls


@tries("bytes of an entropy request")
def entropy(lab: Lab, most: int) -> None:
    rig = lab.attach(lab.run(Rng())).start()
    gpa, data = rig.alloc(2 * most)
    rig.rings[0].add([], [(gpa, 2 * most)])
    assert rig.rings[0].wait().written == most
    assert bytes(data[most:]) == bytes(most)
