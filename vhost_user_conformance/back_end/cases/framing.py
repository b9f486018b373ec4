"""VU-B-01xx: the header, the form of replies, messages in pieces and several in one write."""

from __future__ import annotations

from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user_conformance.back_end.connection import BackEnd, F, u64, vring_state
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.wire import HEADER, Closed, Silent

area = Area("framing", BACK_END, "Header")

#: An id far above those of all dialects.
UNKNOWN = 0x7FFF
MANY = 32


@area.case(101, "A reply has the request's id, version 1, the reply flag, and no other flag")
def reply_header(be: BackEnd) -> None:
    be.ask_u64(F.GET_FEATURES)


@area.case(102, "The reply to GET_FEATURES has a payload of 8 bytes, and no descriptor")
def reply_size(be: BackEnd) -> None:
    reply = be.ask(F.GET_FEATURES)
    check(len(reply.payload) == 8, "a payload of 8 bytes", f"{len(reply.payload)} bytes")
    check(not reply.fds, "no descriptor with the reply", f"{len(reply.fds)} came")


@area.case(103, "A request that has no reply is not answered unless need_reply is set")
def no_answer_unasked(be: BackEnd) -> None:
    be.send(F.SET_OWNER)
    reply = be.ask(F.GET_FEATURES)
    check(reply.id == F.GET_FEATURES, "nothing before the reply to GET_FEATURES", f"id {reply.id}")


@area.case(104, "A message may arrive byte by byte")
def byte_by_byte(be: BackEnd) -> None:
    be.wire.send_pieces(HEADER.pack(F.GET_FEATURES, VERSION, 0))
    be.reply_to(F.GET_FEATURES)


@area.case(105, "The back-end waits for a payload that arrives later than its header")
def payload_later(be: BackEnd) -> None:
    be.negotiate()
    be.wire.send_bytes(HEADER.pack(F.SET_VRING_NUM, VERSION, 8))
    be.wire.send_pieces(vring_state(0, 64))
    be.check_responds("after a message in pieces")


@area.case(106, "Messages that arrive in one write are handled one after the other")
def many_in_one_write(be: BackEnd) -> None:
    be.wire.send_bytes(HEADER.pack(F.GET_FEATURES, VERSION, 0) * MANY)
    values = {be.reply_to(F.GET_FEATURES).u64 for _ in range(MANY)}
    check(len(values) == 1, f"the same features {MANY} times", f"{len(values)} different answers")


