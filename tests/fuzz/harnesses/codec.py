"""The codec, given any bytes.

Invariant: whatever bytes and descriptors arrive in whatever pieces, the decoder returns messages
that encode to the same bytes or raises `FrontendError`, and each descriptor leaves it exactly once.
Where runs of messages are asked for, they are the same messages, with the same error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.reader import Reader
from vhost_user.codec import REQUEST_FLAGS, Decoder, Frame, FrameRun, encode, request_forms
from vhost_user.errors import FrontendError
from vhost_user.messages import FRONTEND_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FORMS = request_forms(FRONTEND_MESSAGES)
#: Pieces that an input may be cut into.
_MOST_PIECES = 64


def one_input(data: bytes) -> None:
    """Each piece: its length (2 bytes), its number of descriptors (1), its bytes."""
    reader = Reader(data)
    gone: list[int] = []
    sent = 0

    def discard(fds: Iterable[int]) -> None:
        gone.extend(fds)

    decoder = Decoder(_FORMS, REQUEST_FLAGS, FrontendError, "fuzz", discard)
    in_runs = Decoder(_FORMS, REQUEST_FLAGS, FrontendError, "fuzz", lambda _: None)
    for _ in range(_MOST_PIECES):
        if not reader.left:
            break
        length, count = reader.number(2), reader.number(1) % 20
        fds = tuple(range(sent, sent + count))
        sent += count
        piece = reader.take(length)
        frames, error = _fed(decoder.feed, piece, fds)
        assert _fed(in_runs.feed_runs, piece, fds) == (frames, error), "others in runs"
        if error:
            break
        for frame in frames:
            gone.extend(frame.fds)
            again = encode(frame.id, frame.flags, frame.payload)
            once_more = Decoder(_FORMS, REQUEST_FLAGS, FrontendError, "fuzz")
            if not frame.fds:
                _compare(once_more, again, frame.payload)
    decoder.abandon()
    assert sorted(gone) == list(range(sent)), "a descriptor is lost, or closed twice"


def _fed(
    feed: Callable[[bytes, tuple[int, ...]], Sequence[Frame | FrameRun]],
    data: bytes,
    fds: tuple[int, ...],
) -> tuple[list[Frame], str]:
    """The messages and the error."""
    frames: list[Frame] = []
    try:
        for item in feed(data, fds):
            frames += [item] if isinstance(item, Frame) else item.frames()
    except FrontendError as error:
        return [], str(error)
    return frames, ""


def _compare(decoder: Decoder, data: bytes, payload: object) -> None:
    try:
        frames = decoder.feed(data)
    except FrontendError:
        return  # it needs descriptors
    assert [frame.payload for frame in frames] == [payload], "another message when encoded again"
