"""The RFC's two failures: they occur with `unsafe`, and never without."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from devices import lifecycle
from emu.locking.deadlock_detector import Watchdog
from emu.locking.lock_graph import LockBrokenError, held_by_thread
from emu.locking.locks import BigLock, LockOrderError
from emu.machine.accel.kvm import KvmAccelerator
from emu.machine.accel.registry import ACCELERATORS
from emu.machine.accel.soft import SoftAccelerator
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from emu.strategies.task import Stage, begin_tasks
from emu.strategies.timeline import Timeline
from emu.strategies.unsafe import DEADLOCK, DOUBLE_DISABLE, EITHER, MODES, DoubleDisableError
from tests.emu.migration.hosts import SPEC, await_requests, check_request_log
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devices.notifiers import Edit
    from emu.machine.accel.base import Accelerator
    from emu.machine.machine import Machine
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm
    from vhost_user.messages import Reply
    from vhost_user.prepared import Message

#: The address of no device: a write has no ioeventfd and takes the big lock.
NOWHERE = 0x10


def stop(vm: Vm, strategy: Strategy, machine: Machine | Sequencer) -> None:
    """Stop all devices, with a watchdog."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    tasks = begin_tasks(vm.devices, lifecycle.stop)
    strategy.open()
    try:
        with Watchdog():
            strategy.stop(tasks, Stage(machine, Timeline(), TIMEOUT))
            strategy.finish(tasks, Stage(machine, Timeline(), TIMEOUT))
    finally:
        strategy.close()


def carried_by(accel: Accelerator) -> set[int]:
    """The eventfds of all ioeventfds that an accelerator has."""
    if isinstance(accel, KvmAccelerator):
        return {ioeventfd.fd for ioeventfd in accel._ioeventfds._assigned.values()}
    assert isinstance(accel, SoftAccelerator)
    return set(accel._ioeventfds.values())


def assert_agree(vm: Vm) -> None:
    """The machine, its address space, and the devices agree; no thread holds the lock."""
    wanted = {
        (edit.ioeventfd.address, edit.ioeventfd.fd)
        for device in vm.devices
        if device.host_notifiers
        for edit in device.host_edits(assign=True)
    }
    space = vm.machine.address_space
    assert {(entry.address, entry.fd) for entry in space.ioeventfds()} == wanted
    assert carried_by(vm.machine.accel) == {fd for _, fd in wanted}
    assert vm.machine.big_lock.holder is None
    assert not held_by_thread()


def run_on(vm: Vm) -> None:
    """Roll back, and check that no request is lost."""
    vm.recover_devices()
    assert_agree(vm)
    assert len(vm.machine.address_space) == SPEC.rings
    vm.signal_all_rings()
    vm.resume_vcpus()
    await_requests(vm)
    check_request_log(vm)


def check_double_disable(text: str) -> None:
    """Both threads and both call sites are named."""
    assert text.startswith("the host notifier of ")
    threads = {line.split()[0] for line in text.splitlines() if " disabled it " in line}
    assert len(threads) == 2
    assert text.count("unsafe.py:") == 2


def check_deadlock(text: str) -> None:
    """A worker's notification needs the big lock, which the coordinator holds while it joins."""
    assert "waits for the workers, to join them at unsafe.py" in text
    assert "holds the big lock (taken at unsafe.py" in text
    assert "waits for the big lock at machine.py" in text


#: The errors that each mode may end with, and the check of each.
FAILURES: dict[str, dict[type[Exception], Callable[[str], None]]] = {
    EITHER: {DoubleDisableError: check_double_disable, LockBrokenError: check_deadlock},
    DOUBLE_DISABLE: {DoubleDisableError: check_double_disable},
    DEADLOCK: {LockBrokenError: check_deadlock},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("accel", ACCELERATORS, indirect=True)
def test_each_failure_occurs_with_each_accelerator(vm: Vm, mode: str) -> None:
    """After the roll-back the VM runs on and has lost no request."""
    strategy = make("threads", StrategyOptions(threads=3, unsafe=mode))
    with pytest.raises(tuple(FAILURES[mode])) as raised:
        stop(vm, strategy, vm.machine)
    text = str(raised.value)
    FAILURES[mode][type(raised.value)](text)
    assert not strategy.missed(text)
    assert_agree(vm)
    run_on(vm)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [None, "the back-end hung up"])
def test_a_failure_that_did_not_occur_is_reported(mode: str, error: str | None) -> None:
    """Whether the migration completed or failed for another reason."""
    strategy = make("threads", StrategyOptions(unsafe=mode))
    assert f"--unsafe {mode} " in strategy.missed(error)
    assert "did not occur" in strategy.missed(error)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_other_strategy_demonstrates_a_failure(name: str) -> None:
    """So a migration that completes is a success."""
    assert not make(name).missed(None)


class Sequencer:
    """The machine, with an order of events in which the unsafe strategy fails.

    Every commit is delayed until another thread, which is not a worker, waits for the big lock at a
    notify address without ioeventfd. Its write is handled when the commit is over.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.committers: set[int] = set()
        self.edits: list[Edit] = []
        self.writes_handled = 0

    def apply(self, edits: Sequence[Edit]) -> None:
        """Commit while another thread waits for the lock."""
        self.committers.add(threading.get_ident())
        self.edits += edits
        lock = self._machine.big_lock
        guest = threading.Thread(target=self._ring)
        with lock:
            guest.start()
            until_awaited(lock)
            self._machine.apply(edits)
        guest.join(TIMEOUT)
        assert not guest.is_alive()

    def _ring(self) -> None:
        self._machine.accel.mmio_write(NOWHERE, 0)
        self.writes_handled += 1


def until_awaited(lock: BigLock) -> None:
    """Return when a thread waits for the lock."""
    wait_until(lambda: "awaited by" in lock.held_by(), "a thread waits")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_safe_strategy_commits_from_one_thread(vm: Vm, name: str) -> None:
    """Under a contended lock the coordinator alone changes each notifier, once."""
    sequencer = Sequencer(vm.machine)
    stop(vm, make(name, StrategyOptions(threads=3)), sequencer)
    assert sequencer.committers == {threading.get_ident()}
    assert len(sequencer.edits) == len(set(sequencer.edits)) == 2 * SPEC.rings
    assert sequencer.writes_handled > 0
    assert_agree(vm)
    assert len(vm.machine.address_space) == 0
    run_on(vm)


def test_a_worker_that_acquires_the_big_lock_is_an_error(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a worker's MMIO is always an error, not sometimes a deadlock."""
    connection = vm.devices[0].connection
    exchange = connection.exchange

    def write_and_exchange(message: Message, timeout: float) -> Reply | None:
        vm.machine.accel.mmio_write(NOWHERE, 0)
        return exchange(message, timeout)

    monkeypatch.setattr(connection, "exchange", write_and_exchange)
    with pytest.raises(LockOrderError, match="a worker since"):
        stop(vm, make("threads", StrategyOptions(threads=3)), vm.machine)
    monkeypatch.undo()
    run_on(vm)
