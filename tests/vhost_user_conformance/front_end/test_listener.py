"""Who is accepted on the suite's socket, and who is not waited for."""

from __future__ import annotations

import shlex
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.listener import FrontEndListener
from vhost_user_conformance.peer.program import PeerProgram

if TYPE_CHECKING:
    from pathlib import Path


def connected(path: Path) -> socket.socket:
    """A front-end that has connected."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def test_a_connection_is_accepted_and_older_ones_are_dropped(tmp_path: Path) -> None:
    """A program of before may have connected twice."""
    path = tmp_path / "s"
    with closing(FrontEndListener(path, None)) as listener:
        with connected(path) as old, connected(path) as another:
            listener.drop_pending()
            assert (old.recv(1), another.recv(1)) == (b"", b"")
        with connected(path) as front_end:
            accepted = listener.accept(TIMEOUT)
            assert accepted is not None
            with accepted:
                front_end.send(b"x")
                assert accepted.recv(1) == b"x"
    assert not path.exists()


def test_nobody_connects(tmp_path: Path) -> None:
    """A program that has ended is not waited for."""
    with closing(FrontEndListener(tmp_path / "s", None)) as listener:
        assert listener.accept(0.01) is None
    code = shlex.join([sys.executable, "-c", "raise SystemExit(3)"])
    program = PeerProgram(f"{code} {{socket}}", tmp_path / "s", tmp_path / "log", listens=False)
    with closing(FrontEndListener(tmp_path / "s", program)) as listener:
        program.start()
        assert listener.accept(TIMEOUT) is None
        assert program.failed
        program.stop()


def test_a_path_that_is_taken(tmp_path: Path) -> None:
    """The error names it."""
    path = tmp_path / "s"
    path.write_text("a file")
    with pytest.raises(PeerError, match=rf"{path}: cannot listen there: "):
        FrontEndListener(path, None)
