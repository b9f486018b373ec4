"""The front-end's connection against a peer on a real socket."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user.backend import BackendConnection
from vhost_user.codec import REPLY, VERSION, encode
from vhost_user.errors import (
    BackendError,
    DeadlineError,
    Disconnected,
    Refused,
    UsageError,
    VhostUserError,
)
from vhost_user.features import ProtocolFeature
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64, Inflight, VringState
from vhost_user.readiness import readable, writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer

P = ProtocolFeature
R = FrontendRequest
OFFERED = P.MQ | P.REPLY_ACK | P.LOG_SHMFD | P.INFLIGHT_SHMFD
FEATURES = 1 << 30 | 1 << 32 | 1 << 26
ANSWER = VERSION | REPLY


def answer(back: BackendConnection, request: Request) -> None:
    """The answers of a device in these tests: the base of a ring is 100 + its index."""
    for fd in request.fds:
        os.close(fd)
    standing = back.session.answer_from_state(request)
    if standing is not None:
        back.reply(request, standing)
    elif request.id == R.GET_VRING_BASE:
        assert isinstance(request.payload, VringState)
        back.reply(request, VringState(request.payload.ring, 100 + request.payload.ring))
    else:
        back.ack(request, 22 if request.id == R.SET_OWNER else 0)


def serve(back: BackendConnection) -> None:
    """A back-end's loop, until the front-end closes."""
    try:
        while True:
            assert readable([back], 10)
            for request in back.receive():
                answer(back, request)
            while not back.flush():
                assert writable([back], 10)
    except Disconnected:
        back.close()


@pytest.fixture
def front() -> Iterator[FrontendConnection]:
    """A connection to a back-end that runs in a thread, negotiated."""
    mine, theirs = socket.socketpair()
    back = BackendConnection(
        theirs, name="blk0", features=FEATURES, protocol_features=OFFERED, num_queues=64
    )
    server = threading.Thread(target=serve, args=(back,))
    server.start()
    with FrontendConnection(mine, name="blk0") as connection:
        connection.negotiate(features=1 << 32, protocol_features=P.REPLY_ACK | P.CONFIG)
        yield connection
    server.join(TIMEOUT)
    assert not server.is_alive()


@pytest.fixture
def raw() -> Iterator[tuple[FrontendConnection, socket.socket]]:
    """A connection and its bare other end; REPLY_ACK is negotiated."""
    mine, theirs = socket.socketpair()
    with FrontendConnection(mine, name="blk0") as connection, theirs:
        connection.session.offered_features = FEATURES
        connection.submit(
            [Request(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK | P.INFLIGHT_SHMFD)))]
        )
        theirs.recv(1000)
        yield connection, theirs


def base(ring: int) -> Request:
    """GET_VRING_BASE of a ring."""
    return Request(R.GET_VRING_BASE, VringState(ring, 0))


def test_negotiation_keeps_what_both_want(front: FrontendConnection) -> None:
    """What one offers and the other can use, and bit 30; the device sends SET_FEATURES."""
    assert front.offered_features == FEATURES
    assert front.features == 1 << 30 | 1 << 32
    assert front.protocol_features == P.REPLY_ACK
    assert front.session.features is None


@pytest.mark.parametrize(
    ("features", "offered", "wanted", "agreed"),
    [
        (FEATURES, P.MQ | P.BACKEND_SEND_FD, P.MQ | P.BACKEND_SEND_FD, P.MQ),
        (FEATURES, P.MQ | P.BACKEND_REQ | P.BACKEND_SEND_FD, P.MQ | P.BACKEND_SEND_FD, P.MQ),
        (1 << 32, None, P.MQ, P(0)),
    ],
)
def test_negotiation_leaves_out_what_cannot_work(
    features: int, offered: ProtocolFeature | None, wanted: ProtocolFeature, agreed: ProtocolFeature
) -> None:
    """A protocol feature without those that it needs; all where bit 30 is not offered."""
    mine, theirs = socket.socketpair()

    def play() -> None:
        theirs.recv(1000)
        theirs.sendall(encode(R.GET_FEATURES, ANSWER, U64(features)))
        if offered is not None:
            theirs.recv(1000)
            theirs.sendall(encode(R.GET_PROTOCOL_FEATURES, ANSWER, U64(int(offered))))

    player = threading.Thread(target=play)
    player.start()
    with FrontendConnection(mine, name="blk0") as connection, theirs:
        connection.negotiate(features=0, protocol_features=wanted)
        player.join()
        assert connection.protocol_features == agreed


def test_lock_step(front: FrontendConnection) -> None:
    """A reply where one is due, None where none is."""
    assert front.call(base(3)) == Reply(R.GET_VRING_BASE, VringState(3, 103))
    assert front.call(Request(R.SET_VRING_NUM, VringState(3, 128))) is None
    acked = front.call(Request(R.SET_VRING_NUM, VringState(3, 128), need_reply=True))
    assert acked == Reply(R.SET_VRING_NUM, U64(0))


