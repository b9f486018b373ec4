"""The codec: round trips, garbage, and which message descriptors belong to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.payload_strategies import PAYLOADS
from tests.vhost_user.streams import pieces, streams
from vhost_user.codec import (
    HEADER,
    MAX_RUN,
    NEED_REPLY,
    REPLY,
    REQUEST_FLAGS,
    VERSION,
    Decoder,
    Frame,
    FrameRun,
    encode,
    reply_forms,
    request_forms,
)
from vhost_user.errors import FrontendError, ProtocolError
from vhost_user.message_spec import FdRule, MessageSpec
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest
from vhost_user.payload_layout import PayloadError
from vhost_user.payloads import U64, LogArea, MemoryRegion, MemTable, SingleRegion, VringState

if TYPE_CHECKING:
    from collections.abc import Iterable

R = FrontendRequest
FORMS = request_forms(FRONTEND_MESSAGES)
REGION = MemoryRegion(0, 4096, 0, 0)

ROWS = st.sampled_from([row for row in FRONTEND_MESSAGES.values() if row.fds is FdRule.NONE])
KICK = encode(R.SET_VRING_KICK, VERSION, U64(1))
KICK_LESS = encode(R.SET_VRING_KICK, VERSION, U64(1 << 8))
NUM = encode(R.SET_VRING_NUM, VERSION, VringState(0, 128))
REMOVE = encode(R.REM_MEM_REG, VERSION, SingleRegion(REGION))
LOG = encode(R.SET_LOG_BASE, VERSION, LogArea(4096, 0))


class Descriptors:
    """In place of descriptors, which are only numbers to the decoder; records what it closes."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def discard(self, fds: Iterable[int]) -> None:
        """The decoder calls it to close descriptors."""
        self.closed += fds


def decoder(descriptors: Descriptors | None = None) -> Decoder:
    """A back-end's decoder."""
    discard = (descriptors or Descriptors()).discard
    return Decoder(FORMS, REQUEST_FLAGS, FrontendError, "net0", discard)


@st.composite
def messages(draw: st.DrawFn) -> Frame:
    """Any message of the table that has no descriptors."""
    row: MessageSpec = draw(ROWS)
    payload = draw(PAYLOADS[draw(st.sampled_from(row.payload))]) if row.payload else None
    return Frame(row.id, draw(st.sampled_from(sorted(REQUEST_FLAGS))), payload, ())


@given(st.lists(messages()), st.data())
def test_round_trip_however_the_stream_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    """What is decoded is what was encoded, whole or in pieces of any size."""
    stream = b"".join(encode(frame.id, frame.flags, frame.payload) for frame in sent)
    taker = decoder()
    got: list[Frame] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += taker.feed(stream[:cut])
        stream = stream[cut:]
    assert got == sent
    assert not taker.partial


def _outcome(pieces: Iterable[bytes]) -> tuple[list[Frame], bool]:
    """Frames up to the end or the first error, and whether there was an error."""
    taker = decoder()
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames += taker.feed(piece)
    except FrontendError:
        return frames, True
    return frames, False


#: Headers that are valid at times, so that garbage passes the first check.
garbage = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(HEADER.pack, st.integers(0, 46), st.sampled_from([1, 5, 9]), st.integers(0, 300)),
    )
).map(b"".join)


@given(garbage)
def test_garbage_gives_an_error_of_ours_or_a_parse(stream: bytes) -> None:
    """Whole and byte by byte: never another exception, and both ways agree."""
    _, whole_failed = _outcome([stream])
    single, single_failed = _outcome(bytes([byte]) for byte in stream)
    assert whole_failed == single_failed
    if not whole_failed:
        assert _outcome([stream])[0] == single


