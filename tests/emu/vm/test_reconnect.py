"""A device whose back-end has disconnected is started on the next one, and loses no request."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import pytest

from devices.blk import VhostUserBlk
from emu.config.costs import NATIVE
from emu.errors import MigrationError
from emu.guest.layout import BLK_SLOTS
from emu.vm.vm import Vm
from tests.emu.migration.hosts import (
    Host,
    Migration,
    await_disk,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import VhostUserError
from vhost_user.features import ProtocolFeature

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

Events = queue.SimpleQueue[tuple[str, dict[str, object]]]


@pytest.fixture
def events() -> Events:
    """The events of the VM."""
    return queue.SimpleQueue()


@pytest.fixture
def vm(hosts: tuple[Host, Host], owned: ExitStack, events: Events) -> Vm:
    """A VM under load."""
    host = hosts[0]

    def observe(name: str, data: dict[str, object]) -> None:
        events.put((name, data))

    made = Vm(host.spec, accel="soft", costs=NATIVE, backends=host.sockets, observe=observe)
    owned.callback(made.close)
    made.boot()
    made.guest.start_load("heavy")
    await_requests(made)
    return made


def await_event(events: Events, name: str, device: str) -> dict[str, object]:
    """Wait for the next event, and check that it is this one."""
    received, data = events.get(timeout=TIMEOUT)
    assert (received, data["device"]) == (name, device)
    return data


@pytest.mark.parametrize("victim", ["blk1", "net0"])
def test_a_lost_device_is_reconnected_to_a_new_back_end(
    vm: Vm,
    hosts: tuple[Host, Host],
    events: Events,
    victim: str,
) -> None:
    """The other devices continue meanwhile."""
    for _ in range(3):
        hosts[0].kill(victim)
        assert "disconnected" in str(await_event(events, "DEVICE_LOST", victim)["reason"])
        assert list(vm.reconnect.lost) == [victim]
        await_disk(vm, 0, 0)
        hosts[0].restart(victim)
        await_event(events, "DEVICE_BACK", victim)
        assert not vm.reconnect.lost
        await_requests(vm)
    check_request_log(vm)


def test_all_devices_are_reconnected(vm: Vm, hosts: tuple[Host, Host], events: Events) -> None:
    """In another order than they were lost."""
    names = [device.name for device in vm.devices]
    for name in names:
        hosts[0].kill(name)
    wait_until(lambda: sorted(vm.reconnect.lost) == sorted(names))
    for name in reversed(names):
        hosts[0].restart(name)
    vm.reconnect.await_all(TIMEOUT)
    assert not vm.reconnect.lost
    await_requests(vm)
    check_request_log(vm)


def test_a_vm_that_is_without_a_back_end_does_not_migrate(
    vm: Vm,
    other: Vm,
    hosts: tuple[Host, Host],
    events: Events,
    tmp_path: Path,
) -> None:
    """The error names the device, and the VM runs on."""
    hosts[0].kill("blk0")
    await_event(events, "DEVICE_LOST", "blk0")
    migration = Migration(vm, other, "prewired", tmp_path)
    with pytest.raises(MigrationError, match="blk0 has no back-end"):
        migration.run()
    assert not vm.machine.paused
    hosts[0].restart("blk0")
    await_event(events, "DEVICE_BACK", "blk0")
    await_requests(vm)
    check_request_log(vm)


def test_a_paused_manager_uses_no_device(
    vm: Vm,
    hosts: tuple[Host, Host],
    events: Events,
) -> None:
    """It reconnects the device after it has resumed."""
    with vm.reconnect.paused():
        hosts[0].kill("blk1")
        hosts[0].restart("blk1")
        with pytest.raises(queue.Empty):
            events.get(timeout=0.2)
    await_event(events, "DEVICE_LOST", "blk1")
    await_event(events, "DEVICE_BACK", "blk1")
    await_requests(vm)
    check_request_log(vm)


@pytest.fixture
def no_inflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks do not negotiate INFLIGHT_SHMFD; their back-ends complete in any order."""
    wanted = VhostUserBlk.wanted_protocol_features & ~ProtocolFeature.INFLIGHT_SHMFD
    monkeypatch.setattr(VhostUserBlk, "wanted_protocol_features", wanted)


