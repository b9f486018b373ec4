"""The monitor that `emu top` watches: of a VM, and of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError, MonitorError
from emu.orchestrator.signals import SignalWatcher
from emu.orchestrator.watched_monitor import WatchedMonitor
from emu.qmp.listener import MonitorListener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.qmp.server import Handler


def no_vm() -> None:
    """A handler of a process whose VM is not built yet."""
    raise EmuError("this process has no VM")


def no_migration() -> dict[str, object]:
    """A handler of a VM that was not migrated."""
    return {}


HANDLERS: dict[str, Handler] = {
    "query-status": lambda: {"status": "prelaunch", "running": False},
    "query-migrate": no_migration,
    "x-query-devices": no_vm,
}


@pytest.fixture
def watcher() -> Iterator[SignalWatcher]:
    """Waits for responses."""
    with SignalWatcher() as made:
        yield made


def test_a_vm_that_is_not_built_yet(tmp_path: Path, watcher: SignalWatcher) -> None:
    """It has no devices; when it goes away, that is one error."""
    listener = MonitorListener(tmp_path / "qmp", HANDLERS)
    listener.start()
    with WatchedMonitor(tmp_path / "qmp", watcher) as monitor:
        sample = monitor.sample()
        assert (sample.status, sample.devices) == ("prelaunch", ())
        monitor.pause(0)
        listener.close()
        with pytest.raises(MonitorError, match="the monitor has gone: its VM has ended"):
            monitor.sample()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"now-ns": 1, "devices": [{"id": 7}]}, "an invalid response: x-query-devices"),
        (None, "x-query-devices has not been found"),
    ],
)
def test_the_monitor_of_another_program(
    tmp_path: Path, watcher: SignalWatcher, answer: object, text: str
) -> None:
    """Such as QEMU's own."""
    handlers = {**HANDLERS, "x-query-devices": lambda: answer}
    if answer is None:
        del handlers["x-query-devices"]
    listener = MonitorListener(tmp_path / "qmp", handlers)
    listener.start()
    with (
        WatchedMonitor(tmp_path / "qmp", watcher) as monitor,
        pytest.raises(MonitorError, match=text),
    ):
        monitor.sample()
    listener.close()


def test_nobody_listens(tmp_path: Path, watcher: SignalWatcher) -> None:
    """The error names the path."""
    with pytest.raises(MonitorError, match="none: no monitor listens there"):
        WatchedMonitor(tmp_path / "none", watcher)


def test_a_migration_that_is_described_in_another_way(
    tmp_path: Path, watcher: SignalWatcher
) -> None:
    """One error of one line."""
    handlers = {**HANDLERS, "query-migrate": lambda: {"ram": {"transferred": "much"}}}
    listener = MonitorListener(tmp_path / "qmp", handlers)
    listener.start()
    with (
        WatchedMonitor(tmp_path / "qmp", watcher) as monitor,
        pytest.raises(MonitorError, match=r"query-migrate\.ram\.remaining is missing|transferred"),
    ):
        monitor.sample()
    listener.close()
