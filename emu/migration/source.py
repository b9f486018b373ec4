"""The source of a live migration."""

from __future__ import annotations

import contextlib
import json
import threading
from functools import partial
from typing import TYPE_CHECKING

from devices import lifecycle
from devices.procedure import Phase
from emu.errors import CancelledError, EmuError, MigrationError, Operation
from emu.migration import clocks, completion, handshake
from emu.migration.device_probe import DowntimeForecast
from emu.migration.history import History
from emu.migration.multifd import SendingChannels
from emu.migration.precopy import Precopy, PrecopyProgress
from emu.migration.ram_sync import RamSync
from emu.migration.side import MigrationSide
from emu.migration.stream import Kind, MigrationStream
from emu.migration.vmstate import SentDevices
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import garbage_collector_off
from emu.trace_events import REQUESTS
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.config.migration_parameters import Parameters
    from emu.migration.clocks import Offset, RoundTrip
    from emu.migration.precopy import Observer
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

_MS = 1_000_000
#: Seconds in which devices may reconnect to their back-ends before they are reported as lost.
RECONNECT_TIMEOUT = 1.0
#: The source waits this many times `Parameters.timeout` for PREPARED, READY and RUNNING: a device
#: of the destination may use up one timeout, and the destination disconnects all devices before
#: it sends FAILED.
DESTINATION_TIMEOUTS = 2

#: The errors with which a migration fails; the source then rolls back.
FAILURES = (VhostUserError, EmuError, OSError)


