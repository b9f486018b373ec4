"""The words and objects that the guest's drivers share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.guest.control_page import CURSORS, MODE, RESCAN, IdleWatch
from emu.guest.request_log import RequestLog
from tests.emu.guest.small_machine import small_spec
from tests.timeouts import TIMEOUT
from vhost_user.memory import PAGE_SHIFT

if TYPE_CHECKING:
    from tests.emu.guest.conftest import MakeGuest


class Unit:
    """A unit that is quiet when the test sets it so."""

    def __init__(self, number: int, *, quiet: bool) -> None:
        self.number = number
        self.lock = threading.Lock()
        self.is_quiet = quiet

    def boot(self) -> None:
        """It has no memory."""

    def service(self) -> None:
        """It has no device."""

    def prime(self) -> None:
        """It has no load."""

    def quiet(self) -> bool:
        """See `emu.guest.control_page.Unit.quiet`."""
        assert self.lock.locked()
        return self.is_quiet

    def request_log(self) -> RequestLog:
        """It has no requests."""
        return RequestLog()


@pytest.mark.parametrize("busy", [(), (1,), (0, 2)])
def test_the_watch_waits_for_the_units_that_are_busy(busy: tuple[int, ...]) -> None:
    """Each reports when it becomes quiet."""
    watch = IdleWatch()
    watch.begin([Unit(number, quiet=number not in busy) for number in range(3)])
    for number in busy:
        assert watch.active
        assert not watch._idle.is_set()
        watch.settle(number)
    assert watch.wait(TIMEOUT)
    assert not watch.active


def test_a_unit_that_stays_busy_is_reported_after_the_timeout() -> None:
    """The watch has ended all the same."""
    watch = IdleWatch()
    watch.begin([Unit(0, quiet=False)])
    assert not watch.wait(0.01)
    assert not watch.active


def test_a_write_marks_its_page(make_guest: MakeGuest) -> None:
    """The control page for `set`, the pulse page for `rescan`."""
    guest = make_guest(small_spec())
    context, ram = guest.program._context, guest.machine.ram
    ram.harvest()
    context.set(MODE, 1)
    assert ram.harvest() == {context.layout.control >> PAGE_SHIFT}
    context.rescan()
    assert ram.harvest() == {context.layout.pulse >> PAGE_SHIFT}
    assert (context.control[MODE], context.pulse[RESCAN]) == (1, 1)
    assert RESCAN >= CURSORS
