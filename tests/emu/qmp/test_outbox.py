"""The bounded queue of one client."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from emu.qmp.outbox import Outbox
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[Outbox, socket.socket]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """An outbox with a small bound, and the socket of its client."""
    monkeypatch.setattr("emu.qmp.outbox.MAX_QUEUED", 1 << 20)
    ours, theirs = socket.socketpair()
    theirs.settimeout(TIMEOUT)
    with ours, theirs:
        yield Outbox(ours), theirs


def read(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or those before the end."""
    data = b""
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return data


def test_messages_arrive_in_their_order(pair: Pair) -> None:
    """Those that the socket takes at once, and those that wait."""
    outbox, client = pair
    messages = [bytes([number]) * 50_000 for number in range(20)]
    for message in messages:
        outbox.post(message)
    assert read(client, 20 * 50_000) == b"".join(messages)
    outbox.post(b"last")
    outbox.close(TIMEOUT)
    assert read(client, 5) == b"last"


def test_too_many_unread_events_end_the_connection(pair: Pair) -> None:
    """And what comes later is dropped."""
    outbox, client = pair
    for _ in range(40):
        outbox.post(b"x" * 100_000)
    assert len(read(client, 4_000_000)) < 4_000_000
    outbox.post(b"more")
    outbox.close(0)


def test_a_response_waits_for_room(pair: Pair) -> None:
    """Its client has asked for it, and no other thread waits."""
    outbox, client = pair
    outbox.post(b"x" * 3_000_000)  # longer than the bound, and nothing waits
    done = threading.Event()

    def respond() -> None:
        outbox.respond(b"y" * 500_000)
        done.set()

    thread = threading.Thread(target=respond)
    thread.start()
    assert not done.is_set()
    assert read(client, 3_500_000)[-500_000:] == b"y" * 500_000
    assert done.wait(TIMEOUT)
    thread.join()
    outbox.close(TIMEOUT)


def test_a_close_sends_what_waits_in_time_only(pair: Pair) -> None:
    """A client that reads nothing does not delay it."""
    outbox, client = pair
    outbox.post(b"x" * 3_000_000)
    outbox.close(0.01)
    assert len(read(client, 3_000_000)) < 3_000_000


def test_a_client_that_has_gone(pair: Pair) -> None:
    """Sending to it is no error."""
    outbox, client = pair
    client.close()
    outbox.post(b"x")
    outbox.respond(b"y")
    outbox.close(TIMEOUT)


def test_a_client_that_is_given_up_while_a_message_is_being_sent(pair: Pair) -> None:
    """The rest is dropped: the thread that sends it does not look for it."""
    outbox, client = pair
    outbox.post(b"x" * 900_000)
    with outbox._changed:
        outbox._fail()
        outbox._advance(100)
    outbox.post(b"more")
    outbox.close(TIMEOUT)
    assert len(read(client, 900_000)) < 900_000


def test_no_event_is_posted_between_a_response_and_what_comes_before_it(pair: Pair) -> None:
    """The other thread waits until the response has been sent."""
    outbox, client = pair
    threads = []

    def sending() -> None:
        threads.append(threading.Thread(target=outbox.post, args=(b"event",)))
        threads[0].start()

    outbox.respond(b"response", sending=sending)
    threads[0].join()
    assert read(client, 13) == b"responseevent"
    outbox.close(TIMEOUT)
