"""STATUS: set, returned, and a reset by a status of 0."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from backends.stop_policy import StopKind, StopPolicy
from tests.backends.contract.given import MakeRig, Serve, status
from vhost_user.errors import Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from tests.backends.rig import (
        Rig,
    )
    from tests.backends.served import Kind, Served
    from vhost_user.payload_layout import Payload


def test_status_is_what_was_set(rig: Rig) -> None:
    assert status(rig) == 0
    for bits in (1, 3, 11, 15):
        rig.ack(F.SET_STATUS, U64(bits))
        assert status(rig) == bits
    with pytest.raises(Refused):
        rig.ack(F.SET_STATUS, U64(0x10F))
    assert status(rig) == 15


def test_status_is_reset_when_a_front_end_disconnects(
    device: Served, rig: Rig, make_rig: MakeRig
) -> None:
    rig.ack(F.SET_STATUS, U64(15))
    rig.connection.close()
    assert status(make_rig(device.connect())) == 0


def test_status_of_a_reset_that_waits(kind: Kind, serve: Serve, make_rig: MakeRig) -> None:
    """It is 0 when the rings have stopped; later messages wait for that."""
    policy = StopPolicy(StopKind.IMMEDIATE, 50_000_000)
    rig = make_rig(serve(ControlOptions(policy)).connect()).start()
    kind.prepare(rig)
    rig.ack(F.SET_STATUS, U64(15))
    kind.work(rig, 0)
    began = time.monotonic()
    replies = rig.pipeline(
        [
            Request(F.SET_STATUS, U64(0), need_reply=True),
            Request(F.GET_STATUS),
            Request(F.GET_VRING_BASE, VringState(kind.ring, 0)),
        ]
    )
    assert time.monotonic() - began >= 0.05
    expected: list[Payload] = [U64(0), U64(0), VringState(kind.ring, 1)]
    assert [reply.payload for reply in replies] == expected
