"""Two `emu run --qmp`, driven by the public client ``qemu.qmp``: the whole life of a VM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.emu.vm_process.qmp_clients import Client, unix_chardev
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHAPE = ("--net", "1x2", "--blk", "2x1", "--vcpus", "2", "--memory", "256M")


class Run:
    """An `emu run` with a monitor."""

    def __init__(self, folder: Path, name: str, *options: str) -> None:
        self.qmp = folder / f"{name}.qmp"
        self._json = folder / f"{name}.json"
        self.printed = ""
        (folder / "images").mkdir(exist_ok=True)
        argv = [*SHAPE, "--images", str(folder / "images"), "--qmp", f"unix:{self.qmp}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "emu.cli", "run", *argv, "--json", str(self._json), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Return when its monitor listens."""

        def listens() -> bool:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
                sock.connect(str(self.qmp))
                return True
            return False

        wait_until(listens, "the monitor listens")

    def end(self) -> dict[str, Any]:
        """Wait for its end, which is a success; returns its JSON."""
        self.printed, errors = self.process.communicate(timeout=PROGRAM_TIMEOUT)
        assert self.process.returncode == 0, errors
        document: dict[str, Any] = json.loads(self._json.read_text())
        return document

    def close(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[tuple[Run, Run]]:
    """A VM that runs, and a run that waits for QMP's migrate-incoming."""
    with contextlib.ExitStack() as owned:
        source, destination = Run(tmp_path, "a"), Run(tmp_path, "b", "--incoming", "defer")
        for run in (source, destination):
            owned.callback(run.close)
        for run in (source, destination):
            run.ready()
        yield source, destination


async def work(client: Client) -> None:
    """Return when the guest has completed more requests and packets on each device."""

    async def completed() -> dict[str, int]:
        devices = (await client.do("x-query-devices"))["devices"]
        return {device["id"]: device["completed"] for device in devices}

    before = await completed()
    end = asyncio.get_running_loop().time() + TIMEOUT
    while any(now <= before[name] for name, now in (await completed()).items()):
        assert asyncio.get_running_loop().time() < end


@pytest.mark.slow
def test_a_vm_is_driven_by_the_client_of_qemu(runs: tuple[Run, Run], tmp_path: Path) -> None:
    """Run, device_del, device_add, migrate, cancel, migrate, quit; nothing is lost."""
    source, destination = runs
    uri = f"unix:{tmp_path / 'stream'}"

    async def drive() -> None:
        async with Client(source.qmp) as here, Client(destination.qmp) as there:
            await work(here)
            await here.do("device_del", id="blk1")
            assert (await here.event("DEVICE_DELETED"))["data"]["device"] == "blk1"
            await work(here)
            await here.do("device_add", driver="vhost-user-blk-pci", id="blk1", chardev="char-blk1")
            await work(here)
            # No process listens yet: it fails, and the VM runs on.
            await here.do("migrate", uri=uri)
            assert await here.migration_ends() == "failed"
            await there.do("migrate-incoming", uri=uri)
            await here.do("migrate-set-parameters", max_bandwidth=1 << 20)
            await here.do("migrate", uri=uri)
            assert (await here.event("MIGRATION_PASS"))["data"] == {"pass": 1}
            await here.do("migrate_cancel")
            assert await here.migration_ends() == "cancelled"
            await work(here)
            await here.do("stop")
            await here.event("STOP")
            await here.do("quit")

    asyncio.run(drive())
    document = source.end()
    assert document["integrity"]["requests"] > 0
    assert document["totals"]["blk"]["requests"] > 0
    assert destination.process.wait(TIMEOUT) == 1
    assert destination.process.stderr is not None
    assert "the migration failed" in destination.process.stderr.read()


def test_a_vm_is_migrated_by_the_client_of_qemu(runs: tuple[Run, Run], tmp_path: Path) -> None:
    """The destination checks what the guest has written on either side."""
    source, destination = runs
    uri = f"unix:{tmp_path / 'stream'}"

    async def drive() -> None:
        async with Client(source.qmp) as here, Client(destination.qmp) as there:
            assert (await there.do("query-status"))["status"] == "inmigrate"
            await there.do("migrate-incoming", uri=uri)
            await work(here)
            await here.do("migrate", uri=uri)
            assert await here.migration_ends() == "completed"
            assert await there.migration_ends() == "completed"
            assert (await here.do("query-status"))["status"] == "postmigrate"
            assert (await here.do("query-migrate"))["downtime"] >= 0
            assert (await here.do("x-downtime-phases"))["phases"]
            await work(there)
            await there.do("quit")
            await here.do("quit")

    asyncio.run(drive())
    assert source.end()["departed"]
    document = destination.end()
    assert document["arrival"]["strategy"] == "prewired"
    assert document["integrity"]["lost"] == document["integrity"]["duplicated"] == 0


@pytest.mark.slow
def test_quit_before_a_vm_has_arrived(runs: tuple[Run, Run]) -> None:
    """The destination ends with an error: there is no VM."""
    source, destination = runs

    async def drive() -> None:
        async with Client(destination.qmp) as there, Client(source.qmp) as here:
            await there.do("quit")
            assert (await there.event("SHUTDOWN"))["data"]["reason"] == "host-qmp-quit"
            await work(here)
            await here.do("quit")

    asyncio.run(drive())
    assert destination.process.wait(TIMEOUT) == 1
    source.end()


@pytest.mark.slow
def test_quit_during_a_migration(runs: tuple[Run, Run], tmp_path: Path) -> None:
    """The migration is cancelled, and the source's run checks what its guest has done."""
    source, destination = runs
    uri = f"unix:{tmp_path / 'stream'}"

    async def drive() -> None:
        async with Client(source.qmp) as here, Client(destination.qmp) as there:
            await there.do("migrate-incoming", uri=uri)
            await here.do("migrate-set-parameters", max_bandwidth=1 << 20)
            await here.do("migrate", uri=uri)
            await here.event("MIGRATION_PASS")
            await here.do("quit")

    asyncio.run(drive())
    document = source.end()
    assert "departed" not in document
    assert document["integrity"]["requests"] > 0
    assert destination.process.wait(TIMEOUT) == 1


@pytest.mark.slow
def test_a_vm_that_was_reset_and_has_another_disk_is_checked(
    runs: tuple[Run, Run], tmp_path: Path, owned: contextlib.ExitStack
) -> None:
    """The guest's log begins anew, and what it wrote is on two disks: no failure is made of it."""
    source, destination = runs
    image, path = tmp_path / "other.img", tmp_path / "other.sock"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    argv = [sys.executable, "-m", "backends.blk", "--socket-path", str(path), "--blk-file"]
    program = owned.enter_context(subprocess.Popen([*argv, str(image)]))
    owned.callback(program.kill)
    wait_until(path.is_socket, "the other disk's back-end listens")

    async def drive() -> None:
        async with Client(source.qmp) as here, Client(destination.qmp) as there:
            await work(here)
            await here.do("system_reset")
            await work(here)
            await here.do("device_del", id="blk1")
            await here.event("DEVICE_DELETED")
            await here.do("chardev-add", id="c", backend=unix_chardev(str(path)))
            await here.do("device_add", driver="vhost-user-blk-pci", id="blk1", chardev="c")
            await work(here)
            await here.do("quit")
            await there.do("quit")

    asyncio.run(drive())
    integrity = source.end()["integrity"]
    assert integrity["requests"] > 0
    assert integrity["lost"] == integrity["duplicated"] == integrity["corrupted"] == 0
    # Neither the counters, which were of before the reset, nor the image of another disk.
    proof = "proof: the guest's request log, all blocks read back by the guest\n"
    assert proof in source.printed
