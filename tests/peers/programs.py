"""The programs of other projects that the tests run against, and their commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.peers import bare_guest
from tests.peers.table import (
    KERNEL_PACKAGE,
    PMD_BACK_END,
    PMD_FRONT_END,
    STORAGE_DAEMON,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from tests.peers.table import Peer

END_TIMEOUT = 5.0
VERSION_TIMEOUT = 20.0
IMAGE_BYTES = 64 << 20
#: The programs of this project are next to the interpreter.
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def need(program: str, package: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    found = which(program)
    if not found:
        pytest.skip(_why(program, package))
    return found


def which(program: str) -> str:
    """The path of a program, or ""."""
    return shutil.which(program, path=PATH) or ""


def missing(peer: Peer) -> str:
    """Why the peer cannot be run here and which package it requires, or ""."""
    return "" if which(peer.program) else _why(peer.program, peer.packages)


def _why(what: str, package: str) -> str:
    return f"{what} is not installed (Debian: apt-get install {package}, or make peers-install)"


def find_kernel() -> Path | None:
    """A readable Debian cloud kernel."""
    found = sorted(Path("/boot").glob("vmlinuz-*cloud*"))
    return found[-1] if found and os.access(found[-1], os.R_OK) else None


def kernel() -> Path:
    """The same kernel; the test is skipped where there is none."""
    found = find_kernel()
    if found is None:
        pytest.skip(_why("a kernel for a guest", KERNEL_PACKAGE))
    return found


def fill(peer: Peer, folder: Path, **places: object) -> str:
    """Its command with all placeholders replaced but those of ``emu conform``.

    Args:
        peer: the peer.
        folder: for a disk, a directory to share, or a guest.
        places: values of further placeholders, which also replace those made in the folder.
    """
    filled = {"socket": "{socket}", "qmp": "{qmp}", "queues": str(peer.queues)}
    filled |= {name: shlex.quote(str(value)) for name, value in places.items()}
    for name, make in _MATERIALS.items():
        if f"{{{name}}}" in peer.command and name not in filled:
            filled[name] = shlex.quote(str(make(folder)))
    return peer.enter + peer.command.format(**filled)


def destination(peer: Peer, folder: Path) -> str:
    """The command of the destination of its migration, as of `fill`; "" where it has none."""
    qmp = "-qmp unix:{qmp},server=on,wait=off"
    if qmp not in peer.command or peer.device not in ("blk", "net"):
        return ""
    command = peer.command.replace(qmp, "-incoming unix:{incoming}")
    return fill(peer._replace(command=command), folder, incoming="{incoming}")


def argv(peer: Peer, socket: Path | str, **places: object) -> list[str]:
    """The words of the command, for a test that starts it itself; skipped where it is missing."""
    words = shlex.split(fill(peer, Path(), socket=socket, **places))
    return [need(peer.program, peer.packages), *words[1:]]


def version(peer: Peer) -> str:
    """The first line of its version output that has a version.

    Raises:
        ValueError: no line has one.
    """
    done = subprocess.run(
        peer.version,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PATH": PATH},
        timeout=VERSION_TIMEOUT,
        text=True,
        check=False,  # dpdk-testpmd prints it, and then fails for lack of a port
    )
    for line in done.stdout.splitlines():
        if re.search(r"version", line, re.IGNORECASE) and number(line):
            return line.strip()
    raise ValueError(f"{shlex.join(peer.version)} prints no version")


def number(text: str) -> str:
    """The number in a version output."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else ""


def _image(folder: Path) -> Path:
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    return path


def _shared_folder(folder: Path) -> Path:
    path = folder / "shared"
    path.mkdir()
    (path / "file").write_text("a file for a guest to read\n")
    return path


def prefix(folder: Path) -> str:
    """A --file-prefix that no other DPDK process on this host uses."""
    return f"emu-{os.getpid()}-{folder.name}"


#: The placeholders of commands, and the functions for their values.
_MATERIALS: dict[str, Callable[[Path], object]] = {
    "image": _image,
    "folder": _shared_folder,
    "prefix": prefix,
    "guest": bare_guest.build,
}


def storage_daemon(image: Path, socket: Path | str, *, queues: int) -> list[str]:
    """qemu-storage-daemon with one vhost-user-blk export."""
    return argv(STORAGE_DAEMON, socket, image=image, queues=queues)


def pmd_back_end(socket: Path | str, *, queues: int, prefix: str) -> list[str]:
    """dpdk-testpmd as a back-end, which sends each frame back to its sender."""
    return argv(PMD_BACK_END, socket, queues=queues, prefix=prefix)


def pmd_front_end(socket: Path | str, *, queues: int, prefix: str) -> list[str]:
    """dpdk-testpmd as a front-end, which needs no VM; it starts after it has connected."""
    return argv(PMD_FRONT_END, socket, queues=queues, prefix=prefix)


class Running:
    """A program while it runs; its standard input stays open, as testpmd ends with it.

    Args:
        argv: the command.
        log: file for its output.
    """

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )

    def await_socket(self, path: Path) -> None:
        """Return when its socket exists."""

        def exists() -> bool:
            assert self.process.poll() is None, self.output
            return path.exists()

        wait_until(exists, f"{path} exists")

    @property
    def output(self) -> str:
        """The output so far."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_TIMEOUT)
