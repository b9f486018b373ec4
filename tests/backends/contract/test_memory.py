"""Memory that is shared, changed and removed."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.rig import MIB, QEMU_ORDER, RamRegion, Rig
from vhost_user.errors import Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringAddr, VringState

if TYPE_CHECKING:
    from tests.backends.served import Kind

pytestmark = pytest.mark.usefixtures("compiled")


def test_memory_by_regions(kind: Kind, rig: Rig) -> None:
    rig.set_features()
    rig.add_mem_reg(rig.low)
    rig.add_mem_reg(rig.high)
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    kind.prepare(rig)
    kind.work(rig, 0)
    extra = RamRegion(512 * MIB, MIB, 0x7F20_0000_0000)
    rig.add_mem_reg(extra)
    kind.work(rig, 1)
    rig.rem_mem_reg(extra)
    kind.work(rig, 2)
    extra.close()
    with pytest.raises(Refused):
        rig.rem_mem_reg(extra)


def test_memory_table_again_while_running(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    running.set_mem_table()
    kind.work(running, 1)
    assert running.rings[kind.ring].stop() == 2


def test_ring_is_not_served_while_its_memory_is_removed(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    running.rem_mem_reg(running.low)
    kind.submit(running, 1)
    running.rings[kind.ring].kick()
    assert running.rings[kind.ring].idle()
    running.add_mem_reg(running.low)
    kind.finish(running, 1)


def test_overlapping_regions_are_refused(rig: Rig) -> None:
    rig.add_mem_reg(rig.low)
    other = RamRegion(rig.low.region.gpa, MIB, 0x7F20_0000_0000)
    with pytest.raises(Refused):
        rig.add_mem_reg(other)
    other.close()


def test_a_region_that_is_added_twice_is_removed_with_its_second_removal(
    kind: Kind, running: Rig
) -> None:
    """QEMU 7.2 adds each region of a NIC once for each pair of rings."""
    running.add_mem_reg(running.low)
    running.rem_mem_reg(running.low)
    kind.work(running, 0)
    running.rem_mem_reg(running.low)
    with pytest.raises(Refused):
        running.rem_mem_reg(running.low)


def test_ring_outside_of_memory_is_refused(rig: Rig) -> None:
    rig.set_features()
    rig.set_mem_table()
    rig.ack(F.SET_VRING_NUM, VringState(0, 64))
    with pytest.raises(Refused):
        rig.ack(F.SET_VRING_ADDR, VringAddr(0, 0, 0x1000, 0x2000, 0x3000, 0))
