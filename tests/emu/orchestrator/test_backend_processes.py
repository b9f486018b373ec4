"""The back-end programs of one side, with the real programs."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import ProgramError
from emu.orchestrator.backend_processes import BackendProcesses, program_specs
from emu.orchestrator.run_directory import RunDirectory
from emu.orchestrator.signals import SignalWatcher
from tests.emu.fake_runs import disk_file, machine_plan, no_leftovers
from tests.timeouts import TIMEOUT


def test_all_programs_listen_when_they_are_ready() -> None:
    """After the stop no process and no socket is left."""
    with no_leftovers() as pids, RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", machine_plan(stop_time=20_000_000), directory, watcher)
        try:
            backends.start()
            backends.await_ready()
            pids.extend(backends.pids)
            assert len(backends.pids) == 4
            for path in backends.sockets.values():
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
            assert all(Path(path).exists() for path in backends.uplinks)
            assert backends.served() == 0
            assert backends.totals()["net"]["packets_tx"] == 0
        finally:
            backends.stop()
        assert not any(
            Path(path).exists() for path in (*backends.sockets.values(), *backends.uplinks)
        )


def test_a_socket_in_use_is_an_error_of_the_program_that_binds_it() -> None:
    """The error has the last line of its stderr."""
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", machine_plan(), directory, watcher)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(backends.sockets["blk1"])
                sock.listen()
                backends.start()
                with pytest.raises(ProgramError, match=r"blk-1 of side A ended .*blk1\.sock"):
                    backends.await_ready()
        finally:
            backends.stop()


def test_the_next_wait_raises_the_end_of_a_program() -> None:
    """Any wait of the run."""
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("B", machine_plan(), directory, watcher)
        try:
            backends.start()
            backends.await_ready()
            os.kill(backends.pids[0], signal.SIGKILL)
            with pytest.raises(ProgramError, match="back-end net-0 of side B ended by SIGKILL"):
                watcher.pause(TIMEOUT)
        finally:
            backends.stop()


@pytest.mark.parametrize("kind", ["net", "blk"])
def test_devices_are_split_between_two_programs(kind: str) -> None:
    """As evenly as possible; a single device has one program."""
    with RunDirectory() as directory:

        def programs(devices: int) -> list[list[str]]:
            spec = VmSpec(1, 1 << 30, (DeviceGroup(kind, devices, 2),))
            specs = program_specs(MachinePlan(spec), directory)
            return [[device.name for device in spec.devices] for spec in specs]

        assert programs(1) == [[f"{kind}0"]]
        assert programs(5) == [[f"{kind}{n}" for n in part] for part in ((0, 1), (2, 3, 4))]


def test_a_disk_that_is_only_read_has_a_read_only_program(tmp_path: Path) -> None:
    """The programs of the other disks are writable, also that of a writable image file."""
    with RunDirectory() as directory:
        for writable in (False, True):
            disk = disk_file(tmp_path / "disk.img", bytes(512), writable=writable)
            specs = program_specs(machine_plan(disk=disk), directory)
            disks = [spec for spec in specs if spec.device_class == "blk"]
            owner = next(spec for spec in disks if str(disk.path) in spec.arguments)
            assert owner.devices[0].name == "blk0"
            assert ("--read-only" in owner.arguments) != writable
            assert [spec.name for spec in disks] == (
                ["blk-0", "blk-1"] if writable else ["blk-ro", "blk-0"]
            )
