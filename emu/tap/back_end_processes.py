"""The processes that serve the devices, and how long a reply of each takes that needs no work.

Such a reply takes a wake-up of both sides, and the time until they get a CPU. It is the part of
every reply that requests in flight share.
"""

from __future__ import annotations

from collections import Counter, deque
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


class _Process:
    """A process with a connection: its last replies without work, and the requests on their way."""

    def __init__(self) -> None:
        self.replies: deque[int] = deque(maxlen=_REPLIES)
        self.waiting: Counter[str] = Counter()


class BackEndProcesses:
    """Collects what `BackEnd` has, of the connections that are open; a sink of a `Reader`."""

    def __init__(self) -> None:
        self._names: dict[str, Hashable] = {}
        self._processes: dict[Hashable, _Process] = {}
        self._waiting = 0
        self._alone: Message | None = None

    def take(self, record: Record) -> None:
        """Look at a record."""
        if isinstance(record, Message):
            if not record.on_channel:
                self._message(record)
        elif isinstance(record, Opened):
            name = record.connection.name
            key = self._names[name] = record.back_pid or name
            self._processes.setdefault(key, _Process()).waiting[name] = 0
        elif isinstance(record, Closed):
            name = record.connection.name
            served_by = self._names.pop(name)
            process = self._processes[served_by]
            self._waiting -= process.waiting.pop(name)
            if not process.waiting:
                del self._processes[served_by]

    def of(self, devices: Iterable[str]) -> dict[str, BackEnd]:
        """What serves each of these devices."""
        slowest = max(
            (max(each.replies) for each in self._processes.values() if each.replies), default=None
        )
        found = {}
        for device in devices:
            key = self._names.get(device, device)
            process = self._processes.get(key)
            if process is not None and process.replies:
                found[device] = BackEnd(key, median_low(process.replies), slowest)
            else:
                found[device] = BackEnd(key)
        return found

    def _message(self, message: Message) -> None:
        device = message.device
        process = self._processes[self._names[device]]
        if not message.is_reply:
            # With more than one request on its way the time of a reply is also that of others.
            self._alone = None if self._waiting else message
            if message.reply_due:
                process.waiting[device] += 1
                self._waiting += 1
            return
        request = message.request
        if request is None:
            return
        process.waiting[device] -= 1
        self._waiting -= 1
        if request is self._alone and request.id in _NO_WORK and message.latency is not None:
            process.replies.append(message.latency)
