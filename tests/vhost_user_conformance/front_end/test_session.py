"""A session on a real connection: what it records and replies, how it ends, what it closes."""

from __future__ import annotations

import os
import socket

import pytest

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.payloads import U64, LogArea, VringState
from vhost_user_conformance.front_end.acts import CONT
from vhost_user_conformance.front_end.descriptors import describe
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.ring import Ring
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.peer.wire import Message, Wire


def take(message: tuple[F, bytes], fd: int) -> Session:
    """A session that has been sent this message with this descriptor."""
    ours, theirs = socket.socketpair()
    with theirs:
        wire = Wire(theirs.dup(), {}, TIMEOUT)
        wire.send(message[0], message[1], fds=(fd,))
        session = Session(Wire(ours, {}, TIMEOUT), PLAIN, row_of("blk"))
        assert session.pump(lambda: bool(session.recording.messages), TIMEOUT)
        wire.close()
    return session


def test_a_channel_that_is_not_a_socket_is_recorded() -> None:
    """A case fails on it; the session continues."""
    fd = os.eventfd(0)
    before = open_fds()
    session = take((F.SET_BACKEND_REQ_FD, b""), fd)
    assert session.channel is None
    assert session.recording.messages[0].fds == (describe(fd),)
    session.close()
    assert open_fds() <= before
    os.close(fd)


def test_a_session_closes_all_its_descriptors() -> None:
    """A descriptor that is closed already is an error, and the others are closed."""
    before = open_fds()
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
    assert open_fds() <= before


def test_a_kick_that_cannot_be_read_is_survived() -> None:
    """A file that was opened for writing, which poll reports as ready."""
    fd = os.open(os.devnull, os.O_WRONLY)
    session = take((F.SET_VRING_KICK, U64(0).pack()), fd)
    session.pump(lambda: session.rings[0].kicked, TIMEOUT)
    assert session.rings[0].kicked
    session.close()
    os.close(fd)


class Pair:
    """A session, and the front-end's end of its connection."""

    def __init__(self, script: Script = PLAIN) -> None:
        ours, theirs = socket.socketpair()
        self.front_end = Wire(theirs, {}, TIMEOUT)
        self.session = Session(Wire(ours, {}, TIMEOUT), script, row_of("blk"))

    def send(self, number: int, payload: bytes = b"", *, flags: int = VERSION) -> None:
        """Send a message, and have the session handle it."""
        count = len(self.session.recording.messages)
        self.front_end.send(number, payload, flags=flags)
        assert self.session.pump(lambda: len(self.session.recording.messages) > count, TIMEOUT)

    def close(self) -> None:
        """Close both ends."""
        self.front_end.close()
        self.session.close()


@pytest.mark.parametrize(
    ("protocol", "number", "flags", "replies"),
    [
        (0, F.GET_FEATURES, VERSION, True),
        (0, F.SET_OWNER, VERSION | NEED_REPLY, False),
        (ProtocolFeature.REPLY_ACK, F.SET_OWNER, VERSION | NEED_REPLY, True),
        (ProtocolFeature.REPLY_ACK, F.SET_OWNER, VERSION, False),
        (0, F.SET_LOG_BASE, VERSION, False),
        (ProtocolFeature.LOG_SHMFD, F.SET_LOG_BASE, VERSION, True),
        (ProtocolFeature.REPLY_ACK, 999, VERSION | NEED_REPLY, True),
    ],
)
def test_which_messages_are_answered(protocol: int, number: int, flags: int, replies: bool) -> None:
    """By the features that have been acknowledged."""
    pair = Pair()
    pair.send(F.SET_PROTOCOL_FEATURES, U64(protocol).pack())
    payload = LogArea(0, 0).pack() if number == F.SET_LOG_BASE else b""
    pair.send(number, payload, flags=flags)
    assert pair.session.protocol == protocol
    # A message that has no reply is followed by one that has.
    pair.send(F.GET_QUEUE_NUM)
    answered = [pair.front_end.receive().id for _ in range(2 if replies else 1)]
    assert answered == ([number] if replies else []) + [F.GET_QUEUE_NUM]
    assert not pair.front_end.waiting
    pair.close()


def test_a_message_is_recorded_with_its_act_and_what_was_acknowledged() -> None:
    """And whether the next one came before its reply."""
    pair = Pair()
    pair.send(F.SET_FEATURES, U64(5).pack())
    pair.session.act = CONT
    pair.front_end.send(F.GET_FEATURES)
    pair.front_end.send(F.GET_QUEUE_NUM)
    messages = pair.session.recording.messages
    assert pair.session.pump(lambda: len(messages) == 3, TIMEOUT)
    assert [(each.id, each.features, each.followed) for each in messages] == [
        (F.SET_FEATURES, None, False),
        (F.GET_FEATURES, 5, True),
        (F.GET_QUEUE_NUM, 5, False),
    ]
    assert [each.act for each in messages] == ["start", CONT, CONT]
    pair.close()


def test_a_reaction_takes_the_place_of_the_reply() -> None:
    """It may send what no back-end sends."""

    def reaction(session: object, message: Message) -> None:
        assert isinstance(session, Session)
        session.mark("another id")
        session.reply(F.SET_OWNER, b"x", flags=message.flags)

    pair = Pair(Script("x", reactions=((F.GET_FEATURES, reaction),)))
    pair.send(F.GET_FEATURES)
    pair.send(F.GET_QUEUE_NUM)
    first, second = pair.front_end.receive(), pair.front_end.receive()
    assert (first.id, first.payload, first.flags) == (F.SET_OWNER, b"x", VERSION)
    assert (second.id, second.flags) == (F.GET_QUEUE_NUM, VERSION | REPLY)
    assert pair.session.recording.marks == [(1, "another id")]
    pair.close()


def test_a_front_end_that_closes_the_connection_has_left() -> None:
    """A session that hangs up itself is over as well."""
    pair = Pair()
    pair.front_end.close()
    assert not pair.session.pump(lambda: False, TIMEOUT)
    assert (pair.session.over, pair.session.recording.left) == (True, True)
    pair.session.close()
    pair = Pair()
    pair.session.hang_up()
    assert (pair.session.over, pair.session.recording.left) == (True, False)
    assert pair.front_end.hangs_up()
    pair.close()


def test_messages_after_the_end_of_the_recording_are_answered() -> None:
    """The recording stays as it was."""
    pair = Pair()
    pair.send(F.GET_FEATURES)
    recording = pair.session.recording
    pair.session.stop_recording()
    pair.send(F.GET_QUEUE_NUM)
    assert [pair.front_end.receive().id for _ in range(2)] == [F.GET_FEATURES, F.GET_QUEUE_NUM]
    assert [each.id for each in recording.messages] == [F.GET_FEATURES]
    assert len(recording.transcript) == 2
    pair.close()


def test_a_message_that_cannot_be_decoded_is_recorded() -> None:
    """Cases judge it; the session goes on."""
    pair = Pair()
    pair.send(F.SET_VRING_ENABLE, VringState(0, 1).pack()[:3])
    pair.send(F.SET_MEM_TABLE, b"\xff" * 8)
    pair.send(F.GET_FEATURES)
    assert pair.front_end.receive().id == F.GET_FEATURES
    assert not pair.session.over
    pair.close()
