"""Cases for front-ends on sessions that were written by hand, and sessions with odd descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.conformance.front_end import cases
from emu.conformance.front_end.descriptors import EVENTFD, MEMFD, SOCKET, Descriptor, look_at
from emu.conformance.front_end.recording import F, Received, Recording, Table
from emu.conformance.front_end.script import ASKED, CONT, LOG, PLAIN, START, Script
from emu.conformance.front_end.serving import Chain, Ring
from emu.conformance.front_end.session import Session
from emu.conformance.front_end.tester import FrontEnd
from emu.conformance.verdict import CaseEnd, Verdict
from emu.conformance.wire import Wire
from vhost_user.codec import VERSION
from vhost_user.features import VHOST_F_LOG_ALL, ProtocolFeature
from vhost_user.payloads import (
    U64,
    VRING_NO_FD,
    Inflight,
    LogArea,
    MemoryRegion,
    VringAddr,
    VringState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PASS, FAIL, UNSUPPORTED = Verdict.PASS, Verdict.FAIL, Verdict.UNSUPPORTED
OBSERVED = Verdict.OBSERVED
LOG_ALL = 1 << VHOST_F_LOG_ALL
Sent = tuple[str, F, bytes, tuple[Descriptor, ...]]


def sent(number: F, payload: bytes = b"", *fds: Descriptor, act: str = START) -> Sent:
    """A message."""
    return (act, number, payload, fds)


def features(value: int, act: str = START) -> Sent:
    """SET_FEATURES."""
    return sent(F.SET_FEATURES, U64(value).pack(), act=act)


def notifier(number: F, ring: int, identity: str) -> Sent:
    """SET_VRING_KICK or SET_VRING_CALL with this eventfd."""
    return sent(number, U64(ring).pack(), Descriptor(EVENTFD, identity, 0))


def kick(ring: int) -> Sent:
    """A ring is started."""
    return notifier(F.SET_VRING_KICK, ring, f"kick {ring}")


def stop(ring: int) -> Sent:
    """A ring is stopped."""
    return sent(F.GET_VRING_BASE, VringState(ring, 0).pack())


def enable(ring: int, on: int) -> Sent:
    """SET_VRING_ENABLE."""
    return sent(F.SET_VRING_ENABLE, VringState(ring, on).pack())


def log_base(size: int) -> Sent:
    """SET_LOG_BASE."""
    return sent(F.SET_LOG_BASE, LogArea(size, 0).pack(), Descriptor(MEMFD, "log", size), act=LOG)


def logged_ring() -> Sent:
    """SET_VRING_ADDR with F_LOG."""
    return sent(F.SET_VRING_ADDR, VringAddr(0, 1, 0, 0, 0, 4096).pack(), act=LOG)


def region(act: str, *fds: Descriptor) -> Sent:
    """SET_INFLIGHT_FD."""
    return sent(F.SET_INFLIGHT_FD, Inflight(4096, 0, 1, 64).pack(), *fds, act=act)


def recorded(*messages: Sent, protocol: int = int(ProtocolFeature.REPLY_ACK)) -> Recording:
    """The session in which these came."""
    recording = Recording(acts=list(dict.fromkeys(act for act, *_ in messages)))
    acked: int | None = None
    for at, (act, number, payload, fds) in enumerate(messages):
        recording.messages.append(
            Received(at, act, number, VERSION, payload, fds, acked, protocol, False, at)
        )
        if number == F.SET_FEATURES:
            acked = U64.unpack(payload).value
    return recording


def judge(number: int, play: Recording | Callable[[Script], Recording]) -> Verdict:
    """The case's verdict."""
    (case,) = [case for case in cases() if case.id == f"VU-F-{number:04}"]
    try:
        case.run(FrontEnd("blk", 1.0, play if callable(play) else lambda _script: play))
    except CaseEnd as end:
        return end.verdict
    return PASS


