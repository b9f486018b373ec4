"""Requests: replies, acknowledgements, refusals, and what is released after a case."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.back_end.requests import Requests
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable


def connected(puppet: Puppet, *, reply_ack: bool = True) -> Requests:
    """Requests to this back-end."""
    requests = Requests(Wire(puppet.ours, {}, 2.0))
    if reply_ack:
        requests.acked = ProtocolFeature.REPLY_ACK
    return requests


def test_a_reply_must_have_the_id_of_its_request() -> None:
    """Another one is a failure, not the reply."""
    puppet = Puppet(0x55, 0, {})
    with closing(connected(puppet)) as requests:
        assert requests.ask_u64(F.GET_FEATURES) == 0x55
        requests.send(F.GET_FEATURES)
        with pytest.raises(Failed, match="the id of GET_QUEUE_NUM"):
            requests.reply_to(F.GET_QUEUE_NUM)


def test_an_accepted_request_is_acknowledged_with_0() -> None:
    """Another code fails."""
    with closing(connected(Puppet(0, 0, {}))) as requests:
        requests.accepted(F.SET_OWNER)
    refusing = Puppet(0, 0, {F.SET_OWNER: lambda _: ((1).to_bytes(8, "little"), ())})
    with closing(connected(refusing)) as requests, pytest.raises(Failed, match="with 1"):
        requests.accepted(F.SET_OWNER)


def test_without_reply_ack_a_barrier_follows() -> None:
    """The request has no need_reply, and what follows it is answered."""
    with closing(connected(Puppet(0, 0, {}), reply_ack=False)) as requests:
        requests.accepted(F.SET_OWNER)
        assert requests.refused(F.SET_OWNER) == "ignored"


def test_how_a_request_is_refused() -> None:
    """By a code, or by closing the connection; success is a failure."""
    code = Puppet(0, 0, {F.SET_VRING_NUM: lambda _: ((22).to_bytes(8, "little"), ())})
    with closing(connected(code)) as requests:
        assert requests.refused(F.SET_VRING_NUM, bytes(8)) == "code 22"
    leaving = Puppet(
        0, 0, {F.SET_VRING_NUM: lambda _: ((22).to_bytes(8, "little"), ())}, last=F.SET_VRING_NUM
    )
    with closing(connected(leaving)) as requests:
        assert requests.refused(F.SET_VRING_NUM, bytes(8)) == "closed"
    silent: dict[int, Callable[[bytes], Answer]] = {F.SET_OWNER: lambda _: (b"", ())}
    with closing(connected(Puppet(0, 0, {}))) as requests, pytest.raises(Failed, match="with 0"):
        requests.refused(F.SET_VRING_NUM, bytes(8))
    with closing(connected(Puppet(0, 0, silent, last=F.SET_OWNER))) as requests:
        requests.send(F.SET_OWNER)
        requests.reply_to(F.SET_OWNER)
        assert requests.refused(F.SET_VRING_NUM, bytes(8)) == "closed"


def test_all_that_a_case_made_is_released() -> None:
    """The last first, also where one of them fails."""
    released = []

    def fail() -> None:
        raise OSError("no")

    requests = connected(Puppet(0, 0, {}))
    requests.own(lambda: released.append("first"))
    requests.own(fail)
    requests.own(lambda: released.append("last"))
    with pytest.raises(OSError, match="no"):
        requests.close()
    assert released == ["last", "first"]
