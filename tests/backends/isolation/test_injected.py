"""An exception at every point of serving a device: it costs that device's connection at the most.

The neighbour is served all the time, and the next front-end of the same device afterwards.
"""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.backends.isolation import pair
from tests.backends.served import KINDS, Blk, Kind
from tests.timeouts import TIMEOUT
from vhost_user.errors import Disconnected, ProtocolError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import Config, Inflight, VringState
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_OUT,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.rig import Rig

#: Points of each kind that `make test` tries, spread evenly; `make soak` tries all.
QUICK = 25
ERRORS = ("KeyError", "OSError", "MemoryError")


def session(pair_: pair.Pair) -> None:
    """A front-end's whole life; it ends early where the back-end closes the connection."""
    rig = None
    with suppress(ProtocolError, Disconnected):
        rig = pair.connect(pair_.victim, pair_.kind)
        if ProtocolFeature.INFLIGHT_SHMFD in rig.connection.protocol_features:
            asked = Inflight(0, 0, pair_.kind.rings, 64)
            reply = rig.call(Request(F.GET_INFLIGHT_FD, asked))
            assert reply is not None
            try:
                rig.ack(F.SET_INFLIGHT_FD, reply.payload, reply.fds)
            finally:
                for fd in reply.fds:
                    os.close(fd)
        if ProtocolFeature.CONFIG in rig.connection.protocol_features:
            rig.call(Request(F.GET_CONFIG, Config(0, 0, bytes(8))))
        rig.start()
        rig.set_log()
        pair_.kind.prepare(rig)
        pair_.kind.submit(rig, 0)
        comes_or_fails(rig, pair_.kind)
        if isinstance(pair_.kind, Blk):
            slow_requests(rig, pair_.kind)
        rig.pipeline([Request(F.GET_VRING_BASE, VringState(n, 0)) for n in range(pair_.kind.rings)])
        rig.ack(F.RESET_DEVICE)
    if rig is not None:
        rig.close()


def slow_requests(rig: Rig, kind: Kind) -> None:
    """A write, a flush and a discard."""
    ring = rig.rings[kind.ring]
    for number in (VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_DISCARD):
        gpa, data = rig.alloc(1024)
        data[:16] = REQUEST_HEADER.pack(number, 0, 8)
        if number == VIRTIO_BLK_T_DISCARD:
            data[16 : 16 + SEGMENT.size] = SEGMENT.pack(8, 8, 0)
            readable = [(gpa, 16 + SEGMENT.size)]
        else:
            readable = [(gpa, 16), (gpa + 64, 512)][: 2 if number == VIRTIO_BLK_T_OUT else 1]
        ring.add(readable, [(gpa + 1000, 1)])
        comes_or_fails(rig, kind)


def comes_or_fails(rig: Rig, kind: Kind) -> None:
    """Wait for a completion, an error of a ring, or the end of the connection."""
    poll = select.poll()
    poll.register(rig.connection.fileno(), select.POLLRDHUP)
    for ring in rig.rings:
        poll.register(ring.err_fd, select.POLLIN)
    ring = rig.rings[kind.written_ring]
    poll.register(ring.call_fd, select.POLLIN)
    if not ring.driver.arm():
        assert poll.poll(TIMEOUT * 1000), "neither served nor failed"


def chosen(points: list[str], everything: bool) -> list[str]:
    return points if everything else points[:: max(1, len(points) // QUICK)]


@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.soak)],
)
@pytest.mark.parametrize("name", KINDS)
def test_an_exception_at_any_point(name: str, everything: bool, tmp_path: Path) -> None:
    with pair.running_injected(KINDS[name](), tmp_path) as (given, orders):
        orders(record=pair.VICTIM)
        session(given)
        points = orders(points=True)
        assert len(points) > 100, points
        fired = 0
        for number, point in enumerate(chosen(points, everything)):
            orders(arm=pair.VICTIM, point=point, error=ERRORS[number % len(ERRORS)])
            session(given)
            fired += orders(fired=True)
            given.neighbour.goes_on()
            given.serves_the_next()
        assert fired
        assert given.process.poll() is None
