"""The base class of destinations: handshake, the switchover, and the completion reports."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from typing import TYPE_CHECKING

from devices.procedure import Phase
from emu.errors import EmuError, MigrationError, Operation
from emu.migration import clocks, completion
from emu.migration.handshake import DiskCheck, Handshake, welcome
from emu.migration.history import History
from emu.migration.side import MigrationSide
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.config.migration_parameters import Parameters
    from emu.config.vm_spec import VmSpec
    from emu.migration.precopy import Observer
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm


class DestinationBase(MigrationSide):
    """One incoming migration.

    Args:
        spec: of the VM that is expected.
        parameters: the limits of the migration.
        observe: called with the name and the data of each event.
        history: the last known costs of this VM.
        accel: the accelerator that this side's VM has, or will have.
        check_disks: returns the differences between the source's disks and this side's.

    Attributes:
        vm: this side's VM, once there is one.
        source_report: the completion report of the source; empty if it sent none.
    """

    #: Whether it receives the source's own devices and memory (`Strategy.hands_over`).
    receives_devices = False

    def __init__(
        self,
        spec: VmSpec,
        *,
        parameters: Parameters,
        observe: Observer,
        history: History | None = None,
        accel: str = "soft",
        check_disks: DiskCheck | None = None,
    ) -> None:
        super().__init__(0)
        self.awaits_vm = True
        self.vm: Vm | None = None
        self.source_report: JsonObject = {}
        self._spec = spec
        self._accel = accel
        self._timeout = parameters.timeout
        self._observe = observe
        self._history = History() if history is None else history
        self._committed = False
        self._stream: MigrationStream | None = None
        self._check_disks = check_disks
        # Whether the VM is resumed when it has arrived, and whether it is too late to change that.
        self._autostart, self._decided = True, False
        self._stopped_at_source = False
        self._decision_lock = threading.Lock()
        #: How far this side's clock is ahead of the source's.
        self._clock_offset_ns = 0

    def figures(self) -> JsonObject:
        """See `MigrationSide.figures`."""
        return {"source": self.source_report}

    def run(self, stream: MigrationStream) -> None:
        """Receive the VM over a connected stream. When it returns, the VM runs here.

        Raises:
            EmuError, VhostUserError, OSError: the migration failed; FAILED was sent if possible.
        """
        self._stream = stream
        with contextlib.closing(stream):
            reason = "the destination ended unexpectedly"
            running = False
            try:
                handshake = self._handshake(stream)
                with contextlib.closing(handshake.strategy):
                    self._receive_vm(handshake, stream)
                running = True
                if handshake.report:
                    # The VM runs here, whether the source's report arrives or not.
                    with contextlib.suppress(MigrationError):
                        self.source_report = self._exchange_reports(stream, handshake)
            except (VhostUserError, EmuError, OSError) as error:
                reason = str(error)
                raise
            finally:
                if not running and not self._committed:
                    # The source starts its devices again when it reads FAILED: by then this side
                    # must not use the disks any more.
                    self._release_devices()
                    stream.send_failure(reason)

    def abort(self) -> None:
        """From another thread: fail unless GO has arrived; the VM stays at the source.

        Bytes that have arrived are read first, as GO may be among them, and FAILED is still sent.
        """
        stream = self._stream
        if stream is not None:
            stream.interrupt_reading()

    def set_autostart(self, *, autostart: bool) -> bool:
        """Set whether the VM is resumed when it has arrived; from any thread.

        A VM that was stopped at the source stays so in any case.

        Returns:
            False if it is too late: the VM has arrived.
        """
        with self._decision_lock:
            if not self._decided:
                self._autostart = autostart
            return not self._decided

    @abstractmethod
    def _receive_vm(self, handshake: Handshake, stream: MigrationStream) -> None:
        """Everything from WELCOME to RUNNING."""

    @abstractmethod
    def _release_devices(self) -> None:
        """Disconnect the devices: the migration has failed, and the VM stays at the source."""

    def _handshake(self, stream: MigrationStream) -> Handshake:
        kind, _, payload = stream.receive()
        if kind is not Kind.HELLO:
            raise MigrationError(Operation.STREAM, f"received {kind.name}, expected HELLO")
        # A device may have been unplugged since this side began to listen.
        spec = self._spec if self.vm is None else self.vm.spec
        handshake = Handshake.accept(payload, spec, self._accel, self.vm, self._check_disks)
        self._check_strategy(handshake.strategy)
        self._stopped_at_source = handshake.stopped
        stream.send(Kind.WELCOME, welcome())
        if not handshake.same_clock:
            clocks.answer(stream)
            self._clock_offset_ns = clocks.receive_offset(stream)
        return handshake

    def _check_strategy(self, strategy: Strategy) -> None:
        if strategy.hands_over and not self.receives_devices:
            raise MigrationError(
                Operation.HANDOVER,
                "this side has devices of its own: use migrate-incoming with handover",
            )
        if self.receives_devices and not strategy.hands_over:
            raise MigrationError(
                Operation.HANDOVER,
                f"this side has no devices until they are handed over: {strategy.NAME}",
            )

    def _exchange_reports(self, stream: MigrationStream, handshake: Handshake) -> JsonObject:
        commits = 0 if self.vm is None else self.vm.machine.commits - self.commits_before
        report: JsonObject = {
            **self.timeline.to_json(),
            "commits": commits,
            "guest_gap_ns": self.guest_gap_ns,
        }
        return completion.exchange_at_destination(
            stream, same_clock=handshake.same_clock, report=report
        )

    def _await_go(self, stream: MigrationStream) -> None:
        """Send READY and wait for GO, which transfers the ownership of the VM.

        Raises:
            MigrationError: the source has failed, or does not answer: the VM runs on there.
        """
        stream.send(Kind.READY)
        kind, _, _ = stream.receive()
        if kind is not Kind.GO:
            raise MigrationError(Operation.STREAM, f"received {kind.name}, expected GO")
        self._committed = True

    def _resume_vm(self, vm: Vm, stream: MigrationStream, *, signal: bool) -> None:
        """The end of the blackout: resume the vCPUs, unless the VM stays stopped; send RUNNING.

        Args:
            vm: this side's VM.
            stream: to the source.
            signal: kick and call every ring: kicks and calls that were pending at the source are
                not transferred.
        """
        timeline = self.timeline
        with self._decision_lock:
            self._decided = True
        runs = self._autostart and not self._stopped_at_source
        if not runs:
            running = now()
        else:
            begun = timeline.begin(Phase.RESUME_VCPUS)
            running = vm.resume_incoming(self._timeout)
            timeline.end(begun, at=running)
        timeline.mark("running_ns", running)
        timeline.in_blackout = False
        self.awaits_vm = False
        # After the vCPUs have resumed: their threads would compete with the handlers of these
        # interrupts.
        if signal:
            vm.signal_all_rings()
        # The VM runs here, whether RUNNING reaches the source or not.
        with contextlib.suppress(MigrationError):
            stream.send(Kind.RUNNING)
        if not runs:
            # `cont` starts the devices; one that cannot be stopped is lost then.
            with contextlib.suppress(VhostUserError):
                vm.drain_requests(self._timeout)
                vm.stop_devices()
            return
        self.guest_gap_ns = vm.guest.heartbeat.gap_at(timeline.marks["switchover_ns"])
        vm.reconnect.resume()
        self._observe("RESUME", {})
