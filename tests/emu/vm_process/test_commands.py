"""The VM process and its monitor's commands."""

from __future__ import annotations

import inspect
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.errors import CommandError
from emu.orchestrator.signals import SignalWatcher
from emu.qmp.client import MonitorClient
from emu.vm_process.commands import VmControl, commands
from emu.vm_process.control import Control
from tests.emu.fake_runs import FAKE_VM
from tests.emu.fake_vm import FakeVm
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def vm() -> Iterator[tuple[MonitorClient, subprocess.Popen[bytes]]]:
    """A process and its monitor; the process ends when the monitor is disconnected."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [*FAKE_VM, "--monitor-fd", str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),))
    with SignalWatcher() as watcher:
        client = MonitorClient(ours, "VM", watcher)
        client.negotiate(20)
        yield client, process
        client.close()
    assert process.wait(TIMEOUT) == 0


def test_every_method_of_the_protocol_is_a_command(
    vm: tuple[MonitorClient, subprocess.Popen[bytes]],
) -> None:
    """And of its implementations each public method, except for those of their own process."""
    client, _ = vm
    of_the_process = {"boot", "close", "await_incoming", "hotplugging", "settle"}
    methods = {name for name in vars(VmControl) if not name.startswith("_")} - of_the_process
    for implementation in (Control, FakeVm):
        own = {name for name, value in vars(implementation).items() if inspect.isfunction(value)}
        assert {name for name in own if not name.startswith("_")} - of_the_process == methods
    assert {handler.__name__ for handler in commands(FakeVm(lambda *_: None)).values()} == methods
    listed = client.execute("query-commands", timeout=TIMEOUT)["value"]
    assert {"x-create", "migrate", "query-migrate", "quit"} <= {item["name"] for item in listed}


def test_arguments_are_checked_against_the_protocol(
    vm: tuple[MonitorClient, subprocess.Popen[bytes]],
) -> None:
    """Before the control is called."""
    client, _ = vm
    with pytest.raises(CommandError, match="'uri', expected: string"):
        client.execute("migrate-incoming", {"uri": 7}, timeout=TIMEOUT)
    with pytest.raises(CommandError, match="'backends', expected: object"):
        client.execute(
            "x-create",
            {"name": "", "spec": {}, "accel": "", "costs": "", "load": "", "backends": []},
            timeout=TIMEOUT,
        )


def test_quit_ends_the_process(vm: tuple[MonitorClient, subprocess.Popen[bytes]]) -> None:
    """As QEMU does."""
    client, process = vm
    client.execute("quit", timeout=TIMEOUT)
    assert process.wait(TIMEOUT) == 0
