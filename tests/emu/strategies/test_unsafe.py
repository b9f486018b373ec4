"""The RFC's two failures: met with `unsafe`, whatever the order, and never without."""

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
from emu.strategies.task import Stage, begun
from emu.strategies.timeline import Timeline
from emu.strategies.unsafe import DEADLOCK, DOUBLE_DISABLE, EITHER, MODES, DoubleDisableError
from tests.emu.migration.sites import SPEC, await_work, check_books
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devices.notifiers import Edit
    from emu.machine.accel.base import Accelerator
    from emu.machine.machine import Machine
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm
    from vhost_user.messages import Reply
    from vhost_user.session import Message

#: No device is there, so a write comes out of the fast path and takes the big lock.
NOWHERE = 0x10


def stop(vm: Vm, strategy: Strategy, machine: Machine | Sequencer) -> None:
    """Stop all devices, with a watchdog."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    tasks = begun(vm.devices, lifecycle.stop)
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
    """The roll-back, and proof that nothing is lost."""
    vm.recover_devices()
    assert_agree(vm)
    assert len(vm.machine.address_space) == SPEC.rings
    vm.signal_all_rings()
    vm.resume_vcpus()
    await_work(vm)
    check_books(vm)


def check_double_disable(text: str) -> None:
    """Both threads and both places are named."""
    assert text.startswith("the host notifier of ")
    threads = {line.split()[0] for line in text.splitlines() if " disabled it " in line}
    assert len(threads) == 2
    assert text.count("unsafe.py:") == 2


def check_deadlock(text: str) -> None:
    """A worker's notification needs the big lock, which the coordinator holds while it joins."""
    assert "waits for the workers, to join them at unsafe.py" in text
    assert "holds the big lock (taken at unsafe.py" in text
    assert "waits for the big lock at machine.py" in text


#: What each exhibit shows: one of these errors, which the check passes.
SHOWN: dict[str, dict[type[Exception], Callable[[str], None]]] = {
    EITHER: {DoubleDisableError: check_double_disable, LockBrokenError: check_deadlock},
    DOUBLE_DISABLE: {DoubleDisableError: check_double_disable},
    DEADLOCK: {LockBrokenError: check_deadlock},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vm", ACCELERATORS, indirect=True)
def test_each_exhibit_shows_with_each_accelerator(vm: Vm, mode: str) -> None:
    """And after the roll-back the VM goes on, with nothing lost."""
    strategy = make("threads", StrategyOptions(threads=3, unsafe=mode))
    with pytest.raises(tuple(SHOWN[mode])) as raised:
        stop(vm, strategy, vm.machine)
    text = str(raised.value)
    SHOWN[mode][type(raised.value)](text)
    assert not strategy.missed(text)
    assert_agree(vm)
    run_on(vm)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [None, "the back-end hung up"])
def test_an_exhibit_that_did_not_show_is_reported(mode: str, error: str | None) -> None:
    """Whether the migration completed or failed of something else."""
    strategy = make("threads", StrategyOptions(unsafe=mode))
    assert f"--unsafe {mode} " in strategy.missed(error)
    assert "did not occur" in strategy.missed(error)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_other_strategy_is_an_exhibit(name: str) -> None:
    """None has missed anything."""
    assert not make(name).missed(None)


class Sequencer:
    """The machine, in an order that is bad for unsafe strategies.

    Every commit is held until another thread, which is no worker, waits for the big lock at a
    notify address without ioeventfd. That one is queued, and served when the commit is over.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.committers: set[int] = set()
        self.taken: list[Edit] = []
        self.served = 0

    def apply(self, edits: Sequence[Edit]) -> None:
        """Commit while another thread waits for the lock."""
        self.committers.add(threading.get_ident())
        self.taken += edits
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
        self.served += 1


def until_awaited(lock: BigLock) -> None:
    """Return when a thread waits for the lock."""
    tick = threading.Event()
    for _ in range(500):
        if "awaited by" in lock.held_by():
            return
        tick.wait(0.01)
    raise AssertionError("no thread waits")


@pytest.mark.parametrize("name", STRATEGIES)
def test_safe_strategies_queue_instead(vm: Vm, name: str) -> None:
    """Under a contended lock each notifier goes once, by the coordinator alone."""
    sequencer = Sequencer(vm.machine)
    stop(vm, make(name, StrategyOptions(threads=3)), sequencer)
    assert sequencer.committers == {threading.get_ident()}
    assert len(sequencer.taken) == len(set(sequencer.taken)) == 2 * SPEC.rings
    assert sequencer.served > 0
    assert_agree(vm)
    assert len(vm.machine.address_space) == 0
    run_on(vm)


def test_a_safe_worker_is_refused_the_lock(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's MMIO is an error at once, not a deadlock now and then."""
    connection = vm.devices[0].connection
    exchange = connection.exchange

    def touch(message: Message, deadline: float) -> Reply | None:
        vm.machine.accel.mmio_write(NOWHERE, 0)
        return exchange(message, deadline)

    monkeypatch.setattr(connection, "exchange", touch)
    with pytest.raises(LockOrderError, match="a worker since"):
        stop(vm, make("threads", StrategyOptions(threads=3)), vm.machine)
    monkeypatch.undo()
    run_on(vm)
