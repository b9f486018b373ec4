"""Types and functions that the contract's tests share."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from collections.abc import Callable

from backends.control import ControlOptions
from tests.backends.rig import Rig
from tests.backends.served import Served
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Reply, Request
from vhost_user.payloads import U64, VringState

MakeRig = Callable[..., Rig]
Serve = Callable[..., Served]
NATIVE = ControlOptions()


def stop_all(rig: Rig) -> list[Reply]:
    return rig.pipeline([Request(F.GET_VRING_BASE, VringState(r.index, 0)) for r in rig.rings])


def status(rig: Rig) -> int:
    reply = rig.call(Request(F.GET_STATUS))
    assert reply is not None
    assert isinstance(reply.payload, U64)
    return reply.payload.value
