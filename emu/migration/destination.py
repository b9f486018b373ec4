"""The destination's side of a live migration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from devices import lifecycle
from emu.errors import EmuError, MigrationError
from emu.migration.greeting import accept
from emu.migration.past import Past
from emu.migration.rehearsal import prepared
from emu.migration.state import load_devices, load_switchover
from emu.migration.strategies.task import Stage, Task
from emu.migration.stream import Kind, MigrationStream
from emu.migration.timeline import Timeline, now, without_collector
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.migration.parameters import Parameters
    from emu.migration.precopy import Observer
    from emu.migration.strategies import Strategy
    from emu.vm import Vm


class Destination:
    """One incoming migration, into a VM that is built and connected but does not run.

    Args:
        vm: this side's VM. When the migration fails its devices are disconnected, so that their
            back-ends let go of what the source's need.
        parameters: what it may take.
        observe: told of what happens.
        past: what earlier migrations of this VM took.

    Attributes:
        guest_gap_ns: the gap that the blackout made in the guest's heartbeat, once the VM runs.
    """

    def __init__(
        self, vm: Vm, *, parameters: Parameters, observe: Observer, past: Past | None = None
    ) -> None:
        self.vm = vm
        self.timeline = Timeline("dst")
        self._observe = observe
        self.commits_before = vm.machine.commits
        self.guest_gap_ns = 0
        self._stage = Stage(vm.machine, self.timeline, parameters.deadline)
        self._tasks: Sequence[Task] = ()
        self._committed = False
        self._past = Past() if past is None else past

    def run(self, stream: MigrationStream) -> None:
        """Receive the VM over a connected stream. When it returns, the VM runs here.

        Raises:
            EmuError, VhostUserError, OSError: it failed; the source has been told if possible.
        """
        with contextlib.closing(stream):
            reason = "the destination ended unexpectedly"
            running = False
            try:
                strategy = self._greet(stream)
                with contextlib.closing(strategy):
                    self._take_over(strategy, stream)
                running = True
            except (VhostUserError, EmuError, OSError) as error:
                reason = str(error)
                raise
            finally:
                if not running and not self._committed:
                    # The back-ends must have let go of the images before the source hears of it.
                    self.vm.pause_vcpus()
                    self.vm.disconnect()
                    stream.give_up(reason)

    def _take_over(self, strategy: Strategy, stream: MigrationStream) -> None:
        """Everything from the greeting to RUNNING."""
        strategy.open()
        self._prepare(strategy, stream)
        expects = prepared(self.vm, strategy, self._past, self._stage.deadline)
        stream.send(Kind.PREPARED, expects)
        # The blackout begins at the source, so the collector must be silent before this side
        # learns of it.
        with without_collector():
            state = self._receive_memory(stream)
            self._switch_over(strategy, state, stream)
        self._past.note("dst", strategy.name, self.timeline.spans)

    def _greet(self, stream: MigrationStream) -> Strategy:
        kind, _, payload = stream.receive()
        if kind is not Kind.HELLO:
            raise MigrationError("stream", f"{kind.name} came where HELLO was due")
        return accept(payload, self.vm)

    def _prepare(self, strategy: Strategy, stream: MigrationStream) -> None:
        """What a strategy does ahead of the blackout, with what is known of the devices."""
        kind, _, payload = stream.receive()
        if kind is not Kind.DEVICES:
            raise MigrationError("stream", f"{kind.name} came where DEVICES was due")
        load_devices(payload, self.vm.devices)
        self._tasks = self._start_tasks()
        with self.vm.machine.charged("dst"):
            strategy.prepare(self._tasks, self._stage)

    def _start_tasks(self) -> list[Task]:
        return [
            Task(device.name, device.device_class, lifecycle.start(device))
            for device in self.vm.devices
        ]

    def _receive_memory(self, stream: MigrationStream) -> bytes:
        """Take memory until the switch-over comes; its payload."""
        ram = self.vm.machine.ram
        while True:
            kind, count, payload = stream.receive()
            if kind is Kind.RAM:
                stream.receive_ram(ram, count, payload)
            elif kind is Kind.SWITCHOVER:
                return payload
            else:
                raise MigrationError("stream", f"{kind.name} came where RAM was due")

    def _await_go(self, stream: MigrationStream) -> None:
        """Say that the devices have been started; the VM is this side's when GO has come.

        Raises:
            MigrationError: the source has given up, or is silent: then it runs on there.
        """
        stream.send(Kind.READY)
        kind, _, _ = stream.receive()
        if kind is not Kind.GO:
            raise MigrationError("stream", f"{kind.name} came where GO was due")
        self._committed = True

    def _switch_over(self, strategy: Strategy, state: bytes, stream: MigrationStream) -> None:
        """The blackout, as this side sees it: from the last byte to running vCPUs."""
        vm = self.vm
        timeline = self.timeline
        with vm.machine.charged("dst"):
            timeline.mark("switchover_ns")
            timeline.in_blackout = True
            with timeline.span("dst.load_state"):
                moved = load_switchover(state, vm)
            if moved:
                # The driver set a ring up anew after the preparation: begin again for all.
                self._tasks = self._start_tasks()
            strategy.start(self._tasks, self._stage)
            self._await_go(stream)
            start = now()
            running = vm.take_off(self._stage.deadline)
            timeline.add("dst.resume_vcpus", start, end=running)
            timeline.marks["running_ns"] = running
            timeline.in_blackout = False
            # After the vCPUs: an interrupt for every ring would have all of them compete with
            # those that are waited for.
            vm.signal_all_rings()
            # It is only news: the source has let go of the VM, whether it hears of this or not.
            with contextlib.suppress(MigrationError):
                stream.send(Kind.RUNNING)
            self.guest_gap_ns = vm.guest.heartbeat.gap_at(timeline.marks["switchover_ns"])
        self.vm.keeper.watch()
        self._observe("RESUME", {})
