"""VU-F-02xx: features, protocol features, the owner, and messages that require them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import VHOST_F_LOG_ALL, VIRTIO_F_VERSION_1, ProtocolFeature
from vhost_user_conformance.front_end.acts import CONT
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.ring_service import PROTOCOL_BIT
from vhost_user_conformance.front_end.script import MIGRATED, Script, occasion
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("negotiation", FRONT_END, "Protocol features")
P = ProtocolFeature
LOG_ALL = 1 << VHOST_F_LOG_ALL
_PAGE = 4096

#: Messages that require a protocol feature.
GATES = {
    P.MQ: (F.GET_QUEUE_NUM,),
    P.RARP: (F.SEND_RARP,),
    P.NET_MTU: (F.NET_SET_MTU,),
    P.BACKEND_REQ: (F.SET_BACKEND_REQ_FD,),
    P.CROSS_ENDIAN: (F.SET_VRING_ENDIAN,),
    P.CRYPTO_SESSION: (F.CREATE_CRYPTO_SESSION, F.CLOSE_CRYPTO_SESSION),
    P.PAGEFAULT: (F.POSTCOPY_ADVISE, F.POSTCOPY_LISTEN, F.POSTCOPY_END),
    P.CONFIG: (F.GET_CONFIG, F.SET_CONFIG),
    P.INFLIGHT_SHMFD: (F.GET_INFLIGHT_FD, F.SET_INFLIGHT_FD),
    P.RESET_DEVICE: (F.RESET_DEVICE,),
    P.INBAND_NOTIFICATIONS: (F.VRING_KICK,),
    P.CONFIGURE_MEM_SLOTS: (F.GET_MAX_MEM_SLOTS, F.ADD_MEM_REG, F.REM_MEM_REG),
    P.STATUS: (F.SET_STATUS, F.GET_STATUS),
    P.SHARED_OBJECT: (F.GET_SHARED_OBJECT,),
    P.DEVICE_STATE: (F.SET_DEVICE_STATE_FD, F.CHECK_DEVICE_STATE),
    P.SHMEM: (F.GET_SHMEM_CONFIG,),
    P.GET_VRING_BASE_SKIP_DRAIN: (F.GET_VRING_BASE_SKIP_DRAIN,),
}
RING_MESSAGES = (F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ADDR, F.SET_VRING_KICK)
#: Undefined bits, which no back-end offers.
UNKNOWN_PROTOCOL = 1 << 61 | 1 << 62
NO_PROTOCOL = Script("without bit 30", without=PROTOCOL_BIT)
NOTHING = Script("no protocol feature is offered", protocol_without=(1 << 64) - 1)
UNKNOWN = Script("undefined protocol features", protocol_offering=UNKNOWN_PROTOCOL)


def _active(recording: Recording) -> Recording:
    """Require that the front-end has sent a message."""
    check(recording.messages, "a message", "the front-end connected and sent nothing")
    return recording


@area.case(
    225,
    "The destination of a migration acknowledges the features that the source did",
    spec="virtio 1.3, 2.2",
    severity=Severity.SHOULD,
)
def features_migrated(fe: FrontEnd) -> None:
    recording = fe.session(MIGRATED)
    there = recording.arrived()
    before = recording.some(F.SET_FEATURES)[-1].u64 & ~LOG_ALL
    after = there.some(F.SET_FEATURES)[-1].u64 & ~LOG_ALL
    check(after == before, f"features {before:#x}", f"{after:#x}")


@area.case(201, "SET_OWNER is sent once", spec="VHOST_USER_SET_OWNER", severity=Severity.SHOULD)
def one_owner(fe: FrontEnd) -> None:
    count = len(fe.plain().of(F.SET_OWNER))
    check(count == 1, "one SET_OWNER", f"{count}")


@area.each(
    202,
    (F.SET_MEM_TABLE, *RING_MESSAGES),
    "SET_OWNER comes before {0.name}",
    spec="SET_OWNER",
    severity=Severity.SHOULD,
)
def owner_first(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    owner, first = recording.first(F.SET_OWNER), recording.first(number)
    check(owner.at < first.at, f"SET_OWNER before {number.name}", f"{first} came first")


@area.case(207, "GET_FEATURES comes before SET_FEATURES", spec="VHOST_USER_SET_FEATURES")
def ask_first(fe: FrontEnd) -> None:
    recording = fe.plain()
    first = recording.first(F.SET_FEATURES)
    asked = [each for each in recording.of(F.GET_FEATURES) if each.at < first.at]
    check(asked, "GET_FEATURES before SET_FEATURES", f"{first} without it")


@area.case(208, "GET_PROTOCOL_FEATURES comes before SET_PROTOCOL_FEATURES")
def ask_protocol_first(fe: FrontEnd) -> None:
    recording = fe.plain()
    first = recording.first(F.SET_PROTOCOL_FEATURES)
    asked = [each for each in recording.of(F.GET_PROTOCOL_FEATURES) if each.at < first.at]
    check(asked, "GET_PROTOCOL_FEATURES before it", f"{first} without it")


@area.each(
    209, RING_MESSAGES, "SET_FEATURES comes before the first {0.name}", severity=Severity.SHOULD
)
def features_first(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    first, features = recording.first(number), recording.first(F.SET_FEATURES)
    check(features.at < first.at, f"SET_FEATURES before {number.name}", f"{first} came first")


@area.case(213, "SET_FEATURES acknowledges nothing that was not offered")
def features_offered(fe: FrontEnd) -> None:
    offered = Script("").features(fe.device_class)
    all_of(
        fe.plain().some(F.SET_FEATURES),
        lambda each: not each.u64 & ~offered,
        f"only bits of {offered:#x}",
    )


@area.case(214, "SET_PROTOCOL_FEATURES acknowledges nothing that was not offered")
def protocol_offered(fe: FrontEnd) -> None:
    offered = Script("").protocol(fe.device_class)
    all_of(
        fe.plain().some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & ~offered,
        f"only bits of {offered:#x}",
    )


@area.case(215, "Undefined protocol features are not acknowledged")
def unknown_protocol(fe: FrontEnd) -> None:
    all_of(
        _active(fe.session(UNKNOWN)).some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & UNKNOWN_PROTOCOL,
        "bits 61 and 62 clear",
    )


@area.each(216, (12, 28, 29, 32), "Feature bit {} is not acknowledged when it is not offered")
def feature_not_offered(fe: FrontEnd, bit: int) -> None:
    script = Script(f"without feature {bit}", without=1 << bit)
    recording = _active(fe.session(script))
    if bit == VIRTIO_F_VERSION_1 and not recording.of(F.SET_FEATURES):
        unsupported("the front-end requires VERSION_1")
    all_of(recording.some(F.SET_FEATURES), lambda each: not each.u64 >> bit & 1, f"bit {bit} clear")


@area.case(220, "Without bit 30 there are no messages about protocol features")
def no_protocol(fe: FrontEnd) -> None:
    fe.plain().some(F.SET_PROTOCOL_FEATURES)
    all_of(
        _active(fe.session(NO_PROTOCOL)).messages,
        lambda each: each.id not in (F.GET_PROTOCOL_FEATURES, F.SET_PROTOCOL_FEATURES),
        "no message about protocol features",
    )


@area.case(221, "Without bit 30 there is no SET_VRING_ENABLE", spec="VHOST_USER_SET_VRING_ENABLE")
def no_enable(fe: FrontEnd) -> None:
    fe.plain().some(F.SET_VRING_ENABLE)
    all_of(
        _active(fe.session(NO_PROTOCOL)).messages,
        lambda each: each.id != F.SET_VRING_ENABLE,
        "no SET_VRING_ENABLE",
    )


@area.case(222, "Bit 30 is acknowledged where SET_VRING_ENABLE is used", spec="SET_VRING_ENABLE")
def enable_negotiated(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.first(F.SET_VRING_ENABLE)
    bad = [each for each in recording.of(F.SET_FEATURES) if not each.u64 & PROTOCOL_BIT]
    check(not bad, "bit 30 in SET_FEATURES", f"{bad[:1]}")


@area.case(223, "No message that requires a protocol feature is sent where none is offered")
def nothing_offered(fe: FrontEnd) -> None:
    gated = {number for numbers in GATES.values() for number in numbers}
    all_of(
        _active(fe.session(NOTHING)).messages,
        lambda each: each.id not in gated,
        "no message that requires a protocol feature",
    )


@area.each(230, GATES, "Messages of {0.name} are sent only after it was acknowledged")
def after_acknowledging(fe: FrontEnd, feature: ProtocolFeature) -> None:
    all_of(
        fe.session(occasion(GATES[feature][0])).some(*GATES[feature]),
        lambda each: each.protocol & feature,
        f"{feature.name} acknowledged before",
    )


@area.each(250, GATES, "Messages of {0.name} are not sent where it is not offered")
def not_offered(fe: FrontEnd, feature: ProtocolFeature) -> None:
    fe.plain().some(F.SET_PROTOCOL_FEATURES)
    if not feature & Script("").protocol(fe.device_class):
        all_of(
            fe.plain().messages,
            lambda each: each.id not in GATES[feature],
            f"no message of {feature.name}",
        )
        return
    script = Script(f"without {feature.name}", protocol_without=int(feature))
    all_of(
        _active(fe.session(script)).messages,
        lambda each: each.id not in GATES[feature] and not each.protocol & feature,
        f"no message of {feature.name}, and the feature not acknowledged",
    )


@area.case(
    270,
    "INBAND_NOTIFICATIONS is acknowledged only with BACKEND_REQ and REPLY_ACK",
    spec="In-band notifications",
)
def in_band(fe: FrontEnd) -> None:
    script = Script(
        "in-band notifications without the back-end channel",
        protocol_offering=int(P.INBAND_NOTIFICATIONS),
        protocol_without=int(P.BACKEND_REQ),
    )
    all_of(
        _active(fe.session(script)).some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & P.INBAND_NOTIFICATIONS,
        "INBAND_NOTIFICATIONS not acknowledged without BACKEND_REQ",
    )


@area.case(271, "GET_VRING_BASE_INFLIGHT is acknowledged only with INFLIGHT_SHMFD")
def base_inflight(fe: FrontEnd) -> None:
    script = Script(
        "GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD",
        protocol_offering=int(P.GET_VRING_BASE_INFLIGHT),
        protocol_without=int(P.INFLIGHT_SHMFD),
    )
    all_of(
        _active(fe.session(script)).some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & P.GET_VRING_BASE_INFLIGHT,
        "GET_VRING_BASE_INFLIGHT not acknowledged without INFLIGHT_SHMFD",
    )


@area.each(
    274,
    (P.GET_VRING_BASE_INFLIGHT, P.INFLIGHT_SHMFD),
    "GET_VRING_BASE_SKIP_DRAIN is not acknowledged without {0.name}",
    spec="VHOST_USER_GET_VRING_BASE_SKIP_DRAIN",
)
def skip_drain(fe: FrontEnd, lacking: ProtocolFeature) -> None:
    all_needed = P.GET_VRING_BASE_SKIP_DRAIN | P.GET_VRING_BASE_INFLIGHT | P.INFLIGHT_SHMFD
    script = Script(
        f"GET_VRING_BASE_SKIP_DRAIN without {lacking.name}",
        protocol_offering=int(all_needed & ~lacking),
        protocol_without=int(lacking),
    )
    all_of(
        _active(fe.session(script)).some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & P.GET_VRING_BASE_SKIP_DRAIN,
        f"GET_VRING_BASE_SKIP_DRAIN not acknowledged without {lacking.name}",
    )


@area.case(
    272, "The first messages of a front-end", spec="no order is fixed", severity=Severity.MAY
)
def begins_with(fe: FrontEnd) -> None:
    names = [each.name for each in _active(fe.plain()).messages[:5]]
    observed(", ".join(names))


@area.case(273, "Features do not change while a ring runs", spec="SET_FEATURES")
def features_stay(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    for each in recording.some(F.SET_FEATURES):
        # While no ring runs another driver may start, as after a boot loader.
        if each.features is None or not recording.running(each.at):
            continue
        check(
            (each.u64 ^ each.features) & ~LOG_ALL == 0,
            f"{each.features:#x}, with or without bit 26, as before",
            f"{each}: {each.u64:#x}",
        )


@area.case(276, "The guest's features are the same when the VM continues", spec="SET_FEATURES")
def features_kept(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    before: int | None = None
    for each in recording.some(F.SET_FEATURES):
        if each.act == CONT and before is not None:
            same = (each.u64 ^ before) & ~LOG_ALL == 0
            check(same, f"{before & ~LOG_ALL:#x}, as before the stop", f"{each}: {each.u64:#x}")
        before = each.u64


@area.case(224, "VERSION_1 is acknowledged where it is offered", spec="virtio 1.3, 6.1")
def version_1(fe: FrontEnd) -> None:
    """A legacy driver does not know it; the layout of its rings identifies it."""
    recording = fe.plain()
    recording.started()
    lacking = [
        each for each in recording.some(F.SET_FEATURES) if not each.u64 >> VIRTIO_F_VERSION_1 & 1
    ]
    if lacking and _legacy(recording):
        observed(f"{lacking[0]} lacks it, and the rings have the legacy layout")
    all_of(lacking, lambda _: False, f"bit {VIRTIO_F_VERSION_1} set")


def _legacy(recording: Recording) -> bool:
    """Whether all rings have the legacy layout of virtio 1.3, 2.7.2."""
    sizes = {each.state.ring: each.state.num for each in recording.of(F.SET_VRING_NUM)}
    addresses = [each.address for each in recording.of(F.SET_VRING_ADDR)]
    return bool(addresses) and all(
        at.avail == at.desc + 16 * sizes.get(at.ring, 0)
        and at.used == -(-(at.avail + 6 + 2 * sizes.get(at.ring, 0)) // _PAGE) * _PAGE
        for at in addresses
    )
