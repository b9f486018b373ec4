"""Whatever binds a unix socket: who may connect, and that files of others stay."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from backends import server
from emu.errors import EmuError, MigrationError, PreflightError
from emu.migration.endpoint import Listener
from emu.orchestrator.network.echo import ProbeClient
from emu.qmp.listener import MonitorListener
from tests.backends.programs import BLK, NET, RNG, SERVE
from tests.backends.served import program
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until
from vhost_user import unix_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Binder(NamedTuple):
    """What binds a socket at a path: how, the socket's kind, and what it raises."""

    bind: Callable[[str], Any]
    kind: socket.SocketKind
    refused: type[Exception]


class Echo:
    """An echo client that closes its socket as the others do."""

    def __init__(self, path: str) -> None:
        self._client = ProbeClient([], path)

    def close(self) -> None:
        """Close and remove the socket."""
        self._client._close()


BINDERS = {
    "unix_socket": Binder(lambda path: unix_socket.bind(path, DGRAM), DGRAM, OSError),
    "back-end": Binder(server.listen, STREAM, server.ServerError),
    "uplink": Binder(lambda path: server.bind(path, DGRAM), DGRAM, server.ServerError),
    "QMP": Binder(lambda path: MonitorListener(Path(path), {}), STREAM, PreflightError),
    "echo client": Binder(Echo, DGRAM, EmuError),
    "migration": Binder(lambda path: Listener(f"unix:{path}"), STREAM, MigrationError),
}
EVERY_BINDER = pytest.mark.parametrize("binder", BINDERS.values(), ids=list(BINDERS))


@EVERY_BINDER
def test_a_socket_in_use_is_refused_and_goes_on_working(binder: Binder, tmp_path: Path) -> None:
    """Its process still gets what is sent there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, binder.kind) as other:
        other.bind(str(path))
        if binder.kind == STREAM:
            other.listen()
        with pytest.raises(binder.refused):
            binder.bind(str(path))
        with socket.socket(socket.AF_UNIX, binder.kind) as client:
            client.connect(str(path))


@EVERY_BINDER
def test_a_stale_socket_is_replaced(binder: Binder, tmp_path: Path) -> None:
    """A killed process has left it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, binder.kind) as killed:
        killed.bind(str(path))
    assert path.is_socket()
    with closing(binder.bind(str(path))), socket.socket(socket.AF_UNIX, binder.kind) as client:
        client.connect(str(path))


@EVERY_BINDER
def test_a_file_is_not_replaced(binder: Binder, tmp_path: Path) -> None:
    """Its contents stay."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(binder.refused):
        binder.bind(str(path))
    assert path.read_text() == "precious"


@EVERY_BINDER
@pytest.mark.parametrize("length", [108, 300])
def test_a_path_that_is_too_long_is_refused(binder: Binder, length: int, tmp_path: Path) -> None:
    """With an error of the caller's own class."""
    with pytest.raises(binder.refused):
        binder.bind(str(tmp_path / ("x" * length)))


@pytest.fixture(params=[0, 0o22, 0o77, 0o377, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the user has set."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@EVERY_BINDER
@pytest.mark.usefixtures("umask")
def test_only_this_user_may_connect_whatever_the_umask(binder: Binder, tmp_path: Path) -> None:
    """And this user may."""
    path = tmp_path / "s"
    with closing(binder.bind(str(path))), socket.socket(socket.AF_UNIX, binder.kind) as client:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        client.connect(str(path))


class Replaced(NamedTuple):
    """What another program has put in the socket's place."""

    put: Callable[[Path], object]


def _stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


REPLACED = {
    "file": Replaced(lambda path: path.write_text("precious")),
    "directory": Replaced(lambda path: path.mkdir()),
    "link": Replaced(lambda path: path.symlink_to(path.parent / "s.moved")),
    "socket": Replaced(_stale),
}


@EVERY_BINDER
@pytest.mark.parametrize("replaced", REPLACED.values(), ids=list(REPLACED))
def test_what_has_taken_the_place_of_the_socket_stays(
    binder: Binder, replaced: Replaced, tmp_path: Path
) -> None:
    """Another program may have replaced the path while the socket was open."""
    path = tmp_path / "s"
    with closing(binder.bind(str(path))):
        path.rename(tmp_path / "s.moved")
        replaced.put(path)
        before = path.lstat()
    assert os.path.samestat(path.lstat(), before)


@EVERY_BINDER
def test_the_path_is_removed_at_the_end(binder: Binder, tmp_path: Path) -> None:
    """And nothing else is left."""
    with closing(binder.bind(str(tmp_path / "s"))):
        pass
    assert list(tmp_path.iterdir()) == []


SMALL = ("--net", "1x2", "--vcpus", "1", "--memory", "256M", "--accel", "soft")
PLUGIN = """
from backends.virtio_device import VirtioDevice
class Nothing(VirtioDevice):
    def serve(self, ring, chain):
        return 0
"""
#: The programs that listen at a path of the user's choice, and where the path goes.
BACK_ENDS = {
    "blk": [*BLK, "--blk-file", "{folder}/disk", "--socket-path", "{socket}"],
    "net": [*NET, "--socket-path", "{socket}"],
    "uplink": [*NET, "--socket-path", "{folder}/other", "--uplink", "{socket}"],
    "rng": [*RNG, "--socket-path", "{socket}"],
    "serve": [*SERVE, "--plugin", "{folder}/plugin.py", "--socket-path", "{socket}"],
}
COMMANDS = {
    "incoming": ["run", *SMALL, "--incoming", "unix:{socket}", "--images", "{folder}/i"],
    "qmp": ["attach", "--rng", "{folder}/rng", "--load", "none", "--qmp", "{socket}"],
    "front-end": ["conform", "front-end", "--socket", "{socket}", "--patience", "60"],
}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that takes no permission, which programs inherit."""
    before = os.umask(0)
    yield
    os.umask(before)


def _replace(path: Path) -> None:
    """Another program puts its own file in the place of a program's socket."""
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    path.rename(path.with_name("moved"))
    path.write_text("precious")


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("arguments", BACK_ENDS.values(), ids=list(BACK_ENDS))
def test_every_back_end_keeps_to_it(arguments: list[str], tmp_path: Path) -> None:
    """The mode, and whose path is removed at the end."""
    path = tmp_path / "s"
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    with program([word.format(socket=path, folder=tmp_path) for word in arguments]):
        _replace(path)
    assert path.read_text() == "precious"


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=list(COMMANDS))
def test_every_command_keeps_to_it(arguments: list[str], tmp_path: Path) -> None:
    """The mode, and whose path is removed at the end."""
    path = tmp_path / "s"
    (tmp_path / "i").mkdir()
    words = [*EMU, *(word.format(socket=path, folder=tmp_path) for word in arguments)]
    with ExitStack() as stack:
        if "--rng" in words:
            stack.enter_context(program(RNG, "--socket-path", str(tmp_path / "rng")))
        command = stack.enter_context(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))

        def listens() -> bool:
            assert command.poll() is None, command.communicate()[1]
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(path)) == 0

        wait_until(listens, "it listens")
        _replace(path)
        command.terminate()
        command.communicate(timeout=PROGRAM_TIMEOUT)
    assert path.read_text() == "precious"
