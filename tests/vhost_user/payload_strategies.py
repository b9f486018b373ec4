"""Hypothesis strategies for payloads and requests, from the message table itself."""

from __future__ import annotations

from hypothesis import strategies as st

from vhost_user.features import ProtocolFeature
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payloads import (
    U64,
    AnyPayload,
    Config,
    CryptoSession,
    DeviceState,
    Inflight,
    Iotlb,
    LogArea,
    MemoryRegion,
    MemTable,
    Mmap,
    SharedUuid,
    ShmemConfig,
    SingleRegion,
    VringAddr,
    VringArea,
    VringState,
)

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
regions = st.builds(MemoryRegion, u64, u64, u64, u64)

#: How to make a payload of each type.
PAYLOADS: dict[type[AnyPayload], st.SearchStrategy[AnyPayload]] = {
    U64: st.builds(U64, u64),
    VringState: st.builds(VringState, u32, u32),
    VringAddr: st.builds(VringAddr, u32, u32, u64, u64, u64, u64),
    MemTable: st.builds(MemTable, st.lists(regions, min_size=1, max_size=8).map(tuple)),
    SingleRegion: st.builds(SingleRegion, regions),
    LogArea: st.builds(LogArea, u64, u64),
    Iotlb: st.builds(Iotlb, u64, u64, u64, st.integers(0, 3), st.integers(1, 4)),
    Config: st.builds(Config, u32, u32, st.binary(max_size=256)),
    VringArea: st.builds(VringArea, u64, u64, u64),
    Inflight: st.builds(Inflight, u64, u64, u16, u16),
    SharedUuid: st.builds(SharedUuid, st.binary(min_size=16, max_size=16)),
    DeviceState: st.builds(DeviceState, st.integers(0, 1), st.just(0)),
    CryptoSession: st.builds(CryptoSession, st.binary(min_size=1072, max_size=1072)),
    Mmap: st.builds(Mmap, st.integers(0, 255), u64, u64, u64, u64),
    ShmemConfig: st.builds(
        ShmemConfig, st.integers(0, 256), st.lists(u64, max_size=256).map(tuple)
    ),
}
payloads = st.one_of(*PAYLOADS.values())

EVERY_PROTOCOL_FEATURE = ~ProtocolFeature(0)


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    """A request that sessions carry and that has no descriptors, for rings below 64."""
    rows = [row for row in FRONTEND_MESSAGES.values() if not row.refusal and row.fds.value == "0"]
    row = draw(st.sampled_from(rows))
    payload = draw(PAYLOADS[row.payload[0]]) if row.payload else None
    if isinstance(payload, VringState | VringAddr):
        payload = payload._replace(index=payload.index % 64)
    return Request(FrontendRequest(row.id), payload, (), draw(st.booleans()))
