"""The guest's driver resets a device, or sets it up, in the middle of a migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.emu.migration.sites import MOVES, Migration, await_disk, await_work, check_request_log
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.migration.stream import MigrationStream
    from emu.vm.vm import Vm

NET0, BLK0, BLK1 = range(3)


def reset(vm: Vm, index: int) -> None:
    """The driver resets a device that it has used, and forgets what it had asked of it."""
    vm.reset_device(index)
    paused = vm.machine.paused
    vm.pause_vcpus()
    vm.guest.boot_device(index)
    if not paused:
        vm.resume_vcpus()


def activate(vm: Vm, index: int) -> None:
    """The driver sets the device up again, and uses it as before."""
    vm.activate_device(index)
    vm.guest.resume_load()


def during_precopy(
    migration: Migration, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]
) -> None:
    """Have the steps run when the destination has been prepared with what it knew before."""
    source = migration.source
    expect = source._await_prepared

    def prepared(stream: MigrationStream) -> bytes:
        got = expect(stream)
        for step in steps:
            step()
        return got

    monkeypatch.setattr(source, "_await_prepared", prepared)


@pytest.mark.parametrize("index", [NET0, BLK1])
def test_a_device_can_be_reset_and_set_up_while_the_vm_runs(vm: Vm, index: int) -> None:
    """As often as the driver likes; twice is once."""
    for _ in range(2):
        reset(vm, index)
        reset(vm, index)
        assert not vm.devices[index].configured()
        assert not vm.devices[index].host_notifiers
        await_disk(vm, 0, 0)
        activate(vm, index)
        with pytest.raises(UsageError, match="reset it before"):
            vm.activate_device(index)
        await_work(vm)
    await_disk(vm, 1, 0)
    check_request_log(vm)


@pytest.mark.parametrize("name", MOVES)
def test_reset_during_precopy(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination, which had prepared it, leaves it alone; there it can be set up."""
    migration = Migration(vm, other, name, tmp_path)
    during_precopy(migration, monkeypatch, lambda: reset(vm, BLK1))
    migration.run()
    assert not other.devices[BLK1].configured()
    assert all(ring.started for ring in other.devices[BLK0].rings)
    await_disk(other, 0, 0)
    activate(other, BLK1)
    await_disk(other, 1, 0)
    check_request_log(other)


@pytest.mark.parametrize("name", MOVES)
def test_set_up_during_precopy(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination learns of its rings with the switch-over; what it wrote has been logged."""
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
    """The rings are where they were, and begin anew."""
    migration = Migration(vm, other, "prewired", tmp_path)
    during_precopy(migration, monkeypatch, lambda: reset(vm, BLK1), lambda: activate(vm, BLK1))
    migration.run()
    await_work(other)
    await_disk(other, 1, 0)
    check_request_log(other)
