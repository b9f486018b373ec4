"""The loop: many pairs, connecting in both directions, and the end."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.tap import proxy as module
from emu.tap.connection import Arrived, Closed
from emu.tap.proxy import Pair, Proxy, TapError
from tests.emu.tap.taps import Sides, Tap
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("fast_path")


def after_one_look() -> Callable[[], float | None]:
    """A deadline that is over when the loop has looked once for what is ready."""
    looks: list[float | None] = [None]
    return lambda: looks.pop() if looks else 0.0


@pytest.mark.parametrize("reverse", [False, True])
def test_either_side_may_listen(tmp_path: Path, reverse: bool) -> None:
    """With ``reverse`` the far side is the front-end's."""
    sides = Sides(tmp_path, reverse=reverse)
    with Tap([sides.pair]) as tap, sides.listener:
        near, far = sides.connected()
        front, back = (far, near) if reverse else (near, far)
        front.send(b"\xff" * 12)
        assert back.recv(100) == b"\xff" * 12
        front.close()
        assert back.recv(100) == b""
        back.close()
        (closed,) = tap.await_event(Closed)
        assert isinstance(closed, Closed)
        assert closed.sender.value == "front-end"


def test_many_pairs_at_once(tmp_path: Path) -> None:
    all_sides = []
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        all_sides.append(Sides(folder))
    with Tap([sides.pair for sides in all_sides]):
        ends = [sides.connected() for sides in all_sides]
        for number, (front, _) in enumerate(ends):
            front.send(b"%d" % number)
        assert [back.recv(10) for _, back in ends] == [b"%d" % n for n in range(40)]
        for front, back in ends:
            front.close()
            assert back.recv(10) == b""
            back.close()
    for sides in all_sides:
        sides.listener.close()


def test_a_side_that_listens_later_is_waited_for(tmp_path: Path) -> None:
    sides = Sides(tmp_path)
    sides.listener.close()
    with Tap([sides.pair]):
        near = sides.dial()
        near.send(b"early")
        with sides.listen():
            far = sides.accept()
            assert far.recv(10) == b"early"
            near.close()
            far.close()


def test_without_the_other_side_it_is_a_disconnect(tmp_path: Path) -> None:
    """And a line names the socket on which no process listens."""
    sides = Sides(tmp_path)
    sides.listener.close()
    with Tap([sides.pair], patience=0.0) as tap:
        near = sides.dial()
        assert near.recv(10) == b""
        near.close()
    assert tap.notices == [f"dev: no back-end at {sides.pair.connect}: No such file or directory"]


def test_one_that_waits_may_leave(tmp_path: Path) -> None:
    sides = Sides(tmp_path)
    sides.listener.close()
    before = open_fds()
    with Tap([sides.pair]):
        near = sides.dial()
        held = len(open_fds())
        near.close()
        wait_until(lambda: len(open_fds()) < held, "the tap has closed it")
    assert open_fds() <= before


def test_it_can_be_connected_again_and_again(sides: Sides) -> None:
    with Tap([sides.pair]) as tap:
        for _ in range(20):
            front, back = sides.connected()
            back.close()
            assert front.recv(10) == b""
            front.close()
        tap.await_event(Closed, 20)


def test_its_end_is_a_disconnect_on_both_sides(sides: Sides) -> None:
    """Nothing of it is left: no descriptor, and no file."""
    before = open_fds()
    with Tap([sides.pair]) as tap:
        front, back = sides.connected()
        tap.stop()
        assert front.recv(10) == b""
        assert back.recv(10) == b""
        front.close()
        back.close()
    assert open_fds() == before
    assert not Path(sides.pair.listen).exists()
    (closed,) = tap.await_event(Closed)
    assert isinstance(closed, Closed)
    assert closed.reason == "the tap has ended"


def test_an_observer_that_fails_does_not_stop_it(sides: Sides) -> None:
    """Why it fails is printed once."""
    notices: list[str] = []

    def fail(_event: object) -> None:
        raise ZeroDivisionError("0")

    with Proxy([sides.pair], fail, notices.append, 1.0) as proxy:
        sides.dial().close()
        for _ in ("connected", "disconnected"):
            proxy.run((), after_one_look())
    assert notices == ["cannot decode: ZeroDivisionError: 0"]


@pytest.mark.parametrize(
    ("listen", "error"),
    [("x" * 200, UsageError), ("/nowhere/at/all", TapError), ("/dev/null", TapError)],
)
def test_a_path_where_it_cannot_listen(tmp_path: Path, listen: str, error: type[Exception]) -> None:
    """Those of the pairs before it are removed again."""
    good = str(tmp_path / "good.sock")
    before = open_fds()
    with pytest.raises(error):
        Proxy([Pair("a", good, "b"), Pair("c", listen, "d")], lambda _: None, print, 1.0)
    assert open_fds() == before
    assert not Path(good).exists()


