"""A migration to another program: both are served, and what did not happen has a reason."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.timeouts import TIMEOUT
from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.front_end.acts import MIGRATE, START
from vhost_user_conformance.front_end.destination import Destination
from vhost_user_conformance.front_end.recording import F, Recording
from vhost_user_conformance.front_end.script import MIGRATED
from vhost_user_conformance.front_end.session_player import SessionPlayer
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.verdict import Unsupported
from vhost_user_conformance.peer.program import PeerProgram

ROOT = Path(__file__).parents[3]
PYTHON = f"env PYTHONPATH={ROOT} {shlex.quote(sys.executable)}"
SOURCE = f"{PYTHON} -m emu.cli attach -q --rng {{socket}} --rings 1 --qmp {{qmp}}"
INCOMING = "tests.vhost_user_conformance.front_end.incoming_vm"


def migrated(folder: Path, command: str) -> Recording:
    """The session with our front-end, which migrates to this program."""
    destination = Destination(command, folder, TIMEOUT)
    path, qmp = folder / "s", folder / "qmp"
    program = PeerProgram(SOURCE, path, folder / "log", qmp=qmp, listens=False)
    player = SessionPlayer(
        path, program, qmp=qmp, row=row_of("rng"), timeout=TIMEOUT, destination=destination
    )
    with closing(player):
        return player.play(MIGRATED)


def test_the_vm_arrives_with_its_ring(tmp_path: Path) -> None:
    """The destination starts the ring at the base of the source, and kicks it."""
    source = migrated(tmp_path, f"{PYTHON} -m {INCOMING} rng {{socket}} 1 {{incoming}}")
    assert (source.acts, source.undone) == ([START, MIGRATE], {})
    there = source.arrived()
    assert there.first(F.SET_VRING_BASE).state == (0, source.bases[-1].base)
    assert source.bases[-1].base > 0
    assert there.kicked() == {0}
    assert not list(tmp_path.glob("*.sock"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no room')", "no destination connects: it ended with status 1: no room"),
        (
            "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])",
            "the destination does not await a VM: it ended with status 0",
        ),
    ],
)
def test_a_destination_that_ends(tmp_path: Path, code: str, reason: str) -> None:
    """It is the reason why the VM was not migrated."""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {{socket}}"
    source = migrated(tmp_path, command)
    assert source.undone == {MIGRATE: reason}
    with pytest.raises(Unsupported, match=reason):
        source.arrived()


def test_a_command_without_a_socket(tmp_path: Path) -> None:
    """The error names the option."""
    with pytest.raises(OptionError, match=r"--destination: write \{socket\}"):
        Destination("qemu", tmp_path, TIMEOUT)