class Source(MigrationSide):
    """One outgoing migration.

    Args:
        vm: the VM; it keeps running here if the migration fails. A VM that is stopped stays
            stopped.
        strategy: stops its devices.
        parameters: limits and timeouts.
        observe: called with the name and the data of each event.
        history: the phase times of earlier migrations of this VM.
        connect: opens one more connection to the destination, for a further multifd channel.
        report_fields: returns further fields of this side's completion report.

    Attributes:
        strategy: schedules the steps that stop its devices.
        destination_report: the completion report of the destination, with ``downtime_ns`` and
            ``downtime_error_ns``; empty if HELLO did not ask for completion reports.
        requests_in_flight: requests to disks and entropy devices that were in flight after the
            vCPUs had been paused and the devices that need it had been drained.
    """

    def __init__(
        self,
        vm: Vm,
        strategy: Strategy,
        *,
        parameters: Parameters,
        observe: Observer,
        history: History | None = None,
        connect: Callable[[], MigrationStream] | None = None,
        report_fields: Callable[[], JsonObject] = dict,
    ) -> None:
        super().__init__(vm.machine.commits)
        self.vm = vm
        self.destination_report: JsonObject = {}
        self._connect = connect
        self._report_fields = report_fields
        self._channels: SendingChannels | None = None
        self._round_trips: list[RoundTrip] = []
        self._clock_offset_ns = 0
        self._precopy: Precopy | None = None
        self.requests_in_flight = 0
        self._cancelled = threading.Event()
        # The VM was transferred: GO was sent, and not answered by FAILED.
        self._migrated = False
        # GO is sent, or the migration is cancelled, but not both. The lock also guards the streams,
        # which cancel() interrupts from another thread.
        self._commit_lock = threading.Lock()
        self._committed = False
        self._stream: MigrationStream | None = None
        self._history = History() if history is None else history
        self._parameters = parameters
        self.strategy = strategy
        self._observe = observe
        self._stage = Stage(vm.machine, self.timeline, parameters.timeout)
        # The VM was stopped before the migration: neither side resumes it.
        self._stopped = vm.machine.paused

    @property
    def precopy_progress(self) -> PrecopyProgress:
        """What pre-copy has sent so far, and the downtime that is expected now."""
        return PrecopyProgress() if self._precopy is None else self._precopy.progress

    def figures(self) -> JsonObject:
        """See `MigrationSide.figures`."""
        return {
            "requests_in_flight_at_stop": self.requests_in_flight,
            "precopy": self.precopy_progress.to_json(),
            "destination": self.destination_report,
        }

    def query(self, status: str, remaining: int) -> JsonObject:
        """See `MigrationSide.query`."""
        progress = self.precopy_progress
        answer: JsonObject = {
            "ram": {
                "transferred": progress.bytes,
                "remaining": 0 if status == "completed" else remaining,
                "total": self.vm.machine.ram.size,
                "dirty-sync-count": progress.rounds,
            }
        }
        if progress.decision is not None:
            answer["expected-downtime"] = progress.expected_ns // _MS
            answer["cpu-throttle-percentage"] = progress.decision.estimate.throttle
        marks = self.timeline.marks
        if status == "completed" and "running_ns" in marks:
            # Slightly longer than the downtime: RUNNING arrives after the VM has resumed.
            answer["downtime"] = (marks["running_ns"] - marks["pause_start_ns"]) // _MS
        return answer

    def cancel(self) -> bool:
        """Cancel the migration, from any thread; returns False if GO has been sent already."""
        with self._commit_lock:
            if self._committed:
                return False
            self._cancelled.set()
            for stream in (self._stream, self._channels):
                if stream is not None:
                    stream.interrupt()
        return True

    def run(self, stream: MigrationStream, hello: dict[str, object]) -> None:
        """Migrate the VM over a connected stream. When it returns, the destination owns the VM.

        Args:
            stream: to the destination; closed at the end.
            hello: the content of HELLO (`handshake.hello`).

        Raises:
            EmuError, VhostUserError, OSError: the migration failed, and the VM keeps running here.
        """
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self._close_stream)
            self._stream = stream
            self._perform_handshake(stream, hello)
            self.vm.reconnect.pause()
            cleanup.callback(self._resume_reconnect)
            cleanup.callback(self.strategy.close)
            try:
                tasks = self._transfer(stream, hello, cleanup)
            except FAILURES as error:
                raise self._root_cause(error, stream) from error
            finally:
                # Before GO the source owns the VM; after GO only if the destination sent FAILED.
                if not self._migrated:
                    self._roll_back()
            self._history.record("src", self.strategy.NAME, self.timeline.spans)
            # The vCPUs stay paused: the destination owns the VM.
            if not self._stopped:
                self._observe("STOP", {})
            # The destination owns the VM, whether a device of this side finishes its stop or not.
            with contextlib.suppress(*FAILURES):
                self.strategy.finish(tasks, self._stage)
            if hello.get("report"):
                # A report that is lost or invalid does not undo the migration.
                with contextlib.suppress(*FAILURES, ValueError):
                    self._exchange_reports(stream)

    def _perform_handshake(self, stream: MigrationStream, hello: dict[str, object]) -> None:
        """Exchange HELLO and WELCOME; measure the clock offset of a destination on another host.

        Raises:
            MigrationError: the destination refuses the VM, and the text is its reason; or the
                handshake failed.
            CancelledError: the migration was cancelled.
            VhostUserError, OSError: the handshake failed.
        """
        try:
            self._check_cancelled()
            stream.send(Kind.HELLO, json.dumps(hello).encode())
            welcome = self._receive_expected(stream, Kind.WELCOME)
            if not handshake.same_clock(welcome):
                self._round_trips = clocks.probe(stream)
                self._clock_offset_ns = clocks.send_offset(stream, self._round_trips)
        except FAILURES as error:
            reason = self._root_cause(error, stream)
            if hello.get("report") and getattr(reason, "operation", None) is Operation.STREAM:
                # With reports, the destination is an `emu run --incoming` of its own, which may
                # require TLS: it then sends no FAILED on a stream without TLS.
                hint = (
                    "" if stream.encrypted else ": does the destination require TLS (--tls-cert)?"
                )
                reason = MigrationError(Operation.HANDSHAKE, f"{error}{hint}")
            raise reason from error

    def _open_channels(self, stream: MigrationStream, hello: dict[str, object]) -> SendingChannels:
        """Connect the further multifd channels that HELLO announced."""
        others: list[MigrationStream] = []
        with contextlib.ExitStack() as opened:
            for _ in range(1, self._parameters.streams):
                if self._connect is None:
                    raise MigrationError(
                        Operation.CONNECT, "further streams are not possible for this migration"
                    )
                others.append(opened.enter_context(contextlib.closing(self._connect())))
                others[-1].send(Kind.JOIN, str(hello["session"]).encode())
            opened.pop_all()
        with self._commit_lock:
            self._channels = SendingChannels(stream, others)
        return self._channels

    def _exchange_reports(self, stream: MigrationStream) -> None:
        """Exchange the completion reports; set `destination_report`."""
        start = self.timeline.marks["pause_start_ns"]

        def report(downtime: int, offset: Offset) -> JsonObject:
            return {
                "strategy": self.strategy.NAME,
                "downtime_ns": downtime,
                "downtime_error_ns": None if offset.same else offset.error_ns,
                "precopy": self.precopy_progress.to_json(),
                **self._report_fields(),
            }

        received = completion.exchange_at_source(stream, start, self._round_trips, report)
        # The destination shifted the guest's clock by the offset that was measured before the
        # blackout, so the error of that offset is part of the gap that it measured. The offset
        # measured afterwards is more exact; with it, the error is removed from the gap.
        correction_ns = self._clock_offset_ns - int(received["offset_ns"])
        gap_ns = int(received["guest_gap_ns"]) + correction_ns
        self.destination_report = {**received, "guest_gap_ns": gap_ns}

    def _close_stream(self) -> None:
        with self._commit_lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def _resume_reconnect(self) -> None:
        """If the VM stays here, resume reconnecting, and record the devices without a back-end."""
        reconnect = self.vm.reconnect
        if not self._migrated:
            reconnect.resume()
            reconnect.await_all(RECONNECT_TIMEOUT)
            self.lost = dict(reconnect.lost)

    def _check_back_ends(self) -> None:
        for name, reason in self.vm.reconnect.lost.items():
            raise MigrationError(Operation.PRE_COPY, f"{name} has no back-end: {reason}")

    def _begin(self) -> None:
        """Report the status ``active``, and allocate what the strategy needs in the blackout."""
        self._check_cancelled()
        self._check_back_ends()
        self._observe("MIGRATION", {"status": "active"})
        self.strategy.open()

    def _transfer(
        self, stream: MigrationStream, hello: dict[str, object], cleanup: contextlib.ExitStack
    ) -> list[Task]:
        """Send the VM, from DEVICES to RUNNING.

        Args:
            stream: to the destination.
            hello: the content of HELLO.
            cleanup: releases, at the end of the migration, the resources that this call allocates.

        Returns:
            The tasks that stop the devices, for `Strategy.finish`.
        """
        self._begin()
        if self._stopped:
            # The dirty log does not cover rings that were stopped before it was enabled.
            self.vm.stopped_rings().await_requests(self._stage.timeout)
        channels = cleanup.enter_context(contextlib.closing(self._open_channels(stream, hello)))
        log = DirtyLog.create(self.vm.log_pages)
        cleanup.callback(log.close)
        self.vm.drive(lifecycle.set_logging(device, log) for device in self.vm.devices)
        sync = RamSync(self.vm.machine.ram, log)
        with self.vm.driving:
            sent = SentDevices(self.vm.devices)
        stream.send(Kind.DEVICES, sent.data)
        precopy = self._precopy = self._make_precopy(channels, sync)
        precopy.run(lambda: self._await_prepared(stream))
        return self._switchover(stream, channels, sync, precopy, sent)

    def _make_precopy(self, channels: SendingChannels, sync: RamSync) -> Precopy:
        vm = self.vm
        return Precopy(
            vm.machine.ram,
            sync,
            channels,
            self._parameters,
            self._observe_pass,
            forecast=DowntimeForecast(vm, self.strategy, self._history, self._parameters.timeout),
            throttle=vm.machine.vcpus.throttle,
            pause=self._cancelled.wait,
            check=self._check_cancelled,
        )

    def _observe_pass(self, name: str, data: JsonObject) -> None:
        if REQUESTS.enabled:
            REQUESTS.emit(in_flight=self.vm.guest.requests_in_flight())
        self._observe(name, data)

    def _await_prepared(self, stream: MigrationStream) -> bytes:
        """Wait for PREPARED; return its payload."""
        stream.set_timeout(DESTINATION_TIMEOUTS * self._parameters.timeout)
        payload = self._receive_expected(stream, Kind.PREPARED)
        stream.set_timeout(self._parameters.timeout)
        return payload

    def _root_cause(self, error: Exception, stream: MigrationStream) -> Exception:
        """The error to report: a cancel, or the reason that the destination sent, or ``error``."""
        if self._cancelled.is_set():
            return CancelledError()
        if isinstance(error, MigrationError) and error.operation is Operation.STREAM:
            reason = stream.receive_failure()
            if reason:
                return MigrationError(Operation.DESTINATION, reason)
        return error

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError

    def _switchover(
        self,
        stream: MigrationStream,
        channels: SendingChannels,
        sync: RamSync,
        precopy: Precopy,
        sent: SentDevices,
    ) -> list[Task]:
        """Send the last round, then pause the VM and transfer it; return the devices' tasks."""
        vm = self.vm
        timeline = self.timeline
        # Before the blackout, as this encodes the messages.
        tasks = begin_tasks(vm.devices, lifecycle.stop)
        stopped = vm.stopped_rings()
        precopy.send_last_round()
        with self._blackout():
            self.strategy.stop(tasks, self._stage)
            waiting = partial(timeline.span, Phase.DRAIN_REQUESTS)
            sync.put_back(stopped.await_requests(self._stage.timeout, waiting))
            with timeline.span(Phase.FINAL_RAM):
                channels.send_ram(vm.machine.ram, sync.dirty())
                channels.end_round()
            with timeline.span(Phase.DEVICE_STATE):
                stream.send(Kind.SWITCHOVER, sent.pack_switchover(vm))
            self._commit(stream)
        return tasks

    @contextlib.contextmanager
    def _blackout(self) -> Iterator[None]:
        """Pause the vCPUs and record the blackout, which lasts until the ``with`` block ends."""
        vm, timeline = self.vm, self.timeline
        self._observe("MIGRATION", {"status": "device"})
        with garbage_collector_off(), vm.machine.injected_latency("src"):
            if not self._stopped:
                vm.await_heartbeat()
            timeline.mark("pause_start_ns")
            timeline.marks["last_beat_ns"] = vm.guest.heartbeat.last
            timeline.in_blackout = True
            with timeline.span(Phase.PAUSE_VCPUS):
                vm.pause_vcpus(self._stage.timeout)
            if vm.drains:
                with timeline.span(Phase.DRAIN_REQUESTS):
                    vm.drain_requests(self._stage.timeout)
            self.requests_in_flight = vm.guest.requests_in_flight()
            if REQUESTS.enabled:
                REQUESTS.emit(in_flight=self.requests_in_flight)
            yield
            timeline.mark("running_ns")
            timeline.in_blackout = False

    def _commit(self, stream: MigrationStream) -> None:
        """Await READY, send GO, and await RUNNING.

        GO transfers the ownership of the VM: once the guest may have run at the destination, it
        must never run here again, from older memory. A destination that sends FAILED after GO
        failed before it read GO, so the guest has not run there.

        Raises:
            MigrationError: the migration failed, and this side still owns the VM.
        """
        stream.set_timeout(DESTINATION_TIMEOUTS * self._parameters.timeout)
        self._receive_expected(stream, Kind.READY)
        with self._commit_lock:
            self._check_cancelled()
            if stream.hung_up:
                raise MigrationError(Operation.STREAM, "the destination has closed the stream")
            stream.send(Kind.GO)
            # Whatever fails here from now on, the guest may run at the destination.
            self._committed = self._migrated = True
        try:
            self._receive_expected(stream, Kind.RUNNING)
        except MigrationError as error:
            # Without FAILED the VM may run at the destination, although RUNNING did not arrive.
            if error.operation is Operation.DESTINATION:
                self._migrated = False
                raise

    def _receive_expected(self, stream: MigrationStream, wanted: Kind) -> bytes:
        """The payload of the next section.

        Raises:
            MigrationError: it is FAILED (`Operation.DESTINATION`), or another section than
                ``wanted`` (`Operation.STREAM`).
        """
        kind, _, payload = stream.receive()
        if kind is Kind.FAILED:
            raise MigrationError(Operation.DESTINATION, payload.decode(errors="replace"))
        if kind is not wanted:
            raise MigrationError(Operation.STREAM, f"received {kind.name}, expected {wanted.name}")
        return payload

    def _roll_back(self) -> None:
        """Start the devices again from where they stopped, and resume the vCPUs.

        A device that cannot be started delays neither the other devices nor the vCPUs. A VM that
        was stopped before the migration stays stopped.
        """
        self.timeline.in_blackout = False
        self.vm.machine.vcpus.throttle(0)
        if not self._stopped:
            self.vm.recover_devices()
            self.vm.resume_vcpus()
        # All devices still log here, including those that were started again.
        self._stop_logging()

    def _stop_logging(self) -> None:
        """Disable the dirty log."""
        self.vm.stop_logging()
