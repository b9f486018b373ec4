"""A device's state, from one device object to another with the same back-end."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from devices.blk import VhostUserBlk
from devices.handover_state import DeviceHandoverState, descriptors_of, restore
from tests.backends.served import KINDS, SECTORS, Served
from vhost_user.errors import UsageError
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADDRESSES = RingAddresses(128, 0x1000, 0x2000, 0x3000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VhostUserBlk]:
    """A connected disk with two rings, of which the driver has set up the second."""
    served = Served(KINDS["blk"](), tmp_path, ControlOptions())
    made = VhostUserBlk("blk0", [0x10, 0x14], [0, 1])
    made.connect(served.path)
    made.rings[1].set_up(ADDRESSES, 7)
    yield made
    made.close()
    served.close()


def test_json_has_all_of_it(disk: VhostUserBlk) -> None:
    state = DeviceHandoverState.of(disk)
    assert DeviceHandoverState.from_json(json.loads(json.dumps(state))) == state
    assert state.descriptors == len(descriptors_of(disk)) == 5


def test_another_device_continues(disk: VhostUserBlk) -> None:
    """It has the features, the rings, the eventfds, and a connection that works."""
    state = DeviceHandoverState.of(disk)
    other = VhostUserBlk("blk0", [0x10, 0x14], [0, 1])
    restore(other, state, descriptors_of(disk))
    assert DeviceHandoverState.of(other)._replace(setups=state.setups) == state
    os.eventfd_write(disk.rings[0].kick_fd, 3)
    assert os.eventfd_read(other.rings[0].kick_fd) == 3
    assert other.capacity() == SECTORS
    other.close()


@pytest.mark.parametrize(("name", "rings"), [("blk1", 2), ("blk0", 1)])
def test_the_state_of_another_device_is_rejected(disk: VhostUserBlk, name: str, rings: int) -> None:
    other = VhostUserBlk(name, range(16, 16 + 4 * rings, 4), range(rings))
    with pytest.raises(UsageError, match="was handed over"):
        restore(other, DeviceHandoverState.of(disk), descriptors_of(disk))
    assert not other.connected
    other.close()


def test_a_state_matches_until_the_driver_changes_the_device(disk: VhostUserBlk) -> None:
    state = DeviceHandoverState.of(disk)
    assert state.still_matches(disk)
    disk.forget_rings()
    assert not state.still_matches(disk)


def test_a_device_with_messages_in_flight_has_no_state(disk: VhostUserBlk) -> None:
    disk.connection.mark_broken("for the test")
    with pytest.raises(UsageError, match="broken"):
        DeviceHandoverState.of(disk)
