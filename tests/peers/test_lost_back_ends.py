"""Our front-end on back-ends of other projects that go away, or are stopped, under load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.costs import NATIVE
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.vm.vm import Vm
from emu.vm_process.control import Control
from tests.emu.migration.hosts import IMAGE_BYTES, await_requests, check_request_log
from tests.peers.programs import Running, storage_daemon
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = pytest.mark.peer

DISKS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 2),))
#: Requests that complete between two interruptions.
REQUESTS = 500


class Daemons:
    """A qemu-storage-daemon for each disk: no inflight region, and completions in any order.

    Attributes:
        sockets: by the device's name.
    """

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.sockets = {disk.name: str(folder / f"{disk.name}.sock") for disk in DISKS.devices}
        self._folder = folder
        self._owned = owned
        self._running: dict[str, Running] = {}
        for name in self.sockets:
            with (folder / f"{name}.img").open("wb") as image:
                image.truncate(IMAGE_BYTES)
            self.start(name)

    def start(self, name: str) -> None:
        """Start the daemon of a disk."""
        path = self._folder / f"{name}.sock"
        argv = storage_daemon(self._folder / f"{name}.img", path, queues=DISKS.groups[0].rings)
        running = self._owned.enter_context(Running(argv, self._folder / f"{name}.log"))
        running.await_socket(path)
        self._running[name] = running

    def kill(self, name: str) -> None:
        """Kill it; its socket's path is free when this returns."""
        process = self._running[name].process
        process.kill()
        process.wait(TIMEOUT)
        (self._folder / f"{name}.sock").unlink()

    def check(self) -> None:
        """Every daemon still runs."""
        for running in self._running.values():
            assert running.process.poll() is None, running.output


@pytest.fixture
def daemons(tmp_path: Path, owned: ExitStack) -> Daemons:
    """Two of them."""
    return Daemons(tmp_path, owned)


@pytest.mark.slow
def test_a_storage_daemon_that_is_killed_under_load(daemons: Daemons, owned: ExitStack) -> None:
    """Ten times: nothing is lost, completed twice or corrupted.

    The driver resets the disk and submits its requests in flight again. That is not necessary where
    the daemon had completed all of them when it was killed, and the driver had not gone on yet.
    """
    resets: list[str] = []

    def observe(event: str, data: dict[str, object]) -> None:
        if event == "DEVICE_NEEDS_RESET":
            resets.append(str(data["device"]))

    vm = Vm(DISKS, accel="soft", costs=NATIVE, backends=daemons.sockets, observe=observe)
    owned.callback(vm.close)
    vm.boot()
    vm.guest.start_load("heavy")
    for _ in range(10):
        await_requests(vm, REQUESTS)
        daemons.kill("blk1")
        wait_until(lambda: "blk1" in vm.reconnect.lost)
        daemons.start("blk1")
        vm.reconnect.await_all(TIMEOUT)
        assert not vm.reconnect.lost
    await_requests(vm, REQUESTS)
    check_request_log(vm)
    assert set(resets) == {"blk1"}
    assert len(resets) <= 10
    daemons.check()


@pytest.mark.slow
def test_stop_and_cont_under_heavy_load(daemons: Daemons, owned: ExitStack) -> None:
    """Twenty times on two daemons, with requests in flight at each stop."""
    vm = Vm(DISKS, accel="soft", costs=NATIVE, backends=daemons.sockets)
    control = Control(lambda _name, _data: None)
    owned.callback(control.close)
    control.boot(vm, "heavy")
    for _ in range(20):
        await_requests(vm, REQUESTS)
        control.stop()
        control.cont()
    await_requests(vm, REQUESTS)
    check_request_log(vm)
    assert not vm.reconnect.lost
    daemons.check()
