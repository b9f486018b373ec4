"""Features, protocol features and acknowledgements."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vhost_user.errors import Disconnected, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from tests.backends.contract.given import MakeRig
    from tests.backends.rig import (
        Rig,
    )
    from tests.backends.served import Kind, Served


def test_offers_what_it_serves(device: Served, rig: Rig, kind: Kind) -> None:
    offered = rig.connection.offered_features
    for bit in (26, 28, 29, 30, 32):
        assert offered >> bit & 1
    assert not offered >> 34 & 1, "packed rings are not served"
    wanted = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.RESET_DEVICE
    assert wanted in rig.connection.protocol_features
    slots = rig.call(Request(F.GET_MAX_MEM_SLOTS))
    assert slots is not None
    assert slots.payload == U64(509)


def test_refuses_features_it_did_not_offer(rig: Rig) -> None:
    with pytest.raises((Refused, Disconnected)):
        rig.ack(F.SET_FEATURES, U64(1 << 34 | 1 << 30))


def test_acknowledges_only_when_asked(rig: Rig) -> None:
    assert rig.call(Request(F.SET_VRING_NUM, VringState(0, 64))) is None
    reply = rig.call(Request(F.SET_VRING_NUM, VringState(0, 64), need_reply=True))
    assert reply is not None
    assert reply.payload == U64(0)


def test_an_error_is_acknowledged_where_there_is_no_other_reply(
    device: Served, make_rig: MakeRig
) -> None:
    """Without LOG_SHMFD a log has no reply of its own, so an acknowledgement reports the error."""
    agreed = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
    rig = make_rig(device.connect(), protocol_features=agreed)
    with pytest.raises(Refused):
        rig.ack(F.SET_LOG_BASE, U64(0))
    rig.set_features()