def test_lock_step_takes_two_system_calls(raw: tuple[FrontendConnection, socket.socket]) -> None:
    """One send and one receive: no poll, and the timeout is not set again."""
    front, theirs = raw
    calls: list[str] = []

    class Counted(socket.socket):
        def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
            calls.append("send")
            return super().send(data, flags)

        def recvmsg(
            self, size: int, room: int = 0, flags: int = 0, /
        ) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
            calls.append("recvmsg")
            return super().recvmsg(size, room, flags)

        def setsockopt(
            self, level: int, option: int, value: int | ReadableBuffer | None, length: int = 0, /
        ) -> None:
            calls.append("setsockopt")
            if value is None:
                super().setsockopt(level, option, None, length)
            else:
                super().setsockopt(level, option, value)

    front._channel._sock = Counted(fileno=front._channel._sock.detach())
    for ring in range(3):
        theirs.sendall(encode(R.GET_VRING_BASE, ANSWER, VringState(ring, 7)))
        front.call(base(ring))
    assert calls.count("send") == calls.count("recvmsg") == 3
    assert calls.count("setsockopt") <= 2


def test_all_in_flight(front: FrontendConnection) -> None:
    """Many requests, then all replies, in order; acknowledgements are among them."""
    requests = [base(ring) for ring in range(32)]
    requests.append(Request(R.SET_VRING_NUM, VringState(0, 128), need_reply=True))
    assert front.submit(requests) == 33
    replies: list[Reply] = []
    while front.outstanding:
        assert readable([front], 10)
        replies += front.receive()
    assert [reply.payload for reply in replies[:32]] == [
        VringState(ring, 100 + ring) for ring in range(32)
    ]
    assert replies[32] == Reply(R.SET_VRING_NUM, U64(0))
    assert front.receive() == []


def test_many_replies_in_one_read(raw: tuple[FrontendConnection, socket.socket]) -> None:
    """One receive returns all of them; a part of the next waits for the rest."""
    front, theirs = raw
    front.submit([base(ring) for ring in range(5)])
    wire = b"".join(encode(R.GET_VRING_BASE, ANSWER, VringState(ring, 0)) for ring in range(5))
    theirs.sendall(wire[:70])
    assert len(front.receive()) == 3
    assert front.outstanding == 2
    theirs.sendall(wire[70:])
    assert len(front.receive()) == 2


def test_a_reply_in_pieces_is_waited_for(raw: tuple[FrontendConnection, socket.socket]) -> None:
    """Lock-step reads until the reply is complete."""
    front, theirs = raw
    wire = encode(R.GET_VRING_BASE, ANSWER, VringState(0, 9))
    theirs.sendall(wire[:5])
    later = threading.Timer(0.03, theirs.sendall, (wire[5:],))
    later.start()
    reply = front.call(base(0))
    later.join()
    assert reply is not None
    assert reply.payload == VringState(0, 9)


