"""VU-B-0960 and up: writes to the configuration space, most of which is read-only."""

from __future__ import annotations

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.payloads import MAX_CONFIG
from vhost_user_conformance.back_end.cases.config import area
from vhost_user_conformance.back_end.config_space import (
    MIGRATION,
    asked,
    contents,
    spoils_nothing,
    whole_of,
)
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported
from vhost_user_conformance.peer.wire import Closed

_SET = "VHOST_USER_SET_CONFIG"


def _needs_device(be: BackEnd) -> None:
    """Raises `Unsupported` where the device is unknown: read-only fields depend on it."""
    if not be.device:
        unsupported("needs to know the device: use --device")


@area.case(960, "SET_CONFIG of a read-only field is refused", spec=_SET, needs=("REPLY_ACK",))
def read_only(be: BackEnd) -> None:
    _needs_device(be)
    be.negotiate()
    whole = whole_of(be)
    changed = bytes(byte ^ 0xFF for byte in whole[:8])
    be.not_done(F.SET_CONFIG, asked(0, 8, data=changed))


@area.case(961, "SET_CONFIG does not change a read-only field", spec=_SET)
def unchanged(be: BackEnd) -> None:
    _needs_device(be)
    be.negotiate(without=("REPLY_ACK",))
    whole = whole_of(be)
    be.send(F.SET_CONFIG, asked(0, 8, data=bytes(byte ^ 0xFF for byte in whole[:8])))
    try:
        be.barrier()
    except Closed:
        be = be.reconnect().negotiate()
    again = whole_of(be)
    check(again == whole, whole.hex(), again.hex())


@area.each(
    962,
    (MIGRATION, 2, 0xFFFFFFFF),
    "SET_CONFIG with flags {}: the space is the same afterwards",
    spec=_SET,
    needs=("REPLY_ACK",),
)
def written_back(be: BackEnd, flags: int) -> None:
    be.negotiate()
    whole = whole_of(be)
    try:
        code = be.acked_with(F.SET_CONFIG, asked(0, len(whole), flags=flags, data=whole))
        how = f"acknowledged with {code}"
        be.barrier()
    except Closed:
        how = "it closed the connection"
        be = be.reconnect().negotiate()
    again = whole_of(be)
    check(again == whole, whole.hex(), again.hex())
    observed(how)


@area.each(
    982,
    (2, 1 << 31),
    "SET_CONFIG of a read-only field with flags {:#x}, without the bit of migration, is refused",
    spec=_SET,
    needs=("REPLY_ACK",),
)
def read_only_by_flags(be: BackEnd, flags: int) -> None:
    _needs_device(be)
    be.negotiate()
    whole = whole_of(be)
    changed = bytes(byte ^ 0xFF for byte in whole[:8])
    try:
        be.not_done(F.SET_CONFIG, asked(0, 8, flags=flags, data=changed))
    except Failed:
        # The other cases find the space as it was.
        be.send(F.SET_CONFIG, asked(0, 8, flags=flags, data=whole[:8]))
        raise


_WRONG_WRITES = {
    "beyond the space": asked(MAX_CONFIG, 1),
    "at the end of the 32-bit range": asked((1 << 32) - 4, 8),
    "of more bytes than are sent": asked(0, 8, data=bytes(4)),
    "of 300 bytes": asked(0, 300),
    "of 2^32 - 1 bytes": asked(0, 0xFFFFFFFF, data=b""),
    "of half a header": bytes(6),
}


@area.each(965, _WRONG_WRITES, "SET_CONFIG {} is refused", spec=_SET, needs=("REPLY_ACK",))
def wrong_write(be: BackEnd, name: str) -> None:
    be.negotiate()
    be.not_done(F.SET_CONFIG, _WRONG_WRITES[name])


@area.each(972, _WRONG_WRITES, "SET_CONFIG {} does not affect the next connection", spec=_SET)
def wrong_write_then(be: BackEnd, name: str) -> None:
    spoils_nothing(be, F.SET_CONFIG, _WRONG_WRITES[name])


@area.case(979, "SET_CONFIG of no bytes", spec=_SET, severity=Severity.MAY, needs=("REPLY_ACK",))
def write_nothing(be: BackEnd) -> None:
    be.negotiate()
    try:
        code = be.acked_with(F.SET_CONFIG, asked(0, 0))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    observed(f"acknowledged with {code}")


@area.case(980, "SET_CONFIG without need_reply is not answered", spec=_SET)
def not_answered(be: BackEnd) -> None:
    be.negotiate()
    whole = whole_of(be)
    be.wire.send(F.SET_CONFIG, asked(0, 1, data=whole[:1]), flags=VERSION)
    try:
        be.barrier()  # any other reply is not one to GET_FEATURES
    except Closed:
        observed("it closed the connection for a write to a read-only byte")


@area.case(
    981,
    "Requests that are in flight after SET_CONFIG are answered",
    spec=_SET,
    needs=("REPLY_ACK",),
)
def write_in_flight(be: BackEnd) -> None:
    be.negotiate()
    whole = whole_of(be)
    write = asked(0, 1, flags=MIGRATION, data=whole[:1])
    be.send(F.GET_CONFIG, asked(0, 8))
    try:
        be.wire.send(F.SET_CONFIG, write, flags=VERSION | NEED_REPLY)
        be.send(F.GET_CONFIG, asked(0, 8))
        first = contents(be.reply_to(F.GET_CONFIG), 0, 8)
        check(first == whole[:8], whole[:8].hex(), first.hex())
        be.reply_to(F.SET_CONFIG)
        second = contents(be.reply_to(F.GET_CONFIG), 0, 8)
    except Closed:
        observed("it closed the connection for a write to a read-only byte")
    check(second == whole[:8], whole[:8].hex(), second.hex())
