"""The features that a connection negotiates."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.features import SPEC, VIRTIO_F_VERSION_1, ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.back_end.negotiation import INTRUSIVE, PROTOCOL_BIT, Negotiation
from vhost_user_conformance.model.verdict import Unsupported
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

P = ProtocolFeature
BITS = PROTOCOL_BIT | 1 << VIRTIO_F_VERSION_1 | 1 << 28
USUAL = P.MQ | P.REPLY_ACK | P.CONFIG


def negotiation(offered: ProtocolFeature, device: str = "blk", features: int = BITS) -> Negotiation:
    """With a back-end that has 4 queues and offers these features."""
    queues: dict[int, Callable[[bytes], Answer]] = {
        F.GET_QUEUE_NUM: lambda _: ((4).to_bytes(8, "little"), ())
    }
    puppet = Puppet(features, int(offered), queues)
    return Negotiation(Wire(puppet.ours, {}, 2.0), device, SPEC)


def test_looking_negotiates_nothing() -> None:
    """It only reads."""
    with closing(negotiation(USUAL)) as connection:
        connection.read_features()
        assert (connection.features, connection.protocol) == (BITS, USUAL)
        assert (connection.acked, connection.driver_features) == (P(0), 0)


def test_usual_features_are_negotiated_and_intrusive_ones_on_demand() -> None:
    """And usual ones can be omitted."""
    with closing(negotiation(USUAL | INTRUSIVE)) as connection:
        connection.negotiate("CONFIGURE_MEM_SLOTS", without=("CONFIG",))
        assert connection.acked == P.MQ | P.REPLY_ACK | P.CONFIGURE_MEM_SLOTS
        assert connection.driver_features == PROTOCOL_BIT | 1 << VIRTIO_F_VERSION_1


def test_features_of_the_channel_need_the_channel() -> None:
    """HOST_NOTIFIER is not negotiated without BACKEND_REQ."""
    with closing(negotiation(USUAL | P.HOST_NOTIFIER)) as connection:
        assert P.HOST_NOTIFIER not in connection.negotiate().acked
    with closing(negotiation(USUAL | P.HOST_NOTIFIER | P.BACKEND_REQ)) as connection:
        assert P.HOST_NOTIFIER in connection.negotiate().acked


@pytest.mark.parametrize(("device", "rings"), [("blk", 4), ("net", 8)])
def test_the_number_of_rings(device: str, rings: int) -> None:
    """A NIC reports pairs."""
    with closing(negotiation(USUAL, device)) as connection:
        assert connection.negotiate().rings == rings


def test_without_mq_the_device_has_its_smallest_number_of_rings() -> None:
    """Two, for a NIC."""
    with closing(negotiation(P.REPLY_ACK, "net")) as connection:
        assert connection.negotiate().rings == 2


def test_what_is_not_offered_is_unsupported() -> None:
    """A protocol feature, and a feature bit."""
    with closing(negotiation(USUAL)) as connection:
        with pytest.raises(Unsupported, match="STATUS is not offered"):
            connection.negotiate("STATUS")
        with pytest.raises(Unsupported, match="feature bit 29 is not offered"):
            connection.negotiate_bits(28, 29)


def test_without_bit_30_there_are_no_protocol_features() -> None:
    """None is read or set."""
    with closing(negotiation(USUAL, features=1 << VIRTIO_F_VERSION_1)) as connection:
        connection.negotiate()
        assert connection.protocol == connection.acked == P(0)
