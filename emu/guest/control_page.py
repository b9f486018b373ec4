"""The guest's global state in guest memory, and what all drivers share.

Words are u64. Only the host writes the control page, and seldom; the cursors lie in the pulse page,
beside the heartbeat, which is hot anyway.
"""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.guest.layout import GuestLayout, UnitPlace
    from emu.guest.platform import Platform
    from emu.guest.request_log import RequestLog


class Mode(IntEnum):
    """The load that the guest runs."""

    QUIET = 0
    LIGHT = 1
    HEAVY = 2
    VERIFY = 3


#: Words of the control page. EPOCH grows whenever rings have to be filled again; LOAD is the mode
#: that `resume_load` returns to; OVERDUE is 1 after a quiesce whose timeout has expired.
#: HOLD_READER also stops the dirty-memory load; DIRTY_RATE is that load's bytes a second.
MODE, LOAD, EPOCH, LIGHT_REQUESTS, LIGHT_PACKETS, OVERDUE, HOLD_READER, DIRTY_RATE = range(8)

#: Words of the pulse page, behind the heartbeat's. RESCAN: a driver left early because of a
#: pause, so its ring has to be polled again.
CURSORS = 256
RESCAN, PRIMED, PRIME_AT, READER_SEEN = range(CURSORS, CURSORS + 4)
#: The dirty-memory load's words: pages written, time of the last write, pages found changed.
DIRTY_COUNT, DIRTY_AT, DIRTY_WRONG = range(CURSORS + 8, CURSORS + 11)
#: Each driver's own words, by the index of its kind among the kinds.
DRIVER_WORDS_AT, DRIVER_WORDS = CURSORS + 16, 8


class Unit(Protocol):
    """What is driven together under one lock: a queue pair, or a ring of a disk."""

    number: int
    lock: threading.Lock

    def boot(self) -> None:
        """Write the initial state to guest memory."""

    def service(self) -> None:
        """Handle what the device has completed."""

    def prime(self) -> None:
        """Put as many requests in flight as the load asks for."""

    def quiet(self) -> bool:
        """Nothing is outstanding and nothing will be submitted; the caller holds the lock."""

    def request_log(self) -> RequestLog:
        """This unit's part of the request log."""


class DeviceUnit(Unit, Protocol):
    """A unit of a device."""

    @property
    def place(self) -> UnitPlace:
        """Where its rings lie; if they are several units', the first one's."""

    def completed(self) -> int:
        """Requests or packets that the device has completed."""

    def outstanding(self) -> int:
        """Requests or packets that the device has not completed yet."""


class QueueUnit(DeviceUnit, Protocol):
    """A unit with rings of its own.

    Attributes:
        accepting: requests may be submitted; False while its device is being unplugged, or is.
    """

    accepting: bool

    @property
    def kicks(self) -> int:
        """Notifications that the driver has sent in this process."""

    def boot_again(self, *, keep: bool) -> None:
        """Write empty rings: the device was plugged again. The request log goes on.

        Args:
            keep: the device holds what was written to it before.
        """

    @property
    def interrupts(self) -> int:
        """Interrupts handled since the guest booted."""

    def interrupt(self) -> None:
        """One of its rings' interrupts was delivered."""


class IdleWatch:
    """Lets the host wait until all units are quiet; drivers report when they become so."""

    def __init__(self) -> None:
        self.active = False
        self._waiting: set[int] = set()
        self._idle = threading.Event()

    def begin(self, units: Iterable[Unit]) -> None:
        """Watch from now on. No unit may submit anything new by itself any more."""
        units = list(units)
        self._waiting = {unit.number for unit in units}
        self._idle.clear()
        self.active = True
        for unit in units:
            with unit.lock:
                if unit.quiet():
                    self._waiting.discard(unit.number)
        self._check()

    def check(self, unit: Unit) -> None:
        """Settle a unit that has become quiet; the caller holds its lock."""
        if self.active and unit.quiet():
            self.settle(unit.number)

    def settle(self, number: int) -> None:
        """A unit has become quiet."""
        self._waiting.discard(number)
        self._check()

    def wait(self, timeout: float) -> bool:
        """Whether all were quiet within ``timeout`` seconds; ends the watch."""
        idle = self._idle.wait(timeout)
        self.active = False
        return idle

    def _check(self) -> None:
        if not self._waiting:
            self._idle.set()


class GuestContext:
    """Guest memory's global words, and the objects of this process that drivers share.

    Attributes:
        epoch: grows with each `attach`: what a driver derived from guest memory before is stale.
    """

    __slots__ = ("control", "epoch", "idle", "layout", "mark", "platform", "pulse")

    def __init__(self, platform: Platform, layout: GuestLayout) -> None:
        self.platform = platform
        self.layout = layout
        self.mark = platform.ram.mark
        self.control = platform.ram.view(layout.control, PAGE_SIZE).cast("Q")
        self.pulse = platform.ram.view(layout.pulse, PAGE_SIZE).cast("Q")
        self.idle = IdleWatch()
        self.epoch = 0

    def set(self, word: int, value: int) -> None:
        """Write a word of the control page."""
        self.control[word] = value
        self.mark(self.layout.control, PAGE_SIZE)

    def rescan(self) -> None:
        """Have the next tick poll all rings: a driver left one before it was empty."""
        self.pulse[RESCAN] = 1
        self.mark(self.layout.pulse, PAGE_SIZE)

    def close(self) -> None:
        """Release guest memory."""
        self.control = self.pulse = memoryview(bytearray(PAGE_SIZE)).cast("Q")


def shifted(at: int, ns: int, *, least: int = 0) -> int:
    """A time in guest memory by a clock that is ``ns`` ahead, which fits a u64 whatever it was."""
    return min(max(least, at + ns), (1 << 64) - 1)


def remaining(until_ns: int) -> float:
    """Seconds until a time of CLOCK_MONOTONIC, not below 0."""
    return max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
