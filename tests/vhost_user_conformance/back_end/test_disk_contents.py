"""No command overwrites a disk that holds data, except with an explicit option."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from tests import slow
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from vhost_user_conformance.back_end.disk_contents import LARGEST
from vhost_user_conformance.peer.program import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = shlex.quote(sys.executable)
EMU = (sys.executable, "-m", "emu.cli")
#: Not a multiple of what one read transfers.
SIZE = (5 << 20) + 512
OURS = f"{PYTHON} -m backends.blk --socket-path {{socket}} --num-queues 2 --blk-file {{image}}"
#: Our disk, whose reads fail.
UNREADABLE = (
    f"{PYTHON} -c "
    + shlex.quote(
        "import os, errno\n"
        "def preadv(*_): raise OSError(errno.EIO, 'no')\n"
        "os.preadv = preadv\n"
        "from backends.blk import main; main()"
    )
    + OURS.split("backends.blk", 1)[1]
)
QEMU = (
    "qemu-storage-daemon --blockdev driver=file,node-name=f,filename={image},locking=off "
    "--blockdev driver=raw,node-name=d,file=f --export type=vhost-user-blk,id=e,node-name=d,"
    "num-queues=2,writable=on,addr.type=unix,addr.path={socket}"
)
PROGRAMS = {"vhost-emu-blk": OURS, "qemu-storage-daemon": QEMU}
#: A case that writes, and one that has nothing served.
WRITES, ASKS = "VU-B-2101", "VU-B-0101"


class Command(Protocol):
    """The words of a command that writes to the disk behind a socket."""

    def __call__(self, path: Path, *arguments: str) -> list[str]:
        """The command with further options."""


def need(program: str) -> str:
    """The command of this program."""
    if program.startswith("qemu") and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return PROGRAMS[program]


def image(folder: Path, *data_at: int, size: int = SIZE) -> Path:
    """A disk of zeroes, except for a byte at each of these offsets."""
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(size)
        for at in data_at:
            file.seek(at)
            file.write(b"x")
    return path


@contextlib.contextmanager
def served(command: str, path: Path) -> Iterator[Path]:
    """The socket of a back-end that serves this disk."""
    sock = path.with_suffix(".sock")
    argv = shlex.split(command.format(socket=sock, image=path))
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        try:
            connect(sock, timeout=TIMEOUT, gone=lambda: "").close()
            yield sock
        finally:
            program.kill()


def conform(path: Path, *arguments: str) -> list[str]:
    """The suite as a command."""
    return [*EMU, "conform", "back-end", "--device", "blk", "--socket", str(path), *arguments]


def plugin(path: Path, *arguments: str) -> list[str]:
    """The suite in pytest."""
    options = ["--vhost-user-device", "blk", "--vhost-user-socket", str(path)]
    given = [one.replace("--", "--vhost-user-") for one in arguments]
    pytest_options = ["-p", "no:cacheprovider", "--benchmark-disable", "-q"]
    folder = str(path.parent)
    return [sys.executable, "-m", "pytest", *pytest_options, folder, *options, *given]


def attach(path: Path, *arguments: str) -> list[str]:
    """A VM whose guest writes to the disk."""
    given = [one for one in arguments if one not in ("--only", WRITES)]
    return [*EMU, "attach", "--blk", str(path), "--for", "1s", *given]


def run(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


COMMANDS = pytest.mark.parametrize(
    "command", slow.all_but({conform, attach}, [conform, plugin, attach])
)
EACH_PROGRAM = pytest.mark.parametrize("program", sorted(PROGRAMS))


@COMMANDS
@EACH_PROGRAM
@pytest.mark.parametrize("at", slow.all_but({SIZE - 1}, [0, SIZE // 2, SIZE - 1]))
def test_a_disk_with_data_stays_as_it_is(
    command: Command, program: str, at: int, tmp_path: Path
) -> None:
    """One line has the offset of the data and the option, and no byte is changed."""
    disk = image(tmp_path, at)
    before = disk.read_bytes()
    with served(need(program), disk) as path:
        done = run(command(path, "--only", WRITES), tmp_path)
    assert done.returncode not in (0, 5)
    error = done.stderr.strip()
    assert error.count("\n") == 0
    assert f"the disk holds data, first at byte {at};" in error
    option = "--vhost-user-scratch" if command is plugin else "--scratch"
    assert f"give {option} if its contents may be overwritten" in error
    assert disk.read_bytes() == before


@COMMANDS
@EACH_PROGRAM
@pytest.mark.parametrize("data", [True, False])
def test_what_may_be_overwritten_is(
    command: Command, program: str, tmp_path: Path, *, data: bool
) -> None:
    """With --scratch, or where there are zeroes."""
    disk = image(tmp_path, *([SIZE - 1] if data else []))
    before = disk.read_bytes()
    with served(need(program), disk) as path:
        done = run(command(path, "--only", WRITES, *(["--scratch"] if data else [])), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert disk.read_bytes() != before


@pytest.mark.slow
def test_cases_that_write_nothing_need_no_zeroes(tmp_path: Path) -> None:
    """The protocol can be tested on any disk."""
    disk = image(tmp_path, 0)
    before = disk.read_bytes()
    with served(OURS, disk) as path:
        assert run(conform(path, "--only", ASKS), tmp_path).returncode == 0
        assert run(plugin(path, "--only", ASKS), tmp_path).returncode == 0
        assert run(attach(path, "--load", "none"), tmp_path).returncode == 0
    assert disk.read_bytes() == before


@COMMANDS
@pytest.mark.parametrize(
    ("program", "size", "text"),
    [
        (OURS, LARGEST + 512, "whether it holds data is only found out up to 1024 MiB"),
        (UNREADABLE, SIZE, "cannot find out whether the disk holds data (status 1 of a read at"),
    ],
    ids=["large", "unreadable"],
)
def test_what_cannot_be_found_out_is_not_overwritten(
    command: Command, program: str, size: int, text: str, tmp_path: Path
) -> None:
    """A disk that is too large to be read, and one that cannot be read."""
    disk = image(tmp_path, size=size)
    with served(program, disk) as path:
        done = run(command(path, "--only", WRITES), tmp_path)
    assert done.returncode not in (0, 5)
    assert text in done.stderr
    with disk.open("rb") as file:
        assert file.read(1 << 20) == bytes(1 << 20)


@pytest.mark.slow
def test_a_fixture_refuses_too(tmp_path: Path) -> None:
    """A custom suite uses ``Target(scratch=True)``."""
    disk = image(tmp_path, 0)
    before = disk.read_bytes()
    for scratch in (False, True):
        with served(OURS, disk) as path:
            (tmp_path / "test_own.py").write_text(
                "import pytest\n"
                "from pathlib import Path\n"
                "from vhost_user_conformance.target import Target\n"
                "@pytest.fixture(scope='session')\n"
                "def vhost_user_peer():\n"
                f"    return Target(socket=Path({str(path)!r}), device='blk', scratch={scratch})\n"
                f"@pytest.mark.vhost_user_cases({WRITES!r})\n"
                "def test_own(vhost_user_case): vhost_user_case.check()\n"
            )
            pytest_options = ["-p", "no:cacheprovider", "--benchmark-disable", "-q"]
            done = run([sys.executable, "-m", "pytest", *pytest_options, str(tmp_path)], tmp_path)
        assert ("the disk holds data, first at byte 0" in done.stdout) is not scratch
        assert (disk.read_bytes() == before) is not scratch
        assert done.returncode == (0 if scratch else 1)
