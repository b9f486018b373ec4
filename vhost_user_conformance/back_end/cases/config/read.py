"""VU-B-09xx: the device's configuration space, read and written.

The size of a space depends on the device and its version: a request for more may be answered with
an empty reply, which is an error in this protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import MAX_CONFIG
from vhost_user_conformance.back_end.cases.config import area
from vhost_user_conformance.back_end.config_space import (
    HEAD,
    asked,
    contents,
    read,
    refused,
    spoils_nothing,
    whole_of,
)
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.wire import Closed, Silent

if TYPE_CHECKING:
    from vhost_user_conformance.peer.wire import Message


@area.case(901, "GET_CONFIG is answered with as many bytes as were asked for")
def answered(be: BackEnd) -> None:
    be.negotiate()
    whole_of(be)


@area.case(902, "The reply to GET_CONFIG has no descriptor")
def no_descriptor(be: BackEnd) -> None:
    be.negotiate()
    reply = be.ask(F.GET_CONFIG, asked(0, 8))
    check(not reply.fds, "no descriptor with the reply", f"{len(reply.fds)}")


@area.case(903, "GET_CONFIG gives the same bytes each time")
def stable(be: BackEnd) -> None:
    be.negotiate()
    first, again = whole_of(be), whole_of(be)
    check(first == again, first.hex(), again.hex())


@area.each(
    904, (1, 2, 4, 8), "A read of the first {} bytes gives the same as a read of the whole space"
)
def first_bytes(be: BackEnd, size: int) -> None:
    be.negotiate()
    whole = whole_of(be)
    part = read(be, 0, size)
    check(part == whole[:size], whole[:size].hex(), part.hex())


@area.each(910, (1, 2, 4), "A part of {} bytes is read from its offset, not from the beginning")
def at_offset(be: BackEnd, size: int) -> None:
    be.negotiate()
    whole = whole_of(be)
    offset = _telling(whole, size)
    part, wanted = read(be, offset, size), whole[offset : offset + size]
    check(part == wanted, f"{wanted.hex()} at offset {offset}", part.hex())


def _telling(whole: bytes, size: int) -> int:
    """An offset at which the bytes differ from those at the beginning."""
    for offset in range(1, len(whole) - size + 1):
        if whole[offset : offset + size] != whole[:size]:
            break
    else:
        unsupported("the space has the same bytes at each offset")
    return offset


@area.case(913, "A read byte by byte gives the same as a read of the whole space")
def byte_by_byte(be: BackEnd) -> None:
    be.negotiate()
    whole = whole_of(be)
    parts = b"".join(read(be, offset, 1) for offset in range(len(whole)))
    check(parts == whole, whole.hex(), parts.hex())


@area.case(914, "GET_CONFIG of all 256 bytes", severity=Severity.MAY)
def all_of_it(be: BackEnd) -> None:
    be.negotiate()
    data = contents(be.ask(F.GET_CONFIG, asked(0, MAX_CONFIG)), 0, MAX_CONFIG)
    observed(f"it gives {len(data)} bytes" if data else "it does not have that many")


@area.case(915, "For each number of bytes the reply has this number of bytes, or none")
def any_size(be: BackEnd) -> None:
    be.negotiate()
    whole = whole_of(be)
    for size in range(1, MAX_CONFIG + 1):
        reply = be.ask(F.GET_CONFIG, asked(0, size))
        data = contents(reply, 0, size)
        common = min(len(whole), len(data))
        check(data[:common] == whole[:common], f"{size} bytes as before", data[:common].hex())
    if refused(reply):
        _note_header(reply)


_BEYOND = {
    "one byte beyond the end": (MAX_CONFIG, 1),
    "the last byte and the next one": (MAX_CONFIG - 1, 2),
    "as many bytes as the largest space, from offset 1": (1, MAX_CONFIG),
    "bytes at offset 65536": (65536, 8),
    "bytes at the end of the 32-bit range": ((1 << 32) - 4, 4),
    "bytes across the end of the 32-bit range": ((1 << 32) - 4, 8),
}


@area.each(
    920,
    _BEYOND,
    "GET_CONFIG of {}: the reply is empty, or the connection closed",
    spec="VHOST_USER_GET_CONFIG",
)
def beyond(be: BackEnd, name: str) -> None:
    be.negotiate()
    offset, size = _BEYOND[name]
    try:
        reply = be.ask(F.GET_CONFIG, asked(offset, size))
    except Closed:
        return
    data = contents(reply, offset, size)
    if data and not any(data):
        observed(f"it answers with {size} bytes that are all 0")
    check(not data, "an empty reply", f"{size} bytes: {data[:16].hex()}")
    be.check_responds("after an empty reply")
    _note_header(reply)


def _note_header(reply: Message) -> None:
    """End the case as OBSERVED where an error is a header without contents."""
    if reply.payload:
        observed(f"an error is a reply of {len(reply.payload)} bytes, with size 0 in its header")


@area.case(926, "GET_CONFIG of no bytes is answered, or the connection closed")
def no_bytes(be: BackEnd) -> None:
    be.negotiate()
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, 0))
    except Closed:
        observed("it closed the connection")
    check(len(reply.payload) in (0, HEAD.size), "an empty reply, or a header", reply.payload.hex())
    observed("an empty reply" if not reply.payload else "a reply of a header only")


_MISSHAPEN = {
    "fewer bytes than its size": asked(0, 8, data=bytes(4)),
    "more bytes than its size": asked(0, 4, data=bytes(8)),
    "half a header": bytes(6),
    "no payload": b"",
    "a size of 257": asked(0, MAX_CONFIG + 1),
    "a size of 300": asked(0, 300),
    "a size of 2^32 - 1": asked(0, 0xFFFFFFFF, data=b""),
}


@area.each(930, _MISSHAPEN, "GET_CONFIG with {} is survived", severity=Severity.SHOULD)
def misshapen(be: BackEnd, name: str) -> None:
    be.negotiate()
    payload = _MISSHAPEN[name]
    try:
        reply = be.ask(F.GET_CONFIG, payload)
    except Closed:
        return
    except Silent as error:
        raise Failed("an answer, or the connection closed", str(error)) from None
    be.check_responds(f"after GET_CONFIG with {name}")
    check(
        len(reply.payload) <= HEAD.size + MAX_CONFIG,
        f"{MAX_CONFIG} bytes of configuration at most",
        f"{len(reply.payload) - HEAD.size}",
    )
    if reply.payload:
        observed(f"it answers with {len(reply.payload)} bytes")


@area.each(940, _MISSHAPEN, "GET_CONFIG with {} does not affect the next connection")
def next_connection(be: BackEnd, name: str) -> None:
    spoils_nothing(be, F.GET_CONFIG, _MISSHAPEN[name])


@area.each(948, (1, 2, 0xFFFFFFFF), "GET_CONFIG with flags {}", severity=Severity.MAY)
def other_flags(be: BackEnd, flags: int) -> None:
    be.negotiate()
    whole = whole_of(be)
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, len(whole), flags=flags))
    except Closed:
        observed("it closed the connection")
    data = contents(reply, 0, len(whole))
    check(data in (b"", whole), "the same bytes, or an empty reply", data.hex())
    observed("it answers as without flags" if data else "it answers with an empty reply")


@area.case(
    951,
    "GET_CONFIG with need_reply is answered once, by its own reply",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_PROTOCOL_F_REPLY_ACK",
)
def own_reply(be: BackEnd) -> None:
    be.negotiate()
    contents(be.ask(F.GET_CONFIG, asked(0, 8), need_reply=True), 0, 8)
    be.check_responds("with no acknowledgement in addition to the reply")


@area.case(952, "Several GET_CONFIG in flight are answered in their order")
def in_flight(be: BackEnd) -> None:
    be.negotiate()
    whole = whole_of(be)
    sizes = [1 + turn % len(whole) for turn in range(24)]
    for size in sizes:
        be.send(F.GET_CONFIG, asked(0, size))
    for size in sizes:
        data = contents(be.reply_to(F.GET_CONFIG), 0, size)
        check(data == whole[:size], whole[:size].hex(), data.hex() or "an empty reply")


@area.case(953, "GET_CONFIG is answered before SET_OWNER and SET_FEATURES", severity=Severity.MAY)
def early(be: BackEnd) -> None:
    be.read_features()
    be.send(F.SET_PROTOCOL_FEATURES, int(be.mask("CONFIG")).to_bytes(8, "little"))
    try:
        whole_of(be)
    except Closed:
        observed("it closed the connection")


@area.case(954, "GET_CONFIG is answered while a ring runs, and the ring continues", works=True)
def while_running(be: BackEnd) -> None:
    ring = be.working_ring()
    whole = whole_of(be)
    for _ in range(20):
        be.work.post(ring.memory, ring)
        ring.kick()
        again = whole_of(be)
        check(again == whole, whole.hex(), again.hex())
        be.await_used(ring, ring.avail_index)
        ring.driver.pop()


@area.case(955, "GET_CONFIG is answered by a device whose rings were all stopped", works=True)
def suspended(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    whole = whole_of(be)
    be.stop_all()
    again = whole_of(be)
    check(again == whole, whole.hex(), again.hex())


@area.case(956, "GET_CONFIG where CONFIG was not negotiated", severity=Severity.MAY)
def not_agreed(be: BackEnd) -> None:
    be.negotiate(without=("CONFIG",))
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, 8))
    except (Closed, Silent) as error:
        observed(str(error))
    observed(f"it answers with {len(reply.payload)} bytes")
