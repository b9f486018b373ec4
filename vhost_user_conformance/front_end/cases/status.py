"""VU-F-14xx: device status and reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user_conformance.front_end.acts import RESET
from vhost_user_conformance.front_end.recording import STOPS, F
from vhost_user_conformance.front_end.script import RESETTING, STATUS
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("status", FRONT_END, "VHOST_USER_SET_STATUS")

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED = 1, 2, 4, 8, 128

P = ProtocolFeature


def _status(fe: FrontEnd) -> Recording:
    recording = fe.session(STATUS)
    if not recording.messages or not recording.messages[-1].protocol & P.STATUS:
        unsupported("the front-end does not acknowledge STATUS")
    return recording


@area.case(1401, "The status reaches DRIVER_OK with all preceding bits")
def driver_ok(fe: FrontEnd) -> None:
    recording = _status(fe)
    recording.started()
    seen = [each.u64 for each in recording.some(F.SET_STATUS)]
    whole = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    check(any(value & whole == whole for value in seen), f"{whole:#x}", f"{seen}")


@area.case(1402, "A status is one byte")
def one_byte(fe: FrontEnd) -> None:
    all_of(_status(fe).some(F.SET_STATUS), lambda each: each.u64 < 256, "below 256")


@area.case(1403, "No bit of the status is cleared, except by a reset", spec="virtio 1.3, 2.1")
def grows(fe: FrontEnd) -> None:
    before = 0
    for each in _status(fe).some(F.SET_STATUS):
        check(
            not before & ~each.u64 or not each.u64,
            f"{before:#x} with further bits, or 0",
            f"{each.u64}",
        )
        before = each.u64


@area.case(1404, "FEATURES_OK comes after SET_FEATURES", spec="virtio 1.3, 3.1.1")
def features_ok(fe: FrontEnd) -> None:
    recording = _status(fe)
    good = [each for each in recording.some(F.SET_STATUS) if each.u64 & FEATURES_OK]
    check(good, "a status with FEATURES_OK", "none came")
    check(recording.first(F.SET_FEATURES).at < good[0].at, "SET_FEATURES before", f"{good[0]}")


@area.case(1405, "The status is reset to 0 with the device")
def reset_to_zero(fe: FrontEnd) -> None:
    recording = _status(fe)
    recording.did(RESET)
    zeros = [each for each in recording.some(F.SET_STATUS, act=RESET) if each.u64 == 0]
    check(zeros, "SET_STATUS 0", "none came")


@area.case(1406, "A device that is reset is stopped, by GET_VRING_BASE, RESET_DEVICE or status 0")
def reset_stops(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(RESET)
    ended = recording.of(*STOPS, F.RESET_DEVICE, F.SET_STATUS, act=RESET)
    check(ended, "GET_VRING_BASE, RESET_DEVICE or SET_STATUS 0", "none came")
    during = [each for each in recording.messages if each.act == RESET]
    before = recording.running(during[0].at)
    whole = [
        each
        for each in ended
        if each.id == F.RESET_DEVICE or (each.id == F.SET_STATUS and not each.u64)
    ]
    stopped = {each.ring for each in ended if each.id in STOPS}
    left = before - (before if whole else stopped)
    check(
        not left, f"each of rings {sorted(before)} to be stopped", f"rings {sorted(left)} still run"
    )


@area.case(1407, "RESET_DEVICE is sent after rings are stopped, or to stop them all")
def reset_device(fe: FrontEnd) -> None:
    recording = fe.session(RESETTING)
    for each in recording.some(F.RESET_DEVICE):
        check(each.protocol & P.RESET_DEVICE, "RESET_DEVICE acknowledged before", f"{each}")
        running = recording.running(each.at)
        if running:
            observed(f"{each} stops rings {sorted(running)}, whose bases were not read")


@area.case(1408, "RESET_OWNER is not sent", spec="deprecated; 22d2464f7e", severity=Severity.SHOULD)
def reset_owner(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: each.id != F.RESET_OWNER, "no RESET_OWNER")
