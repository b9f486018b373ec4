"""The start and the end of every installed command: its standard streams, and its exit status.

It imports hardly more than the standard library, so that Ctrl-C has the same effect while a command
loads.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

#: Characters of the line about an error: it may name two paths of any length.
MAX_LINE = 10_000
#: The status of a command that Ctrl-C has ended.
INTERRUPTED = 130
_STDOUT, _STDERR = 1, 2


class OutputError(Exception):
    """Standard output cannot be written to.

    It is not an `OSError`, so that no handler of a file's or socket's errors takes it for its own.
    """


class ReaderGoneError(OutputError):
    """The reader of the pipe has gone, as with ``| head``."""


def run(name: str, body: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status.

    An error that is left is one line on stderr, and the status is 1; so is output that cannot be
    written. A reader of the output that has gone is no error to be reported, but the status is 1,
    too. What cannot be written to stderr is lost, and changes nothing.

    Args:
        name: of the command, for its lines.
        body: does the work, and returns the status.
    """
    _prepare()
    sys.exit(_flushed(name, _status(name, body)))


def complain(name: str, text: str, status: int) -> int:
    """Write one line on stderr, of what prints; returns the status."""
    print(f"{name}: {one_line(text, MAX_LINE)}", file=sys.stderr, flush=True)  # noqa: T201
    return status


def describe(error: OSError) -> str:
    """An error of the operating system as a line for the user: what it is about, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _status(name: str, body: Callable[[], int]) -> int:
    try:
        return body()
    except ReaderGoneError:
        return 1
    except OutputError as error:
        return complain(name, str(error), 1)
    except OSError as error:
        return complain(name, describe(error), 1)
    except KeyboardInterrupt:
        return complain(name, "ended by SIGINT", INTERRUPTED)


def _flushed(name: str, status: int) -> int:
    """The status; or 1 instead of 0 if the rest of the output cannot be written."""
    try:
        sys.stdout.flush()
    except ReaderGoneError:
        return status or 1
    except OutputError as error:
        return status or complain(name, str(error), 1)
    return status


class _Output(io.FileIO):
    """Standard output: what cannot be written is an `OutputError`, once.

    What comes after it is discarded: the interpreter flushes once more at its end.
    """

    def __init__(self, *, closed: bool) -> None:
        super().__init__(_STDOUT, "w", closefd=False)
        self._was_closed = closed
        self._failed = False

    def write(self, data: bytes) -> int | None:  # type: ignore[override]  # any buffer
        if self._failed or not data:  # click writes nothing to see what a stream is
            return len(data)
        if self._was_closed:
            self._failed = True
            raise OutputError("standard output is closed: nothing can be printed")
        try:
            return super().write(data)
        except OSError as error:
            self._failed = True
            kind = ReaderGoneError if error.errno == errno.EPIPE else OutputError
            raise kind(f"standard output: {error.strerror}") from None


class _Errors(io.FileIO):
    """Standard error: a terminal that has closed or a full disk changes nothing else."""

    def __init__(self) -> None:
        super().__init__(_STDERR, "w", closefd=False)

    def write(self, data: bytes) -> int | None:  # type: ignore[override]  # any buffer
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _prepare() -> None:
    """Standard streams that are all open, and whose errors are those of `run`; for the process."""
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Output):
        return
    closed = sys.stdout is None
    # In this order, as each takes the lowest descriptor: no socket gets one of these.
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)
            mode = "r" if flags == os.O_RDONLY else "w"
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  stays open
    sys.stdout = _on_file(sys.stdout, _STDOUT, lambda: _Output(closed=closed))
    sys.stderr = _on_file(sys.stderr, _STDERR, _Errors)


def _on_file(stream: TextIO, fd: int, make: Callable[[], io.FileIO]) -> TextIO:
    """The same stream on another file object, if it is that of the descriptor.

    A terminal that cannot show a character gets another one, not a traceback.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="replace")
    try:
        if stream.fileno() != fd:
            return stream
    except OSError:  # a stream in memory
        return stream
    file = make()
    return io.TextIOWrapper(
        # Without a buffer where Python runs unbuffered.
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
