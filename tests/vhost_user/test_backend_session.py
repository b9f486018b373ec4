"""The back-end's session, also against front-ends that break the protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user.sessions import BIT_30, P, R, pair
from vhost_user.backend_session import BackendSession
from vhost_user.codec import NEED_REPLY, VERSION, encode
from vhost_user.errors import FrontendError, UsageError
from vhost_user.message_spec import MessageSpec, ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, Request
from vhost_user.payloads import U64, LogArea, VringState

if TYPE_CHECKING:
    from vhost_user.features import ProtocolFeature


def test_need_reply_without_negotiation_is_not_answered() -> None:
    """A front-end that sets it anyway is not answered: it would not wait."""
    _, back = pair(P.MQ)
    wire = encode(R.SET_VRING_NUM, VERSION | NEED_REPLY, VringState(0, 64))
    (request,) = back.feed(wire)
    assert not request.need_reply
    assert back.ack(request, 1) == b""


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (encode(R.SET_VRING_NUM, VERSION, VringState(64, 0)), "ring 64.*there are 64 rings"),
        (encode(R.SET_VRING_ENABLE, VERSION, VringState(2**31, 0)), "there are 64 rings"),
        (encode(R.SET_FEATURES, VERSION, U64(1 << 5)), "0x20 were not offered"),
        (encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(1 << 17)), "0x20000 were not offered"),
        (encode(R.POSTCOPY_END, VERSION, None), "PAGEFAULT, not negotiated"),
        (encode(R.CLOSE_CRYPTO_SESSION, VERSION, U64(0)), "pointers"),
        (encode(R.SET_BACKEND_REQ_FD, VERSION, None), "without its 1 descriptor"),
        (encode(R.GET_SHMEM_CONFIG, VERSION, None), "SHMEM, not negotiated"),
    ],
)
def test_invalid_requests_of_a_front_end(wire: bytes, words: str) -> None:
    """Rings that do not exist, bits that were not offered, gates that are closed."""
    _, back = pair()
    with pytest.raises(FrontendError, match=words):
        back.feed(wire)


def test_descriptors_behind_a_closed_gate_are_closed() -> None:
    """A message may be well formed and not allowed: its descriptors are closed."""
    _, back = pair()
    fd = os.dup(0)
    with pytest.raises(FrontendError, match="BACKEND_REQ"):
        back.feed(encode(R.SET_BACKEND_REQ_FD, VERSION, None), [fd])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_protocol_feature_without_what_it_needs() -> None:
    """At the back-end it is the caller's error; in SET_PROTOCOL_FEATURES the front-end's fault."""
    wants = P.INBAND_NOTIFICATIONS | P.BACKEND_REQ | P.REPLY_ACK
    with pytest.raises(UsageError, match="INBAND"):
        BackendSession("d", features=0, protocol_features=P.INBAND_NOTIFICATIONS, num_queues=1)
    back = BackendSession("d", features=BIT_30, protocol_features=wants, num_queues=1)
    with pytest.raises(FrontendError, match="INBAND"):
        back.feed(encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(P.INBAND_NOTIFICATIONS))))


def test_rings_may_be_enabled_before_set_features() -> None:
    """QEMU's virtio-net does so: until SET_FEATURES arrives, offering bit 30 is enough."""
    back = BackendSession("d", features=BIT_30, protocol_features=P.MQ, num_queues=2)
    enable = encode(R.SET_VRING_ENABLE, VERSION, VringState(1, 1))
    back.feed(enable)
    assert back.rings[1].enabled
    back.feed(encode(R.SET_FEATURES, VERSION, U64(0)))
    with pytest.raises(FrontendError, match="bit 30 negotiated"):
        back.feed(enable)


def test_a_change_counts_for_the_messages_behind_it_in_the_same_read() -> None:
    """A message may arrive with the one that allows it."""
    back = BackendSession("d", features=BIT_30, protocol_features=P.MQ, num_queues=2)
    got = back.feed(
        encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(P.MQ)))
        + encode(R.GET_QUEUE_NUM, VERSION, None)
    )
    assert back.answer_from_state(got[1]) == U64(2)


def test_answers_that_do_not_fit() -> None:
    """The wrong payload, too many descriptors, an answer that is not due."""
    front, back = pair()
    (base,) = back.feed(front.encode(Request(R.GET_VRING_BASE, VringState(0, 0))))
    (num,) = back.feed(front.encode(Request(R.SET_VRING_NUM, VringState(0, 0))))
    with pytest.raises(UsageError, match="LogArea"):
        back.answer(base, LogArea(0, 0))
    with pytest.raises(UsageError, match="0 descriptors, not 1"):
        back.answer(base, VringState(0, 0), [0])
    with pytest.raises(UsageError, match="does not fit"):
        back.answer(base, VringState(0, 2**32))
    with pytest.raises(UsageError, match="no reply due"):
        back.answer(num, U64(0))


@pytest.mark.parametrize("row", FRONTEND_MESSAGES.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("agreed", [P.REPLY_ACK, P.REPLY_ACK | P.LOG_SHMFD])
def test_what_an_acknowledgement_can_refuse(agreed: ProtocolFeature, row: MessageSpec) -> None:
    """Everything without a reply of its own; the reply to SET_LOG_BASE depends on LOG_SHMFD."""
    back = BackendSession("net0", features=BIT_30, protocol_features=agreed, num_queues=1)
    back.feed(encode(R.SET_PROTOCOL_FEATURES, VERSION, U64(int(agreed))))
    own = {ReplyRule.ALWAYS: True, ReplyRule.IF_LOG_SHMFD: P.LOG_SHMFD in agreed}
    request = Request(R(row.id), need_reply=True)
    assert back.can_refuse(request) != own.get(row.reply, False)
