"""Forwards the usual pieces in compiled code: a tap delays each message as little as possible.

What is unusual stays on its socket for `emu.tap.forwarding`, which can forward everything: the end
of a stream, descriptors with anything but one message, the descriptor of SET_BACKEND_REQ_FD, and
what a sink does not take at once. Without the extension all pieces are forwarded there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user import native

if TYPE_CHECKING:
    import select
    from collections.abc import Iterator

#: Nanoseconds without a piece until the thread may sleep: to wake it takes some 30 us, and a reply
#: comes sooner than that.
SPIN = 200_000
#: Nanoseconds until the loop has its turn, whatever comes meanwhile.
LONGEST = 10_000_000
#: Bytes of records of one call; one piece has 64 KiB at most. What it forwards can be more than
#: 10,000 messages, which take Python a second.
LOG_BYTES = 1 << 17
#: Descriptors from this one on are not looked up.
MAX_FD = 1 << 16

#: Without it, `emu.tap.forwarding` forwards everything.
enabled = native.available

_RECORD = struct.Struct("=QQiiII")


class Forwarded(NamedTuple):
    """A piece that was read.

    Attributes:
        source: descriptor of the socket that it came from.
        time: when it was read, CLOCK_MONOTONIC, nanoseconds.
        data: its bytes.
        fd_count: how many descriptors came with its first byte; -1: not all of them could be
            received, and nothing more can be forwarded unchanged.
        sent: how many bytes the sink took.
        fds: the descriptors, if it took none.
    """

    source: int
    time: int
    data: bytes
    fd_count: int
    sent: int
    fds: tuple[int, ...]


class FastPath:
    """The pairs of sockets whose usual pieces are forwarded in compiled code.

    Args:
        epoll: where the sockets are registered.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._relay: Any = None
        if not enabled:
            return
        ffi = native.ffi
        self._sinks = ffi.new("int32_t[]", [-1] * MAX_FD)
        self._log = memoryview(bytearray(LOG_BYTES))
        self._address = ffi.from_buffer(self._log)
        self._relay = ffi.new(
            "vu_relay *",
            {
                "epoll": epoll.fileno(),
                "sinks": self._sinks,
                "sink_count": MAX_FD,
                "spin_ns": SPIN,
                "longest_ns": LONGEST,
                "log": self._address,
                "log_bytes": LOG_BYTES,
            },
        )

    def route(self, source: int, sink: int | None) -> None:
        """Forward from one descriptor to another one from now on, or no longer."""
        if self._relay and source < MAX_FD:
            self._sinks[source] = -1 if sink is None else sink

    def run(self) -> list[Forwarded]:
        """Forward what is ready, and what comes soon after.

        Returns:
            In order. If the last piece of a socket was not sent completely, the rest of it is to be
            sent before that socket is read again.
        """
        if not self._relay:
            return []
        native.lib.vu_relay_run(self._relay)
        return list(self._records()) if self._relay.used else []

    def _records(self) -> Iterator[Forwarded]:
        at = 0
        while at < self._relay.used:
            time, after, source, fd_count, size, sent = _RECORD.unpack_from(self._log, at)
            begin = at + _RECORD.size
            fds: tuple[int, ...] = ()
            if fd_count > 0 and not sent:
                fds = struct.unpack_from(f"={fd_count}i", self._log, begin + size)
            data = bytes(self._log[begin : begin + size])
            yield Forwarded(source, time, data, fd_count, sent, fds)
            at = after
