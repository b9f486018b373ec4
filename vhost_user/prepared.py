"""A front-end's requests, encoded before they are sent.

A stop or a start sends one message for each ring. What can be done for all of them at once is done
when they are encoded: `Batch` has the bytes of each write, and the effects on the session.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

from vhost_user.codec import HEADER
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from vhost_user.message_spec import Effect
    from vhost_user.messages import Reply, Request
    from vhost_user.session import AllowedMessage

_pack_u32 = struct.Struct("=I").pack
#: 32-bit words of a message with a `VringState`: the header, the ring, and the number.
_STATE_WORDS = HEADER.size // 4 + 2


class Message(NamedTuple):
    """An encoded request.

    Attributes:
        request: the request; its descriptors must stay open until it has been sent.
        data: its bytes.
        allowed: the row of the message, as the session allows it.
        answered: a reply, or an acknowledgement, is due for it.
    """

    request: Request
    data: bytes
    allowed: AllowedMessage
    answered: bool

    def with_num(self, num: int) -> Message:
        """The same message with another ``num`` in its vring state: the message's last four bytes.

        So a base that is known only after `prepare` costs a copy, and not all the checks again.

        Raises:
            struct.error: ``num`` has more than 32 bits.
        """
        state = VringState(cast("VringState", self.request.payload).ring, num)
        request = self.request._replace(payload=state)
        return self._replace(request=request, data=self.data[:-4] + _pack_u32(num))


class Batch(Sequence[Message]):
    """Encoded requests that are sent together.

    Args:
        messages: the requests.

    Attributes:
        writes: the bytes and descriptors of each write. Descriptors belong to the first byte of a
            write, so a message with descriptors begins a new one.
        answered: the messages to which a reply is due, in order.
        effects: payloads of the messages that have an effect on the session, with their rows.
        ring_effect: the effect, if all have the same one, and it is one on the ring that their
            `VringState` names.
    """

    __slots__ = ("_messages", "_nums", "_positions", "answered", "effects", "ring_effect", "writes")

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)
        self._nums: Sequence[int] = ()
        self._positions: list[int] = []
        self.answered: list[Message] = []
        self.effects: list[tuple[AllowedMessage, Any]] = []
        self.writes: list[tuple[bytes, tuple[int, ...]]] = []
        parts: list[bytes] = []
        fds: tuple[int, ...] = ()
        for position, message in enumerate(self._messages):
            request, data, allowed, answered = message
            if allowed.effect is not None:
                self.effects.append((allowed, request.payload))
            if answered:
                self.answered.append(message)
                self._positions.append(position)
            if request.fds:
                if parts:
                    self.writes.append((b"".join(parts), fds))
                parts, fds = [], request.fds
            parts.append(data)
        if parts:
            self.writes.append((b"".join(parts), fds))
        kinds = {allowed.ring_effect for allowed, _ in self.effects}
        self.ring_effect: Effect | None = kinds.pop() if len(kinds) == 1 else None

    def set_nums(self, nums: Sequence[int]) -> None:
        """Set the numbers of the first messages, as `Message.with_num` of each.

        Args:
            nums: for as many messages, each with a `VringState` and without descriptors.

        Raises:
            OverflowError: a number has more than 32 bits.
        """
        data, fds = self.writes[0]
        words = array("I")
        size = len(nums) * _STATE_WORDS * words.itemsize
        words.frombytes(data[:size])
        words[_STATE_WORDS - 1 :: _STATE_WORDS] = array("I", nums)
        self.writes[0] = words.tobytes() + data[size:], fds
        self._nums = nums

    def in_order(self, replies: Sequence[Reply]) -> Sequence[Reply | None]:
        """The reply to each message, None if no reply was due."""
        if len(replies) == len(self._messages):
            return replies
        placed: list[Reply | None] = [None] * len(self._messages)
        for position, reply in zip(self._positions, replies, strict=True):
            placed[position] = reply
        return placed

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...

    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return list(self)[index]

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        for position, message in enumerate(self._messages):
            changed = position < len(self._nums)
            yield message.with_num(self._nums[position]) if changed else message
