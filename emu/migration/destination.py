"""The destination of a live migration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from devices import lifecycle
from devices.procedure import Phase
from emu.errors import MigrationError, Operation
from emu.migration.destination_base import DestinationBase
from emu.migration.device_probe import prepared_payload
from emu.migration.multifd import ReceivingChannels
from emu.migration.stream import Kind, MigrationStream
from emu.migration.vmstate import load_devices, load_switchover
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import garbage_collector_off

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.config.migration_parameters import Parameters
    from emu.migration.handshake import DiskCheck, Handshake
    from emu.migration.history import History
    from emu.migration.precopy import Observer
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm


class Destination(DestinationBase):
    """Receives into a VM that is built and connected to its own back-ends, but does not run.

    Args:
        vm: this side's VM. When the migration fails its devices are disconnected, so that their
            back-ends unlock the disk images, which the source's back-ends need.
        parameters, observe, history, check_disks: see `DestinationBase`.
        accept: waits for a further multifd channel of the same source.
    """

    vm: Vm

    def __init__(
        self,
        vm: Vm,
        *,
        parameters: Parameters,
        observe: Observer,
        history: History | None = None,
        check_disks: DiskCheck | None = None,
        accept: Callable[[], MigrationStream] | None = None,
    ) -> None:
        super().__init__(
            vm.spec,
            parameters=parameters,
            observe=observe,
            history=history,
            accel=vm.machine.accel.name,
            check_disks=check_disks,
        )
        self.vm = vm
        self._accept = accept
        self.commits_before = vm.machine.commits
        self._stage = Stage(vm.machine, self.timeline, parameters.timeout)
        self._tasks: Sequence[Task] = ()

    def _release_devices(self) -> None:
        self.vm.pause_vcpus()
        self.vm.disconnect()

    def _receive_vm(self, handshake: Handshake, stream: MigrationStream) -> None:
        with contextlib.closing(self._accept_channels(stream, handshake)) as channels:
            self._receive_over(channels, handshake.strategy, stream)

    def _accept_channels(self, stream: MigrationStream, handshake: Handshake) -> ReceivingChannels:
        """Wait for the further multifd channels of this migration; refuse any other connection."""
        others: list[MigrationStream] = []
        with contextlib.ExitStack() as opened:
            for _ in range(1, handshake.streams):
                if self._accept is None:
                    raise MigrationError(Operation.LISTEN, "further streams are not possible here")
                others.append(opened.enter_context(contextlib.closing(self._accept())))
                kind, _, payload = others[-1].receive()
                if kind is not Kind.JOIN or payload != handshake.session.encode():
                    raise MigrationError(
                        Operation.STREAM, "a further stream is not of this migration"
                    )
            opened.pop_all()
        channels = ReceivingChannels(stream, others, self.vm.machine.ram)
        channels.open()
        return channels

    def _receive_over(
        self, channels: ReceivingChannels, strategy: Strategy, stream: MigrationStream
    ) -> None:
        """Everything from WELCOME to RUNNING."""
        strategy.open()
        self._prepare(strategy, stream)
        payload = prepared_payload(self.vm, strategy, self._history, self._stage.timeout)
        stream.send(Kind.PREPARED, payload)
        # The blackout begins at the source, and no message announces it: the collector must be
        # disabled from here on.
        with garbage_collector_off():
            state = self._receive_memory(stream, channels)
            self._switchover(strategy, state, stream)
        self._history.record("dst", strategy.NAME, self.timeline.spans)

    def _prepare(self, strategy: Strategy, stream: MigrationStream) -> None:
        """Load the state of the devices in DEVICES, and do the steps ahead of the blackout."""
        kind, _, payload = stream.receive()
        if kind is not Kind.DEVICES:
            raise MigrationError(Operation.STREAM, f"received {kind.name}, expected DEVICES")
        load_devices(payload, self.vm.devices)
        self._tasks = self._start_tasks(strategy)
        if strategy.prepares_ahead:
            # Before memory arrives: it writes to guest memory.
            self.vm.machine.warm_up(self._stage.timeout)
        with self.vm.machine.injected_latency("dst"):
            strategy.prepare(self._tasks, self._stage)

    def _start_tasks(self, strategy: Strategy) -> list[Task]:
        ahead = strategy.prepares_ahead
        return begin_tasks(self.vm.devices, lifecycle.start_ahead if ahead else lifecycle.start)

    def _receive_memory(self, stream: MigrationStream, channels: ReceivingChannels) -> bytes:
        """Receive memory until SWITCHOVER; return its payload."""
        try:
            return self._receive_rounds(stream, channels)
        except MigrationError:
            channels.check()
            raise

    def _receive_rounds(self, stream: MigrationStream, channels: ReceivingChannels) -> bytes:
        ram = self.vm.machine.ram
        # The source may stop one device after the other, each in up to one timeout. The guest does
        # not wait for this side's timeout: a source that has died closes the stream.
        stream.set_timeout((1 + len(self.vm.devices)) * self._stage.timeout)
        while True:
            kind, count, payload = stream.receive()
            if kind is Kind.RAM:
                stream.receive_ram(ram, count, payload)
            elif kind is Kind.BARRIER:
                channels.await_barrier(self._stage.timeout)
            elif kind is Kind.SWITCHOVER:
                stream.set_timeout(self._stage.timeout)
                channels.finish()
                return payload
            else:
                raise MigrationError(Operation.STREAM, f"received {kind.name}, expected RAM")

    def _switchover(self, strategy: Strategy, state: bytes, stream: MigrationStream) -> None:
        """The destination's part of the blackout: from the last byte to running vCPUs."""
        vm = self.vm
        timeline = self.timeline
        with vm.machine.injected_latency("dst"):
            timeline.mark("switchover_ns")
            timeline.in_blackout = True
            with timeline.span(Phase.LOAD_STATE):
                changed = load_switchover(state, vm)
                if self._clock_offset_ns:
                    vm.guest.shift_clock(self._clock_offset_ns)
            if changed:
                # The driver set a ring up anew after the preparation: begin again for all devices.
                self._tasks = self._start_tasks(strategy)
            strategy.start(self._tasks, self._stage)
            self._await_go(stream)
            self._resume_vm(vm, stream, signal=True)
