"""The soft accelerator beyond the contract: its limits, and closed eventfds."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os

import pytest

from devices.notifiers import ANY_VALUE, Ioeventfd, Irqfd
from emu.machine.accel.base import NotifierError
from emu.machine.accel.soft import LIMITS, SoftAccelerator
from emu.machine.run_gate import RunGate
from vhost_user import eventfd

ADDRESS = 0xE000_0000


def test_the_limits_do_not_depend_on_the_machine() -> None:
    assert SoftAccelerator.find_limits(1) == SoftAccelerator.find_limits(1024) == LIMITS


def test_more_routes_than_there_are_vectors() -> None:
    accel = SoftAccelerator(lambda *_: None)
    with pytest.raises(NotifierError, match="65537 routes are more than 65536"):
        accel.set_routes(dict.fromkeys(range(LIMITS.max_routes + 1), 0))
    accel.close()


def test_a_write_to_an_ioeventfd_that_was_closed_is_an_error() -> None:
    """The error names the address."""
    accel = SoftAccelerator(lambda *_: None)
    (fd,) = eventfd.default().create(1)
    accel.change_ioeventfds((), [Ioeventfd(ADDRESS, 4, ANY_VALUE, fd)])
    accel.mmio_write(ADDRESS, 0)  # the first one makes a descriptor, which would get the number
    os.close(fd)
    with pytest.raises(NotifierError, match="the ioeventfd at 0xe0000000: Bad file descriptor"):
        accel.mmio_write(ADDRESS, 1)
    accel.close()


def test_an_ioeventfd_for_any_value_comes_before_one_with_a_datamatch() -> None:
    exits: list[tuple[int, int]] = []
    accel = SoftAccelerator(lambda *write: exits.append(write))
    every, seven = fds = eventfd.default().create(2)
    accel.change_ioeventfds((), [Ioeventfd(ADDRESS, 4, 7, seven)])
    accel.mmio_write(ADDRESS, 7)
    accel.mmio_write(ADDRESS, 8)
    accel.change_ioeventfds((), [Ioeventfd(ADDRESS, 4, ANY_VALUE, every)])
    accel.mmio_write(ADDRESS, 7)
    assert eventfd.default().drain(fds) == [1, 1]
    assert exits == [(ADDRESS, 8)]
    accel.close()
    eventfd.default().close(fds)


def test_a_back_end_whose_kick_blocks_keeps_no_vcpu_waiting() -> None:
    """The counter is full, and O_NONBLOCK is cleared on the description that both ends have."""
    accel = SoftAccelerator(lambda *_: None)
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(fd, (1 << 64) - 2)
    accel.change_ioeventfds((), [Ioeventfd(ADDRESS, 4, ANY_VALUE, fd)])
    accel.mmio_write(ADDRESS, 0)
    assert os.get_blocking(fd)
    assert os.eventfd_read(fd) >= (1 << 64) - 2
    accel.close()
    os.close(fd)


def test_an_irqfd_that_cannot_be_polled_is_undone() -> None:
    """The irqfd before it in the batch is not assigned either."""
    accel = SoftAccelerator(lambda *_: None)
    gate = RunGate()
    vcpus = accel.create_vcpus(2, gate)
    accel.set_routes({0: 0, 1: 1})
    (fd,) = eventfd.default().create(1)
    regular = os.memfd_create("x")
    with pytest.raises(NotifierError, match="the irqfd of vector 1"):
        accel.change_irqfds((), [Irqfd(0, fd), Irqfd(1, regular)])
    accel.change_irqfds((), [Irqfd(0, fd)])
    accel.change_irqfds([Irqfd(0, fd)], ())
    assert len(vcpus) == 2
    accel.close()
    eventfd.default().close([fd])
    os.close(regular)
