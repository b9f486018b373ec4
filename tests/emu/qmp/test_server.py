"""The server, with the client that QEMU's own tools use, and with raw lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from qemu.qmp import ExecuteError, QMPClient

from emu.errors import DeviceNotFoundError, EmuError
from emu.qmp.server import MAX_PENDING, Command, Handler, MonitorServer
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.qmp.protocol import JsonObject


def echo(text: str, times: int = 1) -> JsonObject:
    """A handler with a required and an optional argument."""
    return {"text": text * times}


def fail() -> None:
    """A handler that fails."""
    raise EmuError("the machine has no such thing")


def reset(reset_gap: bool) -> JsonObject:
    """A handler whose argument has two words."""
    return {"reset": reset_gap}


def check_properties(**properties: object) -> None:
    """A handler that checks its arguments itself."""
    raise EmuError(f"no properties {[*properties]}")


def find(name: str) -> None:
    """A handler whose error has a class of its own."""
    raise DeviceNotFoundError(f"Device '{name}' not found")


HANDLERS: dict[str, Handler] = {
    "x-echo": echo,
    "x-fail": fail,
    "x-find": find,
    "x-reset": reset,
    "x-any": check_properties,
}


class Served:
    """A server in a thread of its own, on one end of a pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self.server = MonitorServer(sock, HANDLERS)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.server.serve()
        self.server.close()


@pytest.fixture
def lines() -> Iterator[tuple[Served, socket.socket]]:
    """A server, and the socket of its client."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT)
    served = Served(theirs)
    yield served, ours
    ours.close()
    served.thread.join(TIMEOUT)
    assert not served.thread.is_alive()


def ask(sock: socket.socket, text: str) -> JsonObject:
    """Send a line; returns the next message of the server."""
    sock.sendall(text.encode() + b"\n")
    return receive(sock)


def receive(sock: socket.socket) -> JsonObject:
    """The next message."""
    data = b""
    while not data.endswith(b"\n"):
        data += sock.recv(1)
    message: JsonObject = json.loads(data)
    return message


def negotiate(sock: socket.socket) -> None:
    """Read the greeting and complete the negotiation."""
    assert "QMP" in receive(sock)
    assert ask(sock, '{"execute": "qmp_capabilities"}') == {"return": {}}


def test_it_serves_the_client_of_qemu(tmp_path: Path) -> None:
    """Commands, errors, events and the end, over a unix socket."""
    path = tmp_path / "monitor.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    served: list[Served] = []

    def accept() -> None:
        connection, _ = listener.accept()
        served.append(Served(connection))

    accepting = threading.Thread(target=accept)
    accepting.start()

    async def talk() -> None:
        client = QMPClient("test")
        await client.connect(str(path))
        await asyncio.to_thread(accepting.join, TIMEOUT)
        assert await client.execute("x-echo", {"text": "a", "times": 3}) == {"text": "aaa"}
        with pytest.raises(ExecuteError, match="no such thing"):
            await client.execute("x-fail")
        with pytest.raises(ExecuteError) as caught:
            await client.execute("x-nothing")
        assert caught.value.error_class == "CommandNotFound"
        with pytest.raises(ExecuteError, match="'a' not found") as caught:
            await client.execute("x-find", {"name": "a"})
        assert caught.value.error_class == "DeviceNotFound"
        with client.listener("STOP") as events:
            served[0].server.emit("STOP", {"why": "test"})
            event = await asyncio.wait_for(events.get(), TIMEOUT)
            assert event["data"] == {"why": "test"}
        await client.execute("quit")
        with contextlib.suppress(EOFError):  # the server hung up first, as QEMU does
            await client.disconnect()

    asyncio.run(talk())
    accepting.join(TIMEOUT)
    served[0].thread.join(TIMEOUT)
    assert not served[0].thread.is_alive()
    listener.close()


def test_no_command_is_executed_before_the_negotiation(lines: tuple[Served, socket.socket]) -> None:
    """The error has the command's id."""
    _, sock = lines
    receive(sock)
    answer = ask(sock, '{"execute": "x-echo", "arguments": {"text": "a"}, "id": 1}')
    assert answer["error"]["class"] == "CommandNotFound"
    assert answer["id"] == 1


def test_no_event_is_sent_before_the_negotiation(lines: tuple[Served, socket.socket]) -> None:
    """A client that has not negotiated expects none."""
    served, sock = lines
    receive(sock)
    served.server.emit("STOP")
    assert ask(sock, '{"execute": "qmp_capabilities"}') == {"return": {}}


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ('{"execute": "x-echo"}', "'text' is missing"),
        ('{"execute": "x-echo", "arguments": {"text": 7}}', "'text', expected: string"),
        ('{"execute": "x-echo", "arguments": {"text": "a", "times": true}}', "expected: integer"),
        ('{"execute": "x-echo", "arguments": {"text": "a", "more": 1}}', "'more' is unexpected"),
        ('{"execute": "x-reset", "arguments": {"reset-gap": 1}}', "'reset-gap', expected: bool"),
        ('{"execute": "x-echo", "arguments": []}', "must be an object"),
        ('{"execute": "x-echo", "more": 1}', "'more' is unexpected"),
        ('{"execute": "x-any", "arguments": {"a-b": 1}}', "a-b"),
        ('{"arguments": {}}', "lacks member 'execute'"),
        ('{"execute"}', "JSON parse error"),
        ("execute x-echo", "JSON parse error"),
    ],
)
def test_a_bad_command_is_an_error_and_the_next_one_is_executed(
    lines: tuple[Served, socket.socket], command: str, text: str
) -> None:
    """The descriptions are QEMU's."""
    _, sock = lines
    negotiate(sock)
    assert text in ask(sock, command)["error"]["desc"]
    assert ask(sock, '{"execute": "x-reset", "arguments": {"reset-gap": true}}') == {
        "return": {"reset": True}
    }


