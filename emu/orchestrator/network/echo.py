"""An echo client outside of the VM, which measures the downtime that the network sees.

It sends numbered frames to the uplinks of both sides' net back-ends, in the format of QEMU's
``-netdev dgram`` (one raw Ethernet frame for each datagram), and records when the guest's replies
arrive. Only the side on which the VM runs replies.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.guest.frames import BROADCAST, Probe
from vhost_user import unix_socket
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD_NS = 1_000_000
#: Locally administered, and not the address of a NIC of the guest.
CLIENT_MAC = b"\x02\x45\x43\x48\x4f\x01"
_LARGEST_FRAME = 65550
_STOP_TIMEOUT = 5.0


class EchoCounts(NamedTuple):
    """Counters of requests and replies.

    Attributes:
        sent: requests that were sent (to every side).
        answered: requests with at least one reply.
        duplicated: further replies to the same requests.
    """

    sent: int
    answered: int
    duplicated: int


class EchoClient:
    """Sends requests from a thread of its own, one a millisecond, until it is stopped.

    Args:
        sock: receives the replies; non-blocking; `stop` closes it.
        period_ns: time between two requests.
    """

    def __init__(self, sock: socket.socket, *, period_ns: int = PERIOD_NS) -> None:
        self._sock = sock
        self._period_ns = period_ns
        self._wake, self._stopper = socket.socketpair()
        self._times = array("q")
        self._answered: set[int] = set()
        self._duplicated = 0
        self._sent = 0
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending and close the socket; the measurements stay. Idempotent."""
        self._stopper.close()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT)
        if not self._thread.is_alive():
            self._wake.close()
            self._close()

    def _close(self) -> None:
        self._sock.close()

    def counts(self) -> EchoCounts:
        """How many were sent, answered, and answered more than once."""
        return EchoCounts(self._sent, len(self._answered), self._duplicated)

    def max_gap_ms(self, start_ns: int, end_ns: int) -> float | None:
        """The longest time without a reply that overlaps an interval of CLOCK_MONOTONIC.

        A gap counts in full, from the last reply before the interval, or its start if there was
        none, to the first reply after it, or its end if there was none yet.

        Returns:
            Milliseconds; None if there was no reply at all.
        """
        times = self._times[:]
        if not times:
            return None
        first = bisect_right(times, start_ns)
        last = bisect_left(times, end_ns)
        edges = [
            times[first - 1] if first else start_ns,
            *times[first:last],
            times[last] if last < len(times) else end_ns,
        ]
        return max(later - earlier for earlier, later in pairwise(edges)) / 1e6

    def _run(self) -> None:
        due = time.monotonic_ns()
        while True:
            wait = (due - time.monotonic_ns()) / 1e9
            ready = readable([self._sock, self._wake], max(0.0, wait))
            if self._wake in ready:
                return
            if ready:
                self._receive()
            now = time.monotonic_ns()
            if now >= due:
                self._send(now)
                # after a delay there is no burst of requests
                due = max(due + self._period_ns, now)

    def _send(self, now: int) -> None:
        """Send the next request, whose number is `_sent`."""
        raise NotImplementedError

    def _number_of(self, frame: bytes) -> int | None:
        """The number of the request that a frame answers; None if it answers none."""
        raise NotImplementedError

    def _receive(self) -> None:
        while True:
            try:
                frame = self._sock.recv(_LARGEST_FRAME)
            except BlockingIOError:
                return
            now = time.monotonic_ns()
            number = self._number_of(frame)
            if number is None or number >= self._sent:
                continue
            if number in self._answered:
                self._duplicated += 1
                continue
            self._answered.add(number)
            self._times.append(now)


class ProbeClient(EchoClient):
    """Sends probes to the uplinks of net back-ends.

    Args:
        uplinks: paths of the back-ends' datagram sockets, which may appear and disappear.
        path: of its own socket, which receives the replies.
        period_ns: time between two probes.

    Raises:
        EmuError: its socket cannot be created.
    """

    def __init__(self, uplinks: Sequence[str], path: str, *, period_ns: int = PERIOD_NS) -> None:
        self._uplinks = list(uplinks)
        try:
            sock = unix_socket.bind(path, socket.SOCK_DGRAM)
        except OSError as error:
            raise EmuError(f"the echo client cannot bind {path}: {error}") from error
        sock.setblocking(False)  # noqa: FBT003
        super().__init__(sock, period_ns=period_ns)

    def _send(self, now: int) -> None:
        frame = Probe(BROADCAST, CLIENT_MAC, self._sent, now, is_reply=False).pack()
        self._sent += 1
        for uplink in self._uplinks:
            # The frame is lost if the socket does not exist or its queue is full, as on a network.
            with contextlib.suppress(OSError):
                self._sock.sendto(frame, uplink)

    def _number_of(self, frame: bytes) -> int | None:
        probe = Probe.parse(frame)
        return probe.sequence if probe is not None and probe.is_reply else None
