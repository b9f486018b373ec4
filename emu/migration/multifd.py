"""Memory over several sockets in parallel, as QEMU's multifd capability.

The first channel is the migration stream itself. A round of memory ends with a BARRIER on every
channel; a receiver that has read its BARRIER reads nothing more until all have. So no page of a
later round can be overwritten by an earlier one. Less memory than `MIN_PARALLEL_BYTES` is sent over
the first channel alone and needs no barrier, so that a blackout does not wait for threads.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from emu.errors import MigrationError, Operation
from emu.migration.stream import Kind, MigrationStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.machine.ram import GuestRam
    from emu.migration.stream import Run

#: Bytes; to send less memory than this in parallel is slower, as threads have to be woken.
MIN_PARALLEL_BYTES = 1 << 20
#: Seconds for a thread to end when its socket has been shut down.
TIMEOUT = 5.0


def split_evenly(runs: Sequence[Run], count: int) -> list[list[Run]]:
    """The runs split into ``count`` shares of nearly the same size, in whole pages."""
    total = sum(length for _, length in runs)
    size = max(4096, -(-total // count) + 4095 & -4096)
    shares: list[list[Run]] = [[] for _ in range(count)]
    number, room = 0, size
    for gpa, length in runs:
        at, end = gpa, gpa + length
        while at < end:
            part = min(end - at, room)
            shares[number].append((at, part))
            at += part
            room -= part
            if not room:
                number, room = number + 1, size
    return shares


class SendingChannels:
    """The source's channels: the migration stream, and further sockets with a thread each.

    Args:
        stream: the first channel, which also carries all other sections.
        others: the further channels, which `close` closes.
    """

    def __init__(self, stream: MigrationStream, others: Sequence[MigrationStream] = ()) -> None:
        self._stream = stream
        self._others = others
        self._pending: list[SimpleQueue[Callable[[], None] | None]] = []
        self._done: SimpleQueue[Exception | None] = SimpleQueue()
        #: Several channels have sent pages of this round.
        self._parallel = False
        #: The first channel alone has sent pages of an earlier round since the last barrier.
        self._barrier_due = False
        self._threads = []
        for number, _ in enumerate(others, 1):
            queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
            self._pending.append(queue)
            thread = threading.Thread(
                target=self._work, args=(queue,), name=f"stream {number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    @property
    def bytes_sent(self) -> int:
        """Bytes of all channels together."""
        return self._stream.bytes_sent + sum(other.bytes_sent for other in self._others)

    def send_ram(self, ram: GuestRam, runs: Sequence[Run]) -> None:
        """Send memory, and return when all channels have sent it.

        Raises:
            MigrationError: the connection of a channel broke.
        """
        if not self._others or sum(length for _, length in runs) < MIN_PARALLEL_BYTES:
            self._stream.send_ram(ram, runs)
            return
        if self._barrier_due:
            self._send_barrier()
        self._parallel = True
        mine, *rest = split_evenly(runs, 1 + len(self._others))
        for queue, other, share in zip(self._pending, self._others, rest, strict=True):
            queue.put(lambda other=other, share=share: other.send_ram(ram, share))  # type: ignore[misc]
        try:
            self._stream.send_ram(ram, mine)
        except MigrationError:
            self.interrupt()
            self._await_others()
            raise
        error = self._await_others()
        if error is not None:
            raise error

    def _await_others(self) -> Exception | None:
        """Wait until every thread has sent its share; return the first error, if there was one."""
        errors = [self._done.get() for _ in self._others]
        return next((error for error in errors if error is not None), None)

    def end_round(self) -> None:
        """See `RamSender.end_round`.

        Raises:
            MigrationError: the connection of a channel broke.
        """
        if self._parallel:
            self._send_barrier()
        else:
            self._barrier_due = True

    def _send_barrier(self) -> None:
        self._parallel = self._barrier_due = False
        for stream in (self._stream, *self._others):
            stream.send(Kind.BARRIER)

    def _work(self, queue: SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := queue.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001  the waiting thread raises it
                self._done.put(error)
            else:
                self._done.put(None)

    def interrupt(self) -> None:
        """From any thread: make each send on a further channel fail at once."""
        for other in self._others:
            other.interrupt()

    def close(self) -> None:
        """End the threads and close the further channels."""
        self.interrupt()
        for queue in self._pending:
            queue.put(None)
        for thread in self._threads:
            thread.join(TIMEOUT)
        for other in self._others:
            other.close()


class ReceivingChannels:
    """The destination's channels. From `open` on, a thread each reads the further ones.

    Args:
        stream: the first channel; its reader calls `await_barrier` when it receives a BARRIER.
        others: the further channels, which `close` closes.
        ram: the memory of this side's VM.
    """

    def __init__(
        self, stream: MigrationStream, others: Sequence[MigrationStream], ram: GuestRam
    ) -> None:
        self._stream = stream
        self._others = others
        self._ram = ram
        self._error: MigrationError | None = None
        self._finished = False
        self._barrier = threading.Barrier(1 + len(others))
        self._threads = [
            threading.Thread(target=self._receive, args=(other,), name=f"stream {n}", daemon=True)
            for n, other in enumerate(others, 1)
        ]

    def open(self) -> None:
        """Start the threads that read the further channels."""
        for thread in self._threads:
            thread.start()

    def await_barrier(self, timeout: float) -> None:
        """Return when all channels have reached the end of the round, as the first one has.

        Raises:
            MigrationError: a connection broke, or the end did not come within ``timeout`` seconds.
        """
        try:
            self._barrier.wait(timeout)
        except threading.BrokenBarrierError:
            self.check()
            raise MigrationError(
                Operation.STREAM, f"a stream has not reached the round's end within {timeout:g} s"
            ) from None

    def finish(self) -> None:
        """Ignore later errors of the further channels: all memory has arrived."""
        self._finished = True

    def check(self) -> None:
        """Raise the error of a further channel, if there was one."""
        if self._error is not None:
            raise self._error

    def _receive(self, other: MigrationStream) -> None:
        try:
            while True:
                other.await_section()
                kind, count, payload = other.receive()
                if kind is Kind.RAM:
                    other.receive_ram(self._ram, count, payload)
                elif kind is Kind.BARRIER:
                    self._barrier.wait()
                else:
                    raise MigrationError(Operation.STREAM, f"received {kind.name}, expected RAM")
        except MigrationError as error:
            if self._finished:
                return
            # The reader of the first channel fails at once, and calls `check`.
            self._error = self._error or error
            self._stream.interrupt_reading()
            self._barrier.abort()
        except threading.BrokenBarrierError:
            return

    def close(self) -> None:
        """End the threads and close the further channels."""
        self._barrier.abort()
        for other in self._others:
            other.interrupt()
        for thread in self._threads:
            with suppress(RuntimeError):  # it was never started
                thread.join(TIMEOUT)
        for other in self._others:
            other.close()