BIT_30 = 1 << 30
#: Ring 0 has no kick descriptor any more.
POLLED = sent(F.SET_VRING_KICK, U64(VRING_NO_FD).pack())


@pytest.mark.parametrize(
    ("number", "messages", "verdict"),
    [
        # The same, with logging switched on.
        (273, (features(5), kick(0), features(5 | LOG_ALL), stop(0)), PASS),
        (273, (features(5), kick(0), features(7)), FAIL),
        (273, (features(5), kick(0), kick(1), stop(0), features(7)), FAIL),
        # Another driver, when the one before has let go of all rings.
        (273, (features(5), kick(0), stop(0), features(7), kick(0)), PASS),
        (273, (features(5), kick(0), sent(F.RESET_DEVICE), features(7)), PASS),
        (410, (features(BIT_30), enable(0, 1), kick(0)), PASS),
        (410, (features(BIT_30), enable(0, 1), kick(0), kick(1)), FAIL),
        (410, (features(BIT_30), enable(0, 0), kick(0)), FAIL),
        # A pair that the guest does not use.
        (410, (features(BIT_30), enable(0, 1), enable(1, 0), kick(0), kick(1)), OBSERVED),
        (510, (kick(0), kick(1)), PASS),
        (510, (kick(0), notifier(F.SET_VRING_KICK, 1, "kick 0")), FAIL),
        # The number of one that is gone.
        (510, (kick(0), kick(1), stop(0), stop(1), notifier(F.SET_VRING_KICK, 1, "kick 0")), PASS),
        (513, (kick(0), notifier(F.SET_VRING_CALL, 0, "call")), PASS),
        (513, (kick(0), notifier(F.SET_VRING_CALL, 0, "kick 0")), FAIL),
        (513, (kick(0), POLLED, notifier(F.SET_VRING_CALL, 0, "kick 0")), PASS),
        (607, (kick(0), stop(0), sent(F.SET_VRING_BASE, VringState(0, 0).pack())), PASS),
        (607, (kick(0), sent(F.SET_VRING_BASE, VringState(0, 0).pack())), FAIL),
        (803, (log_base(1),), FAIL),
        (808, (logged_ring(), log_base(1)), FAIL),
        (808, (log_base(1), logged_ring()), PASS),
        (809, (log_base(1), features(LOG_ALL, LOG)), FAIL),
        (809, (log_base(1), features(LOG_ALL, LOG), features(0, LOG)), PASS),
        (809, (features(0), log_base(1)), FAIL),
        (1205, (region(START, Descriptor(MEMFD, "a", 4096)), region(CONT)), FAIL),
        (105, (sent(F.GPU_SET_SOCKET, b"", Descriptor(SOCKET, "s", 0)),), PASS),
        (105, (sent(F.GPU_SET_SOCKET),), FAIL),
    ],
)
def test_a_session(number: int, messages: tuple[Sent, ...], verdict: Verdict) -> None:
    """Is judged so; no order of messages is too odd to be judged."""
    assert judge(number, recorded(*messages)) is verdict


def test_memory_that_has_no_room_in_the_log() -> None:
    """Is told; as much as fits is well."""
    recording = recorded(log_base(1))
    recording.tables.append(Table(-1, (MemoryRegion(0, 8 * 4096, 0, 0),), ()))
    assert judge(803, recording) is PASS
    recording.tables.append(Table(0, (MemoryRegion(0, 9 * 4096, 0, 0),), ()))
    assert judge(803, recording) is FAIL


def test_a_chain_of_nothing() -> None:
    """Has no status byte."""
    recording = recorded(kick(0))
    recording.chains.append(Chain(0, 0, (), False, ()))
    assert judge(2111, recording) is FAIL


@pytest.mark.parametrize("on", [True, False])
def test_a_reply_to_set_log_base_of_any_size(on: bool) -> None:
    """The specification contradicts itself there: to refuse one is no failure."""

    def play(script: Script) -> Recording:
        after = (features(LOG_ALL, LOG),) if on or script == PLAIN else ()
        recording = recorded(kick(0), log_base(1), *after)
        recording.marks.append((2, "a reply to SET_LOG_BASE"))
        return recording

    assert judge(812, play) is (PASS if on else OBSERVED)


