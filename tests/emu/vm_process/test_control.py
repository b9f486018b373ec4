"""The monitor's commands, also when a back-end fails during one."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from emu.config import vm_file
from emu.errors import EmuError
from emu.vm.vm import Vm
from emu.vm_process.control import Control
from tests.emu.migration.hosts import SPEC, Host, await_disk, await_requests, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.qmp.protocol import JsonObject

BLK0 = 1
Events = queue.SimpleQueue[tuple[str, "JsonObject"]]


@pytest.fixture
def events() -> Events:
    """The events of the control."""
    return queue.SimpleQueue()


def _create(control: Control, name: str, host: Host) -> None:
    """Describe the VM to a control that has none."""
    control.create(
        name=name,
        spec=vm_file.spec_to_json(SPEC),
        accel="soft",
        costs="native",
        load="heavy",
        backends=host.sockets,
    )


@pytest.fixture
def control(hosts: tuple[Host, Host], owned: ExitStack, events: Events) -> Control:
    """The control of a VM under load."""
    made = Control(lambda name, data: events.put((name, data)))
    _create(made, "A", hosts[0])
    owned.callback(made.close)
    made.start()
    await_requests(made.vm)
    return made


@pytest.mark.parametrize("step", ["reset_device", "activate_device"])
def test_a_device_whose_back_end_ends_during_a_reset_is_lost(
    hosts: tuple[Host, Host],
    control: Control,
    events: Events,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an event; the other devices are reset, and the lost one works after its reconnection."""
    host, vm, original = hosts[0], control.vm, getattr(Vm, step)

    def kill_and_do(vm: Vm, index: int) -> None:
        if index == BLK0:
            host.kill("blk0")
        original(vm, index)

    monkeypatch.setattr(Vm, step, kill_and_do)
    with pytest.raises(EmuError, match="without a back-end: blk0"):
        control.reset()
    assert [events.get(timeout=TIMEOUT)[0] for _ in range(2)] == ["DEVICE_LOST", "RESET"]
    assert control.query_status() == {"status": "running", "running": True}
    await_disk(vm, 1, 0)
    host.restart("blk0")
    assert events.get(timeout=TIMEOUT) == ("DEVICE_BACK", {"device": "blk0"})
    await_disk(vm, 0, 0)
    await_requests(vm)
    check_request_log(vm)
    monkeypatch.undo()
    control.reset()
    await_requests(vm)


def await_end(events: Events) -> str:
    """Wait for the end of the migration; return its status."""
    while True:
        name, data = events.get(timeout=TIMEOUT)
        if name == "MIGRATION" and data["status"] in ("completed", "failed", "cancelled"):
            return str(data["status"])


@pytest.mark.parametrize("handover", [False, True])
def test_the_status_before_and_after_an_incoming_migration(
    hosts: tuple[Host, Host],
    control: Control,
    events: Events,
    owned: ExitStack,
    tmp_path: Path,
    *,
    handover: bool,
) -> None:
    """As in QEMU: inmigrate until the migration has completed, and paused after a later stop."""
    other_events: Events = queue.SimpleQueue()
    other = Control(lambda name, data: other_events.put((name, data)))
    owned.callback(other.close)
    assert other.query_status() == {"status": "prelaunch", "running": False}
    _create(other, "B", hosts[1])
    uri = other.incoming(f"unix:{tmp_path / 'stream'}", handover=handover)["uri"]
    awaiting = "prelaunch" if handover else "inmigrate"
    assert other.query_status() == {"status": awaiting, "running": False}
    control.migrate(uri, "handover" if handover else "split", {})
    assert [await_end(events), await_end(other_events)] == ["completed", "completed"]
    assert control.query_status() == {"status": "paused", "running": False}
    assert other.query_status() == {"status": "running", "running": True}
    assert "precopy" in control.timeline()
    assert "source" in other.timeline()
    assert "ram" in control.query_migrate()
    assert "ram" not in other.query_migrate()
    other.stop()
    assert other.query_status() == {"status": "paused", "running": False}
    other.cont()
    assert other.query_status() == {"status": "running", "running": True}
    await_requests(other.vm)
    check_request_log(other.vm)


def test_a_new_deadline_holds_for_a_running_vm(control: Control) -> None:
    """The VM itself uses it for the dirty log and a roll-back."""
    control.set_parameters({"deadline": 3.5})
    assert control.vm.timeout == 3.5
