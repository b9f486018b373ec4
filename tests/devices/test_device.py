"""Devices at the front-end, against real back-ends."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from devices.blk import VhostUserBlk
from devices.device import SharedMemory, VhostDevice
from devices.net import VhostUserNet
from devices.rng import VhostUserRng
from tests.backends.served import KINDS, Served
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user.errors import BackendError, DeadlineError, Disconnected
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEVICES: dict[str, type[VhostDevice]] = {
    "blk": VhostUserBlk,
    "net": VhostUserNet,
    "rng": VhostUserRng,
}


@pytest.fixture(params=DEVICES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each class of devices."""
    return str(request.param)


@pytest.fixture
def served(kind: str, tmp_path: Path) -> Iterator[Served]:
    """Its back-end."""
    made = Served(KINDS[kind](), tmp_path, ControlOptions())
    yield made
    made.close()


def make(kind: str, rings: int) -> VhostDevice:
    return DEVICES[kind](f"{kind}0", range(0x1000, 0x1000 + 4 * rings, 4), range(rings))


def test_connects_and_negotiates(kind: str, served: Served) -> None:
    """Only features of both sides are acked, and the log is off."""
    device = make(kind, KINDS[kind].rings)
    device.connect(served.path)
    assert device.acked_features & ~served.device.features == 0
    assert device.has_feature(32)
    assert not device.features >> 26 & 1
    device.logging = True
    assert device.features >> 26 & 1
    device.close()


def test_too_few_queues(kind: str, served: Served) -> None:
    """In the unit in which the class counts them."""
    offered = KINDS[kind].rings
    device = make(kind, offered + 2)
    counts = (offered // 2, device.queues) if kind == "net" else (offered, offered + 2)
    unit = "queue pairs" if kind == "net" else "rings"
    text = "{}: {}, and the device has {}".format(unit, *counts)
    with pytest.raises(BackendError, match=f"{kind}0: the back-end has too few {text}"):
        device.connect(served.path)
    device.close()


def test_a_back_end_is_asked_before_there_is_a_device(kind: str, served: Served) -> None:
    """The device is made for what the back-end offers, and uses the same connection."""
    back_end = DEVICES[kind].negotiate(served.connect(), TIMEOUT)
    device = make(kind, KINDS[kind].rings)
    device.use(back_end)
    assert device.connection is back_end.connection
    assert device.queues == back_end.queues
    device.close()


def test_a_failed_negotiation_closes_the_connection(kind: str) -> None:
    """There is no device that would do it."""
    ours, theirs = socket.socketpair()
    theirs.close()
    connection = FrontendConnection(ours, name=f"{kind}0")
    with pytest.raises(Disconnected):
        DEVICES[kind].negotiate(connection, TIMEOUT)
    assert connection.fileno() == -1


def test_features_of_the_source_must_be_there(kind: str, served: Served) -> None:
    """A guest cannot lose a feature that it uses."""
    device = make(kind, KINDS[kind].rings)
    device.connect(served.path)
    fewer = device.acked_features & ~(1 << 29)
    device.use_features(fewer)
    assert device.acked_features == fewer
    with pytest.raises(BackendError, match="does not offer the features 0x8000000000000000"):
        device.use_features(fewer | 1 << 63)
    device.close()


def test_without_a_listener(tmp_path: Path) -> None:
    """It takes no longer than the timeout, and the error names the device."""
    device = make("blk", 1)
    with pytest.raises(DeadlineError, match="blk0"):
        device.connect(str(tmp_path / "absent"), timeout=0.05)
    device.close()


def test_closing_gives_everything_back(kind: str, served: Served) -> None:
    """Eventfds and the socket, also when it is closed twice."""
    make(kind, 2).close()
    before = open_fds()
    device = make(kind, KINDS[kind].rings)
    device.connect(served.path)
    assert open_fds() - before
    device.close()
    device.close()
    wait_until(lambda: open_fds() <= before, "the back-end has closed its descriptors, too")


def test_edits_name_ring_and_descriptor(kind: str) -> None:
    """One for each ring, with its own notify address, vector and eventfd."""
    device = make(kind, 2)
    host, guest = device.host_edits(assign=True), device.guest_edits(assign=False)
    kicks = [(edit.assign, edit.ring, edit.ioeventfd.address) for edit in host]
    assert kicks == [(True, 0, 0x1000), (True, 1, 0x1004)]
    calls = [(edit.assign, edit.ring, edit.irqfd.vector) for edit in guest]
    assert calls == [(False, 0, 0), (False, 1, 1)]
    assert host[1].ioeventfd.owner == f"{device.name} ring 1"
    fds = {edit.ioeventfd.fd for edit in host} | {edit.irqfd.fd for edit in guest}
    assert len(fds) == 4
    device.kick(1)
    assert os.eventfd_read(device.rings[1].kick_fd) == 1
    device.close()


def test_memory_table_has_each_region_with_its_descriptor(kind: str) -> None:
    """User addresses are guest addresses plus a constant, and not mapped anywhere."""
    device = make(kind, 2)
    device.memory = [SharedMemory(0, 1 << 20, 7), SharedMemory(4 << 30, 1 << 30, 8)]
    table, fds = device.mem_table()
    assert fds == (7, 8)
    assert [(r.gpa, r.size, r.user_addr - (1 << 52)) for r in table.regions] == [
        (0, 1 << 20, 0),
        (4 << 30, 1 << 30, 4 << 30),
    ]
    device.close()
