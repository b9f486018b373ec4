"""Negotiation opens gates, and closes them again."""

from __future__ import annotations

import pytest

from vhost_user.agreement import ring_of
from vhost_user.errors import UsageError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, YC_LIBVHOST, ProtocolFeature
from vhost_user.message_spec import FdRule, MessageSpec
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payloads import MAX_RINGS, U64, MemTable, VringAddr, VringState
from vhost_user.session import BackendSession, FrontendSession

R = FrontendRequest


@pytest.mark.parametrize(
    "row", [row for row in FRONTEND_MESSAGES.values() if row.gate.protocol or row.unsupported]
)
def test_a_gate_is_closed_at_first(row: MessageSpec) -> None:
    """Nothing that depends on a protocol feature can be sent before it is negotiated."""
    with pytest.raises(UsageError) as caught:
        FrontendSession("net0").encode(Request(FrontendRequest(row.id)))
    assert caught.value.message == row.name
    assert row.unsupported in caught.value.text


def test_features_open_and_close_gates() -> None:
    """SET_VRING_ENABLE needs bit 30 negotiated: offering it is not enough for a sender."""
    session = FrontendSession("net0")
    enable = Request(R.SET_VRING_ENABLE, VringState(0, 1))
    with pytest.raises(UsageError, match="feature bit 30 negotiated"):
        session.encode(enable)
    session.encode(Request(R.SET_FEATURES, U64(1 << VHOST_USER_F_PROTOCOL_FEATURES)))
    assert session.encode(enable)
    session.encode(Request(R.SET_FEATURES, U64(0)))
    with pytest.raises(UsageError):
        session.encode(enable)


def test_without_bit_30_all_rings_are_enabled_at_once() -> None:
    """With it, the bits do not change."""
    session = FrontendSession("net0", rings=4)
    session.encode(Request(R.SET_FEATURES, U64(1 << VHOST_USER_F_PROTOCOL_FEATURES)))
    assert not any(ring.enabled for ring in session.rings)
    session.encode(Request(R.SET_FEATURES, U64(0)))
    assert all(ring.enabled for ring in session.rings)


@pytest.mark.parametrize("rings", [0, MAX_RINGS + 1])
def test_rings_that_no_message_can_index(rings: int) -> None:
    """KICK and CALL have eight bits for a ring."""
    with pytest.raises(UsageError, match="rings"):
        BackendSession("net0", features=0, protocol_features=ProtocolFeature(0), num_queues=rings)


def test_a_dialect_changes_what_an_id_is() -> None:
    """Id 44 is another message in yc-libvhost-server."""
    with pytest.raises(UsageError) as caught:
        FrontendSession("net0", dialect=YC_LIBVHOST).encode(Request(R.GET_SHMEM_CONFIG))
    assert caught.value.message == "GET_VRING_BASE_SKIP_DRAIN"


def test_which_ring_a_message_is_about() -> None:
    """In a U64 it is the low eight bits, where the message is about a ring's eventfd."""
    assert ring_of(VringState(5, 0), FdRule.NONE) == 5
    assert ring_of(VringAddr(6, 0, 0, 0, 0, 0), FdRule.NONE) == 6
    assert ring_of(U64(0x107), FdRule.UNLESS_NO_FD) == 7
    assert ring_of(U64(0x107), FdRule.NONE) is None
    assert ring_of(MemTable(()), FdRule.PER_REGION) is None
