"""The source's side of a live migration."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING

from devices import lifecycle
from devices.procedure import Phase
from emu.errors import CancelledError, EmuError, MigrationError
from emu.migration import clocks, completion, handshake
from emu.migration.history import Past
from emu.migration.multifd import SendingLanes
from emu.migration.precopy import Precopied, Precopy
from emu.migration.probe import Forecast
from emu.migration.ram_sync import RamSync
from emu.migration.side import MigrationSide
from emu.migration.state import pack_devices, pack_switchover
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.task import Stage, Task, begun
from emu.strategies.timeline import without_collector
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.config.migration_parameters import Parameters
    from emu.migration.clocks import Offset, Probe
    from emu.migration.precopy import Observer
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

_MS = 1_000_000
#: Seconds in which devices that lost their back-ends may come back before they are called lost.
RETURN_PATIENCE = 1.0
#: How many deadlines the destination has to say that it is prepared, or ready: a device of its may
#: use one up, and it gives its own devices up before it says so.
PATIENCE = 2

#: What can go wrong on the way, and is answered by a roll-back.
FAILURES = (VhostUserError, EmuError, OSError)


class Source(MigrationSide):
    """One outgoing migration of a running VM.

    Args:
        vm: the VM; it runs on when the migration fails.
        strategy: how its devices are stopped.
        parameters: what it may take.
        observe: told of what happens.
        past: what earlier migrations of this VM took.
        reach: connects to the destination once more, for a further stream.
        accounts: what the destination is told of this side when the VM has moved.

    Attributes:
        destination: what the destination told of its side, with ``downtime_ns`` and
            ``downtime_error_ns``; empty unless the greeting promised a farewell.
    """

    def __init__(
        self,
        vm: Vm,
        strategy: Strategy,
        *,
        parameters: Parameters,
        observe: Observer,
        past: Past | None = None,
        reach: Callable[[], MigrationStream] | None = None,
        accounts: Callable[[], JsonObject] = dict,
    ) -> None:
        super().__init__(vm.machine.commits)
        self.vm = vm
        self.destination: JsonObject = {}
        self._reach = reach
        self._accounts = accounts
        self._lanes: SendingLanes | None = None
        self._probes: list[Probe] = []
        self._ahead_ns = 0
        self._sending: Precopy | None = None
        self.requests_in_flight = 0
        self._cancelled = threading.Event()
        self._gone = False
        # Between a cancel and the GO there is one winner.
        self._giving = threading.Lock()
        self._given = False
        self._stream: MigrationStream | None = None
        self._past = Past() if past is None else past
        self._parameters = parameters
        self._strategy = strategy
        self._observe = observe
        self._stage = Stage(vm.machine, self.timeline, parameters.deadline)

    @property
    def precopy(self) -> Precopied:
        """What has been sent while the VM runs, and what is expected of the blackout by now."""
        return Precopied() if self._sending is None else self._sending.sent

    def figures(self) -> JsonObject:
        """See `MigrationSide.figures`."""
        return {
            "requests_in_flight_at_stop": self.requests_in_flight,
            "precopy": self.precopy.to_json(),
            "destination": self.destination,
        }

    def query(self, status: str, remaining: int) -> JsonObject:
        """See `MigrationSide.query`."""
        sent = self.precopy
        answer: JsonObject = {
            "ram": {
                "transferred": sent.bytes,
                "remaining": 0 if status == "completed" else remaining,
                "total": self.vm.machine.ram.size,
                "dirty-sync-count": sent.rounds,
            }
        }
        if sent.decision is not None:
            answer["expected-downtime"] = sent.expected_ns // _MS
            answer["cpu-throttle-percentage"] = sent.decision.outlook.throttle
        marks = self.timeline.marks
        if status == "completed" and "running_ns" in marks:
            # Until RUNNING has been received: a little longer than the VM was down.
            answer["downtime"] = (marks["running_ns"] - marks["pause_start_ns"]) // _MS
        return answer

    def cancel(self) -> bool:
        """Have the migration fail, whatever it is at; False when the VM has been given away."""
        with self._giving:
            if self._given:
                return False
            self._cancelled.set()
            for stream in (self._stream, self._lanes):
                if stream is not None:
                    stream.interrupt()
        return True

    def run(self, stream: MigrationStream, hello: dict[str, object]) -> None:
        """Migrate the VM over a connected stream. When it returns, the VM runs over there.

        Raises:
            EmuError, VhostUserError, OSError: it failed, and the VM runs on here.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(self._forget_stream)
            self._stream = stream
            self._greet(stream, hello)
            self.vm.keeper.rest()
            owned.callback(self._wake_keeper)
            owned.callback(self._strategy.close)
            try:
                tasks = self._move(stream, hello, owned)
                self._gone = True
            except FAILURES as error:
                raise self._explained(error, stream) from error
            finally:
                # Whatever it was that failed: until GO has been sent, the VM belongs here.
                if not self._gone:
                    self._roll_back()
            self._past.note("src", self._strategy.NAME, self.timeline.spans)
            # From here on it runs over there, and nothing may start it here again.
            self._observe("STOP", {})
            self._strategy.finish(tasks, self._stage)
            if hello.get("farewell"):
                # It runs over there whether its figures come or not.
                with contextlib.suppress(*FAILURES, ValueError):
                    self._bid_farewell(stream)

    def _greet(self, stream: MigrationStream, hello: dict[str, object]) -> None:
        """Ask whether the VM is welcome, before anything is touched.

        Raises:
            MigrationError: it is not, and why.
        """
        try:
            self._check_cancelled()
            stream.send(Kind.HELLO, json.dumps(hello).encode())
            welcome = self._expect(stream, Kind.WELCOME)
            if not handshake.same_clock(welcome):
                self._probes = clocks.probe(stream)
                self._ahead_ns = clocks.agree(stream, self._probes)
        except FAILURES as error:
            reason = self._explained(error, stream)
            if hello.get("farewell") and getattr(reason, "phase", "") == "stream":
                # A destination that wants TLS does not answer who speaks none.
                hint = "" if stream.encrypted else ": does the destination want TLS (--tls-cert)?"
                reason = MigrationError("greeting", f"{error}{hint}")
            raise reason from error

    def _join(self, stream: MigrationStream, hello: dict[str, object]) -> SendingLanes:
        """Connect the further streams that the greeting promised."""
        others: list[MigrationStream] = []
        with contextlib.ExitStack() as made:
            for _ in range(1, self._parameters.streams):
                if self._reach is None:
                    raise MigrationError("connect", "there is no way to a second stream")
                others.append(made.enter_context(contextlib.closing(self._reach())))
                others[-1].send(Kind.JOIN, str(hello["session"]).encode())
            made.pop_all()
        with self._giving:
            self._lanes = SendingLanes(stream, others)
        return self._lanes

    def _bid_farewell(self, stream: MigrationStream) -> None:
        start = self.timeline.marks["pause_start_ns"]

        def news(downtime: int, offset: Offset) -> JsonObject:
            return {
                "strategy": self._strategy.NAME,
                "downtime_ns": downtime,
                "downtime_error_ns": None if offset.same else offset.error_ns,
                "precopy": self.precopy.to_json(),
                **self._accounts(),
            }

        told = completion.bid(stream, start, self._probes, news)
        # The guest took the clock over as it was known before the blackout.
        late = self._ahead_ns - int(told["offset_ns"])
        self.destination = {**told, "guest_gap_ns": int(told["guest_gap_ns"]) + late}

    def _forget_stream(self) -> None:
        with self._giving:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def _wake_keeper(self) -> None:
        """The VM runs on here, or rests for good; tell which devices it is without."""
        keeper = self.vm.keeper
        if not self._gone:
            keeper.watch()
            keeper.await_all(RETURN_PATIENCE)
            self.lost = dict(keeper.lost)

    def _refuse_without_back_end(self) -> None:
        for name, reason in self.vm.keeper.lost.items():
            raise MigrationError("precopy", f"{name} is without a back-end: {reason}")

    def _begin(self) -> None:
        self._check_cancelled()
        self._refuse_without_back_end()
        self._observe("MIGRATION", {"status": "active"})
        self._strategy.open()

    def _move(
        self, stream: MigrationStream, hello: dict[str, object], owned: contextlib.ExitStack
    ) -> list[Task]:
        """Everything up to RUNNING; the devices' tasks, which may have something left to do.

        What has to be closed when all is over goes to ``owned``.
        """
        self._begin()
        lanes = owned.enter_context(contextlib.closing(self._join(stream, hello)))
        log = DirtyLog.create(self.vm.log_pages)
        owned.callback(log.close)
        self._set_logging(log)
        sync = RamSync(self.vm.machine.ram, log)
        with self.vm.driving:
            devices = pack_devices(self.vm.devices)
        stream.send(Kind.DEVICES, devices)
        precopy = self._sending = self._make_precopy(lanes, sync)
        precopy.run(lambda: self._await_prepared(stream))
        return self._switch_over(stream, lanes, sync, precopy)

    def _make_precopy(self, lanes: SendingLanes, sync: RamSync) -> Precopy:
        vm = self.vm
        return Precopy(
            vm.machine.ram,
            sync,
            lanes,
            self._parameters,
            self._observe,
            forecast=Forecast(vm, self._strategy, self._past, self._parameters.deadline),
            throttle=vm.machine.vcpus.throttle,
            pause=self._cancelled.wait,
            check=self._check_cancelled,
        )

    def _await_prepared(self, stream: MigrationStream) -> bytes:
        stream.set_deadline(PATIENCE * self._parameters.deadline)
        expects = self._expect(stream, Kind.PREPARED)
        stream.set_deadline(self._parameters.deadline)
        return expects

    def _explained(self, error: Exception, stream: MigrationStream) -> Exception:
        """The error, or what the destination says of it when the stream broke."""
        if self._cancelled.is_set():
            return CancelledError()
        if isinstance(error, MigrationError) and error.phase == "stream":
            reason = stream.last_words()
            if reason:
                return MigrationError("destination", reason)
        return error

    def _set_logging(self, log: DirtyLog | None) -> None:
        self.vm.drive(lifecycle.set_logging(device, log) for device in self.vm.devices)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError

    def _switch_over(
        self, stream: MigrationStream, lanes: SendingLanes, sync: RamSync, precopy: Precopy
    ) -> list[Task]:
        """The blackout, as this side sees it: from the first vCPU's pause to RUNNING."""
        vm = self.vm
        timeline = self.timeline
        tasks = begun(vm.devices, lifecycle.stop)
        # What has become dirty since the decision goes before the clock starts, if that pays.
        precopy.top_up()
        with self._blackout():
            self._strategy.stop(tasks, self._stage)
            with timeline.span(Phase.FINAL_RAM):
                lanes.send_ram(vm.machine.ram, sync.dirty())
                lanes.end_round()
            with timeline.span(Phase.DEVICE_STATE):
                stream.send(Kind.SWITCHOVER, pack_switchover(vm))
            self._commit(stream)
        return tasks

    @contextlib.contextmanager
    def _blackout(self) -> Iterator[None]:
        """The vCPUs are paused, and for the length of the block the downtime is counted."""
        vm, timeline = self.vm, self.timeline
        self._observe("MIGRATION", {"status": "device"})
        with without_collector(), vm.machine.charged("src"):
            vm.await_heartbeat()
            timeline.mark("pause_start_ns")
            timeline.marks["last_beat_ns"] = vm.guest.heartbeat.last
            timeline.in_blackout = True
            with timeline.span(Phase.PAUSE_VCPUS):
                vm.pause_vcpus(self._stage.timeout)
            self.requests_in_flight = vm.guest.requests_in_flight()
            yield
            timeline.mark("running_ns")
            timeline.in_blackout = False

    def _commit(self, stream: MigrationStream) -> None:
        """Give the VM away, once, when the destination's devices have been started.

        Until GO has been sent the VM belongs here, and from then on there: a guest that may have
        run over there must never run here again from older memory. Only a destination that has
        given up before it read GO says FAILED after it; then it has not run.
        """
        stream.set_deadline(PATIENCE * self._parameters.deadline)
        self._expect(stream, Kind.READY)
        with self._giving:
            self._check_cancelled()
            if stream.hung_up:
                raise MigrationError("stream", "the destination has given up")
            stream.send(Kind.GO)
            self._given = True
        try:
            self._expect(stream, Kind.RUNNING)
        except MigrationError as error:
            if error.phase == "destination":
                raise

    def _expect(self, stream: MigrationStream, wanted: Kind) -> bytes:
        kind, _, payload = stream.receive()
        if kind is Kind.FAILED:
            raise MigrationError("destination", payload.decode(errors="replace"))
        if kind is not wanted:
            raise MigrationError("stream", f"{kind.name} came where {wanted.name} was due")
        return payload

    def _roll_back(self) -> None:
        """The devices start again here, where they have stopped, and the vCPUs run on.

        A device that cannot does not keep the others, nor the vCPUs.
        """
        self.timeline.in_blackout = False
        self.vm.machine.vcpus.throttle(0)
        for device in self.vm.devices:
            device.logging = False
        self.vm.recover_devices()
        self.vm.resume_vcpus()
        self._stop_logging()

    def _stop_logging(self) -> None:
        self.vm.stop_logging()
