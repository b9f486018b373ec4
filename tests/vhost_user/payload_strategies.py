"""Hypothesis strategies for payloads and requests, from the message table itself."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from vhost_user.features import ProtocolFeature
from vhost_user.message_spec import FdRule
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payload_layout import SHAPES, Payload
from vhost_user.payloads import (
    Config,
    CryptoSession,
    DeviceState,
    Iotlb,
    MemoryRegion,
    MemTable,
    SharedUuid,
    ShmemConfig,
    SingleRegion,
    VringAddr,
    VringState,
)

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
regions = st.builds(MemoryRegion, u64, u64, u64, u64)

#: The integers of a `struct` format.
_INTEGERS = {"B": u8, "H": u16, "I": u32, "Q": u64}


def _plain(kind: type[Payload], layout: str) -> st.SearchStrategy[Payload]:
    codes = [code for code in re.sub(r"\d*x", "", layout) if code in _INTEGERS]
    return st.builds(kind, *(_INTEGERS[code] for code in codes))


#: How to make a payload of each type. A plain one is made from its layout.
PAYLOADS: dict[type[Payload], st.SearchStrategy[Payload]] = {
    **{
        kind: _plain(kind, shape.layout.format)
        for kind, shape in SHAPES.items()
        if shape.layout is not None and shape.plain
    },
    MemTable: st.builds(MemTable, st.lists(regions, min_size=1, max_size=8).map(tuple)),
    SingleRegion: st.builds(SingleRegion, regions),
    Iotlb: st.builds(Iotlb, u64, u64, u64, st.integers(0, 3), st.integers(1, 4)),
    Config: st.builds(Config, u32, u32, st.binary(max_size=256)),
    SharedUuid: st.builds(SharedUuid, st.binary(min_size=16, max_size=16)),
    DeviceState: st.builds(DeviceState, st.integers(0, 1), st.just(0)),
    CryptoSession: st.builds(CryptoSession, st.binary(min_size=1072, max_size=1072)),
    ShmemConfig: st.builds(
        ShmemConfig, st.integers(0, 256), st.lists(u64, max_size=256).map(tuple)
    ),
}
payloads = st.one_of(*PAYLOADS.values())

EVERY_PROTOCOL_FEATURE = ~ProtocolFeature(0)


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    """A request that sessions carry and that has no descriptors, for rings below 64."""
    rows = [
        row for row in FRONTEND_MESSAGES.values() if not row.unsupported and row.fds is FdRule.NONE
    ]
    row = draw(st.sampled_from(rows))
    payload = draw(PAYLOADS[row.payload[0]]) if row.payload else None
    if isinstance(payload, VringState | VringAddr):
        payload = payload._replace(ring=payload.ring % 64)
    return Request(FrontendRequest(row.id), payload, (), draw(st.booleans()))