def test_no_descriptors_is_no_end(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts again later; the caller waits meanwhile."""
    accept = socket.socket.accept
    refused: list[int] = []

    def first_refused(sock: socket.socket) -> tuple[socket.socket, object]:
        if sock is not sides.listener and len(refused) < 3:
            refused.append(1)
            raise OSError(24, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", first_refused)
    with Tap([sides.pair]) as tap:
        front, back = sides.connected()
        front.close()
        back.close()
    assert tap.notices == ["dev: cannot accept: Too many open files"]


def test_the_deadline_may_come_while_it_runs(sides: Sides) -> None:
    """The observer sets it; nothing else ends the run."""
    deadlines: list[float] = []
    with Proxy([sides.pair], lambda _: deadlines.append(0.0), print, 1.0) as proxy:
        front = sides.dial()
        proxy.run((), lambda: deadlines[0] if deadlines else None)
        front.close()
    assert deadlines


def test_events_that_wait_have_a_bound(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never pauses does not make the tap hold more and more."""
    monkeypatch.setattr(module, "BACKLOG", 5000)
    monkeypatch.setattr(module, "IDLE", TIMEOUT)
    with Tap([sides.pair]) as tap:
        front, back = sides.connected()
        for _ in range(50):
            front.send(b"\1\0\0\0\1\0\0\0\0\0\0\0")
            back.recv(100)
        tap.await_event(Arrived, 40)
        front.close()
        back.close()


def test_a_stop_does_not_wait_for_what_has_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owned: ExitStack
) -> None:
    """Neither until it is decoded, nor until all of it was read: the tap holds a part of it."""
    monkeypatch.setattr(module, "BACKLOG", 0)
    stop, wake = os.pipe()
    owned.callback(os.close, stop)
    owned.callback(os.close, wake)
    seen: list[Arrived] = []

    def observe(event: object) -> None:
        if isinstance(event, Arrived):
            if not seen:
                os.write(wake, b".")
            seen.append(event)

    all_sides = []
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        all_sides.append(Sides(tmp_path / str(number)))
        owned.callback(all_sides[-1].listener.close)
    with Proxy([sides.pair for sides in all_sides], observe, print, 1.0) as proxy:
        fronts, backs = [], []
        for sides in all_sides:
            fronts.append(owned.enter_context(sides.dial()))
            proxy.run((), after_one_look())
            backs.append(owned.enter_context(sides.accept()))
        for front in fronts:
            front.send(b"\1\0\0\0\1\0\0\0\0\0\0\0" * 5000)
        proxy.run((stop,))
        in_run = len(seen)
    came = [back for back in backs if back.recv(1)]
    assert in_run <= module.SLICE
    assert 1 <= len(came) <= 3
    assert len(seen) == 5000 * len(came)


def test_what_waits_is_handed_over_before_the_deadline_ends_the_run(sides: Sides) -> None:
    """Otherwise a stop whose messages still wait would count as over."""
    events: list[object] = []
    with Proxy([sides.pair], events.append, print, 1.0) as proxy:
        front = sides.dial()
        handled: list[int] = []

        def deadline() -> float | None:
            handled.append(1)
            return 0.0 if len(handled) > 1 else None

        proxy.run((), deadline)
        assert events
        front.close()


def test_the_deadline_ends_a_run_although_messages_never_pause(sides: Sides) -> None:
    """Each message that is handed over is followed by another one."""
    message = b"\1\0\0\0\1\0\0\0\0\0\0\0"
    seen: list[Arrived] = []

    def observe(event: object) -> None:
        if isinstance(event, Arrived):
            seen.append(event)
            front.send(message)
            with suppress(BlockingIOError):
                back.recv(1 << 16)

    with Proxy([sides.pair], observe, print, 1.0) as proxy:
        front = sides.dial()
        proxy.run((), after_one_look())
        back = sides.accept()
        back.setblocking(False)
        front.send(message * 50)
        until = proxy.run((), lambda: 0.0 if seen else None)
        assert len(seen) >= 50
        assert seen[0].message.time < until
        front.close()
        back.close()


def test_an_event_of_a_closed_descriptor_is_not_that_of_a_new_one(sides: Sides) -> None:
    """The new connection has the number of the old one, and no handler yet."""
    with Proxy([sides.pair], lambda _: None, print, TIMEOUT) as proxy, ExitStack() as stack:
        front = stack.enter_context(sides.dial())
        proxy.run((), after_one_look())
        back = stack.enter_context(sides.accept())
        sides.listener.close()
        # In this order the tap learns of it: the connection ends, and a new one comes.
        back.close()
        again = stack.enter_context(sides.dial())
        front.close()
        for _ in range(16):  # no other number is free then
            stack.callback(os.close, os.dup(again.fileno()))
        proxy.run((), after_one_look())
        stack.enter_context(sides.listen())
        again.send(b"here")
        deadline = time.monotonic() + TIMEOUT
        stop = sides.listener.fileno()
        proxy.run((stop,), lambda: deadline)
        far = stack.enter_context(sides.accept())
        proxy.run((far.fileno(),), lambda: deadline)
        assert far.recv(10) == b"here"
