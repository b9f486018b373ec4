"""VU-F-12xx: the region of in-flight requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import Inflight
from vhost_user_conformance.front_end.acts import CONT, RESET
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("inflight", FRONT_END, "Inflight I/O tracking", needs=("INFLIGHT_SHMFD",))


def _region(each: Received) -> Inflight:
    return Inflight.unpack(each.payload[:24].ljust(24, b"\0"))


@area.case(1201, "GET_INFLIGHT_FD has the number of rings and their size")
def asks(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_INFLIGHT_FD),
        lambda each: _region(each).num_queues > 0 and _region(each).queue_size > 0,
        "both greater than 0",
    )


@area.case(1202, "SET_INFLIGHT_FD comes before a ring is started")
def given(fe: FrontEnd) -> None:
    recording = fe.plain()
    first = recording.first(F.SET_VRING_KICK)
    sent = recording.first(F.SET_INFLIGHT_FD)
    check(sent.at < first.at, "SET_INFLIGHT_FD before SET_VRING_KICK", f"{first} came first")


@area.case(
    1207, "A region from GET_INFLIGHT_FD is sent with SET_INFLIGHT_FD before a ring is started"
)
def used(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = recording.first(F.GET_INFLIGHT_FD)
    kicks = [each for each in recording.after(asked) if each.id == F.SET_VRING_KICK]
    if not kicks:
        unsupported("the front-end starts no ring after that")
    sent = [each for each in recording.of(F.SET_INFLIGHT_FD) if asked.at < each.at < kicks[0].at]
    check(sent, "SET_INFLIGHT_FD before the ring is started", f"{kicks[0]} without it")


@area.case(1203, "SET_INFLIGHT_FD has a descriptor of a file that contains the region")
def has_descriptor(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_INFLIGHT_FD),
        lambda each: (
            each.fds and _region(each).mmap_size + _region(each).mmap_offset <= each.fds[0].size
        ),
        "a file of at least offset + size bytes",
    )


@area.case(1204, "The region has the number and the size of rings that were requested")
def same_shape(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = recording.first(F.GET_INFLIGHT_FD)
    sent = recording.first(F.SET_INFLIGHT_FD)
    one, other = _region(asked), _region(sent)
    check(
        (one.num_queues, one.queue_size) == (other.num_queues, other.queue_size),
        f"{one.num_queues} rings of {one.queue_size}",
        f"{other.num_queues} of {other.queue_size}",
    )


@area.case(1205, "The same region is sent when the VM continues")
def same_region(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    before = recording.some(F.SET_INFLIGHT_FD, act="start")[-1]
    after = recording.some(F.SET_INFLIGHT_FD, act=CONT)[0]
    files = [[fd.identity for fd in each.fds] for each in (before, after)]
    same = files[0] == files[1] and before.payload == after.payload
    check(same, f"the file {files[0]}", f"{after}: {files[1]}")


@area.case(1208, "The region is sent back unchanged: file, size and offset")
def as_given(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.some(F.GET_INFLIGHT_FD)
    if not recording.regions:
        unsupported("the suite returned no region")
    known = {(area.mmap_size, area.mmap_offset, file.identity) for area, file in recording.regions}
    all_of(
        recording.some(F.SET_INFLIGHT_FD),
        lambda each: (
            (_region(each).mmap_size, _region(each).mmap_offset, each.fds and each.fds[0].identity)
            in known
        ),
        f"one of {sorted(known)} (size, offset, file)",
    )


@area.case(1209, "The region has room for all descriptors of all rings in use")
def room_for_all(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = _region(recording.some(F.GET_INFLIGHT_FD)[-1])
    all_of(
        recording.some(F.SET_VRING_NUM),
        lambda each: each.state.ring < asked.num_queues and each.state.num <= asked.queue_size,
        f"rings within {asked.num_queues} of {asked.queue_size}, as in GET_INFLIGHT_FD",
    )


@area.case(1210, "The region that is sent back can be mapped shared and writable")
def region_mappable(fe: FrontEnd) -> None:
    recording = fe.plain()
    all_of(
        recording.some(F.SET_INFLIGHT_FD),
        lambda each: each.at not in recording.unmapped,
        "a file that can be mapped writable",
    )


@area.case(
    1211,
    "After a reset another region is requested",
    spec="VHOST_USER_GET_INFLIGHT_FD",
    severity=Severity.SHOULD,
)
def new_after_reset(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(RESET)
    recording.some(F.GET_INFLIGHT_FD)
    recording.some(F.SET_VRING_KICK, act=RESET)
    again = recording.of(F.GET_INFLIGHT_FD, act=RESET)
    check(again, "GET_INFLIGHT_FD", "it did not come")


@area.case(1212, "A ring that was reset is not started with the region from before the reset")
def old_region_dropped(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(RESET)
    old = {fd.identity for each in _sent_before_reset(recording) for fd in each.fds}
    all_of(
        recording.of(F.SET_INFLIGHT_FD, act=RESET),
        lambda each: not old & {fd.identity for fd in each.fds},
        f"another file than {sorted(old)}",
    )


def _sent_before_reset(recording: Recording) -> list[Received]:
    found = [each for each in recording.some(F.SET_INFLIGHT_FD) if each.act != RESET]
    if not found:
        unsupported("no region was sent before the reset")
    return found


@area.case(1213, "Each region that was requested is sent before the next ring is started")
def each_is_sent(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked: Received | None = None
    for each in recording.some(F.GET_INFLIGHT_FD, F.SET_INFLIGHT_FD, F.SET_VRING_KICK):
        if each.id == F.GET_INFLIGHT_FD:
            asked = each
        elif each.id == F.SET_INFLIGHT_FD:
            asked = None
        else:
            check(asked is None, f"SET_INFLIGHT_FD after {asked}", f"{each} without it")


@area.case(1206, "The front-end survives a back-end that returns no region")
def no_region(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("no region")
        session.reply(message.id, Inflight(0, 0, 0, 0).pack())

    fe.plain().some(F.GET_INFLIGHT_FD)
    fe.reacting("no region", F.GET_INFLIGHT_FD, react).since("no region")
