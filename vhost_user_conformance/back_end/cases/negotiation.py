"""VU-B-02xx: features, protocol features, the owner."""

from __future__ import annotations

from vhost_user.features import (
    DEPENDENCIES,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
    missing_dependencies,
)
from vhost_user_conformance.back_end.connection import LOG_ALL, PROTOCOL_BIT, BackEnd, F, u64
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.wire import Closed

area = Area("negotiation", BACK_END, "Protocol features")


@area.case(201, "GET_FEATURES gives the same answer each time")
def features_stable(be: BackEnd) -> None:
    first, again = be.ask_u64(F.GET_FEATURES), be.ask_u64(F.GET_FEATURES)
    check(first == again, f"{first:#x} again", f"{again:#x}")


@area.case(202, "GET_PROTOCOL_FEATURES is answered before SET_FEATURES when bit 30 is offered")
def protocol_features_first(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("bit 30 (VHOST_USER_F_PROTOCOL_FEATURES) is not offered")
    be.ask_u64(F.GET_PROTOCOL_FEATURES)


@area.case(203, "GET_PROTOCOL_FEATURES gives the same answer each time")
def protocol_features_stable(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("bit 30 is not offered")
    again = be.ask_u64(F.GET_PROTOCOL_FEATURES)
    check(int(be.protocol) == again, f"{int(be.protocol):#x} again", f"{again:#x}")


@area.case(204, "GET_FEATURES still returns the same after SET_FEATURES and SET_PROTOCOL_FEATURES")
def offer_stays(be: BackEnd) -> None:
    be.negotiate()
    features = be.ask_u64(F.GET_FEATURES)
    check(features == be.features, f"{be.features:#x} again", f"{features:#x}")


@area.case(205, "VIRTIO_F_VERSION_1 is offered", severity=Severity.SHOULD, spec="virtio 1.3, 6.1")
def version_1(be: BackEnd) -> None:
    be.read_features()
    check(be.features >> VIRTIO_F_VERSION_1 & 1, "feature bit 32", f"{be.features:#x}")


@area.each(
    210,
    DEPENDENCIES,
    "{0.name} is not offered without the feature that it depends on",
    spec="Protocol features; libvhost-user vu_set_protocol_features_exec; e0822e6085",
)
def dependencies_offered(be: BackEnd, feature: ProtocolFeature) -> None:
    be.read_features()
    if feature not in be.protocol:
        unsupported(f"{feature.name} is not offered")
    lacks = missing_dependencies(be.protocol).get(feature)
    check(
        not lacks,
        f"{feature.name} with {DEPENDENCIES[feature].name}",
        f"without {lacks and lacks.name}",
    )


@area.case(220, "LOG_SHMFD is offered with VHOST_F_LOG_ALL", spec="Migration")
def log_features_together(be: BackEnd) -> None:
    be.read_features()
    if not be.features & LOG_ALL and ProtocolFeature.LOG_SHMFD not in be.protocol:
        unsupported("it has no dirty log")
    check(be.features & LOG_ALL, "feature bit 26 where LOG_SHMFD is offered", "it is missing")
    check(ProtocolFeature.LOG_SHMFD in be.protocol, "LOG_SHMFD where bit 26 is offered", "missing")


@area.case(221, "SET_OWNER is accepted", spec="VHOST_USER_SET_OWNER", severity=Severity.SHOULD)
def owner(be: BackEnd) -> None:
    be.negotiate(set_features=False)
    be.check_responds("after SET_OWNER")


@area.case(222, "SET_OWNER a second time", severity=Severity.MAY)
def owner_twice(be: BackEnd) -> None:
    be.negotiate()
    be.send(F.SET_OWNER)
    try:
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it continued")


@area.case(223, "SET_FEATURES with bit 30 alone, as for a legacy driver", severity=Severity.MAY)
def bit_30_alone(be: BackEnd) -> None:
    try:
        be.negotiate(features=PROTOCOL_BIT)
        be.barrier()
    except Closed:
        observed("it closed the connection: it wants VIRTIO_F_VERSION_1")


@area.case(224, "SET_FEATURES with all offered features but packed rings is accepted")
def everything(be: BackEnd) -> None:
    be.read_features()
    be.negotiate(features=be.features & ~(1 << VIRTIO_F_RING_PACKED) & ~LOG_ALL & ~(1 << 33))
    be.check_responds("with all features")


@area.case(225, "SET_FEATURES again with other bits is accepted while no ring runs")
def features_again(be: BackEnd) -> None:
    be.negotiate()
    more = be.driver_features | 1 << VIRTIO_RING_F_INDIRECT_DESC
    be.send(F.SET_FEATURES, u64(more & be.features))
    be.send(F.SET_FEATURES, u64(be.driver_features))
    be.check_responds("after SET_FEATURES twice")


@area.case(
    226,
    "SET_FEATURES with a feature that was not offered is refused",
    needs=("REPLY_ACK",),
    severity=Severity.SHOULD,
)
def not_offered(be: BackEnd) -> None:
    be.negotiate()
    bit = next(bit for bit in range(40, 64) if not be.features >> bit & 1)
    try:
        code = be.acked_with(F.SET_FEATURES, u64(be.driver_features | 1 << bit))
    except Closed:
        return
    if code == 0:
        observed(f"bit {bit}, which was not offered, is acknowledged with 0")


@area.case(227, "SET_PROTOCOL_FEATURES with no feature is accepted, and disables REPLY_ACK")
def no_protocol_features(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("bit 30 is not offered")
    be.send(F.SET_PROTOCOL_FEATURES, u64(0))
    be.send(F.SET_OWNER)
    be.check_responds("without any protocol feature")


@area.case(228, "SET_PROTOCOL_FEATURES with a feature that was not offered", severity=Severity.MAY)
def protocol_not_offered(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("bit 30 is not offered")
    be.send(F.SET_PROTOCOL_FEATURES, u64(int(be.protocol) | 1 << 50))
    try:
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed("it continued")


@area.case(
    229,
    "INBAND_NOTIFICATIONS without BACKEND_REQ is refused by closing the connection",
    needs=("INBAND_NOTIFICATIONS",),
    severity=Severity.SHOULD,
    spec="VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS",
)
def inband_alone(be: BackEnd) -> None:
    be.read_features()
    be.send(F.SET_PROTOCOL_FEATURES, u64(int(ProtocolFeature.INBAND_NOTIFICATIONS)))
    check(be.wire.hangs_up(), "the connection to be closed", "it stays open")


@area.case(230, "RESET_OWNER is survived", severity=Severity.SHOULD, spec="VHOST_USER_RESET_OWNER")
def reset_owner(be: BackEnd) -> None:
    be.negotiate()
    be.send(F.RESET_OWNER)
    be.check_responds("after RESET_OWNER")


@area.case(231, "A front-end that reads the features and disconnects does not affect later ones")
def look_and_leave(be: BackEnd) -> None:
    be.read_features()


@area.case(232, "A front-end that negotiates and disconnects does not affect later ones")
def agree_and_leave(be: BackEnd) -> None:
    be.negotiate()
    be.barrier()


@area.case(233, "GET_PROTOCOL_FEATURES is answered although bit 30 was not acknowledged")
def not_acknowledged(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("bit 30 is not offered")
    be.send(F.SET_OWNER)
    be.send(F.SET_FEATURES, u64(be.features & 1 << VIRTIO_F_VERSION_1))
    offered = be.ask_u64(F.GET_PROTOCOL_FEATURES)
    check(offered == int(be.protocol), f"{int(be.protocol):#x}, as before", f"{offered:#x}")