def test_a_back_end_that_dribbles_meets_the_timeout(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """The timeout is for the whole exchange, not for each piece of it."""
    front, theirs = raw
    wire = encode(R.GET_VRING_BASE, ANSWER, VringState(0, 9))
    stop = threading.Event()
    sent: list[int] = []

    def dribble() -> None:
        for byte in wire[:-1]:
            theirs.sendall(bytes([byte]))
            sent.append(byte)
            if stop.wait(0.2):
                return

    dribbler = threading.Thread(target=dribble)
    dribbler.start()
    with pytest.raises(DeadlineError, match=r"blk0, GET_VRING_BASE: waited") as caught:
        front.call(base(0), timeout=0.3)
    assert caught.value.waited >= 0.3
    stop.set()
    dribbler.join()
    assert len(sent) < len(wire) - 1, "it did not wait for as long as something came"


def test_a_silent_back_end_meets_the_timeout(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """The error names device, message and time; no other request can be sent then."""
    front, _ = raw
    with pytest.raises(DeadlineError, match=r"blk0, GET_VRING_BASE: waited 0.05 s for a reply"):
        front.call(base(0), timeout=0.05)
    with pytest.raises(UsageError, match="1 replies are outstanding"):
        front.call(base(1))


def test_a_back_end_that_goes(raw: tuple[FrontendConnection, socket.socket]) -> None:
    """Its earlier answers are returned; then every way to use the connection raises."""
    front, theirs = raw
    front.submit([base(0), base(1)])
    theirs.recv(1000)
    theirs.sendall(encode(R.GET_VRING_BASE, ANSWER, VringState(0, 9)))
    theirs.close()
    assert len(front.receive()) == 1
    with pytest.raises(Disconnected):
        front.receive()
    with pytest.raises(Disconnected):
        front.submit([base(2)])


def test_lock_step_with_a_back_end_that_goes(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """It does not wait for the timeout."""
    front, theirs = raw
    closer = threading.Timer(0.03, theirs.close)
    closer.start()
    with pytest.raises(Disconnected, match="blk0"):
        front.call(base(0), timeout=TIMEOUT)
    closer.join()


def test_a_refusal_in_lock_step_and_in_flight(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """A non-zero acknowledgement is an error that names the ring."""
    front, theirs = raw
    request = Request(R.SET_VRING_NUM, VringState(6, 3), need_reply=True)
    theirs.sendall(encode(R.SET_VRING_NUM, ANSWER, U64(22)))
    with pytest.raises(Refused, match="blk0, ring 6, SET_VRING_NUM: refused with code 22"):
        front.call(request)
    front.submit([request])
    theirs.sendall(encode(R.SET_VRING_NUM, ANSWER, U64(1)))
    with pytest.raises(Refused):
        front.receive()
    assert front.outstanding == 0


def test_a_refusal_does_not_break_a_connection_or_mend_it(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """The first reason stays."""
    front, theirs = raw
    request = Request(R.SET_VRING_NUM, VringState(6, 3), need_reply=True)
    refusal = encode(R.SET_VRING_NUM, ANSWER, U64(22))
    for reason in (None, "the first", "the second"):
        if reason is not None:
            front.mark_broken(reason)
        for take in (front.receive, lambda: front.feed(refusal)):
            front.submit([request])
            if take == front.receive:
                theirs.sendall(refusal)
            with pytest.raises(Refused):
                take()
        assert front.broken == (reason is not None)
        assert front.broken_reason == (reason and "the first")


@pytest.mark.parametrize("way", ["call", "receive", "feed", "flush"])
def test_every_way_to_use_a_connection_tells_why_it_broke(
    raw: tuple[FrontendConnection, socket.socket], way: str
) -> None:
    """And the state of a broken one is not handed over to another process."""
    front, theirs = raw
    wrong = encode(R.GET_VRING_BASE, ANSWER, VringState(5, 9))
    if way == "call":
        theirs.sendall(wrong)
        expected: type[VhostUserError] = BackendError
    elif way == "flush":
        theirs.close()
        expected = Disconnected
    else:
        front.submit([base(0)])
        theirs.sendall(wrong)
        expected = BackendError
    use: dict[str, Callable[[], object]] = {
        "call": lambda: front.call(base(0)),
        "receive": front.receive,
        "feed": lambda: front.feed(wrong),
        "flush": lambda: front.submit([base(0)]),
    }
    with pytest.raises(expected) as caught:
        use[way]()
    assert front.broken
    assert front.broken_reason == caught.value.text
    with pytest.raises(UsageError, match="its connection is broken: "):
        _ = front.session_state


def test_descriptors_of_replies(raw: tuple[FrontendConnection, socket.socket]) -> None:
    """They come with their own reply, each in a read of its own, however many wait."""
    front, theirs = raw
    ask = Request(R.GET_INFLIGHT_FD, Inflight(0, 0, 1, 128))
    front.submit([base(0), ask, base(1), ask])
    region = encode(R.GET_INFLIGHT_FD, ANSWER, Inflight(4096, 0, 1, 128))
    for ring in range(2):
        theirs.sendall(encode(R.GET_VRING_BASE, ANSWER, VringState(ring, 0)))
        with Path(f"/dev/{['zero', 'null'][ring]}").open() as file:
            socket.send_fds(theirs, [region], [file.fileno()])
    replies = front.receive()
    assert [len(reply.fds) for reply in replies] == [0, 1, 0, 1]
    for reply, device in ((replies[1], "/dev/zero"), (replies[3], "/dev/null")):
        assert Path(f"/proc/self/fd/{reply.fds[0]}").readlink() == Path(device)
        os.close(reply.fds[0])


def test_descriptors_do_not_leak_when_a_later_reply_is_wrong(
    raw: tuple[FrontendConnection, socket.socket],
) -> None:
    """Whether the error is in the same read or in a later one of the same call."""
    front, theirs = raw
    before = open_fds()
    front.submit([Request(R.GET_INFLIGHT_FD, Inflight(0, 0, 1, 128))])
    region = encode(R.GET_INFLIGHT_FD, ANSWER, Inflight(4096, 0, 1, 128))
    socket.send_fds(theirs, [region], [0])
    socket.send_fds(theirs, [b"garbage in a header"], [0])
    with pytest.raises(BackendError):
        front.receive()
    assert open_fds() <= before


def test_connect_by_path(tmp_path: Path) -> None:
    """It connects to the process that listens there."""
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with FrontendConnection.connect(path, name="blk0", timeout=TIMEOUT) as front:
            accepted, _ = listener.accept()
            assert front.fileno() > 0
        assert accepted.recv(1) == b""
        accepted.close()
    assert front.fileno() == -1


def test_what_the_session_refuses_is_not_sent(front: FrontendConnection) -> None:
    """Nor are the requests before it; the connection stays usable."""
    with pytest.raises(UsageError, match="CONFIG"):
        front.submit([base(0), Request(R.GET_CONFIG)])
    assert front.outstanding == 0
    assert front.flush()
    assert front.submit([base(0)]) == 1
    assert readable([front], 10)
    assert len(front.receive()) == 1
