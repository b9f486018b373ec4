"""VU-F-14xx, 17xx, 18xx, 20xx: status, back-ends that fail or are slow, open files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user_conformance.front_end.acts import CONT, END, RESET, START, STOP
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import REPLY_FLAGS, RESETTING, STATUS, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

status = Area("status", FRONT_END, "VHOST_USER_SET_STATUS")
errors = Area("errors", FRONT_END, "Communication")
resources = Area("resources", FRONT_END, "what a VM that runs for years needs")
timing = Area("timing", FRONT_END, "a stream socket, and a back-end that takes its time")

P = ProtocolFeature
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED = 1, 2, 4, 8, 128
#: Messages at which a back-end may die; each front-end sends them.
MOMENTS = (
    F.GET_FEATURES,
    F.SET_FEATURES,
    F.SET_OWNER,
    F.SET_MEM_TABLE,
    F.SET_VRING_ADDR,
    F.SET_VRING_KICK,
)
CYCLES = 8


def _status(fe: FrontEnd) -> Recording:
    recording = fe.session(STATUS)
    if not recording.messages or not recording.messages[-1].protocol & P.STATUS:
        unsupported("the front-end does not acknowledge STATUS")
    return recording


@status.case(1401, "The status reaches DRIVER_OK, with all that goes before it")
def driver_ok(fe: FrontEnd) -> None:
    recording = _status(fe)
    recording.started()
    seen = [each.u64 for each in recording.some(F.SET_STATUS)]
    whole = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    check(any(value & whole == whole for value in seen), f"{whole:#x}", f"{seen}")


@status.case(1402, "A status is one byte")
def one_byte(fe: FrontEnd) -> None:
    all_of(_status(fe).some(F.SET_STATUS), lambda each: each.u64 < 256, "below 256")


@status.case(1403, "No bit of the status is taken back but all of them", spec="virtio 1.3, 2.1")
def grows(fe: FrontEnd) -> None:
    before = 0
    for each in _status(fe).some(F.SET_STATUS):
        check(not before & ~each.u64 or not each.u64, f"{before:#x} and more, or 0", f"{each.u64}")
        before = each.u64


@status.case(1404, "FEATURES_OK comes after SET_FEATURES", spec="virtio 1.3, 3.1.1")
def features_ok(fe: FrontEnd) -> None:
    recording = _status(fe)
    good = [each for each in recording.some(F.SET_STATUS) if each.u64 & FEATURES_OK]
    check(good, "a status with FEATURES_OK", "there is none")
    check(recording.first(F.SET_FEATURES).at < good[0].at, "SET_FEATURES before", f"{good[0]}")


@status.case(1405, "The status is reset to 0 with the device")
def reset_to_zero(fe: FrontEnd) -> None:
    recording = _status(fe)
    recording.did(RESET)
    zeros = [each for each in recording.some(F.SET_STATUS, act=RESET) if each.u64 == 0]
    check(zeros, "SET_STATUS 0", "there is none")


@status.case(1406, "A device that is reset is stopped, by GET_VRING_BASE, RESET_DEVICE or status 0")
def reset_stops(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(RESET)
    ended = recording.of(F.GET_VRING_BASE, F.RESET_DEVICE, F.SET_STATUS, act=RESET)
    check(ended, "one of them", "none came")
    during = [each for each in recording.messages if each.act == RESET]
    before = recording.running(during[0].at)
    whole = [
        each
        for each in ended
        if each.id == F.RESET_DEVICE or (each.id == F.SET_STATUS and not each.u64)
    ]
    stopped = {each.ring for each in ended if each.id == F.GET_VRING_BASE}
    left = before - (before if whole else stopped)
    check(not left, f"each of rings {sorted(before)} to be stopped", f"rings {sorted(left)} run on")


@status.case(1407, "RESET_DEVICE is sent only once rings are stopped, or to stop them all")
def reset_device(fe: FrontEnd) -> None:
    recording = fe.session(RESETTING)
    for each in recording.some(F.RESET_DEVICE):
        check(each.protocol & P.RESET_DEVICE, "RESET_DEVICE acknowledged before", f"{each}")
        running = recording.running(each.at)
        if running:
            observed(f"{each} stops rings {sorted(running)}, whose bases nobody has asked for")


@status.case(1408, "RESET_OWNER is not sent", spec="deprecated; 22d2464f7e")
def reset_owner(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: each.id != F.RESET_OWNER, "no RESET_OWNER")


# -- back-ends that fail


def _die(session: ScriptedSession, _message: Message) -> None:
    session.mark("the back-end dies")
    session.hang_up()


def _dies_at(fe: FrontEnd, number: F) -> Recording:
    fe.plain().some(number)
    return fe.reacting(f"the back-end dies at {number.name}", number, _die)


@errors.each(1701, MOMENTS, "A back-end that dies at {0.name} does not take the front-end along")
def dies(fe: FrontEnd, number: F) -> None:
    _dies_at(fe, number).since("the back-end dies")


@errors.case(1708, "A back-end that dies at GET_VRING_BASE does not take the front-end along")
def dies_at_stop(fe: FrontEnd) -> None:
    fe.plain().some(F.GET_VRING_BASE)
    script = Script(
        "the back-end dies at the stop", (START, STOP), reactions=((F.GET_VRING_BASE, _die),)
    )
    fe.session(script)


@errors.case(1709, "What a front-end does when its back-end is gone", spec="Communication")
def comes_back(fe: FrontEnd) -> None:
    recording = _dies_at(fe, F.SET_VRING_KICK)
    recording.since("the back-end dies")
    if recording.ended:
        observed(f"its program ended {recording.ended}")
    observed("it connects anew" if recording.again else "it goes on without")


@errors.case(1710, "The front-end ends well when it is told to")
def ends_well(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(END)
    check(not recording.crashed, "the program to end", f"it ended {recording.ended}")
    check(recording.ended, "the program to end", "it runs on after SIGTERM")


@errors.case(1711, "The front-end does not close a connection that nothing is wrong with")
def stays(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    check(not recording.left, "the connection to stay open", "the front-end closed it")


@errors.case(1715, "A back-end with which nothing is wrong is not given up")
def not_given_up(fe: FrontEnd) -> None:
    recording = fe.plain()
    if not recording.messages:
        unsupported("the front-end said nothing")
    why = recording.ended or "the front-end closed the connection"
    check(START in recording.acts or not recording.left, "a ring to be started", why)


@errors.case(1716, "What is set up is started: a front-end does not stop half-way")
def gone_through_with(fe: FrontEnd) -> None:
    """One that waits for a reply that nobody owes it says nothing more, and closes nothing."""
    recording = fe.plain()
    begun = recording.some(F.SET_MEM_TABLE, F.ADD_MEM_REG, F.SET_VRING_ADDR)[0]
    if START in recording.acts:
        return
    last = recording.messages[-1]
    check(recording.of(F.SET_VRING_KICK), f"SET_VRING_KICK after {begun}", f"{last} was the last")


@errors.case(1712, "A descriptor that comes with a reply that has none is no reason to crash")
def stray_descriptor(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("a stray descriptor")
        session.reply(message.id, payload, (session.wire.fileno(),))

    fe.reacting("a stray descriptor", F.GET_FEATURES, react).since("a stray descriptor")


@errors.case(1713, "Random bytes instead of a reply are no reason to crash, or to go on")
def random_bytes(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, _message: Message) -> None:
        session.mark("random bytes")
        session.wire.send_bytes(bytes((index * 73 + 41) % 256 for index in range(64)))

    since = fe.reacting("random bytes", F.GET_FEATURES, react).since("random bytes")
    further = [each for each in since if each.id != F.GET_FEATURES]
    check(not further, "the reply to be refused", f"it went on with {further[:1]}")


@errors.case(1714, "A reply that nobody asked for is no reason to crash")
def unasked(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("a reply that nobody asked for")
        session.reply(F.SET_OWNER, bytes(8), flags=REPLY_FLAGS)
        session.answer(message)

    fe.reacting("a reply that nobody asked for", F.SET_OWNER, react).since(
        "a reply that nobody asked for"
    )


# -- what it holds


@resources.case(1801, "Stopping and continuing does not leave files open", spec="")
def descriptors(fe: FrontEnd) -> None:
    acts = (START, *(STOP, CONT) * CYCLES)
    recording = fe.session(Script(f"stopped and continued {CYCLES} times", acts))
    recording.did(CONT)
    held = recording.held
    if not held:
        unsupported("the suite has not started the front-end: say --exec")
    check(held[-1] <= held[0], f"{held[0]} open files, as after the first time", f"{held}")


@resources.case(1803, "Resetting does not leave files open", spec="")
def descriptors_of_resets(fe: FrontEnd) -> None:
    recording = fe.session(Script("reset 4 times", (START, *(RESET,) * 4)))
    recording.did(RESET)
    held = recording.held
    if not held:
        unsupported("the suite has not started the front-end: say --exec")
    check(held[-1] <= held[0], f"{held[0]} open files, as after the first time", f"{held}")


@resources.case(1802, "Each time that the VM continues the same messages are sent", spec="")
def same_messages(fe: FrontEnd) -> None:
    acts = (START, *(STOP, CONT) * CYCLES)
    recording = fe.session(Script(f"stopped and continued {CYCLES} times", acts))
    recording.did(CONT)
    rounds: list[list[int]] = []
    act = ""
    for each in recording.messages:
        if each.act != act and each.act == CONT:
            rounds.append([])
        act = each.act
        if act == CONT:
            rounds[-1].append(each.id)
    lengths = [len(each) for each in rounds]
    check(len(rounds) == CYCLES, f"messages at each of {CYCLES} times", f"{lengths}")
    check(lengths[-1] <= lengths[0], f"no more than {lengths[0]} messages", f"{lengths}")


# -- timing


@timing.each(2001, (0.01, 0.2), "A back-end that takes {} s for each reply is waited for")
def slow(fe: FrontEnd, delay: float) -> None:
    fe.plain().started()
    recording = fe.session(Script(f"replies after {delay} s", delay=delay))
    check(START in recording.acts, "a ring to be started", f"{recording.undone}")


@timing.case(2003, "Whether more is sent before a reply has come", spec="nothing demands lock-step")
def pipelining(fe: FrontEnd) -> None:
    ahead = [each for each in fe.plain().messages if each.followed]
    observed(f"yes, after {ahead[0]}" if ahead else "no: it waits for each reply")
