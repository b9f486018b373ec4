"""VU-F-15xx: transfer of the device state during a migration."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import U64, VRING_NO_FD
from vhost_user_conformance.front_end.acts import LOG, START
from vhost_user_conformance.front_end.descriptors import PIPE, SOCKET
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("device_state", FRONT_END, "Migrating back-end state")

OFFERED = PLAIN._replace(
    name="device state is offered",
    acts=(START, LOG),
    protocol_offering=int(ProtocolFeature.DEVICE_STATE),
)
REFUSAL = "a transfer was refused"


def _transfers(fe: FrontEnd) -> tuple[Recording, list[Received]]:
    """A session with at least one transfer. Raises `Unsupported`."""
    recording = fe.session(OFFERED)
    return recording, recording.some(F.SET_DEVICE_STATE_FD)


def _numbers(message: Received) -> tuple[int, int]:
    """Direction and phase, valid or not."""
    direction, phase = struct.unpack("=II", message.payload[:8].ljust(8, b"\xff"))
    return direction, phase


@area.case(1501, "A state is transferred while all rings are stopped")
def suspended(fe: FrontEnd) -> None:
    recording, transfers = _transfers(fe)
    for each in transfers:
        running = recording.running(each.at)
        check(not running, "no running ring", f"{each}: rings {sorted(running)} run")


@area.case(1502, "SET_DEVICE_STATE_FD has phase 0")
def phase(fe: FrontEnd) -> None:
    _, transfers = _transfers(fe)
    all_of(transfers, lambda each: _numbers(each)[1] == 0, "phase 0")


@area.case(1503, "SET_DEVICE_STATE_FD has direction 0 or 1")
def direction(fe: FrontEnd) -> None:
    _, transfers = _transfers(fe)
    all_of(transfers, lambda each: _numbers(each)[0] in (0, 1), "direction 0 or 1")


@area.case(1504, "SET_DEVICE_STATE_FD has one end of a pipe or a socket")
def descriptor(fe: FrontEnd) -> None:
    _, transfers = _transfers(fe)
    all_of(
        transfers,
        lambda each: len(each.fds) == 1 and each.fds[0].kind in (PIPE, SOCKET),
        "one pipe or socket",
    )


@area.case(1505, "Each transfer is followed by CHECK_DEVICE_STATE, before the next one")
def checked(fe: FrontEnd) -> None:
    recording, _ = _transfers(fe)
    order = [each.id for each in recording.of(F.SET_DEVICE_STATE_FD, F.CHECK_DEVICE_STATE)]
    wanted = [F.SET_DEVICE_STATE_FD, F.CHECK_DEVICE_STATE] * (len(order) // 2)
    check(order == wanted, "SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE in alternation", f"{order}")


def _refuse(session: ScriptedSession, message: Message) -> None:
    session.mark(REFUSAL)
    session.reply(message.id, U64(VRING_NO_FD | 1).pack())


@area.case(1506, "The front-end continues after the back-end has refused a transfer")
def refused(fe: FrontEnd) -> None:
    script = Script(
        REFUSAL,
        (START, LOG),
        protocol_offering=int(ProtocolFeature.DEVICE_STATE),
        reactions=((F.SET_DEVICE_STATE_FD, _refuse),),
    )
    recording = fe.session(script)
    recording.some(F.SET_DEVICE_STATE_FD)
    recording.since(REFUSAL)
    check(not recording.ended, "the front-end to continue", f"it ended {recording.ended}")
