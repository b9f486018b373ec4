"""The ioeventfds of a KVM machine, on the two buses of the kernel."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import pytest

from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.machine.accel.base import NotifierError
from emu.machine.accel.kvm_limits import BUS_ROOM
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
)
from tests.emu.machine.accel.kvm_bench import NOTIFY, ioeventfds
from vhost_user import eventfd


def test_ioeventfds_that_have_no_room_on_one_bus_go_to_the_other(kvm: KvmBench) -> None:
    fds = kvm.eventfds(BUS_ROOM + 100)
    entries = ioeventfds(fds)
    kvm.accel.change_ioeventfds((), entries)
    for place in (0, BUS_ROOM - 1, BUS_ROOM, BUS_ROOM + 99):
        kvm.write(entries[place].address)
        assert eventfd.default().drain([fds[place]]) == [1]
    assert not kvm.exits
    kvm.accel.change_ioeventfds(entries, ())
    kvm.write(entries[-1].address, 5)
    assert kvm.exits == [(entries[-1].address, 5)]
    kvm.accel.change_ioeventfds((), entries)


def test_more_ioeventfds_than_both_buses_have_room_for(kvm: KvmBench) -> None:
    room = kvm.accel.find_limits(VCPUS).max_ioeventfds
    (fd,) = kvm.eventfds(1)
    most = ioeventfds([fd] * room)
    with pytest.raises(NotifierError, match="1000 devices on the MMIO bus"):
        kvm.accel.change_ioeventfds((), [*most, Ioeventfd(NOTIFY - 4, 4, ANY_VALUE, fd)])
    kvm.accel.change_ioeventfds((), most)
    kvm.accel.change_ioeventfds(most, ())


def test_an_ioeventfd_is_assigned_once_and_deassigned_with_its_eventfd(kvm: KvmBench) -> None:
    """An error changes nothing, also where a part of the batch is valid."""
    one, two = kvm.eventfds(2)
    first, second = ioeventfds([one, two])
    kvm.accel.change_ioeventfds((), [first])
    for remove, add in (
        ((), [second, first]),
        ([first, first], [second]),
        ([first._replace(fd=two)], [second]),
        ([second], ()),
    ):
        with pytest.raises(NotifierError, match=r"is (not )?assigned"):
            kvm.accel.change_ioeventfds(remove, add)
    kvm.write(first.address)
    kvm.write(second.address)
    assert eventfd.default().drain([one, two]) == [1, 0]
    assert kvm.exits == [(second.address, 0)]
