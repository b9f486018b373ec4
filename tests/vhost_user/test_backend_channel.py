"""The back-end channel, against a front-end's bare socket."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user.backend_channel import Answer, BackendChannel
from vhost_user.backend_session import BackendSession
from vhost_user.codec import HEADER, NEED_REPLY, REPLY, VERSION, encode
from vhost_user.errors import Disconnected, FrontendError, UsageError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest, FrontendRequest
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ProtocolFeature
B = BackendRequest
OFFERED = P.REPLY_ACK | P.CONFIG | P.BACKEND_REQ
Ends = tuple[BackendChannel, socket.socket]


def connected(protocol_features: ProtocolFeature) -> Ends:
    """The channel of a session that negotiated it, and the front-end's end."""
    session = BackendSession("disk0", features=1 << 30, protocol_features=OFFERED, num_queues=1)
    agreed = U64(int(protocol_features))
    session.feed(encode(FrontendRequest.SET_PROTOCOL_FEATURES, VERSION, agreed))
    mine, theirs = socket.socketpair()
    theirs.settimeout(TIMEOUT)
    return BackendChannel(mine, session), theirs


@pytest.fixture
def make() -> Iterator[Callable[..., Ends]]:
    """As `connected`, closed afterwards."""
    with ExitStack() as stack:

        def made(protocol_features: ProtocolFeature = OFFERED) -> Ends:
            channel, theirs = connected(protocol_features)
            stack.callback(channel.close)
            stack.callback(theirs.close)
            return channel, theirs

        yield made


def answer(number: int = B.CONFIG_CHANGE_MSG, code: int = 0) -> bytes:
    """What a front-end answers, on the wire."""
    return encode(number, VERSION | REPLY, U64(code))


def test_asks_for_an_answer_and_takes_it(make: Callable[..., Ends]) -> None:
    """Where REPLY_ACK was negotiated."""
    channel, theirs = make()
    channel.send(B.CONFIG_CHANGE_MSG)
    assert channel.flush()
    assert theirs.recv(100) == HEADER.pack(B.CONFIG_CHANGE_MSG, VERSION | NEED_REPLY, 0)
    assert channel.outstanding == 1
    assert channel.receive() == []
    theirs.sendall(answer()[:10])
    assert channel.receive() == []
    theirs.sendall(answer()[10:])
    assert channel.receive() == [Answer(B.CONFIG_CHANGE_MSG, 0)]
    assert channel.outstanding == 0


def test_a_refusal_is_an_answer(make: Callable[..., Ends]) -> None:
    """And the stream stays usable."""
    channel, theirs = make()
    for _ in range(2):
        channel.send(B.CONFIG_CHANGE_MSG)
    channel.flush()
    theirs.sendall(answer(code=22) + answer())
    assert [given.code for given in channel.receive()] == [22, 0]


def test_asks_for_none_without_reply_ack(make: Callable[..., Ends]) -> None:
    """None is due then, and one that arrives is an error."""
    channel, theirs = make(P.CONFIG | P.BACKEND_REQ)
    channel.send(B.CONFIG_CHANGE_MSG)
    channel.flush()
    assert theirs.recv(100) == HEADER.pack(B.CONFIG_CHANGE_MSG, VERSION, 0)
    assert channel.outstanding == 0
    theirs.sendall(answer())
    with pytest.raises(FrontendError, match="disk0, CONFIG_CHANGE_MSG: answered without a request"):
        channel.receive()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (B.CONFIG_CHANGE_MSG, "needs protocol feature CONFIG"),
        (B.SHARED_OBJECT_ADD, "no back-end of this project sends it"),
    ],
)
def test_sends_only_what_is_allowed(make: Callable[..., Ends], number: B, text: str) -> None:
    """By what the connection negotiated."""
    channel, _ = make(P.REPLY_ACK | P.BACKEND_REQ)
    with pytest.raises(UsageError, match=text):
        channel.send(number)
    assert not channel.wants_write
    assert channel.outstanding == 0


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (answer(B.IOTLB_MSG), "IOTLB_MSG: answered where the answer to CONFIG_CHANGE_MSG is due"),
        (b"\xff" * 64, "no message with id"),
        (HEADER.pack(B.CONFIG_CHANGE_MSG, VERSION, 0), "flags 0x1"),
        (HEADER.pack(B.CONFIG_CHANGE_MSG, VERSION | REPLY, 4) + bytes(4), "no payload of 4 bytes"),
    ],
)
def test_what_is_no_answer_is_the_front_end_s_fault(
    make: Callable[..., Ends], data: bytes, text: str
) -> None:
    """And raised as `Disconnected`."""
    channel, theirs = make()
    channel.send(B.CONFIG_CHANGE_MSG)
    channel.flush()
    theirs.sendall(data)
    with pytest.raises(FrontendError, match=text):
        channel.receive()


def test_descriptors_of_an_answer_are_closed(make: Callable[..., Ends]) -> None:
    """With an answer that has none they are an error."""
    channel, theirs = make()
    channel.send(B.CONFIG_CHANGE_MSG)
    channel.flush()
    before = open_fds()
    with Path("/dev/null").open("rb") as file:
        socket.send_fds(theirs, [answer()], [file.fileno()])
    with pytest.raises(FrontendError, match="without a message"):
        channel.receive()
    assert open_fds() <= before


def test_the_front_end_closes_it(make: Callable[..., Ends]) -> None:
    """Which is not an error."""
    channel, theirs = make()
    channel.send(B.CONFIG_CHANGE_MSG)
    theirs.close()
    with pytest.raises(Disconnected):
        channel.flush()
    with pytest.raises(Disconnected):
        channel.receive()


def test_a_front_end_that_does_not_read(make: Callable[..., Ends]) -> None:
    """What cannot be sent is kept, and nothing blocks."""
    channel, theirs = make()
    said = 0
    while not channel.wants_write:
        channel.send(B.CONFIG_CHANGE_MSG)
        channel.flush()
        said += 1
    data = b""
    while len(data) < said * HEADER.size:
        data += theirs.recv(1 << 16)
        channel.flush()
    assert data == HEADER.pack(B.CONFIG_CHANGE_MSG, VERSION | NEED_REPLY, 0) * said


def test_a_descriptor_that_is_no_channel() -> None:
    """It is closed, and the error is the front-end's fault."""
    session = BackendSession("disk0", features=0, protocol_features=P.BACKEND_REQ, num_queues=1)
    datagrams, other = socket.socketpair(type=socket.SOCK_DGRAM)
    reader, writer = os.pipe()
    for fd, text in ((datagrams.detach(), "not a unix stream socket"), (reader, "not a socket")):
        with pytest.raises(FrontendError, match=text):
            BackendChannel.from_fd(fd, session)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(writer)
    other.close()


def test_a_channel_must_be_connected(tmp_path: Path) -> None:
    """To a process that has it for that purpose: not to the device itself."""
    session = BackendSession("disk0", features=0, protocol_features=OFFERED, num_queues=1)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        with pytest.raises(FrontendError, match="not connected"):
            BackendChannel.from_fd(os.dup(ours.fileno()), session)
        listener.bind(path)
        listener.listen()
        with pytest.raises(FrontendError, match="not connected"):
            BackendChannel.from_fd(os.dup(listener.fileno()), session)
        ours.connect(path)
        with pytest.raises(FrontendError, match="connection to this device"):
            BackendChannel.from_fd(os.dup(ours.fileno()), session, path)
        BackendChannel.from_fd(os.dup(ours.fileno()), session, path + "-other").close()
