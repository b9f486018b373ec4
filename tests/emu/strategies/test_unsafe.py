"""The RFC's two failures: met with `unsafe`, whatever the order, and never without."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from devices import lifecycle
from emu.locking.deadlock_detector import Watchdog
from emu.locking.lock_graph import LockBrokenError, held_by_thread
from emu.locking.locks import BigLock, LockOrderError
from emu.machine.accel.soft import SoftAccelerator
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from emu.strategies.task import Stage, begun
from emu.strategies.timeline import Timeline
from emu.strategies.unsafe import DEADLOCK, DOUBLE_DISABLE, DoubleDisableError
from tests.emu.migration.sites import SPEC, await_work, check_books
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.notifiers import Edit
    from emu.machine.machine import Machine
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm
    from vhost_user.messages import Reply
    from vhost_user.session import Message

#: No device is there, so a write comes out of the fast path and takes the big lock.
NOWHERE = 0x10


def stop(vm: Vm, strategy: Strategy, machine: Machine | Sequencer) -> None:
    """Stop all devices, with a watchdog."""
    vm.keeper.rest()
    vm.pause_vcpus()
    tasks = begun(vm.devices, lifecycle.stop)
    strategy.open()
    try:
        with Watchdog():
            strategy.stop(tasks, Stage(machine, Timeline(), TIMEOUT))
            strategy.finish(tasks, Stage(machine, Timeline(), TIMEOUT))
    finally:
        strategy.close()


def assert_agree(vm: Vm) -> None:
    """The machine, its address space, and the devices are of one mind; nobody holds the lock."""
    wanted = {
        (edit.ioeventfd.address, edit.ioeventfd.fd)
        for device in vm.devices
        if device.host_notifiers
        for edit in device.host_edits(assign=True)
    }
    space = vm.machine.address_space
    assert {(entry.address, entry.fd) for entry in space.ioeventfds()} == wanted
    assert isinstance(vm.machine.accel, SoftAccelerator)
    assert set(vm.machine.accel._ioeventfds.values()) == {fd for _, fd in wanted}
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


def test_names_both_threads_that_disabled_a_notifier(vm: Vm) -> None:
    """Two workers compare with the same old list: the second one's is not there any more."""
    strategy = make("threads", StrategyOptions(threads=3, unsafe=DOUBLE_DISABLE))
    with pytest.raises(DoubleDisableError) as raised:
        stop(vm, strategy, vm.machine)
    said = str(raised.value)
    assert said.startswith("the host notifier of ")
    threads = {line.split()[0] for line in said.splitlines() if " disabled it " in line}
    assert len(threads) == 2
    assert said.count("unsafe.py:") == 2
    assert_agree(vm)
    run_on(vm)


def test_draws_the_deadlock_and_runs_on(vm: Vm) -> None:
    """A worker's kick needs the big lock, which the coordinator holds while it joins."""
    strategy = make("threads", StrategyOptions(threads=3, unsafe=DEADLOCK))
    with pytest.raises(LockBrokenError) as raised:
        stop(vm, strategy, vm.machine)
    said = str(raised.value)
    assert "waits for the workers, to join them at unsafe.py" in said
    assert "holds the big lock (taken at unsafe.py" in said
    assert "waits for the big lock at machine.py" in said
    assert_agree(vm)
    run_on(vm)


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
        """Commit while somebody wants the lock."""
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
    """Return when somebody waits for the lock."""
    tick = threading.Event()
    for _ in range(500):
        if "awaited by" in lock.held_by():
            return
        tick.wait(0.01)
    raise AssertionError("nobody waits")


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