@area.case(107, "Replies come in the order of the requests", spec="Communication")
def order(be: BackEnd) -> None:
    be.read_features()
    if not be.protocol:
        unsupported("it answers one request only")
    asked = [F.GET_FEATURES, F.GET_PROTOCOL_FEATURES] * (MANY // 2)
    be.wire.send_bytes(b"".join(HEADER.pack(number, VERSION, 0) for number in asked))
    for number in asked:
        be.reply_to(number)


def _outcome(be: BackEnd, what: str) -> None:
    """Whether the connection continues after a message whose effect is not specified."""
    try:
        be.barrier()
    except Closed:
        observed(f"it closed the connection after {what}")
    except Silent:
        observed(f"it did not answer any more after {what}")
    observed(f"it continued after {what}")


@area.case(108, "A request with version 0 in its header is not answered", severity=Severity.SHOULD)
def version_zero(be: BackEnd) -> None:
    be.wire.send(F.GET_FEATURES, flags=0)
    try:
        message = be.wire.receive()
    except (Closed, Silent):
        return
    message.close()
    observed("it answered a request of version 0")


@area.case(109, "A request with version 2 in its header is not answered", severity=Severity.SHOULD)
def version_two(be: BackEnd) -> None:
    be.wire.send(F.GET_FEATURES, flags=2)
    try:
        message = be.wire.receive()
    except (Closed, Silent):
        return
    message.close()
    observed("it answered a request of version 2")


@area.case(110, "A request with the reply flag set", severity=Severity.MAY)
def reply_flag_in_request(be: BackEnd) -> None:
    be.wire.send(F.SET_OWNER, flags=VERSION | REPLY)
    _outcome(be, "a request with the reply flag")


@area.case(111, "A request with a reserved flag bit set", severity=Severity.MAY)
def reserved_flags(be: BackEnd) -> None:
    be.wire.send(F.SET_OWNER, flags=VERSION | 1 << 16)
    _outcome(be, "a reserved flag bit")


def _acknowledged(be: BackEnd, number: int, payload: bytes, what: str) -> None:
    """No answer is a failure; an acknowledgement with 0 is only observed, as no rule forbids it."""
    try:
        code = be.acked_with(number, payload)
    except Closed:
        return
    if code == 0:
        observed(f"it acknowledged {what} with 0")


@area.case(
    112, "An unknown request that asks for an acknowledgement is answered", needs=("REPLY_ACK",)
)
def unknown_refused(be: BackEnd) -> None:
    be.negotiate()
    _acknowledged(be, UNKNOWN, b"", "an unknown request")


@area.case(113, "An unknown request without need_reply", severity=Severity.MAY)
def unknown_unanswered(be: BackEnd) -> None:
    be.negotiate()
    be.send(UNKNOWN)
    _outcome(be, "an unknown request")


@area.case(114, "Request 0 is not answered", severity=Severity.MAY)
def request_zero(be: BackEnd) -> None:
    be.send(0)
    _outcome(be, "request 0")


_FIXED = {
    "SET_FEATURES": (F.SET_FEATURES, u64(0)),
    "SET_VRING_NUM": (F.SET_VRING_NUM, vring_state(0, 64)),
    "SET_VRING_BASE": (F.SET_VRING_BASE, vring_state(0, 0)),
    "SET_VRING_ADDR": (F.SET_VRING_ADDR, bytes(40)),
    "SET_VRING_ENABLE": (F.SET_VRING_ENABLE, vring_state(0, 0)),
}


@area.each(
    120,
    _FIXED,
    "{} with a payload that is 4 bytes short is answered, or the connection closed",
    needs=("REPLY_ACK",),
)
def short_payload(be: BackEnd, name: str) -> None:
    be.negotiate()
    number, payload = _FIXED[name]
    _acknowledged(be, number, payload[:-4], "a payload that is 4 bytes short")


@area.each(
    130,
    _FIXED,
    "{} with 8 bytes too many",
    needs=("REPLY_ACK",),
    severity=Severity.MAY,
)
def long_payload(be: BackEnd, name: str) -> None:
    be.negotiate()
    number, payload = _FIXED[name]
    be.wire.send(number, payload + bytes(8), flags=VERSION | NEED_REPLY)
    try:
        code = be.reply_to(number).u64
    except Closed:
        observed("it closed the connection")
    except Silent:
        observed("it did not answer any more")
    observed(f"it acknowledged with {code}")


@area.case(140, "A header that announces 4 GiB of payload neither blocks nor ends the back-end")
def huge_size(be: BackEnd) -> None:
    be.wire.send(F.SET_OWNER, size=0xFFFFFFFF)
    be.wire.send_bytes(bytes(4096)) if not be.wire.hangs_up(0.2) else None


@area.case(141, "A connection that ends within a header does not affect later ones")
def half_header(be: BackEnd) -> None:
    be.wire.send_bytes(HEADER.pack(F.GET_FEATURES, VERSION, 0)[:5])
    # The runner checks that the next connection is served.


@area.case(142, "A connection that ends within a payload does not affect later ones")
def half_payload(be: BackEnd) -> None:
    be.wire.send_bytes(HEADER.pack(F.SET_FEATURES, VERSION, 8) + b"\1\2\3")


@area.case(143, "A descriptor with a request that takes none is closed, or the request is refused")
def stray_descriptor(be: BackEnd) -> None:
    be.negotiate()
    fd = be.spare_fd()
    try:
        be.send(F.SET_VRING_NUM, vring_state(0, 64), fds=(fd,))
        be.barrier()
    except Closed:
        return
