"""Sessions with a front-end that connects: who connects, who reconnects, and who does not."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.vhost_user_conformance.front_end.front_end import PlayedFrontEnd
from vhost_user.payloads import U64
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.act_performer import ACT_TIMEOUT
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.listener import FrontEndListener
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.session_player import RECONNECT_TIMEOUT, SessionPlayer
from vhost_user_conformance.model.device_class import UNKNOWN, row_of
from vhost_user_conformance.peer.program import PeerProgram

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from vhost_user_conformance.peer.wire import Wire

ONCE = Script("once", (START,))
TWICE = Script("twice", (START,), returns=True)


@pytest.fixture
def player(tmp_path: Path) -> Iterator[SessionPlayer]:
    """A player of sessions with a front-end that runs already."""
    made = SessionPlayer(tmp_path / "s", None, qmp=None, row=row_of("blk"), timeout=TIMEOUT / 10)
    yield made
    made.close()


def asks(wire: Wire) -> None:
    """A front-end that negotiates, and disconnects."""
    wire.send(F.GET_FEATURES)
    wire.receive()
    wire.send(F.SET_FEATURES, U64(0).pack())


def test_a_session_is_recorded_until_the_front_end_disconnects(
    player: SessionPlayer, tmp_path: Path
) -> None:
    """It starts no ring, which is a reason and no error."""
    front_end = PlayedFrontEnd(tmp_path / "s", asks)
    recording = player.play(ONCE)
    front_end.finish()
    assert [each.id for each in recording.messages] == [F.GET_FEATURES, F.SET_FEATURES]
    assert recording.left
    assert recording.undone[START] == "the front-end closed the connection before it started a ring"
    assert (recording.reconnected, recording.second) == (False, None)


def test_a_reconnection_is_noticed(player: SessionPlayer, tmp_path: Path) -> None:
    """The second session is played only where the script has one."""
    front_end = PlayedFrontEnd(tmp_path / "s", asks, lambda wire: None)
    recording = player.play(ONCE)
    front_end.finish()
    assert (recording.reconnected, recording.second) == (True, None)
    front_end = PlayedFrontEnd(tmp_path / "s", asks, asks)
    recording = player.play(TWICE)
    front_end.finish()
    assert recording.second is not None
    assert [each.id for each in recording.second.messages] == [F.GET_FEATURES, F.SET_FEATURES]


def test_a_front_end_that_does_not_reconnect_is_waited_for_once(
    player: SessionPlayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later sessions give it less time, until it does reconnect."""
    limits: list[float] = []
    wait = FrontEndListener.accept

    def noted(this: FrontEndListener, timeout: float) -> socket.socket | None:
        limits.append(timeout)
        return wait(this, min(timeout, TIMEOUT if len(limits) % 2 else RECONNECT_TIMEOUT))

    monkeypatch.setattr(FrontEndListener, "accept", noted)
    for talks in ([asks], [asks], [asks, asks], [asks]):
        front_end = PlayedFrontEnd(tmp_path / "s", *talks)
        assert (player.play(TWICE).second is not None) == (len(talks) == 2)
        front_end.finish()
    assert limits[1::2] == [ACT_TIMEOUT, RECONNECT_TIMEOUT, RECONNECT_TIMEOUT, ACT_TIMEOUT]


def test_where_no_front_end_connects(tmp_path: Path) -> None:
    """A player that has given up does not wait again."""
    path = tmp_path / "s"
    player = SessionPlayer(path, None, qmp=None, row=UNKNOWN, timeout=0.01)
    with pytest.raises(PeerError, match=r"no front-end connects to .* within 0\.3 s"):
        player.play(ONCE)
    player.gone = "it went"
    with pytest.raises(PeerError, match="it went"):
        player.play(ONCE)
    player.close()
    assert not path.exists()


def test_a_program_that_ends_without_connecting(tmp_path: Path) -> None:
    """Its status is in the error."""
    code = shlex.join([sys.executable, "-c", "raise SystemExit(3)"])
    program = PeerProgram(f"{code} {{socket}}", tmp_path / "s", tmp_path / "log")
    player = SessionPlayer(tmp_path / "s", program, qmp=None, row=UNKNOWN, timeout=TIMEOUT)
    with pytest.raises(PeerError, match="--exec: the program ended with status 3"):
        player.play(ONCE)
    player.close()


def test_a_socket_in_use_is_an_error(player: SessionPlayer, tmp_path: Path) -> None:
    """The other program keeps it."""
    with pytest.raises(PeerError, match="cannot listen there: is in use"):
        SessionPlayer(tmp_path / "s", None, qmp=None, row=UNKNOWN, timeout=1.0)
