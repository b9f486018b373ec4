"""Keeps the last messages, and passes them on when something goes wrong: `--last N`."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from emu.tap.connection import Closed, Opened, Unreadable
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from emu.tap.message import Message
    from emu.tap.reader import Record


class Cause(StrEnum):
    """What makes the last messages be written: a value of ``--dump-on``."""

    ERROR = "error"
    DISCONNECT = "disconnect"
    END = "end"


class LastMessages:
    """A sink that holds records back, and passes them on to other sinks for a cause.

    Args:
        sinks: get the records that were held, once each, in order.
        count: how many records it holds; the oldest is dropped first.
        causes: for which it passes them on.
    """

    def __init__(
        self, sinks: Sequence[Callable[[Record], None]], count: int, causes: Collection[Cause]
    ) -> None:
        self._sinks = sinks
        self._held: deque[Record] = deque(maxlen=count)
        self._causes = causes

    def take(self, record: Record) -> None:
        """Hold a record, and pass all on if it is a cause."""
        self._held.append(record)
        if cause_of(record) in self._causes:
            self._pass_on()

    def finish(self) -> None:
        """The tap ends."""
        if Cause.END in self._causes:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._held:
            record = self._held.popleft()
            for sink in self._sinks:
                sink(record)


def cause_of(record: Record) -> Cause | None:
    """An error is a violation, what cannot be decoded, or a request that was refused."""
    if isinstance(record, Closed):
        return Cause.DISCONNECT
    if isinstance(record, Unreadable):
        return Cause.ERROR
    if isinstance(record, Opened):
        return None
    return Cause.ERROR if record.error or record.violations or _refuses(record) else None


def _refuses(message: Message) -> bool:
    """It is an acknowledgement, and not 0."""
    request = message.request
    if request is None or not request.acknowledged:
        return False
    return isinstance(message.payload, U64) and message.payload.value != 0
