"""Our back-ends under a Linux guest in QEMU, including migration."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.peers.linux_guest import (
    DISK_JOB,
    GROW_JOB,
    PING_JOB,
    READ_JOB,
    Client,
    Guest,
    make_initramfs,
)
from tests.peers.programs import Running, need
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user import postcopy

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = [pytest.mark.peer, pytest.mark.timeout(3 * PROGRAM_TIMEOUT)]

IMAGE_BYTES = 48 << 20
#: The trace event of QEMU for memory bases that a back-end reports in postcopy.
PLACED = "vhost_user_set_mem_table_postcopy"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty disk."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    return path


def start_disk(path: Path, image: Path, owned: ExitStack) -> Running:
    """Our disk, listening."""
    argv = [sys.executable, "-m", "backends.blk", "--socket-path", str(path)]
    argv += ["--blk-file", str(image)]
    disk = owned.enter_context(Running(argv, path.with_suffix(".log")))
    disk.await_socket(path)
    return disk


def serve_disk(side: str, image: Path, owned: ExitStack) -> list[str]:
    """Our disk, and QEMU's options for it."""
    path = image.parent / f"{side}-disk.sock"
    start_disk(path, image, owned)
    return disk_options(path)


def disk_options(path: Path) -> list[str]:
    """QEMU's options for a disk on this socket."""
    return [
        *("-chardev", f"socket,id=disk,path={path}"),
        *("-device", "vhost-user-blk-pci,chardev=disk,num-queues=1"),
    ]


def serve_nic(side: str, folder: Path, owned: ExitStack) -> list[str]:
    """Our NIC with an uplink to a client, and QEMU's options for it.

    QEMU 7.2 under TCG aborts with vhost-user NICs and MSI-X, so MSI-X is off.
    """
    path, client = folder / f"{side}-nic.sock", folder / f"{side}-client.sock"
    owned.callback(Client(client).close)
    argv = [sys.executable, "-m", "backends.net", "--socket-path", str(path), "--mode", "switch"]
    argv += ["--uplink", str(folder / f"{side}-uplink.sock"), "--uplink-peer", str(client)]
    owned.enter_context(Running(argv, folder / f"{side}-nic.log")).await_socket(path)
    return [
        *("-chardev", f"socket,id=nic,path={path}"),
        *("-netdev", "vhost-user,id=net,chardev=nic"),
        *("-device", "virtio-net-pci,netdev=net,vectors=0"),
    ]


def check_file_system(image: Path) -> None:
    """``e2fsck -fn`` finds no error."""
    program = need("e2fsck", "e2fsprogs")
    found = subprocess.run(
        [program, "-fn", str(image)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_file_system_and_ping(tmp_path: Path, image: Path, owned: ExitStack) -> None:
    """ext4 on our disk under fio's checksums; pings through our NIC."""
    job = DISK_JOB.format(size="4m", loops=2) + PING_JOB
    initramfs = make_initramfs(tmp_path, job)
    devices = serve_disk("a", image, owned) + serve_nic("a", tmp_path, owned)
    guest = owned.enter_context(Guest(tmp_path, "guest", initramfs, devices))
    for line in ("booted", "fio is clean", "unmounted", "ping is clean", "done"):
        guest.await_line(line)
    guest.await_end()
    check_file_system(image)


def test_disk_that_grows(tmp_path: Path, image: Path, owned: ExitStack) -> None:
    """The guest is notified, and writes to the new sectors."""
    sectors = 2 * IMAGE_BYTES // 512
    initramfs = make_initramfs(tmp_path, GROW_JOB.format(sectors=sectors))
    path = tmp_path / "disk.sock"
    disk = start_disk(path, image, owned)
    guest = owned.enter_context(Guest(tmp_path, "guest", initramfs, disk_options(path)))
    guest.await_line("job begins")
    assert "disk has grown" not in guest.console
    os.truncate(image, 2 * IMAGE_BYTES)
    disk.process.send_signal(signal.SIGHUP)
    for line in ("disk has grown", "written", "done"):
        guest.await_line(line)
    guest.await_end()
    assert disk.output == ""


def test_live_migration_between_two_qemus(tmp_path: Path, image: Path, owned: ExitStack) -> None:
    """While fio writes; its verification passes at the destination, and so does e2fsck."""
    initramfs = make_initramfs(tmp_path, DISK_JOB.format(size="4m", loops=8))
    options = [
        serve_disk(side, image, owned) + serve_nic(side, tmp_path, owned) for side in ("a", "b")
    ]
    source = owned.enter_context(Guest(tmp_path, "source", initramfs, options[0]))
    source.await_line("fio begins")
    stream = f"unix:{tmp_path / 'stream'}"
    destination = owned.enter_context(
        Guest(tmp_path, "destination", initramfs, options[1], incoming=stream)
    )
    destination.await_socket(tmp_path / "stream")
    source.command("migrate", uri=stream)
    state = source.await_migrated()
    assert state["downtime"] < 5_000
    assert "fio is clean" not in source.console
    source.command("quit")
    for line in ("fio is clean", "unmounted", "done"):
        destination.await_line(line)
    destination.await_end()
    check_file_system(image)


@pytest.mark.skipif(not postcopy.possible(), reason="no userfaultfd for this user")
def test_postcopy_between_two_qemus(tmp_path: Path, image: Path, owned: ExitStack) -> None:
    """The guest continues before its memory has arrived, and reads its disk.

    Either a vCPU or the back-end accesses a missing page first.
    """
    image.write_bytes(random.Random(1).randbytes(IMAGE_BYTES))
    digest = hashlib.md5(image.read_bytes(), usedforsecurity=False).hexdigest()
    initramfs = make_initramfs(tmp_path, READ_JOB.format(turns=8, digest=digest))
    options = [serve_disk(side, image, owned) for side in ("a", "b")]
    options[1] += ["-trace", PLACED]
    source = owned.enter_context(Guest(tmp_path, "source", initramfs, options[0]))
    source.await_line("job begins")
    stream = f"unix:{tmp_path / 'stream'}"
    destination = owned.enter_context(
        Guest(tmp_path, "destination", initramfs, options[1], incoming=stream)
    )
    destination.await_socket(tmp_path / "stream")
    for guest in (source, destination):
        capability = {"capability": "postcopy-ram", "state": True}
        guest.command("migrate-set-capabilities", capabilities=[capability])
    # The bandwidth is low, so that precopy does not complete before postcopy begins.
    source.command("migrate-set-parameters", **{"max-bandwidth": 8 << 20})
    source.command("migrate", uri=stream)
    source.command("migrate-start-postcopy")
    source.await_migrated("postcopy-active")
    assert PLACED in destination.output
    assert "all was read" not in destination.console
    source.command("quit")
    for line in ("all was read", "done"):
        destination.await_line(line)
    destination.await_end()
