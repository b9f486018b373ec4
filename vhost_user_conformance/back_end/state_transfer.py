"""Saving and loading the state of a device through a pipe."""

from __future__ import annotations

import os
import select
from io import FileIO
from typing import TYPE_CHECKING

from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import Failed, check

if TYPE_CHECKING:
    from vhost_user_conformance.peer.wire import Message

SAVE, LOAD, _STOPPED = 0, 1, 0
_ERROR = 0xFF
#: Bytes of the largest state that is read.
_MOST = 256 << 20


def request(direction: int, phase: int = _STOPPED) -> bytes:
    """SET_DEVICE_STATE_FD's payload."""
    return direction.to_bytes(4, "little") + phase.to_bytes(4, "little")


def pipe_of(be: BackEnd) -> tuple[FileIO, FileIO]:
    """Reading and writing end; both block, as those of QEMU's front-end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ends = FileIO(reading, "r"), FileIO(writing, "w")
    for end in ends:
        be.own(end.close)
    return ends


def answer(reply: Message) -> int:
    """The error code of a reply, 0 for none.

    Raises:
        Failed: its descriptor does not agree with bit 8, or is sent with an error.
    """
    check(len(reply.payload) == 8, "8 bytes in the reply", f"{len(reply.payload)} bytes")
    error, count = reply.u64 & _ERROR, len(reply.fds)
    wanted = 0 if reply.u64 & VRING_NO_FD else 1
    flag = f"bit 8 {'set' if not wanted else 'clear'}"
    check(not (error and count), "no descriptor with an error", f"error {error} and a descriptor")
    if not error:
        check(count == wanted, f"{wanted} descriptors with {flag}", f"{count}")
    return error


def begin(be: BackEnd, direction: int) -> FileIO:
    """Begin a transfer, which must be accepted; the suite's end of it."""
    reading, writing = pipe_of(be)
    ours, theirs = (reading, writing) if direction == SAVE else (writing, reading)
    reply = be.ask(F.SET_DEVICE_STATE_FD, request(direction), fds=(theirs.fileno(),))
    theirs.close()
    error = answer(reply)
    check(not error, "the transfer to be accepted", f"error {error}")
    return _better(be, reply.fds[0], ours) if reply.fds else ours


def _better(be: BackEnd, given: int, ours: FileIO) -> FileIO:
    """The descriptor that the back-end sends instead of the suite's end."""
    mode = "r" if ours.readable() else "w"
    ours.close()
    end = FileIO(os.dup(given), mode)
    be.own(end.close)
    with FileIO(os.devnull) as nothing:
        os.dup2(
            nothing.fileno(), given, inheritable=False
        )  # so that the suite's end is the only one
    return end


def _ready(be: BackEnd, end: FileIO, events: int) -> None:
    limit = be.wire.limit()
    poll = select.poll()
    poll.register(end.fileno(), events)
    while not poll.poll(limit.left * 1000):
        if limit.over:
            raise Failed(
                f"the transfer to continue within {limit.seconds:.3g} s", "no data is transferred"
            )


def read_all(be: BackEnd, end: FileIO) -> bytes:
    """Read up to the end of the state."""
    data = b""
    while True:
        _ready(be, end, select.POLLIN)
        part = os.read(end.fileno(), 1 << 16)
        if not part:
            end.close()
            return data
        data += part
        check(len(data) <= _MOST, f"an end within {_MOST >> 20} MiB", "more")


def _write_all(be: BackEnd, end: FileIO, data: bytes, *, at_once: int = select.PIPE_BUF) -> None:
    """Write the state, and close the descriptor. A back-end may stop reading before the end.

    The descriptor blocks. A pipe that is ready has room for ``PIPE_BUF`` bytes.
    """
    at = 0
    while at < len(data):
        _ready(be, end, select.POLLOUT)
        try:
            at += end.write(data[at : at + at_once]) or 0
        except BrokenPipeError:
            break
    end.close()


def check_state(be: BackEnd) -> int:
    """The result of CHECK_DEVICE_STATE."""
    return be.ask_u64(F.CHECK_DEVICE_STATE)


def save(be: BackEnd) -> bytes:
    """Save the state of a stopped device."""
    data = read_all(be, begin(be, SAVE))
    code = check_state(be)
    check(code == 0, "CHECK_DEVICE_STATE to return 0 after a save", f"{code}")
    return data


def load(be: BackEnd, data: bytes, *, at_once: int = select.PIPE_BUF) -> int:
    """The result of CHECK_DEVICE_STATE after this state was loaded."""
    _write_all(be, begin(be, LOAD), data, at_once=at_once)
    return check_state(be)


def loaded(be: BackEnd, data: bytes) -> None:
    """Load a state, which must succeed."""
    code = load(be, data)
    check(code == 0, "CHECK_DEVICE_STATE to return 0 after loading its own state", f"{code}")
