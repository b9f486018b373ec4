"""Payloads: sizes on the wire, round trips, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user.payload_strategies import PAYLOADS, payloads
from vhost_user.payload_layout import SHAPES, Payload, PayloadError
from vhost_user.payloads import (
    U64,
    Config,
    DeviceState,
    Inflight,
    Iotlb,
    MemoryRegion,
    MemTable,
    SharedUuid,
    VringAddr,
    VringState,
)


def test_every_type_has_a_shape_and_a_strategy() -> None:
    """A payload class without either would not be tested."""
    assert set(SHAPES) == set(PAYLOADS)


@given(payloads)
def test_round_trip(payload: Payload) -> None:
    """What is packed is what is unpacked, and its size is within the shape."""
    data = payload.pack()
    shape = SHAPES[type(payload)]
    assert shape.smallest <= len(data) <= shape.largest
    assert type(payload).unpack(data) == payload


@given(st.sampled_from(list(SHAPES)), st.binary(max_size=400))
def test_garbage_is_a_payload_or_an_error_of_ours(kind: type[Payload], data: bytes) -> None:
    """No other exception comes out, and what is parsed packs again to that size."""
    try:
        payload = kind.unpack(data)
    except PayloadError:
        return
    assert len(payload.pack()) == len(data)


@pytest.mark.parametrize(
    ("payload", "wire"),
    [
        (U64(0x0102030405060708), "0807060504030201"),
        (VringState(1, 0x100), "0100000000010000"),
        # The used ring's address comes before the available ring's.
        (
            VringAddr(2, 1, desc=3, used=4, avail=5, log=6),
            "02000000010000000300000000000000040000000000000005000000000000000600000000000000",
        ),
        (Config(4, 1, b"ab"), "0400000002000000010000006162"),
        (Inflight(1, 2, 3, 4), "01000000000000000200000000000000" + "0300040000000000"),
    ],
)
def test_bytes_on_a_little_endian_wire(payload: Payload, wire: str) -> None:
    """Field order and widths are those of the specification."""
    assert payload.pack().hex() == wire


def test_a_memory_table_sends_only_the_regions_it_has() -> None:
    """Two regions take 8 + 2 * 32 bytes, not eight times 32."""
    table = MemTable((MemoryRegion(1, 2, 3, 4), MemoryRegion(5, 6, 7, 8)))
    assert len(table.pack()) == 72


@pytest.mark.parametrize(
    "payload",
    [
        MemTable((MemoryRegion(0, 0, 0, 0),) * 9),
        Config(0, 0, bytes(257)),
        SharedUuid(b"short"),
    ],
)
def test_invalid_payloads_are_not_packed(payload: Payload) -> None:
    """A count or a size beyond the specification's limits is refused by the sender."""
    with pytest.raises(PayloadError):
        payload.pack()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (MemTable, b"\x09" + bytes(7 + 9 * 32)),
        (MemTable, b"\x02" + bytes(7 + 32)),
        (MemTable, b""),
        (Config, b"\0\0\0\0\x05\0\0\0\0\0\0\0abcd"),
        (Iotlb, bytes(32)),
        (DeviceState, b"\x02" + bytes(7)),
        (U64, bytes(7)),
    ],
)
def test_invalid_bytes_are_not_unpacked(kind: type[Payload], data: bytes) -> None:
    """A size that does not fit its count, or an invalid value, is rejected."""
    with pytest.raises(PayloadError):
        kind.unpack(data)
