"""The programs of others that the tests run against, and how each is started."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

#: Debian keeps it off the path.
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
END_PATIENCE = 5.0
START_PATIENCE = 20.0


def need(program: str, package: str) -> str:
    """Where a program is; the test is skipped when it is not."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    return found


def storage_daemon(image: Path, socket: Path | str, *, queues: int) -> list[str]:
    """qemu-storage-daemon with one vhost-user-blk export."""
    export = f"type=vhost-user-blk,id=e,node-name=d,num-queues={queues},writable=on"
    return [
        need("qemu-storage-daemon", "qemu-utils"),
        *("--blockdev", f"driver=file,node-name=f,filename={image},locking=off"),
        *("--blockdev", "driver=raw,node-name=d,file=f"),
        *("--export", f"{export},addr.type=unix,addr.path={socket}"),
    ]


def pmd_back_end(socket: Path | str, *, queues: int, prefix: str) -> list[str]:
    """dpdk-testpmd as a back-end, which sends each frame back to where it came from."""
    return [
        need("dpdk-testpmd", "dpdk-dev"),
        *("-l", "0,1", "--no-huge", "--no-shconf", "-m", "256", "--no-pci"),
        *("--file-prefix", prefix),
        *("--vdev", f"net_vhost0,iface={socket},queues={queues}"),
        "--",
        *("-i", "--auto-start", f"--rxq={queues}", f"--txq={queues}", "--nb-cores=1"),
        *("--total-num-mbufs=8192", "--no-mlockall"),
    ]


def pmd_front_end(socket: Path | str, *, queues: int, prefix: str) -> list[str]:
    """dpdk-testpmd as a front-end, which needs no VM; it starts when it has connected."""
    device = f"net_virtio_user0,path={socket},queues={queues},queue_size=256"
    return [
        need("dpdk-testpmd", "dpdk-dev"),
        *("-l", "0,1", "--no-huge", "--no-shconf", "-m", "256", "--no-pci"),
        *("--file-prefix", prefix, "--single-file-segments", "--vdev", device),
        "--",
        *("-i", f"--rxq={queues}", f"--txq={queues}", "--nb-cores=1"),
        *("--total-num-mbufs=4096", "--no-mlockall"),
    ]


def virtiofsd(folder: Path, socket: Path | str) -> list[str]:
    """The C virtiofsd of QEMU 7.2, which ends with its front-end."""
    if not Path(VIRTIOFSD).exists():
        pytest.skip("virtiofsd is not installed (Debian: apt-get install qemu-system-common)")
    return [VIRTIOFSD, f"--socket-path={socket}", "-o", f"source={folder}", "-o", "sandbox=chroot"]


class Running:
    """A program while it runs; its standard input stays open, as testpmd ends with it.

    Args:
        argv: the command.
        log: file for all that it says.
    """

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )

    def await_socket(self, path: Path) -> None:
        """Return when its socket is there."""
        until = time.monotonic() + START_PATIENCE
        while not path.exists():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.01)  # a name that appears in a directory; nothing tells of it

    @property
    def said(self) -> str:
        """All that it has said."""
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
            self.process.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_PATIENCE)
