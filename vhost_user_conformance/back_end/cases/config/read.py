"""VU-B-09xx: the device's configuration space, read and written.

How long a space is depends on the device and its age: a request for more than there is may be
answered with an empty reply, which is the protocol's way to say no.
"""

from __future__ import annotations

from vhost_user.payloads import MAX_CONFIG
from vhost_user_conformance.back_end.cases.config import area
from vhost_user_conformance.back_end.config_space import (
    HEAD,
    asked,
    contents,
    read,
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


@area.case(901, "GET_CONFIG is answered with as many bytes as were asked for")
def answered(be: BackEnd) -> None:
    be.agree()
    whole_of(be)


@area.case(902, "GET_CONFIG comes with no descriptor")
def no_descriptor(be: BackEnd) -> None:
    be.agree()
    reply = be.ask(F.GET_CONFIG, asked(0, 8))
    check(not reply.fds, "no descriptor with the reply", f"{len(reply.fds)}")


@area.case(903, "GET_CONFIG gives the same bytes each time")
def stable(be: BackEnd) -> None:
    be.agree()
    first, again = whole_of(be), whole_of(be)
    check(first == again, first.hex(), again.hex())


@area.each(904, (1, 2, 4, 8), "The first {} bytes are those that the whole begins with")
def first_bytes(be: BackEnd, size: int) -> None:
    be.agree()
    whole = whole_of(be)
    part = read(be, 0, size)
    check(part == whole[:size], whole[:size].hex(), part.hex())


@area.each(910, (1, 2, 4), "A part of {} bytes is read from its offset, not from the beginning")
def at_offset(be: BackEnd, size: int) -> None:
    be.agree()
    whole = whole_of(be)
    offset = _telling(whole, size)
    part, wanted = read(be, offset, size), whole[offset : offset + size]
    check(part == wanted, f"{wanted.hex()} at offset {offset}", part.hex())


def _telling(whole: bytes, size: int) -> int:
    """An offset where there is something else than at the beginning."""
    for offset in range(1, len(whole) - size + 1):
        if whole[offset : offset + size] != whole[:size]:
            break
    else:
        unsupported("is about a space that is not the same everywhere")
    return offset


@area.case(913, "The space that is read byte by byte is the whole")
def byte_by_byte(be: BackEnd) -> None:
    be.agree()
    whole = whole_of(be)
    parts = b"".join(read(be, offset, 1) for offset in range(len(whole)))
    check(parts == whole, whole.hex(), parts.hex())


@area.case(914, "GET_CONFIG of all 256 bytes", severity=Severity.MAY)
def all_of_it(be: BackEnd) -> None:
    be.agree()
    data = contents(be.ask(F.GET_CONFIG, asked(0, MAX_CONFIG)), 0, MAX_CONFIG)
    observed(f"it gives {len(data)} bytes" if data else "it says that there are not so many")


@area.case(915, "Whatever number of bytes is asked for, the reply has as many, or none")
def any_size(be: BackEnd) -> None:
    be.agree()
    whole = whole_of(be)
    for size in range(1, MAX_CONFIG + 1):
        data = contents(be.ask(F.GET_CONFIG, asked(0, size)), 0, size)
        common = min(len(whole), len(data))
        check(data[:common] == whole[:common], f"{size} bytes as before", data[:common].hex())


_BEYOND = {
    "one byte behind its end": (MAX_CONFIG, 1),
    "the last byte and one more": (MAX_CONFIG - 1, 2),
    "all of it, a byte late": (1, MAX_CONFIG),
    "bytes at offset 65536": (65536, 8),
    "bytes at the end of what 32 bits can say": ((1 << 32) - 4, 4),
    "bytes across the end of what 32 bits can say": ((1 << 32) - 4, 8),
}


@area.each(
    920,
    _BEYOND,
    "No space has {}: the reply is empty, or the connection closed",
    spec="VHOST_USER_GET_CONFIG",
)
def beyond(be: BackEnd, name: str) -> None:
    be.agree()
    offset, size = _BEYOND[name]
    try:
        data = contents(be.ask(F.GET_CONFIG, asked(offset, size)), offset, size)
    except Closed:
        return
    if data and not any(data):
        observed(f"it answers with {size} bytes that are all 0")
    check(not data, "an empty reply", f"{size} bytes: {data[:16].hex()}")
    be.alive("after an empty reply")


@area.case(926, "GET_CONFIG of no bytes is answered, or the connection closed")
def no_bytes(be: BackEnd) -> None:
    be.agree()
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, 0))
    except Closed:
        observed("it closed the connection")
    check(len(reply.payload) in (0, HEAD.size), "an empty reply, or a head", reply.payload.hex())
    observed("an empty reply" if not reply.payload else "a reply of a head and nothing")