def test_commands_in_one_packet_are_executed_in_order(lines: tuple[Served, socket.socket]) -> None:
    """Each response has its command's id."""
    _, sock = lines
    negotiate(sock)
    sock.sendall(
        b"".join(
            b'{"execute": "x-echo", "arguments": {"text": "a"}, "id": %d}\r\n' % n
            for n in range(50)
        )
    )
    assert [receive(sock)["id"] for _ in range(50)] == list(range(50))


def test_query_commands_lists_all_commands(lines: tuple[Served, socket.socket]) -> None:
    """The server's own and the handlers."""
    _, sock = lines
    negotiate(sock)
    names = {entry["name"] for entry in ask(sock, '{"execute": "query-commands"}')["return"]}
    assert {"x-echo", "quit", "qmp_capabilities", "query-version"} <= names


def test_quit_ends_it(lines: tuple[Served, socket.socket]) -> None:
    """After its response."""
    served, sock = lines
    negotiate(sock)
    assert ask(sock, '{"execute": "quit"}') == {"return": {}}
    served.thread.join(TIMEOUT)
    assert not served.thread.is_alive()


STUCK = """
import socket, sys, threading
from emu.qmp import server
server.HANG_UP_TIMEOUT = 0.2
def hang() -> None:
    threading.Event().wait()
server.MonitorServer(socket.socket(fileno=int(sys.argv[1])), {"x-hang": hang}).serve()
"""


def test_a_process_whose_command_hangs_ends_with_its_client() -> None:
    """No other client controls the VM."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [sys.executable, "-c", STUCK, str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),))
    try:
        ours.settimeout(TIMEOUT)
        negotiate(ours)
        ours.sendall(b'{"execute": "x-hang"}\n')
        ours.close()
        assert process.wait(TIMEOUT) == 1
    finally:
        process.kill()
        process.wait()


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that sends an event does not wait for the client."""
    monkeypatch.setattr("emu.qmp.outbox.MAX_QUEUED", 1 << 20)
    ours, theirs = socket.socketpair()
    with theirs:
        served = Served(ours)
        theirs.sendall(b'{"execute": "qmp_capabilities"}\n')
        text = "x" * 10000
        end = time.monotonic() + TIMEOUT
        while served.thread.is_alive():
            served.server.emit("STOP", {"text": text})
            assert time.monotonic() < end
        served.thread.join(TIMEOUT)
        assert not served.thread.is_alive()


@pytest.mark.parametrize("capabilities", ['["oob"]', '"oob"', "[1]"])
def test_a_capability_that_is_not_offered_is_an_error(
    lines: tuple[Served, socket.socket], capabilities: str
) -> None:
    """The greeting has none; the negotiation goes on."""
    _, sock = lines
    assert receive(sock)["QMP"]["capabilities"] == []
    command = '{"execute": "qmp_capabilities", "arguments": {"enable": ' + capabilities + "}}"
    assert ask(sock, command)["error"]["class"] == "GenericError"
    command = '{"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": null}'
    assert ask(sock, command) == {"return": {}, "id": None}


def test_many_commands_at_once_wait_for_each_other(lines: tuple[Served, socket.socket]) -> None:
    """More than the server reads ahead."""
    _, sock = lines
    negotiate(sock)
    command = b'{"execute": "x-echo", "arguments": {"text": "a"}}'
    sock.sendall(5 * MAX_PENDING * command)
    for _ in range(5 * MAX_PENDING):
        assert receive(sock) == {"return": {"text": "a"}}


def test_no_event_comes_before_the_end_of_the_negotiation(
    lines: tuple[Served, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's own client would take it for an error."""
    served, sock = lines
    negotiate_ = MonitorServer._negotiate

    def negotiate_and_emit(server: MonitorServer, **arguments: object) -> None:
        negotiate_(server, **arguments)  # type: ignore[arg-type]
        server.emit("STOP")

    monkeypatch.setitem(
        served.server._own, "qmp_capabilities", Command(lambda: negotiate_and_emit(served.server))
    )
    negotiate(sock)
    served.server.emit("RESUME")
    assert receive(sock)["event"] == "RESUME"


@pytest.mark.parametrize("reset", ["\x1b", "\x00"])
@pytest.mark.parametrize("text", ['{"execute": "x-ec', '{"execute": [[', "junk", ""])
def test_a_control_character_ends_an_incomplete_message(
    lines: tuple[Served, socket.socket], text: str, reset: str
) -> None:
    """As in QEMU: the client has an error, and can go on."""
    _, sock = lines
    negotiate(sock)
    sock.sendall((text + reset).encode())
    assert receive(sock)["error"]["class"] == "GenericError"
    assert ask(sock, '{"execute": "x-echo", "arguments": {"text": "a"}}') == {
        "return": {"text": "a"}
    }