def _fed(
    taker: Decoder, cuts: list[bytes], fds: list[int], *, runs: bool
) -> tuple[list[Frame], str]:
    """What the decoder returns for these pieces, run by run or not, and the text of its error."""
    frames: list[Frame] = []
    try:
        for piece in cuts:
            came = [fds.pop()] if fds else []
            for frame in taker.feed_runs(piece, came) if runs else taker.feed(piece, came):
                frames += [frame] if isinstance(frame, Frame) else frame.frames()
    except FrontendError as error:
        return frames, str(error)
    return frames, ""


@given(streams(4) | garbage, st.lists(st.integers(100, 200), unique=True, max_size=3), st.data())
def test_runs_are_the_same_messages(stream: bytes, fds: list[int], data: st.DataObject) -> None:
    """Also with the same errors, and the same descriptors for each message."""
    cuts = pieces(data, stream)
    ones, others = Descriptors(), Descriptors()
    expected = _fed(decoder(ones), cuts, list(fds), runs=False)
    assert _fed(decoder(others), cuts, list(fds), runs=True) == expected
    assert others.closed == ones.closed


def test_a_run_is_bounded_and_ends_with_another_header() -> None:
    """What handles it at once does not take long."""
    count = 2 * MAX_RUN + 1
    stream = NUM * count + encode(R.SET_VRING_NUM, VERSION | NEED_REPLY, VringState(0, 1))
    sizes = [
        len(frame.payloads) if isinstance(frame, FrameRun) else 1
        for frame in decoder().feed_runs(stream)
    ]
    assert sizes == [MAX_RUN, MAX_RUN, 1, 1]


@given(garbage)
def test_garbage_as_replies(stream: bytes) -> None:
    """The front-end's side of the same invariant."""
    taker = Decoder(
        reply_forms(FRONTEND_MESSAGES), frozenset({VERSION | REPLY}), FrontendError, "net0"
    )
    try:
        for byte in stream:
            taker.feed(bytes([byte]))
    except ProtocolError:
        with pytest.raises(FrontendError):
            taker.feed(b"")


@given(garbage, st.lists(st.integers(100, 200), unique=True, max_size=6), st.integers(0, 60))
def test_garbage_with_descriptors_leaks_none(stream: bytes, fds: list[int], cut: int) -> None:
    """Each descriptor is returned once, or closed once, or still waits for its message."""
    descriptors = Descriptors()
    taker = decoder(descriptors)
    handed: list[int] = []
    try:
        for piece, came in ((stream[:cut], fds), (stream[cut:], ())):
            if piece:
                for frame in taker.feed(piece, came):
                    handed += frame.fds
    except FrontendError:
        pass
    taker.abandon()
    came = fds if stream[:cut] else []
    assert sorted(handed + descriptors.closed) == sorted(came)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (HEADER.pack(99, 1, 0), "no message with id 99"),
        (HEADER.pack(0, 1, 0), "no message with id 0"),
        (HEADER.pack(8, 0, 8), "flags 0x0"),
        (HEADER.pack(8, 2, 8), "flags 0x2"),
        (HEADER.pack(8, 5, 8), "flags 0x5"),
        (HEADER.pack(8, 0x11, 8), "flags 0x11"),
        (HEADER.pack(8, 1, 2**32 - 1), "8 at most"),
        (HEADER.pack(8, 1, 4) + bytes(4), "no payload of 4 bytes"),
        (HEADER.pack(5, 1, 40) + bytes(40), "0 regions do not take 40 bytes"),
    ],
)
def test_invalid_headers(data: bytes, words: str) -> None:
    """The error describes the fault, and names the device."""
    with pytest.raises(FrontendError, match=words) as caught:
        decoder().feed(data)
    assert caught.value.device == "net0"


def test_an_impossible_size_is_refused_before_its_payload_comes() -> None:
    """The decoder neither waits for 4 GiB nor stores them."""
    with pytest.raises(FrontendError, match="announced"):
        decoder().feed(HEADER.pack(R.SET_VRING_NUM, 1, 2**32 - 1))


