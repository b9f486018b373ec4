"""An exception fails the part that raised it, and nothing else."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from backends.isolation import GuardedLoop, contain, describe
from tests.timeouts import TIMEOUT
from vhost_user.errors import FrontendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop


class Component:
    """A part that records why it failed, or that cannot even fail."""

    def __init__(self, name: str, parent: Component | None = None, *, able: bool = True) -> None:
        self.name = name
        self.parent = parent
        self.failures: list[Exception] = []
        self.failed = threading.Event()
        self._able = able

    def fail(self, error: Exception) -> None:
        if not self._able:
            raise RuntimeError(f"{self.name} cannot fail")
        self.failures.append(error)
        self.failed.set()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FrontendError("a bad index", device="disk", ring=1), "a bad index"),
        (OSError(errno.EBADF, os.strerror(errno.EBADF)), "Bad file descriptor"),
        (MemoryError(), "out of memory"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (KeyError(3), "KeyError: 3"),
    ],
)
def test_a_description_is_one_line(error: Exception, text: str) -> None:
    assert describe(error) == text


def test_an_unexpected_exception_is_described_with_its_place() -> None:
    with pytest.raises(ValueError, match="literal") as raised:
        int("x")
    assert describe(raised.value).endswith(f"(test_isolation.py:{raised.traceback[0].lineno + 1})")


def test_the_parent_fails_where_a_part_cannot() -> None:
    device = Component("device")
    contain(Component("ring", device, able=False), FrontendError("a bad index"))
    assert [str(error) for error in device.failures] == ["ring cannot fail"]


def test_one_line_is_left_where_no_part_can_fail(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "backends"):
        contain(Component("device", able=False), FrontendError("a bad index"))
        contain(None, FrontendError("a bad index"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("device: is not served any more: RuntimeError: device cannot fail")
    assert second == "the program: is not served any more: a bad index"


def _by_watch(loop: GuardedLoop, callback: Callable[[], None]) -> None:
    loop.watch(os.eventfd(1), lambda _: callback())


def _by_kick(loop: GuardedLoop, callback: Callable[[], None]) -> None:
    loop.watch_kick(os.eventfd(1), callback)


def _by_timer(loop: GuardedLoop, callback: Callable[[], None]) -> None:
    loop.at(0, callback)


def _by_resumption(loop: GuardedLoop, callback: Callable[[], None]) -> None:
    loop.take_control("another device")
    assert loop.must_wait("this device", callback)
    loop.give_control("another device")


@pytest.mark.parametrize(
    "call",
    [
        GuardedLoop.post,
        GuardedLoop.again,
        GuardedLoop.finally_,
        _by_watch,
        _by_kick,
        _by_timer,
        _by_resumption,
    ],
)
def test_whatever_calls_a_part_goes_on(
    loop: Loop, call: Callable[[GuardedLoop, Callable[[], None]], None]
) -> None:
    part = Component("part")
    guarded = GuardedLoop(loop, part)
    went_on = threading.Event()
    released = threading.Event()

    def fail() -> None:
        assert released.wait(TIMEOUT)
        raise KeyError("a mistake")

    def begin() -> None:
        call(guarded, fail)
        loop.again(went_on.set)

    loop.post(begin)
    released.set()
    assert part.failed.wait(TIMEOUT)
    assert went_on.wait(TIMEOUT)
    assert isinstance(part.failures[0], KeyError)


def test_the_same_thread_serves_another_part(loop: Loop) -> None:
    first, second = Component("first"), Component("second")
    guarded = GuardedLoop(loop, first)
    other = guarded.guarded(second)
    assert other.base is guarded.base is loop
    assert other.pacer is loop.pacer
    other.post(lambda: contain(None if second.failures else first, ValueError("first")))
    assert first.failed.wait(TIMEOUT)
    assert not second.failures
