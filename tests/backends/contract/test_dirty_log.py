"""Writes to guest memory are logged."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.backends.rig import MIB, QEMU_ORDER, RING_SIZE, RamRegion, Rig
from tests.timeouts import TIMEOUT
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import BackendError, Disconnected, Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import LogArea, MemTable
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from tests.backends.served import Kind

pytestmark = pytest.mark.usefixtures("compiled")


def test_logs_buffers_and_used_ring(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    log = running.set_log()
    log.harvest()
    wrote = kind.work(running, 1)
    dirty = {
        page for gpa, length in log.harvest() for page in range(gpa >> 12, (gpa + length) >> 12)
    }
    expected = {gpa >> 12 for gpa in wrote}
    ring = running.rings[kind.ring]
    expected.add((ring.gpa + ring.offsets.used) >> 12)
    assert expected <= dirty
    running.set_features(running.features & ~(1 << 26))
    for each in running.rings:
        running.ack(F.SET_VRING_ADDR, each.addr())
    log.harvest()
    kind.work(running, 2)
    assert log.harvest() == []
    log.close()


def test_log_that_is_larger_than_its_file(rig: Rig) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 4096)
    with pytest.raises((Disconnected, BackendError)):
        rig.call(Request(F.SET_LOG_BASE, LogArea(1 << 20, 0), (fd,)))
    os.close(fd)


def test_log_must_cover_memory(running: Rig) -> None:
    """64 pages have a bit in 8 bytes; the rig's memory ends at 66 MiB."""
    log = DirtyLog.create(64)
    with pytest.raises(Disconnected):
        running.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    log.close()


def test_log_must_cover_used_rings(kind: Kind, running: Rig) -> None:
    enough = running.set_log()
    ring = running.rings[kind.ring]
    log = DirtyLog.create(2 * enough.size * 8)
    end, room = log.size * 8 * 4096, 4 + 8 * RING_SIZE + 2
    running.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    for gpa in (end - room + 1, end, (1 << 64) - 8):
        with pytest.raises(Refused):
            running.ack(F.SET_VRING_ADDR, ring.addr(log=True)._replace(log=gpa))
    running.ack(F.SET_VRING_ADDR, ring.addr(log=True)._replace(log=end - room))
    kind.work(running, 0)
    assert end - 4096 in {gpa for gpa, _ in log.harvest()}
    with pytest.raises(Disconnected):
        running.call(Request(F.SET_LOG_BASE, LogArea(enough.size, 0), (enough.fd,)))
    for each in (enough, log):
        each.close()


def test_memory_beyond_a_log_in_use_is_refused(kind: Kind, running: Rig) -> None:
    log = running.set_log()
    extra = RamRegion(512 * MIB, MIB, 0x7F20_0000_0000)
    with pytest.raises(Refused):
        running.add_mem_reg(extra)
    regions = (running.low, running.high, extra)
    with pytest.raises(Refused):
        running.ack(
            F.SET_MEM_TABLE,
            MemTable(tuple(ram.region for ram in regions)),
            tuple(ram.fd for ram in regions),
        )
    kind.work(running, 0)
    running.set_features(running.features & ~(1 << 26))
    running.add_mem_reg(extra)
    with pytest.raises(Refused):
        running.set_features(running.features | 1 << 26)
    for each in (log, extra):
        each.close()


@pytest.mark.parametrize("used", [False, True], ids=["buffers", "used-ring"])
def test_a_write_beyond_the_log_breaks_the_ring_only(kind: Kind, rig: Rig, used: bool) -> None:
    """The log came before the memory, so it could not be checked then."""
    log = DirtyLog.create(64)
    rig.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    rig.set_features(rig.features | (0 if used else 1 << 26))
    rig.set_mem_table()
    written = rig.rings[kind.written_ring]
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER)
        if ring is written:
            rig.ack(F.SET_VRING_ADDR, ring.addr(log=used))
        ring.kick()
    kind.prepare(rig)
    kind.submit(rig, 0)
    assert readable([written.err_fd], TIMEOUT)
    assert [bool(readable([ring.err_fd], 0)) for ring in rig.rings] == [
        r is written for r in rig.rings
    ]
    assert [rig.get_base(ring.index) for ring in rig.rings]
    log.close()
