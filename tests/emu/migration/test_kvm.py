"""Whole migrations of a VM with real vCPUs and notifiers, and the way back from one that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.errors import CancelledError, EmuError, MigrationError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm import KvmAccelerator
from emu.strategies.registry import STRATEGIES
from tests.emu.migration.sites import Migration, Site, await_work, check_request_log, wait_until
from tests.emu.migration.test_cancel import cancel_at

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


def make(site: Site, owned: ExitStack) -> Vm:
    """A VM on KVM; the test is skipped where there is none."""
    try:
        made = site.vm(accel="kvm")
    except EmuError as error:
        pytest.skip(str(error))
    owned.callback(made.close)
    return made


@pytest.fixture
def vm(sites: tuple[Site, Site], owned: ExitStack) -> Vm:
    """A VM on the first side, under heavy load."""
    made = make(sites[0], owned)
    made.boot()
    made.guest.start_load("heavy")
    await_work(made)
    return made


@pytest.fixture
def other(sites: tuple[Site, Site], owned: ExitStack) -> Vm:
    """A VM on the second side, which waits."""
    return make(sites[1], owned)


def counts(vm: Vm) -> list[list[int]]:
    """Interrupts that each vCPU has taken, by vector of its local APIC."""
    accel = vm.machine.accel
    assert isinstance(accel, KvmAccelerator)
    assert accel.drivers is not None
    return [list(mailbox.counts) for mailbox in accel.drivers.mailboxes]


def all_run(vm: Vm) -> None:
    """The timer ticks, and interrupts of every device reach the guest."""
    before = counts(vm)
    interrupts = vm.guest.request_log().net_interrupts
    await_work(vm)
    wait_until(lambda: vm.guest.request_log().net_interrupts > interrupts)
    wait_until(lambda: counts(vm)[0][image.TIMER_VECTOR] > before[0][image.TIMER_VECTOR])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_migrates_under_load(
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    owned: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost, and what the vCPUs count goes on where it stood."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    left: list[list[int]] = []
    pause = vm.pause_vcpus

    def pause_and_look(deadline: float) -> None:
        pause(deadline)
        left[:] = counts(vm)

    monkeypatch.setattr(vm, "pause_vcpus", pause_and_look)
    migration.run()
    assert migration.received == [None]
    assert migration.source.requests_in_flight > 0
    there = migration.there
    for had, has in zip(left, counts(there), strict=True):
        assert all(before <= after for before, after in zip(had, has, strict=True))
    all_run(there)
    check_request_log(there)


def test_back_and_forth(vm: Vm, sites: tuple[Site, Site], owned: ExitStack, tmp_path: Path) -> None:
    """Each side more than once, and the counters never go back."""
    here, place = vm, 0
    for _ in range(4):
        place = 1 - place
        there = make(sites[place], owned)
        Migration(here, there, "prewired", tmp_path).run()
        here.close()
        here = there
        all_run(here)
    check_request_log(here)


@pytest.mark.parametrize("strategy", ["qemu-2021", "threads", "prewired"])
def test_the_source_runs_on_when_it_fails(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the blackout: the vCPUs run again here, with all of their interrupts."""

    def fail(_state: bytes) -> None:
        raise MigrationError(Phase.LOAD_STATE, "nothing is loaded today")

    monkeypatch.setattr(other.machine, "load_vcpus", fail)
    with pytest.raises(MigrationError, match="nothing is loaded today"):
        Migration(vm, other, strategy, tmp_path).run()
    assert not vm.machine.paused
    all_run(vm)
    check_request_log(vm)


def test_the_source_runs_on_when_a_handover_is_cancelled(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has its irqfds back, and those of the other side are gone."""
    migration = Migration(vm, other, "handover", tmp_path, owned=owned)
    cancel_at(migration, "READY", monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    all_run(vm)
    check_request_log(vm)


def test_another_accelerator_is_refused(
    vm: Vm, sites: tuple[Site, Site], owned: ExitStack, tmp_path: Path
) -> None:
    """Real vCPUs cannot go on as emulated ones."""
    soft = sites[1].vm()
    owned.callback(soft.close)
    with pytest.raises(MigrationError, match="accelerator: kvm at the source, soft at"):
        Migration(vm, soft, "split", tmp_path).run()
    all_run(vm)
