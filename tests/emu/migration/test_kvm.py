"""Migrations of a VM with KVM vCPUs, ioeventfds and irqfds, and the roll-back of a failed one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, MigrationError, Operation
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm import KvmAccelerator
from emu.strategies.registry import STRATEGIES
from tests import slow
from tests.emu.migration.hosts import QUICK, Host, Migration, await_requests, check_request_log
from tests.emu.migration.test_cancel import cancel_at
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.fixture
def accel() -> str:
    """The tests of this module are about KVM."""
    return "kvm"


def counts(vm: Vm) -> list[list[int]]:
    """Interrupts that each vCPU has taken, by vector of its local APIC."""
    accel = vm.machine.accel
    assert isinstance(accel, KvmAccelerator)
    assert accel.drivers is not None
    return [list(mailbox.counts) for mailbox in accel.drivers.mailboxes]


def await_interrupts(vm: Vm) -> None:
    """Return when the timer has ticked, and interrupts of disks and NICs have reached the guest."""
    before = counts(vm)
    interrupts = vm.guest.request_log().net_interrupts
    await_requests(vm)
    wait_until(lambda: vm.guest.request_log().net_interrupts > interrupts)
    wait_until(lambda: counts(vm)[0][image.TIMER_VECTOR] > before[0][image.TIMER_VECTOR])


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, STRATEGIES))
def test_migrates_under_load(
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    owned: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No request is lost, and the interrupt counters of the vCPUs continue."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    left: list[list[int]] = []
    pause = vm.pause_vcpus

    def pause_and_count(timeout: float) -> None:
        pause(timeout)
        left[:] = counts(vm)

    monkeypatch.setattr(vm, "pause_vcpus", pause_and_count)
    migration.run()
    assert migration.received == [None]
    assert migration.source.requests_in_flight > 0
    there = migration.destination_vm
    for had, has in zip(left, counts(there), strict=True):
        assert all(before <= after for before, after in zip(had, has, strict=True))
    await_interrupts(there)
    check_request_log(there)


def test_back_and_forth(vm: Vm, hosts: tuple[Host, Host], owned: ExitStack, tmp_path: Path) -> None:
    """Each host runs the VM more than once."""
    here, turn = vm, 0
    for _ in range(4):
        turn = 1 - turn
        there = hosts[turn].vm(accel="kvm")
        owned.callback(there.close)
        Migration(here, there, "prewired", tmp_path).run()
        here.close()
        here = there
        await_interrupts(here)
    check_request_log(here)


@pytest.mark.parametrize(
    "strategy", slow.all_but({"prewired"}, ["qemu-2021", "threads", "prewired"])
)
def test_the_vm_runs_on_at_the_source_when_the_migration_fails(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in the blackout; the vCPUs resume at the source, with all of their interrupts."""

    def fail(_state: bytes) -> None:
        raise MigrationError(Operation.LOAD_STATE, "on purpose")

    monkeypatch.setattr(other.machine, "load_vcpus", fail)
    with pytest.raises(MigrationError, match="on purpose"):
        Migration(vm, other, strategy, tmp_path).run()
    assert not vm.machine.paused
    await_interrupts(vm)
    check_request_log(vm)


def test_the_vm_runs_on_at_the_source_when_a_handover_is_cancelled(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM has the source's irqfds again."""
    migration = Migration(vm, other, "handover", tmp_path, owned=owned)
    cancel_at(migration, "READY", monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    await_interrupts(vm)
    check_request_log(vm)


def test_another_accelerator_is_refused(
    vm: Vm, hosts: tuple[Host, Host], owned: ExitStack, tmp_path: Path
) -> None:
    """The state of KVM vCPUs cannot be loaded into emulated ones."""
    soft = hosts[1].vm()
    owned.callback(soft.close)
    with pytest.raises(MigrationError, match="accelerator: kvm at the source, soft at"):
        Migration(vm, soft, "split", tmp_path).run()
    await_interrupts(vm)
