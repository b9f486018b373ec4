"""Both sides of a handover: a migration to another process of the same host.

Ahead of the blackout the destination receives descriptors of the VM's memory, connections and
eventfds, and builds its own machine with them; in the blackout only the vCPUs' state is sent. Until
GO only the source sends on the connections, and after GO only the destination: a handover that
fails leaves the devices as they were.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from devices import lifecycle
from devices.handover_state import DeviceHandoverState
from devices.procedure import Phase
from emu.errors import MigrationError, Operation
from emu.guest.config import BlkFeatures, GuestConfig, ReaderConfig
from emu.json_input import Each, JsonInputError, Map, Maybe, Row, Whole, read
from emu.migration.destination_base import DestinationBase
from emu.migration.source import Source
from emu.migration.stream import Kind
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import garbage_collector_off
from emu.vm.handover_state import VmHandoverState

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from devices.device import VhostDevice
    from devices.procedure import Procedure
    from emu.config.migration_parameters import Parameters
    from emu.config.vm_spec import VmSpec
    from emu.migration.handshake import Handshake
    from emu.migration.history import History
    from emu.migration.precopy import Observer
    from emu.migration.stream import MigrationStream
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

_U16, _U32 = Whole(most=0xFFFF), Whole(most=0xFFFF_FFFF)
_RING = Row(Maybe(Row(_U16, Whole(), Whole(), Whole())), _U16, bool, bool)
_SESSION = Row(Maybe(Whole()), Maybe(Whole()), Whole(), Whole(), Each(Whole(most=0xFF)))
_INFLIGHT = Row(Whole(), Whole(), _U16, _U16)
_DEVICE = Row(str, Whole(), Whole(), _SESSION, Each(_RING), Maybe(_INFLIGHT), Whole())
_CONFIG = Row(
    bool,
    bool,
    Each(Row(Maybe(Whole()), bool, bool, bool)),
    Maybe(Row(Whole(), bool)),
    bool,
)
#: `send_state`; a VM has few regions of memory.
_STATE = Row(_CONFIG, Map(str), Each(_DEVICE), Whole(most=64))

#: Attempts to hand a VM over; an attempt fails if the guest changes a device meanwhile.
ATTEMPTS = 3


def _tasks(vm: Vm, procedure: Callable[[VhostDevice], Procedure]) -> list[Task]:
    return begin_tasks(vm.devices, procedure)


def send_state(stream: MigrationStream, state: VmHandoverState) -> None:
    """Transfer a VM's state: a section of JSON, then the descriptors by SCM_RIGHTS.

    Raises:
        MigrationError: the destination has disconnected, or is on another host.
    """
    known = json.dumps(
        [state.config, state.backends, state.devices, len(state.memory)], separators=(",", ":")
    )
    stream.send(Kind.HANDOVER, known.encode())
    stream.send_descriptors((*state.memory, *state.descriptors))


def receive_state(payload: bytes, stream: MigrationStream) -> VmHandoverState:
    """The reverse of `send_state`.

    Args:
        payload: the bytes of the section.
        stream: the descriptors follow on it.

    Raises:
        MigrationError: the section is invalid, or the source has disconnected.
    """
    try:
        config, paths, known, regions = read(payload, _STATE)
    except JsonInputError as error:
        raise MigrationError(
            Operation.STREAM, f"the section HANDOVER is invalid: {error}"
        ) from None
    devices = tuple(DeviceHandoverState.from_json(fields) for fields in known)
    count = sum(device.descriptors for device in devices)
    fds = stream.receive_descriptors(regions + count)
    guest = _guest_config(config)
    return VmHandoverState(guest, paths, devices, tuple(fds[:regions]), tuple(fds[regions:]))


def _guest_config(fields: list[Any]) -> GuestConfig:
    event_idx, indirect, disks, reader, switched = fields
    return GuestConfig(
        event_idx=event_idx,
        indirect=indirect,
        disks=[BlkFeatures(*disk) for disk in disks],
        reader=None if reader is None else ReaderConfig(*reader),
        switched=switched,
    )


class HandoverSource(Source):
    """The source of a handover."""

    def _transfer(
        self,
        stream: MigrationStream,
        hello: dict[str, object],  # noqa: ARG002  a handover has one channel
        cleanup: contextlib.ExitStack,  # noqa: ARG002  a handover opens no resources
    ) -> list[Task]:
        self._begin()
        for _ in range(ATTEMPTS):
            state = self.vm.handover_state()
            send_state(stream, state)
            self._await_prepared(stream)
            tasks = self._switchover_to(stream, state)
            if tasks is not None:
                return tasks
        raise MigrationError(Operation.HANDOVER, f"the guest changed its devices {ATTEMPTS} times")

    def _switchover_to(self, stream: MigrationStream, state: VmHandoverState) -> list[Task] | None:
        """The blackout; None if the guest has changed a device, and so the VM runs on here."""
        vm = self.vm
        guest_notifiers = _tasks(vm, lifecycle.disable_guest_notify)
        host_notifiers = _tasks(vm, lifecycle.disable_host_notify)
        vm.machine.accel.mask_interrupts()
        with self._blackout():
            if not vm.still_matches(state):
                vm.resume_vcpus(self._stage.timeout)
                return None
            with self.timeline.span(Phase.DEVICE_STATE):
                stream.send(Kind.SWITCHOVER, vm.machine.save_vcpus())
            self._commit(stream)
        # This closes descriptors only: the destination keeps the connections open.
        vm.disconnect()
        return guest_notifiers + host_notifiers

    def _roll_back(self) -> None:
        self.vm.machine.accel.unmask_interrupts()
        super()._roll_back()

    def _stop_logging(self) -> None:
        """Do nothing: a handover does not enable the dirty log."""


class HandoverDestination(DestinationBase):
    """The destination of a handover; it has no VM until it receives one.

    Args:
        spec: of the VM that is expected.
        build: makes the VM from the state that was handed over.
        discard: closes the VM that was built last.
        parameters, observe, history, accel: see `DestinationBase`.
    """

    receives_devices = True

    def __init__(
        self,
        spec: VmSpec,
        build: Callable[[VmHandoverState], Vm],
        discard: Callable[[], None],
        *,
        parameters: Parameters,
        observe: Observer,
        history: History | None = None,
        accel: str = "soft",
    ) -> None:
        super().__init__(spec, parameters=parameters, observe=observe, history=history, accel=accel)
        self._build = build
        self._discard = discard

    def _release_devices(self) -> None:
        self._discard()

    def _receive_vm(self, handshake: Handshake, stream: MigrationStream) -> None:
        strategy = handshake.strategy
        kind, _, payload = stream.receive()
        while kind is Kind.HANDOVER:
            with receive_state(payload, stream) as state:
                self._discard()
                vm = self._build(state)
            self._prepare(vm, strategy)
            stream.send(Kind.PREPARED)
            with garbage_collector_off():
                kind, _, payload = stream.receive()
                if kind is Kind.SWITCHOVER:
                    self._switchover(vm, payload, stream)
                    return
        raise MigrationError(Operation.STREAM, f"received {kind.name}, expected HANDOVER")

    def _prepare(self, vm: Vm, strategy: Strategy) -> None:
        """Assign the notifiers ahead. Until the vCPUs run, the source injects the interrupts."""
        vm.machine.warm_up(self._timeout)
        vm.machine.accel.mask_interrupts()
        tasks = _tasks(vm, lifecycle.enable_host_notify) + _tasks(vm, lifecycle.enable_guest_notify)
        with vm.machine.injected_latency("dst"):
            strategy.drive(tasks, Stage(vm.machine, self.timeline, self._timeout))

    def _switchover(self, vm: Vm, state: bytes, stream: MigrationStream) -> None:
        """The destination's part of the blackout: from the last byte to running vCPUs."""
        timeline = self.timeline
        with vm.machine.injected_latency("dst"):
            timeline.mark("switchover_ns")
            timeline.in_blackout = True
            with timeline.span(Phase.LOAD_STATE):
                vm.machine.load_vcpus(state)
                # Not earlier: the drivers changed memory until the source's vCPUs were paused.
                vm.guest.attach()
            self._await_go(stream)
            # Kicks and calls that are pending in the eventfds stay so: both sides share them.
            self._resume_vm(vm, stream, signal=False)
        vm.machine.accel.unmask_interrupts()