@pytest.mark.usefixtures("no_inflight")
@pytest.mark.parametrize("victim", ["blk0", "blk1"])
def test_without_an_inflight_region_the_driver_resets_a_lost_disk(
    request: pytest.FixtureRequest, hosts: tuple[Host, Host], events: Events, victim: str
) -> None:
    """It submits its requests in flight again, and each completes once."""
    vm: Vm = request.getfixturevalue("vm")
    for _ in range(5):
        hosts[0].kill(victim)
        await_event(events, "DEVICE_LOST", victim)
        hosts[0].restart(victim)
        again = await_event(events, "DEVICE_NEEDS_RESET", victim)["requests"]
        assert isinstance(again, int)
        assert 0 < again <= BLK_SLOTS * len(vm.devices[-1].rings)
        await_event(events, "DEVICE_BACK", victim)
        await_requests(vm)
    check_request_log(vm)


@pytest.mark.usefixtures("no_inflight")
def test_a_disk_without_requests_in_flight_needs_no_reset(
    request: pytest.FixtureRequest, hosts: tuple[Host, Host], events: Events
) -> None:
    """Its rings are resumed."""
    vm: Vm = request.getfixturevalue("vm")
    assert vm.guest.quiesce(TIMEOUT) == 0
    hosts[0].kill("blk0")
    await_event(events, "DEVICE_LOST", "blk0")
    hosts[0].restart("blk0")
    await_event(events, "DEVICE_BACK", "blk0")
    vm.guest.resume_load()
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.usefixtures("no_inflight")
def test_a_disk_that_was_stopped_too_early_is_connected_anew(
    request: pytest.FixtureRequest, hosts: tuple[Host, Host], events: Events
) -> None:
    """Its back-end has answered GET_VRING_BASE although requests are in flight."""
    vm: Vm = request.getfixturevalue("vm")
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    (disk,) = (device for device in vm.devices if device.name == "blk0")
    disk.rings[1].base += 2
    vm.recover_devices()
    vm.resume_vcpus()
    reason = await_event(events, "DEVICE_LOST", "blk0")["reason"]
    assert "stopped with 2 requests in flight, which no inflight region records" in str(reason)
    vm.reconnect.resume()
    vm.reconnect.await_all(TIMEOUT)
    await_requests(vm)
    check_request_log(vm)


def test_a_device_is_reconnected_while_the_thread_of_its_last_loss_still_ends(
    vm: Vm, hosts: tuple[Host, Host], events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A back-end may disconnect again just after it has come back."""
    may_end = threading.Event()
    end = vm.reconnect._end

    def held() -> None:
        end()
        back = "blk1" not in vm.reconnect.lost
        if back and threading.current_thread().name == "reconnect-blk1":
            may_end.wait(TIMEOUT)

    monkeypatch.setattr(vm.reconnect, "_end", held)
    try:
        for _ in range(2):
            hosts[0].kill("blk1")
            await_event(events, "DEVICE_LOST", "blk1")
            hosts[0].restart("blk1")
            await_event(events, "DEVICE_BACK", "blk1")
    finally:
        may_end.set()


def test_any_thread_may_iterate_over_the_lost_devices(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """What it has read does not change."""
    with vm.reconnect.paused():
        hosts[0].kill("blk1")
        vm.reconnect.mark_lost(vm.devices[2], VhostUserError("gone", device="blk1"))
        lost = vm.reconnect.lost
    hosts[0].restart("blk1")
    vm.reconnect.await_all(TIMEOUT)
    assert not vm.reconnect.lost
    assert list(lost) == ["blk1"]
