"""What a stopped ring leaves, and when it is closed."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from backends import deferred_close
from backends.deferred_close import DeferredClose
from tests.timeouts import TIMEOUT
from vhost_user.readiness import readable

if TYPE_CHECKING:
    import pytest

    from backends.loop import Loop


def closed(reader: int) -> bool:
    """Whether the other end of a pipe has been closed, or is closed soon."""
    return bool(readable([reader], TIMEOUT)) and os.read(reader, 1) == b""


def test_closes_after_the_delay_and_not_before(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = os.pipe(), os.pipe()
    closer = DeferredClose(loop)
    monkeypatch.setattr(deferred_close, "DELAY_NS", 3_600_000_000_000)
    loop.post(lambda: closer.add_fds([first[1]]))
    assert not readable([first[0]], 0.05)
    loop.post(closer.run)
    assert closed(first[0])
    monkeypatch.setattr(deferred_close, "DELAY_NS", 1_000_000)
    loop.post(lambda: closer.add_fds([second[1]]))
    assert closed(second[0]), "a run does not prevent the next one"
    for reader, _ in (first, second):
        os.close(reader)


def test_a_kick_is_muted_at_once(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_close, "DELAY_NS", 3_600_000_000_000)
    closer = DeferredClose(loop)
    kicks: list[int] = []
    reader, kick = os.pipe()
    other, other_kick = os.pipe()

    def stop() -> None:
        loop.watch_kick(reader, lambda: kicks.append(reader))
        loop.watch_kick(other, lambda: kicks.append(os.read(other, 1)[0]))
        closer.add_kicks([reader])

    loop.post(stop)
    os.write(kick, b"k")
    os.write(other_kick, b"o")
    loop.post(lambda: loop.again(lambda: loop.finally_(closer.run)))
    poller = select.poll()
    poller.register(kick, 0)
    assert poller.poll(TIMEOUT * 1000) == [(kick, select.POLLERR)], "the reader is closed"
    assert set(kicks) <= {ord("o")}
    loop.post(lambda: loop.unwatch_kick(other))
    for fd in (kick, other_kick):
        os.close(fd)
