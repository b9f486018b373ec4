"""VU-B-15xx: a device's internal state, saved and loaded through a descriptor.

The contents of the state are the back-end's own, and it may be empty. A front-end only sees that
the state ends, that the back-end loads it again, and that the device serves then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.back_end.state_transfer import (
    LOAD,
    SAVE,
    answer,
    begin,
    check_state,
    load,
    loaded,
    pipe_of,
    read_all,
    request,
    save,
)
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported
from vhost_user_conformance.peer.wire import Closed, Silent

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("device_state", BACK_END, "VHOST_USER_SET_DEVICE_STATE_FD", needs=("DEVICE_STATE",))

_CHECK = "VHOST_USER_CHECK_DEVICE_STATE"
_DIRECTIONS = {"save": SAVE, "load": LOAD}


def _destination(be: BackEnd) -> BackEnd:
    """A new connection to load a state on: a back-end that saves and one that loads are two.

    Raises:
        Unsupported: the program has ended, as its state may go on elsewhere.
    """
    return be.reconnect().negotiate("DEVICE_STATE")


def _served(be: BackEnd) -> TestRing:
    """A ring that has served; all rings are stopped."""
    ring = be.working_ring("DEVICE_STATE")
    for _ in range(3):
        be.serve(ring)
    be.stop_all()
    return ring


@area.each(
    1501, _DIRECTIONS, "A request to {} is answered with 8 bytes, and with one descriptor or none"
)
def answered(be: BackEnd, name: str) -> None:
    be.negotiate("DEVICE_STATE")
    begin(be, _DIRECTIONS[name])


@area.case(1503, "The back-end closes the descriptor at the end of a save")
def ends(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    read_all(be, begin(be, SAVE))


@area.case(1504, "After a save CHECK_DEVICE_STATE returns 0", spec=_CHECK)
def checked(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    save(be)


@area.case(1505, "A state that was saved can be loaded")
def round_trip(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    state = save(be)
    loaded(_destination(be), state)


@area.case(1506, "A state can be saved twice", severity=Severity.SHOULD)
def twice(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    first, again = save(be), save(be)
    if first != again:
        observed(f"{len(first)} bytes and {len(again)} bytes, which are not the same")


@area.case(1507, "A device whose state was saved serves when it is started again", works=True)
def goes_on(be: BackEnd) -> None:
    ring = _served(be)
    save(be)
    be.start(ring, base=ring.used_index)
    be.serve(ring)


@area.case(
    1508, "A state that one connection saved is loaded by the next, whose rings serve", works=True
)
def moves(be: BackEnd) -> None:
    ring = _served(be)
    state = save(be)
    other = be.reconnect().negotiate("DEVICE_STATE")
    other.share(ring.memory)
    loaded(other, state)
    other.start(ring, base=ring.used_index)
    other.serve(ring)


@area.case(1509, "A save after a load gives the state that was loaded", works=True)
def the_same(be: BackEnd) -> None:
    _served(be)
    state = save(be)
    other = be.reconnect().negotiate("DEVICE_STATE")
    loaded(other, state)
    again = save(other)
    if again != state:
        observed(f"{len(state)} bytes were loaded, {len(again)} others saved")


@area.case(1510, "A state may be loaded byte by byte")
def in_pieces(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    state = save(be)
    if len(state) < 2:
        unsupported("is about a state of several bytes, and it has fewer")
    if len(state) > 1 << 16:
        unsupported("is about a state that is fewer than 64 KiB")
    code = load(_destination(be), state, at_once=1)
    check(code == 0, "CHECK_DEVICE_STATE to return 0", f"{code}")


@area.case(1511, "Loading a truncated state does not succeed", severity=Severity.SHOULD)
def cut_short(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    state = save(be)
    if len(state) < 2:
        unsupported("is about a state of several bytes, and it has fewer")
    code = load(_destination(be), state[: len(state) // 2])
    check(code != 0, "CHECK_DEVICE_STATE to return an error", "0")


@area.each(1512, (0, 1, 100_000), "Loading {} arbitrary bytes as a state", severity=Severity.MAY)
def garbage(be: BackEnd, size: int) -> None:
    be.negotiate("DEVICE_STATE")
    code = load(be, b"\xa5" * size)
    be.check_responds("after an unknown state")
    observed(f"CHECK_DEVICE_STATE returns {code}")


@area.case(1515, "A valid state can be loaded after one that was refused", works=True)
def right_after_wrong(be: BackEnd) -> None:
    ring = _served(be)
    state = save(be)
    other = _destination(be)
    other.share(ring.memory)
    try:
        code = load(other, b"\xa5" * 333)
    except Closed:
        observed("it closed the connection")
    if code == 0:
        observed("it loads any bytes")
    loaded(other, state)
    other.start(ring, base=ring.used_index)
    other.serve(ring)


_UNKNOWN = {
    "direction 2": request(2),
    "direction 2^32 - 1": request(0xFFFFFFFF),
    "phase 1": request(SAVE, 1),
    "phase 2^32 - 1": request(LOAD, 0xFFFFFFFF),
    "half a payload": request(SAVE)[:4],
}


@area.each(
    1516,
    _UNKNOWN,
    "A transfer with {} is refused, and the reply has no descriptor",
    severity=Severity.SHOULD,
)
def unknown(be: BackEnd, name: str) -> None:
    be.negotiate("DEVICE_STATE")
    _, writing = pipe_of(be)
    try:
        error = answer(be.ask(F.SET_DEVICE_STATE_FD, _UNKNOWN[name], fds=(writing.fileno(),)))
    except Closed:
        return
    check(error, "an error", "none")
    be.check_responds("after a refusal")


@area.each(1521, (0, 2), "A transfer with {} descriptors instead of one is refused")
def descriptors(be: BackEnd, count: int) -> None:
    be.negotiate("DEVICE_STATE")
    ends = [pipe_of(be)[1] for _ in range(count)]
    fds = [end.fileno() for end in ends]
    try:
        error = answer(be.ask(F.SET_DEVICE_STATE_FD, request(SAVE), fds=fds))
    except Closed:
        return
    check(error, "an error", "none")


@area.each(1523, _DIRECTIONS, "A request to {} while a ring runs is refused", works=True)
def while_running(be: BackEnd, name: str) -> None:
    ring = be.working_ring("DEVICE_STATE")
    be.serve(ring)
    reading, writing = pipe_of(be)
    theirs = writing if _DIRECTIONS[name] == SAVE else reading
    asked = request(_DIRECTIONS[name])
    try:
        error = answer(be.ask(F.SET_DEVICE_STATE_FD, asked, fds=(theirs.fileno(),)))
    except Closed:
        observed("it closed the connection")
    # A transfer is only allowed while the device is suspended; the specification does not say
    # which side has to check that.
    if not error:
        observed("it is accepted")
    be.serve(ring)


@area.each(1525, _DIRECTIONS, "A request to {} with need_reply is answered once, by its own reply")
def own_reply(be: BackEnd, name: str) -> None:
    be.negotiate("DEVICE_STATE", "REPLY_ACK")
    reading, writing = pipe_of(be)
    theirs = writing if _DIRECTIONS[name] == SAVE else reading
    asked = request(_DIRECTIONS[name])
    answer(be.ask(F.SET_DEVICE_STATE_FD, asked, fds=(theirs.fileno(),), need_reply=True))
    # A back-end may transfer the whole state before it reads the next message.
    theirs.close()
    if theirs is writing:
        read_all(be, reading)
    else:
        writing.close()
    _no_more_replies(be)


def _no_more_replies(be: BackEnd) -> None:
    """Check that no acknowledgement follows; what a back-end does after a transfer is its own."""
    try:
        be.barrier()
    except Closed as closed:
        observed(f"after the transfer {closed}")
    except Silent as error:
        raise Failed("an answer after the transfer", str(error)) from None


@area.case(
    1527, "CHECK_DEVICE_STATE with need_reply is answered once, by its own reply", spec=_CHECK
)
def check_own_reply(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE", "REPLY_ACK")
    read_all(be, begin(be, SAVE))
    reply = be.ask(F.CHECK_DEVICE_STATE, need_reply=True)
    check(len(reply.payload) == 8 and not reply.fds, "8 bytes", f"{len(reply.payload)} bytes")
    _no_more_replies(be)


@area.case(1528, "CHECK_DEVICE_STATE without a transfer", spec=_CHECK, severity=Severity.MAY)
def check_alone(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    try:
        code = check_state(be)
    except Closed:
        observed("it closed the connection")
    observed(f"it returns {code}")


@area.case(1529, "A reader that closes the descriptor before the end of the state is survived")
def reader_goes(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    begin(be, SAVE).close()
    try:
        be.barrier()
        code = check_state(be)
    except Closed:
        observed("it closed the connection")
    observed(f"CHECK_DEVICE_STATE returns {code}")


@area.case(
    1530, "Requests are answered while a load waits for its writer", severity=Severity.SHOULD
)
def load_waits(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    writing = begin(be, LOAD)
    try:
        be.barrier()
    except Silent:
        writing.close()
        be.reply_to(F.GET_FEATURES)
        observed("it reads the whole state before it answers other requests")


@area.case(
    1531, "A front-end that disconnects during a load does not affect later ones", works=True
)
def goes_in_load(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    writing = begin(be, LOAD)
    writing.write(b"\xa5" * 8)
    writing.close()  # as a front-end that has ended
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(
    1532, "A front-end that disconnects during a save does not affect later ones", works=True
)
def goes_in_save(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    begin(be, SAVE).close()  # as a front-end that has ended
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1533, "A transfer leaves no descriptor behind")
def no_descriptor_left(be: BackEnd) -> None:
    if be.program is None:
        unsupported("descriptors can only be counted of a program that --exec started")
    be.negotiate("DEVICE_STATE")
    try:
        save(be)
        be.barrier()
        before = be.program.descriptors
        for _ in range(20):
            save(be)
    except (Closed, FileNotFoundError) as ended:
        unsupported(f"is about several transfers, and after the first {ended}")
    deadline = time.monotonic() + be.timeout
    while (after := be.program.descriptors) > before + 2 and time.monotonic() < deadline:
        be.barrier()
    check(after <= before + 2, f"about {before} files open, as after the first", f"{after}")


@area.case(1534, "A second transfer while the first is in progress", severity=Severity.MAY)
def second(be: BackEnd) -> None:
    be.negotiate("DEVICE_STATE")
    begin(be, LOAD)
    _, writing = pipe_of(be)
    try:
        reply = be.ask(F.SET_DEVICE_STATE_FD, request(SAVE), fds=(writing.fileno(),))
    except (Closed, Silent) as error:
        observed(str(error))
    observed("it is refused" if answer(reply) else "it is accepted")


@area.case(
    1535, "A transfer is refused where DEVICE_STATE was not negotiated", severity=Severity.MAY
)
def not_agreed(be: BackEnd) -> None:
    be.negotiate(without=("DEVICE_STATE",))
    _, writing = pipe_of(be)
    try:
        be.send(F.SET_DEVICE_STATE_FD, request(SAVE), fds=(writing.fileno(),))
        reply = be.wire.receive(QUIET)
    except (Closed, Silent) as error:
        observed(str(error))
    reply.close()
    observed(f"it answers with {reply.u64:#x}")
