"""The event loop: one thread waits for sockets, kicks, completions and timers.

There are two epoll sets. Control descriptors (listening and connected sockets, wake-ups) are in
one, kicks in the other, and the first is nested in the second. So a turn can check for control
messages between two rings with one system call, and a stop does not wait for the requests of all
other rings.

Calls that may block, but seldom do, are made by the loop's thread at the end of a turn. A *spare
thread* takes the loop over when one does: the thread that is blocked is the spare one afterwards.
So the call of a fast file needs no other thread, and that of a slow one delays the loop for
`TAKE_OVER_NS` to twice as long.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from backends.limits import RINGS_PER_CHECK, TAKE_OVER_NS
from backends.pacing import Pacer
from vhost_user.mapping import losses
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from backends.blocking_call import BlockingCall

Callback = Callable[[], None]
#: Seconds that `Loop.stop` waits for the thread.
JOIN_TIMEOUT = 5.0
#: Seconds before a timer is due at which the wait becomes precise to the microsecond.
_COARSE = 0.002
#: Periods of `TAKE_OVER_NS` without a call after which the spare thread sleeps.
_QUIET_PERIODS = 100


class Timer:
    """A callback that is called at a time, unless it is cancelled."""

    __slots__ = ("callback", "due")

    def __init__(self, due: int, callback: Callback) -> None:
        self.due = due
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class Loop:
    """An event loop with a thread of its own.

    All methods except `post`, `start` and `stop` are for that thread, or for any thread before the
    loop is started.

    Attributes:
        pacer: the pace of this control thread.
        events: the epoll descriptor of all that the loop waits for, except timers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pacer = Pacer()
        self._control = select.epoll()
        self._data = select.epoll()
        self.events = self._data.fileno()
        self._data.register(self._control.fileno(), select.EPOLLIN)
        self._control_event = (self._control.fileno(), select.EPOLLIN)
        self._control_handlers: dict[int, Callable[[int], None]] = {}
        self._data_handlers: dict[int, Callback] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[Callback] = deque()
        self._woken = False
        self._again: list[Callback] = []
        self._finally: list[Callback] = []
        self._on_loss: list[Callback] = []
        self._losses = losses[0]
        self._timers: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()
        self._holder: object | None = None
        self._waiting: deque[Callback] = deque()
        self._calls: deque[BlockingCall] = deque()
        self._calling: list[BlockingCall] = []  # one at most; who pops it has the loop
        self._calls_made = 0
        self._spare_is_free = False
        self._spare_awake = threading.Event()
        self._stopping = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._spare: threading.Thread | None = None
        self.watch(self._wake_fd, self._on_wake)

    # Descriptors

    def watch(self, fd: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call ``handler(events)`` whenever the control descriptor is ready."""
        self._control_handlers[fd] = handler
        self._control.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a descriptor that is watched."""
        self._control.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching a control descriptor; no event of it is delivered any more."""
        del self._control_handlers[fd]
        self._control.unregister(fd)

    def watch_kick(self, fd: int, handler: Callback) -> None:
        """Call ``handler()`` whenever the kick is readable.

        Raises:
            OSError: the descriptor cannot be waited for (a regular file, for example).
        """
        self._data.register(fd, select.EPOLLIN)
        self._data_handlers[fd] = handler

    def mute_kicks(self, fds: Sequence[int]) -> None:
        """Deliver no event of kicks any more, not even of this turn; `unwatch_kick` them later."""
        handlers = self._data_handlers
        for fd in fds:
            del handlers[fd]

    def unwatch_kick(self, fd: int) -> None:
        """Stop watching a kick."""
        self._data_handlers.pop(fd, None)
        with suppress(FileNotFoundError):  # it was muted, and `_ignore` has removed it since
            self._data.unregister(fd)

    # Callbacks

    def post(self, callback: Callback) -> None:
        """From any thread: have the loop call it soon."""
        self._posted.append(callback)
        if not self._woken:
            self._woken = True
            try:
                os.eventfd_write(self._wake_fd, 1)
            except BaseException:
                self._woken = False
                with suppress(ValueError):  # it was called already
                    self._posted.remove(callback)
                raise

    def again(self, callback: Callback) -> None:
        """Call it in the next turn, after a check for control messages."""
        self._again.append(callback)

    def finally_(self, callback: Callback) -> None:
        """Call it at the end of this turn.

        Descriptors are closed then: no event that the turn still holds can be attributed to a
        new descriptor with the same number.
        """
        self._finally.append(callback)

    def call_blocking(self, call: BlockingCall) -> None:
        """Make a call at the end of this turn, and finish it; later, if it blocks."""
        self._calls.append(call)

    def on_loss(self, callback: Callback) -> None:
        """Call it after each turn in which mapped memory was gone (`vhost_user.mapping.losses`).

        It is called for the losses of other threads as well, and finds out itself whose memory it
        was.
        """
        self._on_loss.append(callback)

    def at(self, due: int, callback: Callback) -> Timer:
        """Call it when the monotonic clock (ns) reaches ``due``."""
        timer = Timer(due, callback)
        heapq.heappush(self._timers, (due, next(self._sequence), timer))
        return timer

    # The control plane of a shared loop

    def take_control(self, holder: object) -> None:
        """Have only ``holder`` read its control socket, until `give_control`."""
        self._holder = holder

    def give_control(self, holder: object) -> None:
        """End `take_control`; the devices that wait may read, in the order in which they came."""
        if self._holder is not holder:
            return
        self._holder = None
        while self._waiting and self._holder is None:
            self._waiting.popleft()()

    @property
    def held(self) -> bool:
        """`take_control` is in effect."""
        return self._holder is not None

    def must_wait(self, device: object, resume: Callback) -> bool:
        """True when another device holds the control plane; ``resume`` is called later."""
        if self._holder is None or self._holder is device:
            return False
        self._waiting.append(resume)
        return True

    # Running

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = JOIN_TIMEOUT) -> bool:
        """From any thread: end the thread and wait for it; False if it has not ended in time.

        Args:
            timeout: seconds.
        """
        if self._thread.ident is None:
            return True
        if not self._ended.is_set():
            self.post(self._on_stop)
        ended = self._ended.wait(timeout)
        if ended and (self._spare is None or self._spare_is_free):
            self._thread.join(timeout)
            if self._spare is not None:
                self._spare.join(timeout)
        return ended

    def close(self) -> None:
        """Close the loop's descriptors, when its thread has ended and no thread posts any more."""
        if not self._control.closed:
            self._data.close()
            self._control.close()
            os.close(self._wake_fd)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.stop():
            self.close()

    def _run(self, *, has_loop: bool = True) -> None:
        """A thread of the loop: one has it, the other one is the spare thread."""
        try:
            while has_loop or self._take_over():
                has_loop = self._turn()
                if has_loop and self._stopping:
                    break
        finally:
            if has_loop:
                self._ended.set()
                self._spare_awake.set()

    def _take_over(self) -> bool:
        """Wait for a call that takes long, and take the loop over; False at the loop's end."""
        self._spare_is_free = True
        while not self._stopping:
            self._spare_awake.wait()
            if self._await_long_call():
                self._spare_is_free = False
                return True
        return False

    def _await_long_call(self) -> bool:
        """True when a call has taken long, and the loop was taken over; False after a while."""
        made, quiet = -1, 0
        while quiet < _QUIET_PERIODS:
            time.sleep(TAKE_OVER_NS / 1e9)
            if self._stopping:
                return False
            if made != self._calls_made:
                made, quiet = self._calls_made, 0
            elif self._calling:
                with suppress(IndexError):  # it has just ended
                    self._calling.pop().late = True
                    return True
            else:
                quiet += 1
        self._spare_awake.clear()
        if made != self._calls_made:  # before it was cleared
            self._spare_awake.set()
        return False

    def _make_calls(self) -> bool:
        """Make the calls that may block; False when another thread has the loop now."""
        while self._calls:
            call = self._calls.popleft()
            if not self._spare_is_free and not self._start_spare():
                self._make_in_pool(call)
                continue
            self._calling.append(call)
            self._calls_made += 1
            if not self._spare_awake.is_set():
                self._spare_awake.set()
            try:
                call.make()
            except Exception as error:  # noqa: BLE001  the loop goes on, whatever is raised
                call.outcome = error
            try:
                self._calling.pop()
            except IndexError:
                if not self._stopping:
                    self.post(partial(_finish, call))
                return False
            _finish(call)
        return True

    def _start_spare(self) -> bool:
        """Have a spare thread; False where that is not possible, or its call has not ended yet."""
        if self._thread.ident is None:
            return True  # the loop has no thread, but is turned by its caller
        if self._spare is not None:
            return False
        run = partial(self._run, has_loop=False)
        spare = threading.Thread(target=run, name=f"{self.name}-spare", daemon=True)
        try:
            spare.start()
        except RuntimeError:
            return False
        self._spare = spare
        self._spare_is_free = True
        return True

    def _make_in_pool(self, call: BlockingCall) -> None:
        try:
            call.make_in_pool(lambda finish: self.post(partial(_finish, call, finish)))
        except Exception as error:  # noqa: BLE001  the system may have no thread for it
            call.outcome = error
            _finish(call)

    def _turn(self) -> bool:
        """Serve what is ready; False when another thread has taken the loop over."""
        events = self._data.poll(self._timeout(), 64)
        more = bool(self._timers or self._again)
        if self._timers:
            self._run_timers()
        if self._again:
            self._run_again()
        if more or len(events) > RINGS_PER_CHECK or self._control_event in events:
            self._serve_control()
        handlers = self._data_handlers
        for count, (fd, _) in enumerate(events, 1):
            # No handler: the nested control set, or a ring that has been stopped meanwhile.
            handler = handlers.get(fd)
            if handler is None:
                self._ignore(fd)
            else:
                handler()
                if not count % RINGS_PER_CHECK:
                    self._serve_control()
        if self._calls and not self._make_calls():
            return False
        if losses[0] != self._losses:
            self._losses = losses[0]
            for callback in self._on_loss:
                callback()
        while self._finally:
            done, self._finally = self._finally, []
            for callback in done:
                callback()
        return True

    def _ignore(self, fd: int) -> None:
        """Unregister a kick without a handler: level-triggered, it would wake every turn."""
        if fd != self._control.fileno():
            self.unwatch_kick(fd)

    def _serve_control(self) -> None:
        handlers = self._control_handlers
        for fd, events in self._control.poll(0):
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)

    def _timeout(self) -> float | None:
        if self._again or self._finally or self._calls:
            return 0
        if not self._timers:
            return None
        remaining = (self._timers[0][0] - time.monotonic_ns()) / 1e9
        if remaining <= 0:
            return 0
        if remaining >= _COARSE:
            return remaining - _COARSE / 2  # epoll rounds up to milliseconds
        # To the microsecond, at the cost of a system call in each turn.
        readable([self._data], remaining)
        return 0

    def _run_timers(self) -> None:
        now = time.monotonic_ns()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    def _run_again(self) -> None:
        again, self._again = self._again, []
        for callback in again:
            callback()

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)
        self._woken = False  # first: what is posted from here on wakes the loop again
        posted = self._posted
        while posted:
            posted.popleft()()

    def _on_stop(self) -> None:
        self._stopping = True


def _finish(call: BlockingCall, finish: Callback | None = None) -> None:
    """Finish a call; the loop goes on, and a request ends, whatever is raised."""
    try:
        (finish or call.finish)()
    except Exception as error:  # noqa: BLE001
        call.outcome = error
        call.finish()
