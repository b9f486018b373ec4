"""The processes that serve the devices, and how long a reply of each takes that needs no work.

Such a reply takes a wake-up of both sides, and the time until they get a CPU. It is the part of
every reply that requests in flight share.
"""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

from emu.tap.connection import Closed, Opened
from emu.tap.message import Message
from vhost_user.messages import FrontendRequest

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from emu.tap.reader import Record

_F = FrontendRequest
#: Requests whose reply is a constant of the back-end.
_NO_WORK = {
    _F.GET_FEATURES,
    _F.GET_PROTOCOL_FEATURES,
    _F.GET_QUEUE_NUM,
    _F.GET_MAX_MEM_SLOTS,
}
#: Replies of each process that are remembered: those of some 20 devices.
_REPLIES = 64


class BackEnd(NamedTuple):
    """What serves a device.

    Attributes:
        process: equal for devices that one process serves; unknown processes differ.
        wake_up: nanoseconds of a reply that needs no work (the median), or None if none was seen.
        slowest: of the last such replies of all processes, which share the host's CPUs; or None.
    """

    process: Hashable
    wake_up: int | None = None
    slowest: int | None = None


class BackEndProcesses:
    """Collects what `BackEnd` has; a sink of a `Reader`."""

    def __init__(self) -> None:
        self._processes: dict[str, Hashable] = {}
        self._waiting: defaultdict[Hashable, int] = defaultdict(int)
        self._waiting_of: defaultdict[str, int] = defaultdict(int)
        self._alone: Message | None = None
        self._replies: dict[Hashable, deque[int]] = {}

    def take(self, record: Record) -> None:
        """Look at a record."""
        if isinstance(record, Message):
            if not record.on_channel:
                self._message(record)
        elif isinstance(record, Opened):
            name = record.connection.name
            self._processes[name] = record.back_pid or name
        elif isinstance(record, Closed):
            name = record.connection.name
            process = self._processes.pop(name, name)
            self._waiting[process] -= self._waiting_of.pop(name, 0)

    def of(self, devices: Iterable[str]) -> dict[str, BackEnd]:
        """What serves each of these devices."""
        found = {}
        for device in devices:
            process = self._processes.get(device, device)
            replies = self._replies.get(process)
            if replies:
                slowest = max(max(each) for each in self._replies.values())
                found[device] = BackEnd(process, median_low(replies), slowest)
            else:
                found[device] = BackEnd(process)
        return found

    def _message(self, message: Message) -> None:
        device = message.device
        process = self._processes.get(device, device)
        if not message.is_reply:
            # With more than one request on its way the time of a reply is also that of others.
            self._alone = None if any(self._waiting.values()) else message
            if message.reply_due:
                self._waiting[process] += 1
                self._waiting_of[device] += 1
            return
        request = message.request
        if request is None:
            return
        self._waiting[process] -= 1
        self._waiting_of[device] -= 1
        if request is self._alone and request.id in _NO_WORK and message.latency is not None:
            self._replies.setdefault(process, deque(maxlen=_REPLIES)).append(message.latency)
