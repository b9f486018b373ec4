"""Hypothesis strategies for streams of messages with runs of the same message, and their cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from vhost_user.codec import HEADER, MAX_RUN, NEED_REPLY, VERSION, encode
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import U64, VringAddr, VringState

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user.payload_layout import Payload

R = FrontendRequest
#: Messages with a `VringState`, some of which change a ring's state, and some of which are replied
#: to.
STATES = (
    *(R.SET_VRING_NUM, R.SET_VRING_BASE, R.GET_VRING_BASE),
    *(R.SET_VRING_ENABLE, R.SET_VRING_ENDIAN, R.GET_VRING_BASE_SKIP_DRAIN, R.VRING_KICK),
)
_FLAGS = st.sampled_from([VERSION, VERSION | NEED_REPLY])


def ring_payloads(rings: int) -> st.SearchStrategy[tuple[FrontendRequest, Payload]]:
    """A message that names a ring, mostly one of the first ``rings``, and its payload."""
    ring = st.integers(0, rings - 1) | st.integers(0, 2**32 - 1)
    u64 = st.integers(0, 2**64 - 1)
    state = st.builds(VringState, ring, st.integers(0, 2) | st.integers(0, 2**32 - 1))
    addr = st.builds(VringAddr, ring, st.integers(0, 1), u64, u64, u64, u64)
    return st.one_of(
        st.tuples(st.sampled_from(STATES), state), st.tuples(st.just(R.SET_VRING_ADDR), addr)
    )


@st.composite
def runs(draw: st.DrawFn, rings: int) -> bytes:
    """The same message for one ring after the other, up to more than a run has."""
    number, payload = draw(ring_payloads(rings))
    flags = draw(_FLAGS)
    count = draw(st.integers(1, 5) | st.integers(MAX_RUN - 1, 2 * MAX_RUN + 1))
    first, *rest = payload
    make: Callable[..., Payload] = type(payload)
    payloads = [make((first + at) % rings if at else first, *rest) for at in range(count)]
    return b"".join(encode(number, flags, each) for each in payloads)


def streams(rings: int) -> st.SearchStrategy[bytes]:
    """Runs with other messages between them; now and then something that is no message."""
    others = st.sampled_from(
        [
            encode(R.GET_FEATURES, VERSION, None),
            encode(R.SET_VRING_CALL, VERSION, U64(1 << 8)),
            encode(R.SET_VRING_KICK, VERSION, U64(0)),
            encode(R.SET_FEATURES, VERSION, U64(0)),
            encode(R.RESET_OWNER, VERSION, None),
            HEADER.pack(R.SET_VRING_NUM, VERSION, 4) + bytes(4),
            HEADER.pack(R.SET_VRING_NUM, 0, 8) + bytes(8),
            HEADER.pack(99, VERSION, 0),
        ]
    )
    return st.lists(st.one_of(runs(rings), runs(rings), others), max_size=5).map(b"".join)


def pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    """A stream, cut anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4), label="cuts"))
    starts, ends = [0, *cuts], [*cuts, len(stream)]
    return [stream[start:end] for start, end in zip(starts, ends, strict=True) if start < end]
