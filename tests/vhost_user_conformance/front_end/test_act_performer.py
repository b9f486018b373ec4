"""The acts of a session: what is done, and the reason for each that is not."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.vhost_user_conformance.front_end.guest import (
    AVAIL,
    BYTES,
    DESC,
    GPA,
    SIZE,
    USED,
    USER,
    Guest,
)
from vhost_user.payloads import U64, MemoryRegion, MemTable, VringAddr, VringState
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.act_performer import NO_DESTINATION, NO_QMP, ActPerformer
from vhost_user_conformance.front_end.acts import ASKED, CONT, END, MIGRATE, START, STOP
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.model.device_class import UNKNOWN
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from vhost_user_conformance.front_end.script import ScriptedSession


def connected(guest: Guest, script: Script, owned: ExitStack) -> Session:
    """A session with a front-end that has started a ring: its messages wait in the socket."""
    ours, theirs = socket.socketpair()
    wire = Wire(theirs, {}, TIMEOUT)
    owned.callback(wire.close)
    session = Session(Wire(ours, {}, TIMEOUT), script, UNKNOWN)
    owned.callback(session.close)
    kick = os.eventfd(1)
    owned.callback(os.close, kick)
    table = MemTable((MemoryRegion(GPA, BYTES, USER, 0),)).pack()
    address = VringAddr(0, 0, USER + DESC, USER + USED, USER + AVAIL, 0).pack()
    wire.send(F.SET_FEATURES, U64(0).pack())
    wire.send(F.SET_MEM_TABLE, table, fds=(guest.fd,))
    wire.send(F.SET_VRING_NUM, VringState(0, SIZE).pack())
    wire.send(F.SET_VRING_ADDR, address)
    wire.send(F.SET_VRING_KICK, U64(0).pack(), fds=(kick,))
    return session


def test_without_qmp_only_the_start_is_done(guest: Guest, owned: ExitStack) -> None:
    """And a program that runs already is not ended."""
    session = connected(guest, Script("x", (START, STOP, END)), owned)
    ActPerformer(None, None, TIMEOUT).perform(session)
    assert session.recording.acts == [START]
    assert session.recording.undone == {
        STOP: NO_QMP,
        END: "the suite has not started the front-end, and does not end it: use --exec",
    }


def test_what_the_script_asks_is_an_act(guest: Guest, owned: ExitStack) -> None:
    """In its place among the others."""
    asked: list[str] = []

    def asks(session: ScriptedSession) -> None:
        asked.append(session.recording.acts[-1])

    session = connected(guest, Script("x", (START, ASKED), asks=asks), owned)
    ActPerformer(None, None, TIMEOUT).perform(session)
    assert session.recording.acts == [START, ASKED]
    assert asked == [START]


def test_without_a_start_no_further_act_is_done(owned: ExitStack) -> None:
    """They have the reason of the start; the connection is still there."""
    ours, theirs = socket.socketpair()
    wire = Wire(theirs, {}, TIMEOUT)
    owned.callback(wire.close)
    wire.send(F.SET_OWNER)
    session = Session(Wire(ours, {}, TIMEOUT), Script("x", (START, STOP, CONT)), UNKNOWN)
    owned.callback(session.close)
    ActPerformer(None, None, 0.01).perform(session)
    assert session.recording.acts == []
    reason = session.recording.undone[START]
    assert reason.startswith("no guest started a ring within ")
    assert session.recording.undone == {START: reason, STOP: reason, CONT: reason}


def test_without_a_destination_there_is_no_migration(
    guest: Guest, owned: ExitStack, tmp_path: Path
) -> None:
    """The reason names the option."""
    server = QmpServer(tmp_path / "qmp")
    session = connected(guest, Script("x", (START, MIGRATE)), owned)
    ActPerformer(None, tmp_path / "qmp", TIMEOUT).perform(session)
    server.close()
    assert session.recording.undone == {MIGRATE: NO_DESTINATION}


class QmpServer:
    """Answers each command, by its name; `stop` by default with success."""

    def __init__(self, path: Path, refuses: str = "") -> None:
        self.commands: list[str] = []
        self._refuses = refuses
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, sock.makefile("rb") as lines:
            sock.sendall(b'{"QMP": {}}\r\n')
            for line in lines:
                name = json.loads(line)["execute"]
                self.commands.append(name)
                error = {"error": {"class": "GenericError", "desc": "not now"}}
                answer = error if name == self._refuses else {"return": {}}
                sock.sendall(json.dumps(answer).encode() + b"\r\n")

    def close(self) -> None:
        """The client has disconnected."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self._listener.close()


@pytest.mark.parametrize("refused", [False, True])
def test_an_act_is_a_command_to_the_front_end(
    guest: Guest, owned: ExitStack, tmp_path: Path, refused: bool
) -> None:
    """A refusal is the reason why it was not done."""
    server = QmpServer(tmp_path / "qmp", "stop" if refused else "")
    session = connected(guest, Script("x", (START, STOP)), owned)
    ActPerformer(None, tmp_path / "qmp", TIMEOUT).perform(session)
    server.close()
    assert server.commands == ["qmp_capabilities", "stop"]
    assert session.recording.acts == ([START] if refused else [START, STOP])
    expected = {STOP: "the front-end refused to stop: not now"} if refused else {}
    assert session.recording.undone == expected


def test_no_qmp_server_is_an_error(guest: Guest, owned: ExitStack, tmp_path: Path) -> None:
    """After a while, as it may start later than the device."""
    session = connected(guest, Script("x", (START,)), owned)
    with pytest.raises(PeerError, match="No such file or directory"):
        ActPerformer(None, tmp_path / "qmp", 0.001).perform(session)