_MISSHAPEN = {
    "fewer bytes than it says": asked(0, 8, data=bytes(4)),
    "more bytes than it says": asked(0, 4, data=bytes(8)),
    "half a head": bytes(6),
    "no payload at all": b"",
    "a size of 257": asked(0, MAX_CONFIG + 1),
    "a size of 300": asked(0, 300),
    "a size of 2^32 - 1": asked(0, 0xFFFFFFFF, data=b""),
}


@area.each(930, _MISSHAPEN, "GET_CONFIG with {} is survived", severity=Severity.SHOULD)
def misshapen(be: BackEnd, name: str) -> None:
    be.agree()
    payload = _MISSHAPEN[name]
    try:
        reply = be.ask(F.GET_CONFIG, payload)
    except Closed:
        return
    except Silent as error:
        raise Failed("an answer, or the connection closed", str(error)) from None
    be.alive(f"after GET_CONFIG with {name}")
    check(
        len(reply.payload) <= HEAD.size + MAX_CONFIG,
        f"{MAX_CONFIG} bytes of configuration at most",
        f"{len(reply.payload) - HEAD.size}",
    )
    if reply.payload:
        observed(f"it answers with {len(reply.payload)} bytes")


@area.each(940, _MISSHAPEN, "GET_CONFIG with {} does not spoil the next connection")
def next_connection(be: BackEnd, name: str) -> None:
    spoils_nothing(be, F.GET_CONFIG, _MISSHAPEN[name])


@area.each(948, (1, 2, 0xFFFFFFFF), "GET_CONFIG with flags {}", severity=Severity.MAY)
def other_flags(be: BackEnd, flags: int) -> None:
    be.agree()
    whole = whole_of(be)
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, len(whole), flags=flags))
    except Closed:
        observed("it closed the connection")
    data = contents(reply, 0, len(whole))
    check(data in (b"", whole), "the same bytes, or an empty reply", data.hex())
    observed("it answers as without" if data else "it answers with an empty reply")


@area.case(
    951,
    "need_reply on GET_CONFIG gives its own reply, once",
    needs=("REPLY_ACK",),
    spec="VHOST_USER_PROTOCOL_F_REPLY_ACK",
)
def own_reply(be: BackEnd) -> None:
    be.agree()
    contents(be.ask(F.GET_CONFIG, asked(0, 8), need_reply=True), 0, 8)
    be.alive("with no acknowledgement besides the reply")


@area.case(952, "Several GET_CONFIG in flight are answered in their order")
def in_flight(be: BackEnd) -> None:
    be.agree()
    whole = whole_of(be)
    sizes = [1 + turn % len(whole) for turn in range(24)]
    for size in sizes:
        be.tell(F.GET_CONFIG, asked(0, size))
    for size in sizes:
        data = contents(be.reply_to(F.GET_CONFIG), 0, size)
        check(data == whole[:size], whole[:size].hex(), data.hex() or "an empty reply")


@area.case(953, "GET_CONFIG is answered before SET_OWNER and SET_FEATURES", severity=Severity.MAY)
def early(be: BackEnd) -> None:
    be.look()
    be.tell(F.SET_PROTOCOL_FEATURES, int(be.mask("CONFIG")).to_bytes(8, "little"))
    try:
        whole_of(be)
    except Closed:
        observed("it closed the connection")


@area.case(954, "GET_CONFIG is answered while a ring runs, which goes on", works=True)
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


@area.case(956, "GET_CONFIG where CONFIG was not agreed on", severity=Severity.MAY)
def not_agreed(be: BackEnd) -> None:
    be.agree(without=("CONFIG",))
    try:
        reply = be.ask(F.GET_CONFIG, asked(0, 8))
    except (Closed, Silent) as error:
        observed(str(error))
    observed(f"it answers with {len(reply.payload)} bytes")
