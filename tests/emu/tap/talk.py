"""A conversation between two ends, as the tap reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.tap.connection import Arrived, Closed, Connection, Opened, Sender
from emu.tap.framing import RawMessage
from emu.tap.message import Message
from emu.tap.reader import Reader, Record
from vhost_user.codec import REPLY, VERSION
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vhost_user.payload_layout import Payload

F = FrontendRequest
#: Nanoseconds that pass before each message.
TICK = 1000


class Clock:
    """The time of several conversations, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 0


class Talk:
    """One connection; each method returns the message as it was read.

    Args:
        sinks: take the records, too.
        device: name of the connection.
        clock: of this and other conversations.
        reader: of this and other conversations; a new one without it.
        pids: the processes of the front-end and the back-end.
        number: of the connection of its pair.
    """

    def __init__(
        self,
        sinks: Sequence[Callable[[Record], None]] = (),
        device: str = "dev",
        clock: Clock | None = None,
        reader: Reader | None = None,
        *,
        pids: tuple[int, int] = (0, 0),
        number: int = 1,
    ) -> None:
        self.records: list[Record] = []
        self.clock = clock or Clock()
        self.reader = reader or Reader([self.records.append, *sinks])
        self.connection = Connection(device, number, None, None, {}, lambda _: None)  # type: ignore[arg-type]
        self.reader.take(Opened(self.connection, self.clock.now, *pids))

    @property
    def messages(self) -> list[Message]:
        """All messages so far."""
        return [record for record in self.records if isinstance(record, Message)]

    def ask(
        self,
        number: int,
        payload: Payload | bytes | None = None,
        *,
        flags: int = VERSION,
        fds: int = 0,
        on_channel: bool = False,
    ) -> None:
        """A request."""
        sender = Sender.BACK_END if on_channel else Sender.FRONT_END
        self._message(sender, number, payload, flags, fds, on_channel=on_channel)

    def answer(
        self,
        number: int,
        payload: Payload | bytes | None = None,
        *,
        flags: int = VERSION | REPLY,
        fds: int = 0,
        on_channel: bool = False,
    ) -> None:
        """A reply."""
        sender = Sender.FRONT_END if on_channel else Sender.BACK_END
        self._message(sender, number, payload, flags, fds, on_channel=on_channel)

    def negotiate(self, features: ProtocolFeature) -> None:
        """The beginning, up to SET_FEATURES."""
        bits = U64(1 << VHOST_USER_F_PROTOCOL_FEATURES)
        self.ask(F.GET_FEATURES)
        self.answer(F.GET_FEATURES, bits)
        self.ask(F.GET_PROTOCOL_FEATURES)
        self.answer(F.GET_PROTOCOL_FEATURES, U64(int(features)))
        self.ask(F.SET_PROTOCOL_FEATURES, U64(int(features)))
        self.ask(F.SET_FEATURES, bits)

    def close(self) -> None:
        """The front-end disconnects."""
        self.reader.take(Closed(self.connection, self.clock.now, "", Sender.FRONT_END))

    def _message(
        self,
        sender: Sender,
        number: int,
        payload: Payload | bytes | None,
        flags: int,
        fds: int,
        *,
        on_channel: bool,
    ) -> None:
        self.clock.now += TICK
        data = payload if isinstance(payload, bytes) else payload.pack() if payload else b""
        raw = RawMessage(self.clock.now, int(number), flags, data, fds)
        self.reader.take(Arrived(self.connection, sender, on_channel, raw))
