"""Procedures x strategies: consistent state after any sequence of stops, starts and aborts.

A hypothesis state machine stops and starts the devices of one VM, on real back-ends, with any
strategy in any order: all devices or some of them, completely or up to a step of some kind, with
resets by the guest's driver between. After each rule the devices, the machine, the accelerator and
the back-ends must agree. At the end the VM runs on, and no request may be lost.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devices import lifecycle
from devices.procedure import Ask, AwaitSwitchover, Change
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import Timeline
from tests.emu.migration.hosts import SPEC, Host, await_requests, check_request_log
from tests.emu.strategies.test_unsafe import assert_agree
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devices.device import VhostDevice
    from devices.procedure import Procedure, Step
    from emu.strategies.base import Strategy

REQUESTS = 20
NAMES = st.sampled_from(sorted(STRATEGIES))
DEVICES = st.sets(st.integers(0, len(SPEC.devices) - 1), min_size=1)
HALTS = st.sampled_from([Change, AwaitSwitchover])


class Schedulers(RuleBasedStateMachine):
    """One VM, whose vCPUs are paused while its devices are stopped and started."""

    def __init__(self) -> None:
        super().__init__()
        self._owned = contextlib.ExitStack()
        folder = Path(self._owned.enter_context(tempfile.TemporaryDirectory()))
        self.host = Host("a", folder)
        self._owned.callback(self.host.close)
        self.vm = self.host.vm()
        self._owned.callback(self.vm.close)
        self.vm.boot()
        self.vm.guest.start_load("heavy")
        await_requests(self.vm, REQUESTS)
        self.vm.reconnect.pause()
        self.vm.pause_vcpus()
        #: The devices that the driver has reset, by index.
        self.reset: set[int] = set()

    def _stage(self) -> Stage:
        return Stage(self.vm.machine, Timeline(), TIMEOUT)

    def _tasks(
        self, procedure: Callable[[VhostDevice], Procedure], devices: set[int]
    ) -> list[Task]:
        chosen = [self.vm.devices[index] for index in sorted(devices)]
        return begin_tasks(chosen, procedure)

    @contextlib.contextmanager
    def _strategy(self, name: str) -> Iterator[Strategy]:
        strategy = make(name, StrategyOptions(threads=2, processes=1))
        strategy.open()
        try:
            yield strategy
        finally:
            strategy.close()

    # -- the rules

    @rule(name=NAMES, devices=DEVICES)
    def stop(self, name: str, devices: set[int]) -> None:
        """Stop the devices as at a source, including the steps after the blackout."""
        with self._strategy(name) as strategy:
            tasks = self._tasks(lifecycle.stop, devices)
            strategy.stop(tasks, self._stage())
            strategy.finish(tasks, self._stage())
        for index in devices:
            assert not self.vm.devices[index].notifier_fds()
            assert not self.vm.devices[index].host_notifiers

    @rule(name=NAMES, devices=DEVICES)
    def start(self, name: str, devices: set[int]) -> None:
        """Start the devices as at a destination, ahead of the blackout and in it."""
        with self._strategy(name) as strategy:
            tasks = self._tasks(lifecycle.start_ahead, devices)
            strategy.prepare(tasks, self._stage())
            strategy.start(tasks, self._stage())
        for index in devices - self.reset:
            assert all(ring.started for ring in self.vm.devices[index].rings)

    @rule(
        name=NAMES,
        devices=DEVICES,
        halt=HALTS,
        procedure=st.sampled_from([lifecycle.stop, lifecycle.start_ahead]),
    )
    def abandon(
        self,
        name: str,
        devices: set[int],
        halt: type[Step],
        procedure: Callable[[VhostDevice], Procedure],
    ) -> None:
        """Leave tasks at a step, as a migration that fails: they are never resumed."""
        with self._strategy(name) as strategy:
            tasks = self._tasks(procedure, devices)
            strategy.drive(tasks, self._stage(), halt=halt)
            assert not any(isinstance(task.step, Ask) for task in tasks)

    @rule(index=st.integers(0, len(SPEC.devices) - 1))
    def reset_device(self, index: int) -> None:
        """Reset a device as its driver does, and drop its requests."""
        self.vm.reset_device(index)
        self.vm.guest.boot_device(index)
        self.reset.add(index)

    @precondition(lambda self: self.reset)
    @rule(data=st.data())
    def activate_device(self, data: st.DataObject) -> None:
        """Set a device up anew, as its driver does."""
        index = data.draw(st.sampled_from(sorted(self.reset)))
        self.vm.activate_device(index)
        self.reset.discard(index)

    @rule()
    def let_run(self) -> None:
        """Start every device, from any state, and run the guest until requests have completed."""
        for index in sorted(self.reset):
            self.vm.activate_device(index)
        self.reset.clear()
        self.vm.recover_devices()
        self.vm.resume_vcpus()
        self.vm.guest.resume_load()
        await_requests(self.vm, REQUESTS)
        self.vm.pause_vcpus()

    # -- the invariants

    @invariant()
    def all_agree(self) -> None:
        """Devices, address space and accelerator agree; no lock is held, and no device is lost."""
        assert_agree(self.vm)
        wanted = {
            edit.irqfd.fd
            for device in self.vm.devices
            if device.guest_notifiers
            for edit in device.guest_edits(assign=True)
        }
        assert set(self.vm.machine._irqfds.values()) == wanted
        assert not self.vm.reconnect.lost

    @invariant()
    def back_ends_poll_the_started_rings(self) -> None:
        """A back-end polls rings exactly if the front-end has started them."""
        self.vm.signal_all_rings()
        for device in self.vm.devices:
            started = any(ring.started for ring in device.rings)
            assert self.host.active(device.name) is started

    def teardown(self) -> None:
        """Check that the VM runs on, and no request is lost, duplicated or corrupted."""
        with self._owned:
            self.all_agree()  # before `let_run`, which would hide a disagreement
            self.let_run()
            self.vm.resume_vcpus()
            check_request_log(self.vm)


TestSchedulers = Schedulers.TestCase
TestSchedulers.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
