"""Hot-unplug and hot-plug of devices under load: nothing is lost, and the others work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.blk import VhostUserBlk
from emu.config.device_kinds import KINDS, load
from emu.errors import EmuError, MigrationError
from emu.vm.hotplug import UnplugError, plug, unplug
from tests.emu.migration.hosts import (
    Migration,
    await_packets,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import BackendError
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from devices.device import BackEnd, VhostDevice
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host


def device_of(vm: Vm, name: str) -> VhostDevice:
    """A device, by its name."""
    return next(device for device in vm.devices if device.name == name)


def back_end(vm: Vm, name: str, path: str) -> BackEnd:
    """A connected back-end for a slot."""
    device_class = vm.spec.devices[vm.slot(name)].device_class
    front_end: type[VhostDevice] = load(KINDS[device_class].front_end)
    return front_end.negotiate(
        FrontendConnection.connect(path, name=name, timeout=TIMEOUT), TIMEOUT
    )


def completed(vm: Vm, name: str) -> int:
    """Requests and packets of a device."""
    return vm.guest.progress()[vm.slot(name)].completed


@pytest.mark.parametrize("load", ["light", "heavy"])
@pytest.mark.parametrize("name", ["net0", "blk0", "blk1"])
def test_a_device_under_load_is_unplugged_and_plugged_again(
    vm: Vm, hosts: tuple[Host, Host], name: str, load: str
) -> None:
    """Its requests are completed first; its log goes on with what it does later."""
    vm.guest.start_load(load)
    device, host = device_of(vm, name), hosts[0]
    path, features = vm.backends[name], device.acked_features
    rings = len(device.rings)
    stops = host.ring_events(name)[1]
    unplug(vm, device, TIMEOUT)
    assert [device.name for device in vm.devices] == [
        spec.name for spec in vm.spec.devices if spec.name != name
    ]
    assert host.ring_events(name)[1] == stops + rings
    assert not device.connected
    progress = vm.guest.progress()[vm.slot(name)]
    assert progress.outstanding == 0
    await_requests(vm)
    assert completed(vm, name) == progress.completed
    plug(vm, name, back_end(vm, name, path), path, features=features)
    assert [device.name for device in vm.devices] == [spec.name for spec in vm.spec.devices]
    wait_until(lambda: completed(vm, name) > progress.completed + 20, "the device is used")
    assert vm.machine.stray_writes == 0
    check_request_log(vm)
    assert vm.guest.verify(TIMEOUT).corrupted == 0


def test_what_another_disk_holds_is_not_compared(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """The guest knows nothing about it; here it is the same image, by another back-end."""
    device = device_of(vm, "blk0")
    features = device.acked_features
    unplug(vm, device, TIMEOUT)
    path = hosts[1].sockets["blk0"]
    plug(vm, "blk0", back_end(vm, "blk0", path), path, features=features)
    assert vm.backends["blk0"] == path
    blocks = vm.guest.disks.generations(0).values()
    assert sum(bool(block.value) for block in blocks) < len(blocks)
    await_requests(vm)
    check_request_log(vm)


def test_a_device_that_does_not_complete_its_requests_stays(
    vm: Vm, hosts: tuple[Host, Host], owned: ExitStack
) -> None:
    """The guest goes on to use it."""
    release = hosts[0].hold("blk1")
    owned.callback(release.set)
    wait_until(lambda: vm._not_completed(vm.devices[2]), "a request is in flight")
    with pytest.raises(UnplugError, match=r"blk1: \d+ requests are still in flight"):
        unplug(vm, device_of(vm, "blk1"), 0.2)
    assert "blk1" in {device.name for device in vm.devices}
    before = completed(vm, "blk1")
    release.set()
    wait_until(lambda: completed(vm, "blk1") > before + 50, "the device is used")
    check_request_log(vm)


def test_a_device_whose_back_end_is_lost(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """It is unplugged when it has no request in flight; another back-end can be plugged."""
    device = device_of(vm, "net0")
    vm.guest.quiesce(TIMEOUT)
    hosts[0].kill("net0")
    wait_until(lambda: "net0" in vm.reconnect.lost, "the loss is noticed")
    features = device.acked_features
    unplug(vm, device, TIMEOUT)
    assert not vm.reconnect.lost
    hosts[0].restart("net0")
    path = vm.backends["net0"]
    plug(vm, "net0", back_end(vm, "net0", path), path, features=features)
    vm.guest.resume_load()
    await_packets(vm, 20)
    hosts[0].kill("net0")
    wait_until(lambda: "net0" in vm.reconnect.lost, "the loss is noticed again")
    hosts[0].restart("net0")
    vm.reconnect.await_all(TIMEOUT)
    await_packets(vm, 20)
    check_request_log(vm)


def test_a_back_end_that_does_not_fit_is_refused(
    vm: Vm, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot stays empty, and the VM works on."""
    device, path = device_of(vm, "blk0"), vm.backends["blk0"]
    unplug(vm, device, TIMEOUT)
    with pytest.raises(BackendError, match="does not offer the features"):
        plug(vm, "blk0", back_end(vm, "blk0", path), path, features=1 << 63)
    with pytest.raises(BackendError, match="too few rings"):
        plug(vm, "blk0", back_end(vm, "blk0", path)._replace(queues=1), path, features=0)
    with monkeypatch.context() as patched:
        patched.setattr(VhostUserBlk, "capacity", lambda *_, **__: 7)
        with pytest.raises(EmuError, match="a disk of 7 sectors"):
            plug(vm, "blk0", back_end(vm, "blk0", path), path, features=0)
    assert "blk0" in vm.spec.absent
    await_requests(vm)
    with monkeypatch.context() as patched:
        patched.setattr(VhostUserBlk, "capacity", lambda *_, **__: 1 << 20)
        plug(vm, "blk0", back_end(vm, "blk0", path), path, features=0)
    assert vm.guest.config.disks[0].capacity == 1 << 20
    await_requests(vm)
    check_request_log(vm)


def test_a_device_that_is_plugged_while_the_vm_is_stopped_starts_with_it(vm: Vm) -> None:
    """As all others do."""
    device, path = device_of(vm, "blk0"), vm.backends["blk0"]
    unplug(vm, device, TIMEOUT)
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    plug(vm, "blk0", back_end(vm, "blk0", path), path, features=0)
    assert not any(ring.started for ring in device_of(vm, "blk0").rings)
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    before = completed(vm, "blk0")
    wait_until(lambda: completed(vm, "blk0") > before + 20, "the device is used")
    check_request_log(vm)


@pytest.mark.parametrize("strategy", ["qemu-2021", "prewired"])
def test_a_migration_needs_the_same_devices(
    vm: Vm, hosts: tuple[Host, Host], owned: ExitStack, tmp_path: Path, strategy: str
) -> None:
    """A destination that has one more is refused by its name, and is accepted without it."""
    unplug(vm, device_of(vm, "blk0"), TIMEOUT)
    refused = hosts[1].vm()
    owned.callback(refused.close)
    with pytest.raises(MigrationError, match="blk0x2 at the destination only"):
        Migration(vm, refused, strategy, tmp_path).run()
    await_requests(vm)
    refused.close()
    other = hosts[1].vm()
    owned.callback(other.close)
    unplug(other, device_of(other, "blk0"), TIMEOUT)
    Migration(vm, other, strategy, tmp_path).run()
    await_requests(other)
    path = other.backends["blk0"]
    plug(other, "blk0", back_end(other, "blk0", path), path, features=0)
    before = completed(other, "blk0")
    wait_until(lambda: completed(other, "blk0") > before + 20, "the device is used")
    check_request_log(other)