@pytest.mark.parametrize(
    ("number", "protocol", "answer", "verdict"),
    [
        (1303, ProtocolFeature.REPLY_ACK, "no answer", FAIL),
        # What becomes of an unknown id is not specified, but that need_reply is answered.
        (1303, ProtocolFeature.REPLY_ACK, "closed", OBSERVED),
        (1304, ProtocolFeature.REPLY_ACK, "closed", FAIL),
        # Nobody owes an answer that was not agreed on.
        (1303, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
        (1320, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
        (1322, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
    ],
)
def test_what_is_answered_on_the_channel(
    number: int, protocol: int, answer: str, verdict: Verdict
) -> None:
    """Is judged by what was agreed on."""

    def play(script: Script) -> Recording:
        recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED), protocol=int(protocol))
        recording.channel[script.name.removeprefix("asks: ")] = answer
        return recording

    assert judge(number, play) is verdict


def test_cases_that_ask_the_same_share_a_session() -> None:
    """To start a VM takes its time."""
    played: list[Script] = []

    def play(script: Script) -> Recording:
        played.append(script)
        recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED))
        recording.channel[script.name.removeprefix("asks: ")] = "no answer"
        return recording

    front_end = FrontEnd("blk", 1.0, play)
    for case in cases():
        if case.id in ("VU-F-1303", "VU-F-1310", "VU-F-1322", "VU-F-1323"):
            with contextlib.suppress(CaseEnd):
                case.run(front_end)
    assert len(played) == 1


# -- what comes over the wire


def take(message: tuple[F, bytes], fd: int) -> Session:
    """A session that has been sent this message with this descriptor."""
    ours, theirs = socket.socketpair()
    with theirs:
        wire = Wire(theirs.dup(), {}, 1.0)
        wire.send(message[0], message[1], fds=(fd,))
        session = Session(Wire(ours, {}, 1.0), PLAIN, "blk")
        assert session.pump(lambda: bool(session.recording.messages), 5.0)
        wire.close()
    return session


def test_a_channel_that_is_no_socket_is_recorded() -> None:
    """It is a case that finds fault with it; the session goes on."""
    fd = os.eventfd(0)
    before = psutil.Process().num_fds()
    session = take((F.SET_BACKEND_REQ_FD, b""), fd)
    assert session.channel is None
    assert session.recording.messages[0].fds == (look_at(fd),)
    session.close()
    assert psutil.Process().num_fds() == before
    os.close(fd)


def test_a_session_gives_back_what_it_can() -> None:
    """A descriptor that has gone already is told of, and keeps no other one from being closed."""
    before = psutil.Process().num_fds()
    fd = os.eventfd(0)
    session = take((F.SET_VRING_KICK, U64(0).pack()), fd)
    os.close(fd)
    kick = session.rings[0].kick
    assert kick is not None
    session.rings[1] = Ring(1)
    session.rings[1].call = os.eventfd(0)
    os.close(kick)
    with pytest.raises(OSError, match="Bad file descriptor"):
        session.close()
    assert psutil.Process().num_fds() == before


def test_a_kick_that_cannot_be_read_is_survived() -> None:
    """A file that was opened for writing, which poll says is ready."""
    fd = os.open(os.devnull, os.O_WRONLY)
    session = take((F.SET_VRING_KICK, U64(0).pack()), fd)
    session.pump(lambda: session.rings[0].kicked, 1.0)
    assert session.rings[0].kicked
    session.close()
    os.close(fd)


def test_a_call_that_cannot_be_written_is_survived() -> None:
    """The request is completed all the same."""
    ring = Ring(0)
    ring.call = os.open(os.devnull, os.O_RDONLY)
    ring.notify()
    ring.stop()