def test_a_broken_stream_stays_broken() -> None:
    """After an error no message can be decoded any more; descriptors are still closed."""
    descriptors = Descriptors()
    taker = decoder(descriptors)
    with pytest.raises(FrontendError):
        taker.feed(HEADER.pack(99, 1, 0))
    with pytest.raises(FrontendError, match="sent more"):
        taker.feed(KICK, [7])
    assert descriptors.closed == [7]


@pytest.mark.parametrize(
    ("stream", "fds", "expected"),
    [
        (KICK, [7], [(7,)]),
        # The kernel puts plain messages that wait before one with descriptors into its read.
        (NUM + NUM + KICK, [7], [(), (), (7,)]),
        # ... and a sender may put more behind it into the same write.
        (NUM + KICK + NUM, [7], [(), (7,), ()]),
        (KICK_LESS + KICK, [7], [(), (7,)]),
        (
            encode(R.SET_MEM_TABLE, VERSION, MemTable((REGION, REGION))) + NUM,
            [7, 8],
            [(7, 8), ()],
        ),
        # A message that may have one, and none that must.
        (NUM + LOG + NUM, [7], [(), (7,), ()]),
        (REMOVE, [7], [(7,)]),
        (REMOVE, [], [()]),
        # A message that may have one, and one that must.
        (REMOVE + KICK, [7], [(), (7,)]),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_descriptors_belong_to_the_message_that_needs_them(
    stream: bytes, fds: list[int], expected: list[tuple[int, ...]], bytewise: bool
) -> None:
    """In one read with others; and in a read of its own whose payload comes later."""
    taker = decoder()
    if not bytewise:
        assert [frame.fds for frame in taker.feed(stream, fds)] == expected
        return
    # Bytes of the stream come one by one; descriptors come with their message's first byte.
    starts = _starts(stream)
    first = next((at for at, own in zip(starts, expected, strict=True) if own), None)
    frames: list[Frame] = []
    for at in range(len(stream)):
        frames += taker.feed(stream[at : at + 1], fds if at == first else ())
    assert [frame.fds for frame in frames] == expected


def _starts(stream: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(stream):
        starts.append(at)
        at += HEADER.size + HEADER.unpack_from(stream, at)[2]
    return starts


@pytest.mark.parametrize(
    ("stream", "fds", "words"),
    [
        (KICK, [], "came without its 1 descriptor$"),
        (KICK, [7, 8], "came with 2 descriptors, not 1"),
        (NUM, [7], "1 descriptor without a message"),
        (KICK_LESS, [7], "without a message"),
        (REMOVE, [7, 8], "2 descriptors without a message"),
        (encode(R.SET_MEM_TABLE, VERSION, MemTable((REGION, REGION))), [7], "not 2"),
    ],
)
def test_descriptors_that_do_not_fit(stream: bytes, fds: list[int], words: str) -> None:
    """Too many, too few or none at all are the peer's fault, and all are closed."""
    descriptors = Descriptors()
    with pytest.raises(FrontendError, match=words):
        decoder(descriptors).feed(stream, fds)
    assert descriptors.closed == fds


def test_descriptors_of_good_messages_before_an_error_are_closed() -> None:
    """The frames of that call are not returned, so the caller cannot close theirs."""
    descriptors = Descriptors()
    with pytest.raises(FrontendError):
        decoder(descriptors).feed(KICK + HEADER.pack(99, 1, 0), [7])
    assert descriptors.closed == [7]


def test_real_descriptors_are_closed_by_default() -> None:
    """By default the decoder closes descriptors with os.close."""
    fd = os.dup(0)
    taker = Decoder(FORMS, REQUEST_FLAGS, FrontendError, "net0")
    with pytest.raises(FrontendError):
        taker.feed(NUM, [fd])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("payload", [U64(-1), U64(2**64), VringState(2**32, 0)])
def test_a_value_that_does_not_fit_is_refused(payload: U64 | VringState) -> None:
    """Values are not truncated."""
    with pytest.raises(PayloadError, match="does not fit"):
        encode(8, VERSION, payload)
