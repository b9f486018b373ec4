"""The contract of all accelerators."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from devices.notifiers import ANY_VALUE, Ioeventfd, Irqfd
from emu.errors import EmuError
from emu.machine.accel import registry
from emu.machine.accel.base import NotifierError
from emu.machine.run_gate import RunGate
from emu.machine.vcpu_state import VcpuState
from tests.emu.machine.accel.conftest import VCPUS, Bench, make
from tests.waiting import open_fds
from vhost_user import eventfd

if TYPE_CHECKING:
    from emu.machine.ram import GuestRam

NOTIFY = 0xE000_0000


def signalled(fd: int) -> int:
    return eventfd.default().drain([fd])[0]


def test_a_write_signals_its_eventfd(bench: Bench) -> None:
    one, two = bench.eventfds(2)
    bench.accel.change_ioeventfds(
        (), [Ioeventfd(NOTIFY, 4, ANY_VALUE, one), Ioeventfd(NOTIFY + 4, 4, ANY_VALUE, two)]
    )
    bench.write(NOTIFY + 4)
    bench.write(NOTIFY + 4)
    assert (signalled(one), signalled(two)) == (0, 2)
    assert not bench.exits


def test_a_write_without_ioeventfd_exits(bench: Bench) -> None:
    bench.write(NOTIFY, 7)
    assert bench.exits == [(NOTIFY, 7)]


def test_a_write_whose_ioeventfd_was_deassigned_exits(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, ANY_VALUE, fd)])
    bench.accel.change_ioeventfds([Ioeventfd(NOTIFY, 4, ANY_VALUE, fd)], ())
    bench.write(NOTIFY, 1)
    assert signalled(fd) == 0
    assert bench.exits == [(NOTIFY, 1)]


def test_datamatch(bench: Bench) -> None:
    one, two = bench.eventfds(2)
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, 1, one)])
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, 2, two)])
    for value in (2, 3):
        bench.write(NOTIFY, value)
    assert (signalled(one), signalled(two)) == (0, 1)
    assert bench.exits == [(NOTIFY, 3)]


def test_a_full_counter_is_a_signal(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, ANY_VALUE, fd)])
    os.eventfd_write(fd, (1 << 64) - 2)
    bench.write(NOTIFY)
    assert signalled(fd) >= (1 << 64) - 2


def test_a_batch_of_ioeventfds_is_all_or_nothing(bench: Bench) -> None:
    old, new, other = bench.eventfds(3)
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, ANY_VALUE, old)])
    missing = Ioeventfd(NOTIFY + 64, 4, ANY_VALUE, other, "blk0 ring 3")
    for remove, add in (
        ([Ioeventfd(NOTIFY, 4, ANY_VALUE, old), missing], []),
        ([], [Ioeventfd(NOTIFY + 4, 4, ANY_VALUE, new), Ioeventfd(NOTIFY, 4, ANY_VALUE, new)]),
        ([Ioeventfd(NOTIFY, 4, ANY_VALUE, new)], []),
    ):
        with pytest.raises(NotifierError):
            bench.accel.change_ioeventfds(remove, add)
    bench.write(NOTIFY)
    bench.write(NOTIFY + 4)
    assert (signalled(old), signalled(new)) == (1, 0)
    assert bench.exits == [(NOTIFY + 4, 0)]


def test_the_same_address_twice_with_one_eventfd(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, ANY_VALUE, fd)])
    with pytest.raises(NotifierError, match="already"):
        bench.accel.change_ioeventfds((), [Ioeventfd(NOTIFY, 4, ANY_VALUE, fd)])


def test_an_error_names_the_owner(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    with pytest.raises(NotifierError, match=r"blk0 ring 3: the ioeventfd at 0xe0000000") as caught:
        bench.accel.change_ioeventfds([Ioeventfd(NOTIFY, 4, ANY_VALUE, fd, "blk0 ring 3")], ())
    assert caught.value.owner == "blk0 ring 3"


def test_a_signal_is_an_interrupt_on_the_vcpu_of_the_route(bench: Bench) -> None:
    one, two = bench.eventfds(2)
    bench.accel.set_routes({10: 3, 11: 1})
    bench.accel.change_irqfds((), [Irqfd(10, one), Irqfd(11, two)])
    bench.start()
    os.eventfd_write(one, 1)
    assert bench.interrupt() == (3, 10)
    os.eventfd_write(two, 5)
    assert bench.interrupt() == (1, 11)
    assert bench.quiet()
    assert signalled(one) == signalled(two) == 0


def test_a_signal_from_before_the_irqfd_is_delivered(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    os.eventfd_write(fd, 1)
    bench.start()
    bench.accel.set_routes({10: 3})
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    assert bench.interrupt() == (3, 10)


def test_an_irqfd_without_route_waits_for_one(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    os.eventfd_write(fd, 1)
    assert bench.quiet()
    bench.accel.set_routes({10: 2})
    assert bench.interrupt() == (2, 10)


def test_a_changed_route_applies_to_its_irqfd(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.set_routes({10: 2})
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    bench.accel.set_routes({10: 0})
    os.eventfd_write(fd, 1)
    assert bench.interrupt() == (0, 10)
    bench.accel.set_routes({})
    os.eventfd_write(fd, 1)
    assert bench.quiet()


def test_the_eventfd_of_a_deassigned_irqfd_is_not_read(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.set_routes({10: 2})
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    bench.accel.change_irqfds([Irqfd(10, fd)], ())
    os.eventfd_write(fd, 1)
    assert bench.quiet()
    assert signalled(fd) == 1


def test_a_batch_of_irqfds_is_all_or_nothing(bench: Bench) -> None:
    old, new = bench.eventfds(2)
    bench.start()
    bench.accel.set_routes({10: 2, 11: 3})
    bench.accel.change_irqfds((), [Irqfd(10, old)])
    for remove, add in (
        ([Irqfd(10, old), Irqfd(11, new)], []),
        ([], [Irqfd(11, new), Irqfd(10, new)]),
        ([], [Irqfd(11, old)]),
        ([Irqfd(10, old)], [Irqfd(11, new), Irqfd(12, new)]),
    ):
        with pytest.raises(NotifierError):
            bench.accel.change_irqfds(remove, add)
    for fd in (old, new):
        os.eventfd_write(fd, 1)
    assert bench.interrupt() == (2, 10)
    assert bench.quiet()


def test_a_descriptor_that_is_not_an_eventfd_is_an_error(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.accel.set_routes({10: 2})
    with pytest.raises(NotifierError, match="vector 10"):
        bench.accel.change_irqfds((), [Irqfd(10, 1 << 20)])
    bench.accel.change_irqfds((), [Irqfd(10, fd)])


def test_a_route_to_no_vcpu_is_an_error_and_changes_nothing(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.set_routes({10: 2})
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    for vcpu in (-1, VCPUS):
        with pytest.raises(NotifierError, match="none of the 4 vCPUs"):
            bench.accel.set_routes({10: vcpu})
    os.eventfd_write(fd, 1)
    assert bench.interrupt() == (2, 10)


def test_an_interrupt_during_a_pause_is_taken_after_it(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.set_routes({10: 2})
    bench.accel.change_irqfds((), [Irqfd(10, fd)])
    bench.vcpus.pause()
    os.eventfd_write(fd, 1)
    assert bench.quiet()
    if bench.emulated:  # the signal is still in its eventfd
        assert bench.vcpus.save() == [VcpuState()] * VCPUS
    bench.vcpus.resume()
    assert bench.interrupt() == (2, 10)


@pytest.mark.parametrize("masked", [False, True])
def test_no_interrupt_is_lost_while_the_machine_pauses_and_resumes(
    bench: Bench, masked: bool
) -> None:
    fds = bench.eventfds(VCPUS)
    bench.start()
    bench.accel.set_routes({vector: vector for vector in range(VCPUS)})
    bench.accel.change_irqfds((), [Irqfd(vector, fd) for vector, fd in enumerate(fds)])
    if masked:
        bench.accel.mask_interrupts()

    def signal() -> None:
        while not over.is_set():
            for fd in fds:
                os.eventfd_write(fd, 1)
            for _ in fds:
                taken.append(bench.interrupt())
                progress.set()

    taken: list[tuple[int, int]] = []
    progress, over = threading.Event(), threading.Event()
    signalling = threading.Thread(target=signal)
    signalling.start()
    for _ in range(1000):
        bench.vcpus.pause()
        bench.vcpus.resume()
        # A machine that is always about to pause may be kept from running for seconds.
        progress.wait(0.001)
        progress.clear()
    over.set()
    signalling.join()  # `interrupt` raises in there when one does not come
    assert len(taken) >= VCPUS
    assert len(taken) % VCPUS == 0
    assert all(vcpu == vector for vcpu, vector in taken)


def test_masked_interrupts_stay_pending_while_the_machine_is_paused(bench: Bench) -> None:
    (fd,) = bench.eventfds(1)
    bench.start()
    bench.accel.set_routes({0: 0})
    bench.accel.change_irqfds((), [Irqfd(0, fd)])
    bench.accel.mask_interrupts()
    bench.accel.mask_interrupts()
    bench.vcpus.pause()
    os.eventfd_write(fd, 1)
    assert os.eventfd_read(fd) == 1
    os.eventfd_write(fd, 1)
    bench.vcpus.resume()
    assert bench.interrupt() == (0, 0)
    bench.accel.unmask_interrupts()
    bench.accel.unmask_interrupts()
    os.eventfd_write(fd, 1)
    assert bench.interrupt() == (0, 0)


@pytest.mark.parametrize("name", registry.ACCELERATORS)
def test_close_releases_everything(name: str, memory: GuestRam) -> None:
    before = open_fds()
    made = make(name)
    made.set_memory(memory)
    made.create_vcpus(VCPUS, RunGate())
    assert open_fds() - before
    made.close()
    made.close()
    assert open_fds() <= before


@pytest.mark.parametrize("name", registry.ACCELERATORS)
def test_invalid_numbers_of_vcpus(name: str, memory: GuestRam) -> None:
    made = make(name)
    made.set_memory(memory)
    for count in (0, made.find_limits(1).max_vcpus + 1):
        with pytest.raises(EmuError, match="vCPUs"):
            made.create_vcpus(count, RunGate())
    made.create_vcpus(1, RunGate())
    with pytest.raises(EmuError, match="before"):
        made.create_vcpus(1, RunGate())
    made.close()


def test_an_accelerator_that_does_not_exist() -> None:
    with pytest.raises(EmuError, match=r"unknown accelerator.*soft"):
        registry.create("xen", lambda *_: None)


def test_auto_always_works() -> None:
    registry.create("auto", lambda *_: None).close()
