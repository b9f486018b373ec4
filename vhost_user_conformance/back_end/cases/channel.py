"""VU-B-13xx: the back-end channel, on which a back-end sends requests to its front-end."""

from __future__ import annotations

import select
import socket

from vhost_user.codec import REPLY, VERSION
from vhost_user.messages import BackendRequest
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed
from vhost_user_conformance.peer.wire import HEADER, Closed, Nonsense, Silent, Wire

area = Area("channel", BACK_END, "VHOST_USER_SET_BACKEND_REQ_FD", needs=("BACKEND_REQ",))

_NAMES = {member.value: member.name for member in BackendRequest}


def _channel(be: BackEnd) -> Wire:
    """Send the back-end a new channel; returns the suite's end."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours, _NAMES, be.timeout)
    be.own(wire.close)
    with theirs:
        be.accepted(F.SET_BACKEND_REQ_FD, fds=(theirs.fileno(),))
    return wire


def _at_its_end(wire: Wire, timeout: float) -> bool:
    """Whether the other end is closed in time."""
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLHUP | select.POLLRDHUP)
    return bool(poll.poll(timeout * 1000))


@area.case(1301, "SET_BACKEND_REQ_FD is accepted")
def accepted(be: BackEnd) -> None:
    be.negotiate()
    _channel(be)


@area.case(1302, "The channel stays open as long as the connection does")
def held(be: BackEnd) -> None:
    be.negotiate()
    wire = _channel(be)
    be.barrier()
    check(not _at_its_end(wire, QUIET), "the channel to stay open", "the back-end closed it")


@area.case(1303, "A channel may be replaced; the back-end keeps the new one open", works=True)
def replaced(be: BackEnd) -> None:
    ring = be.working_ring()
    old, new = _channel(be), _channel(be)
    be.serve(ring)
    check(not _at_its_end(new, QUIET), "the new channel to stay open", "the back-end closed it")
    if not _at_its_end(old, QUIET):
        observed("the old channel stays open as well")


@area.case(1304, "The channel is closed when its connection has ended")
def ends_with_it(be: BackEnd) -> None:
    be.negotiate()
    wire = _channel(be)
    be.barrier()
    be.wire.leave(be.timeout)
    closed = _at_its_end(wire, be.timeout)
    check(closed, "the channel to end with the connection", "it is still open")


@area.case(
    1305, "When the front-end closes its end of the channel the connection continues", works=True
)
def closed_by_us(be: BackEnd) -> None:
    ring = be.working_ring()
    wire = _channel(be)
    be.serve(ring)
    wire.close()
    for _ in range(3):
        be.serve(ring)
    be.check_responds("without its channel")


@area.case(1306, "A channel may be replaced after the front-end has closed it", works=True)
def closed_and_replaced(be: BackEnd) -> None:
    ring = be.working_ring()
    _channel(be).close()
    be.barrier()
    wire = _channel(be)
    be.serve(ring)
    check(not _at_its_end(wire, QUIET), "the new channel to stay open", "the back-end closed it")


@area.case(1307, "Rings serve although no channel was given", works=True)
def none_given(be: BackEnd) -> None:
    be.serve(be.working_ring())


@area.case(1308, "Rings serve although the front-end does not read from the channel", works=True)
def unread(be: BackEnd) -> None:
    ring = be.working_ring()
    _channel(be)
    for _ in range(2 * ring.size):
        be.serve(ring)


@area.case(1309, "A channel may be given while rings run, and before rings are set up", works=True)
def at_any_time(be: BackEnd) -> None:
    be.negotiate()
    _channel(be)
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.serve(ring)
    _channel(be)
    be.serve(ring)
    be.stop_all()
    _channel(be)


@area.case(
    1310, "Each message of the back-end on the channel is a request that it may send", works=True
)
def well_formed(be: BackEnd) -> None:
    ring = be.working_ring()
    wire = _channel(be)
    be.serve(ring)
    be.stop_all()
    try:
        message = wire.receive(QUIET)
    except Silent:
        return
    except Nonsense as error:
        raise Failed("a request on the channel, if anything", str(error)) from None
    be.own(message.close)
    check(message.id in _NAMES, "the id of a request of a back-end", f"id {message.id}")
    check(message.flags & 3 == VERSION, "version 1", f"flags {message.flags:#x}")
    check(
        not message.flags & REPLY, "no reply, as there was no request", f"flags {message.flags:#x}"
    )
    observed(f"it sent {_NAMES[message.id]}")


@area.case(1311, "No message comes on the channel once all rings are stopped", works=True)
def suspended(be: BackEnd) -> None:
    ring = be.working_ring()
    wire = _channel(be)
    be.serve(ring)
    be.stop_all()
    try:
        while True:
            wire.receive(0).close()  # sent before the stop
    except (Silent, Closed):
        pass
    try:
        message = wire.receive(QUIET)
    except (Silent, Closed):
        return
    message.close()
    raise Failed("no message from a back-end that is suspended", f"id {message.id}")


@area.case(1312, "SET_BACKEND_REQ_FD with need_reply is acknowledged once", needs=("REPLY_ACK",))
def acknowledged(be: BackEnd) -> None:
    be.negotiate()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code = be.acked_with(F.SET_BACKEND_REQ_FD, fds=(theirs.fileno(),))
        check(code == 0, "acknowledged with 0", f"acknowledged with {code}")
        be.barrier()


@area.case(1313, "SET_BACKEND_REQ_FD without a descriptor is survived", needs=("REPLY_ACK",))
def no_descriptor(be: BackEnd) -> None:
    be.negotiate()
    try:
        code = be.acked_with(F.SET_BACKEND_REQ_FD)
        be.barrier()
    except Closed:
        return
    if not code:
        observed("acknowledged with 0, although there is no channel")


@area.case(1314, "A channel that is not a socket is survived", works=True, severity=Severity.SHOULD)
def no_socket(be: BackEnd) -> None:
    ring = be.working_ring()
    try:
        be.send(F.SET_BACKEND_REQ_FD, fds=(be.spare_fd(),))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    be.serve(ring)


@area.case(1315, "Random bytes on the channel are survived", works=True, severity=Severity.SHOULD)
def nonsense(be: BackEnd) -> None:
    ring = be.working_ring()
    wire = _channel(be)
    wire.send_bytes(b"\xff" * 64)
    be.serve(ring)
    be.check_responds("after random bytes on its channel")


@area.case(1316, "An unsolicited reply on the channel is survived", works=True)
def stray_reply(be: BackEnd) -> None:
    ring = be.working_ring()
    wire = _channel(be)
    wire.send_bytes(HEADER.pack(BackendRequest.CONFIG_CHANGE_MSG, VERSION | REPLY, 8) + bytes(8))
    be.serve(ring)
    be.check_responds("after an unsolicited reply on its channel")


@area.case(1317, "Each connection has a channel of its own", works=True)
def next_connection(be: BackEnd) -> None:
    be.negotiate()
    old = _channel(be)
    other = be.reconnect()
    ring = other.working_ring()
    new = _channel(other)
    other.serve(ring)
    check(_at_its_end(old, be.timeout), "the old channel closed", "it is still open")
    check(not _at_its_end(new, QUIET), "the new channel open", "the back-end closed it")
