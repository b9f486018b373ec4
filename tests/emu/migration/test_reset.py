"""The guest's driver resets a device, or sets it up, during a migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import slow
from tests.emu.migration.hosts import (
    QUICK,
    RING_STOPPING_STRATEGIES,
    Migration,
    await_disk,
    await_requests,
    check_request_log,
)
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.migration.stream import MigrationStream
    from emu.vm.vm import Vm

NET0, BLK0, BLK1 = range(3)


def reset(vm: Vm, index: int) -> None:
    """The driver resets a device in use, and drops its outstanding requests."""
    vm.reset_device(index)
    paused = vm.machine.paused
    vm.pause_vcpus()
    vm.guest.boot_device(index)
    if not paused:
        vm.resume_vcpus()


def activate(vm: Vm, index: int) -> None:
    """The driver sets the device up again, and sends requests as before."""
    vm.activate_device(index)
    vm.guest.resume_load()


def during_precopy(
    migration: Migration, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]
) -> None:
    """Run the steps after the destination has been prepared with the earlier device state."""
    source = migration.source
    expect = source._await_prepared

    def prepared(stream: MigrationStream) -> bytes:
        payload = expect(stream)
        for step in steps:
            step()
        return payload

    monkeypatch.setattr(source, "_await_prepared", prepared)


@pytest.mark.parametrize("index", [NET0, BLK1])
def test_a_device_can_be_reset_and_set_up_while_the_vm_runs(vm: Vm, index: int) -> None:
    """Repeatedly; a second reset has no effect."""
    for _ in range(2):
        reset(vm, index)
        reset(vm, index)
        assert not vm.devices[index].configured_rings()
        assert not vm.devices[index].host_notifiers
        await_disk(vm, 0, 0)
        activate(vm, index)
        with pytest.raises(UsageError, match="reset it before"):
            vm.activate_device(index)
        await_requests(vm)
    await_disk(vm, 1, 0)
    check_request_log(vm)


@pytest.mark.parametrize("name", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
def test_reset_during_precopy(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination had prepared the device and does not start it; it can be set up there."""
    migration = Migration(vm, other, name, tmp_path)
    during_precopy(migration, monkeypatch, lambda: reset(vm, BLK1))
    migration.run()
    assert not other.devices[BLK1].configured_rings()
    assert all(ring.started for ring in other.devices[BLK0].rings)
    await_disk(other, 0, 0)
    activate(other, BLK1)
    await_disk(other, 1, 0)
    check_request_log(other)


@pytest.mark.parametrize("name", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
def test_set_up_during_precopy(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination receives its rings with SWITCHOVER; its writes have been logged."""
    reset(vm, BLK1)
    migration = Migration(vm, other, name, tmp_path)
    during_precopy(migration, monkeypatch, lambda: activate(vm, BLK1), lambda: await_disk(vm, 1, 0))
    migration.run()
    assert all(ring.started for ring in other.devices[BLK1].rings)
    await_disk(other, 1, 0)
    check_request_log(other)


def test_reset_and_set_up_during_precopy(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rings have the same addresses, and start from index 0."""
    migration = Migration(vm, other, "prewired", tmp_path)
    during_precopy(migration, monkeypatch, lambda: reset(vm, BLK1), lambda: activate(vm, BLK1))
    migration.run()
    await_requests(other)
    await_disk(other, 1, 0)
    check_request_log(other)
