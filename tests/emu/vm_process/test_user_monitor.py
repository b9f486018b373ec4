"""x-monitor of a VM's process; tests/emu/test_monitored_runs.py has the whole."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import EmuError
from emu.vm_process.control import Control
from emu.vm_process.user_monitor import UserMonitor
from tests.emu.qmp.test_listener import Client, negotiated
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Reports = queue.SimpleQueue[tuple[str, Any]]


@pytest.fixture
def reports() -> Reports:
    """What the process that started this one is told."""
    return queue.SimpleQueue()


@pytest.fixture
def users(reports: Reports, tmp_path: Path) -> Iterator[UserMonitor]:
    """The users' monitor of a process without a VM."""
    control = Control(lambda _name, _data: None)
    made = UserMonitor(control, threading.Lock(), lambda name, data: reports.put((name, data)))
    made.emit("STOP", {})  # no client is connected yet
    made.open(str(tmp_path / "qmp"))
    yield made
    made.close()


def test_quit_is_reported(users: UserMonitor, reports: Reports, tmp_path: Path) -> None:
    """To the process that started this one."""
    client = negotiated(tmp_path / "qmp")
    client.send("query-status")
    assert client.read()["return"]["status"] == "prelaunch"
    users.emit("STOP", {})
    assert client.read()["event"] == "STOP"
    client.send("quit")
    assert client.read() == {"return": {}}
    assert reports.get(timeout=TIMEOUT) == (
        "SHUTDOWN",
        {"guest": False, "reason": "host-qmp-quit"},
    )
    client.close()


def test_a_second_monitor_is_refused(users: UserMonitor, tmp_path: Path) -> None:
    """One is enough: it has many clients."""
    with pytest.raises(EmuError, match="another path"):
        users.open(str(tmp_path / "other"))


def test_the_end_of_the_process_is_an_event(users: UserMonitor, tmp_path: Path) -> None:
    """As of QEMU that a signal ends."""
    client: Client = negotiated(tmp_path / "qmp")
    users.close()
    assert client.read()["data"] == {"guest": False, "reason": "host-signal"}
    client.close()
