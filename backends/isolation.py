"""Exceptions: each fails the part of a program that raised it, and the rest goes on.

A program serves many devices on one loop. Whatever a front-end or its guest does, only a *part*
fails: a ring (its error descriptor is signalled, and it is not served until it is set up again), or
a connection (it is closed, with one line on stderr). `contain` is the one place that turns an
exception into such a failure. The loop calls a part through a `GuardedLoop` (events, timers, posted
callbacks). A part that calls another one uses `Contained`: a connection that polls its rings, a NIC
that puts a frame into another NIC's ring.
"""

from __future__ import annotations

import logging
import select
import traceback
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.blocking_call import BlockingCall
    from backends.loop import Loop, Timer
    from backends.pacing import Pacer

    Callback = Callable[[], None]

log = logging.getLogger("backends")


class Part(Protocol):
    """A ring, a device or a connection: it fails as a whole."""

    name: str

    @property
    def parent(self) -> Part | None:
        """The part to fail if `fail` raises an exception itself."""

    def fail(self, error: Exception, /) -> None:
        """An exception was raised while this part was served."""


def contain(part: Part | None, error: Exception) -> None:
    """Have a part fail with an exception; its parent, if that raises another one; and so on.

    If the last parent raises, too, one line on stderr reports it.
    """
    name = "the program" if part is None else part.name
    while part is not None:
        name = part.name
        try:
            part.fail(error)
        except Exception as another:  # noqa: BLE001  any exception: the parent fails then
            error, part = another, part.parent
        else:
            return
    log.critical("%s: is not served any more: %s", name, describe(error))


def describe(error: BaseException) -> str:
    """One line on an exception, for stderr; where it was raised, if it was not expected."""
    if isinstance(error, VhostUserError):
        text = error.text
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}"
    if not isinstance(error, VhostUserError):
        # Not by `traceback.extract_tb`, which opens the source.
        for frame, line in list(traceback.walk_tb(error.__traceback__))[-1:]:
            text += f" ({PurePath(frame.f_code.co_filename).name}:{line})"
    return " ".join(text.split())


def _call(part: Part, callback: Callback) -> None:
    try:
        callback()
    except Exception as error:  # noqa: BLE001  any exception: only the part fails
        contain(part, error)


def _call_with(part: Part, handler: Callable[[int], None], events: int) -> None:
    try:
        handler(events)
    except Exception as error:  # noqa: BLE001  any exception: only the part fails
        contain(part, error)


class Contained:
    """A context manager: an exception in the ``with`` block fails the part, and goes no further.

    It has no state of its own, so that one object serves any number of blocks, also nested ones.

    Args:
        part: what fails.
    """

    __slots__ = ("_part",)

    def __init__(self, part: Part) -> None:
        self._part = part

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        contain(self._part, error)
        return True


class GuardedLoop:
    """A `Loop` for one part: an exception of what is called there fails the part, not the loop.

    All methods are those of `Loop`, which describes them.

    Args:
        loop: the loop.
        part: what fails.

    Attributes:
        base: the loop; parts with the same one share its thread.
    """

    __slots__ = ("_part", "base")

    def __init__(self, loop: Loop, part: Part) -> None:
        self.base = loop
        self._part = part

    @property
    def pacer(self) -> Pacer:
        """See `Loop`."""
        return self.base.pacer

    def guarded(self, part: Part) -> GuardedLoop:
        """The same loop, for another part."""
        return GuardedLoop(self.base, part)

    def guard(self, callback: Callback) -> Callback:
        """The callback, with an exception of which the part fails."""
        return partial(_call, self._part, callback)

    def watch(self, fd: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """See `Loop.watch`."""
        self.base.watch(fd, partial(_call_with, self._part, handler), events)

    def change(self, fd: int, events: int) -> None:
        """See `Loop.change`."""
        self.base.change(fd, events)

    def unwatch(self, fd: int) -> None:
        """See `Loop.unwatch`."""
        self.base.unwatch(fd)

    def watch_kick(self, fd: int, handler: Callback) -> None:
        """See `Loop.watch_kick`."""
        self.base.watch_kick(fd, self.guard(handler))

    def mute_kicks(self, fds: Sequence[int]) -> None:
        """See `Loop.mute_kicks`."""
        self.base.mute_kicks(fds)

    def unwatch_kick(self, fd: int) -> None:
        """See `Loop.unwatch_kick`."""
        self.base.unwatch_kick(fd)

    def post(self, callback: Callback) -> None:
        """See `Loop.post`."""
        self.base.post(self.guard(callback))

    def again(self, callback: Callback) -> None:
        """See `Loop.again`."""
        self.base.again(self.guard(callback))

    def finally_(self, callback: Callback) -> None:
        """See `Loop.finally_`."""
        self.base.finally_(self.guard(callback))

    def call_blocking(self, call: BlockingCall) -> None:
        """See `Loop.call_blocking`. The call itself is not guarded."""
        self.base.call_blocking(call)

    def on_loss(self, callback: Callback) -> None:
        """See `Loop.on_loss`."""
        self.base.on_loss(self.guard(callback))

    def at(self, due: int, callback: Callback) -> Timer:
        """See `Loop.at`."""
        return self.base.at(due, self.guard(callback))

    def take_control(self, holder: object) -> None:
        """See `Loop.take_control`."""
        self.base.take_control(holder)

    def give_control(self, holder: object) -> None:
        """See `Loop.give_control`."""
        self.base.give_control(holder)

    def must_wait(self, device: object, resume: Callback) -> bool:
        """See `Loop.must_wait`."""
        return self.base.held and self.base.must_wait(device, self.guard(resume))
