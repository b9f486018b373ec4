"""The mailbox that the drivers and a vCPU's code share."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from devices.notifiers import Irqfd
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm import KvmAccelerator
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
)
from tests.emu.machine.accel.kvm_bench import NOTIFY, VECTOR, ioeventfds, ticks
from tests.waiting import wait_until
from vhost_user import eventfd

if TYPE_CHECKING:
    from emu.machine.accel.kvm_mailbox import Mailbox


def test_more_writes_than_a_mailbox_has_room_for(kvm: KvmBench) -> None:
    fds = kvm.eventfds(3 * image.WRITE_SLOTS)
    entries = ioeventfds(fds)
    kvm.accel.change_ioeventfds((), entries)
    for entry in entries:
        kvm.accel.mmio_write(entry.address, 0)
    kvm.await_writes()
    assert eventfd.default().drain(fds) == [1] * len(fds)


def test_pages_that_the_vcpus_write_are_dirty(kvm: KvmBench) -> None:
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 3})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    kvm.vcpus.pause()
    kvm.ram.harvest()
    kvm.ram.harvest()
    assert not kvm.ram.harvest()
    os.eventfd_write(fd, 1)
    had = ticks(kvm)
    kvm.vcpus.resume()
    assert kvm.interrupt() == (3, VECTOR)
    wait_until(lambda: ticks(kvm) > had)
    kvm.vcpus.pause()
    mailboxes = image.layout_of(kvm.ram, VCPUS).mailboxes >> 12
    assert kvm.ram.harvest() >= {mailboxes, mailboxes + 3}


@pytest.fixture
def mailbox(kvm: KvmBench) -> Mailbox:
    """The mailbox of vCPU 1, while the machine is paused."""
    kvm.vcpus.pause()
    return kvm.mailboxes[1]


def test_taken_vectors_may_be_put_back(mailbox: Mailbox) -> None:
    """Vectors in all four words."""
    waiting = [mailbox.waiting]
    mailbox.put_back([0, 63, 64, 255])
    waiting.append(mailbox.waiting)
    assert waiting == [False, True]
    assert mailbox.take() == [0, 63, 64, 255]
    assert mailbox.take() == []


def test_queued_writes_are_counted_until_it_is_full(kvm: KvmBench, mailbox: Mailbox) -> None:
    """The vCPU makes the writes when it runs."""
    (fd,) = kvm.eventfds(1)
    (entry,) = ioeventfds([fd])
    kvm.accel.change_ioeventfds((), [entry])
    for count in range(image.WRITE_SLOTS):
        assert (mailbox.queued_writes, mailbox.full) == (count, False)
        mailbox.queue_write(entry.address, 0)
    assert (mailbox.queued_writes, mailbox.full) == (image.WRITE_SLOTS, True)
    assert isinstance(kvm.accel, KvmAccelerator)
    kvm.accel.kernel.interrupt(1, image.WRITES_VECTOR)
    kvm.vcpus.resume()
    kvm.await_writes()
    assert eventfd.default().drain([fd]) == [image.WRITE_SLOTS]


def test_writes_to_the_page_are_marked_as_dirty(kvm: KvmBench, mailbox: Mailbox) -> None:
    """So a migration sends the page."""
    page = image.layout_of(kvm.ram, VCPUS).mailbox(1) >> 12
    while page in kvm.ram.harvest():
        pass
    mailbox.queue_write(NOTIFY, 0)
    assert page in kvm.ram.harvest()
