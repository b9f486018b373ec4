"""`emu top` on the monitor of a VM that a test runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.vm_process.control import Control
from emu.vm_process.monitor import Monitor
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.qmp.listener import MonitorListener
    from tests.emu.migration.hosts import Host

EMU = (sys.executable, "-m", "emu.cli", "top")


@pytest.fixture
def monitor(hosts: tuple[Host, Host], owned: ExitStack, tmp_path: Path) -> MonitorListener:
    """The monitor of a VM under load, at ``qmp`` in the test's folder."""
    control = Control(lambda _name, _data: None)
    owned.callback(control.close)
    hosts[0].create(control, load="light")
    control.start()
    listener = Monitor(control).listen(tmp_path / "qmp")
    listener.start()
    owned.callback(listener.close)
    return listener


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*EMU, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


@pytest.mark.usefixtures("monitor")
def test_once(tmp_path: Path) -> None:
    """A table, or a line of JSON, with rates."""
    address = f"unix:{tmp_path / 'qmp'}"
    done = top(address, "--once", "--interval", "100ms")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("net0", "blk0", "blk1", "done/s", "running"):
        assert name in done.stdout
    done = top(address, "--once", "--json", "--interval", "100ms")
    (line,) = done.stdout.splitlines()
    devices = json.loads(line)["devices"]
    assert [device["id"] for device in devices] == ["net0", "blk0", "blk1"]
    assert all(device["rates"].keys() == {"completed", "kicks", "calls"} for device in devices)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("monitor")
def test_ctrl_c_ends_it(tmp_path: Path, signum: signal.Signals) -> None:
    """Without an error: the command has no other end."""
    argv = [*EMU, str(tmp_path / "qmp"), "--json", "--interval", "10ms"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as live:
        assert live.stdout is not None
        for _ in range(3):
            assert json.loads(live.stdout.readline())["status"] == "running"
        live.send_signal(signum)
        _, errors = live.communicate(timeout=PROGRAM_TIMEOUT)
    assert (live.returncode, errors) == (0, "")


def test_a_monitor_that_goes_away(monitor: MonitorListener, tmp_path: Path) -> None:
    """One line."""
    argv = [*EMU, str(tmp_path / "qmp"), "--json", "--interval", "10ms"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as live:
        assert live.stdout is not None
        assert live.stdout.readline()
        monitor._listener.close()
        for server in [*monitor._servers]:
            server.hang_up()
        _, errors = live.communicate(timeout=PROGRAM_TIMEOUT)
    assert live.returncode == 1
    assert errors == f"emu: {tmp_path / 'qmp'}: the monitor has gone: its VM has ended\n"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("{folder}/none",), 1, "no monitor listens there"),
        (("tcp:127.0.0.1:1",), 2, "write unix:PATH"),
        (("a", "--interval", "0s"), 2, "--interval 0"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_watched(
    tmp_path: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    """One line that says what to change."""
    done = top(*(argument.format(folder=tmp_path) for argument in arguments))
    assert done.returncode == status
    assert text in done.stderr
