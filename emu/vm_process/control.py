"""The monitor commands of a VM process, which control its VM and the VM's migrations."""

# ruff: noqa: D102 - the methods are documented in VmControl

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from backends.stats import served
from emu.config import vm_file
from emu.config.costs import by_name
from emu.config.migration_parameters import Parameters
from emu.errors import EmuError, MigrationError, Operation
from emu.guest.image_check import check_image
from emu.json_input import Map
from emu.locking.locks import enable_checking
from emu.machine.accel.registry import resolve
from emu.migration import disk_comparison
from emu.migration.destination import Destination
from emu.migration.destination_base import DestinationBase
from emu.migration.device_probe import calibrate
from emu.migration.dirty_rate import DirtyRate
from emu.migration.endpoint import Listener, connect
from emu.migration.handover import HandoverDestination, HandoverSource
from emu.migration.handshake import hello
from emu.migration.history import History
from emu.migration.job import Job
from emu.migration.source import FAILURES, RECONNECT_TIMEOUT, Source
from emu.migration.tls import Credentials
from emu.strategies import registry
from emu.strategies.base import StrategyOptions
from emu.strategies.timeline import now
from emu.vm.guest_config import DiskUse
from emu.vm.reset import reset_devices
from emu.vm.vm import Vm
from emu.vm_process import arguments
from emu.vm_process.commands import VmControl
from emu.vm_process.hotplug import Hotplug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.migration.side import MigrationSide
    from emu.migration.stream import MigrationStream
    from emu.qmp.protocol import EventSink, JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.handover_state import VmHandoverState

#: Seconds: the longest calc-time of calc-dirty-rate, as in QEMU.
MAX_CALC_TIME = 60


def _require_back_ends(vm: Vm) -> None:
    """Raise `EmuError` if a device has lost its back-end."""
    lost = vm.reconnect.lost  # read once: a device may be reconnected meanwhile
    if lost:
        raise EmuError(f"without a back-end: {', '.join(map(str, lost.values()))}")


def _credentials(tls: list[str] | None) -> Credentials | None:
    return None if tls is None else Credentials(*tls)


def _accept(listener: Listener, *, timeout: float, wait: bool = False) -> MigrationStream:
    """Accept the next connection of the source.

    Args:
        listener: of the incoming migration.
        timeout: seconds until the source connects, and for each system call on the connection.
        wait: wait for the source to connect without a limit.

    Raises:
        MigrationError: the incoming migration was cancelled, or the source has not connected in
            time.
    """
    stream = listener.accept(timeout=timeout, connect_timeout=None if wait else timeout)
    if stream is None:
        raise MigrationError(Operation.LISTEN, "cancelled")
    return stream


class Control(VmControl):
    """The commands of a process that runs one VM at a time; at first it has none.

    The methods are documented in `VmControl`.

    Args:
        emit: emits the monitor's events.
    """

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        # The arguments of `create`, which `start` or `incoming` uses.
        self._config: JsonObject = {}
        self._parameters = Parameters()
        self._vm: Vm | None = None
        self._job: Job | None = None
        # `release` keeps it, for the next migration of the same VM.
        self._history = History()
        self._dirty_rate = DirtyRate()
        self._hotplug: Hotplug | None = None
        #: The VM is built and waits for `incoming`.
        self.prepared = False
        # Held while a device comes or goes, and when the source of a migration is served.
        self._arrival_lock = threading.Lock()
        # The VM is resumed when it has arrived.
        self._autostart = True
        # The guest's request log began anew after the back-ends had started.
        self._was_reset = False

    @property
    def vm(self) -> Vm:
        """The VM of this process.

        Raises:
            EmuError: the process has no VM, or one of its vCPUs has crashed.
        """
        if self._vm is None:
            raise EmuError("this process has no VM: use x-start or migrate-incoming")
        for crash in self._vm.machine.crashed:
            raise EmuError(f"guest code failed on {crash}")
        return self._vm

    @property
    def parameters(self) -> Parameters:
        """The parameters of later migrations."""
        return self._parameters

    @property
    def hotplug(self) -> Hotplug:
        """The ids of the VM's devices, and what plugs and unplugs them.

        Raises:
            EmuError: the process has no VM.
        """
        vm = self.vm
        if self._hotplug is None:
            self._hotplug = Hotplug(vm, self._emit)
        return self._hotplug

    def settle(self) -> None:
        """Return when no device is being unplugged."""
        if self._hotplug is not None:
            self._hotplug.settle()

    @contextmanager
    def hotplugging(self, command: str) -> Iterator[bool]:
        """Keep devices as they are but for what the block does; no source is served meanwhile.

        Yields:
            Whether the VM is still to arrive.

        Raises:
            EmuError: a migration or a measurement uses the devices.
        """
        with self._arrival_lock:
            self.settle()
            self._refuse_while_measuring()
            arriving = self._awaits_vm and not self._receiving
            if not arriving and self._job is not None and self._job.running:
                raise EmuError(f"{command} is not possible while migrating")
            if self._has_left:
                raise EmuError(f"{command}: the VM runs at the destination")
            yield arriving

    @property
    def _awaits_vm(self) -> bool:
        """Whether the VM is still to arrive: the status ``inmigrate``."""
        side = self._side
        return self.prepared or (side is not None and side.awaits_vm)

    @property
    def _receiving(self) -> bool:
        """Whether the source of an incoming migration has connected."""
        return not self.prepared and self._job is not None and self._job.status != "setup"

    def _set_autostart(self, *, autostart: bool) -> bool:
        """In the status ``inmigrate``: set whether the VM is resumed when it has arrived.

        Returns:
            False if it does not await a VM, or not any more.
        """
        if not self._awaits_vm:
            return False
        side = self._side
        if isinstance(side, DestinationBase) and not side.set_autostart(autostart=autostart):
            return False
        self._autostart = autostart
        return True

    def _refuse_before_arrival(self) -> None:
        """Raise `EmuError` if the VM is still to arrive, as QEMU's migrate does."""
        if self._awaits_vm:
            raise EmuError("Guest is waiting for an incoming migration")

    @property
    def sending(self) -> bool:
        """Whether an outgoing migration runs."""
        job = self._job
        return job is not None and job.running and isinstance(job.side, Source)

    @property
    def _has_left(self) -> bool:
        """Whether the VM was migrated from here to another process."""
        job = self._job
        return job is not None and job.status == "completed" and isinstance(job.side, Source)

    def create(
        self,
        *,
        name: str,
        spec: JsonObject,
        accel: str,
        costs: str,
        load: str,
        backends: JsonObject,
        disk: JsonObject | None = None,
        dirty_rate: int = 0,
    ) -> JsonObject:
        if self._vm is not None:
            raise EmuError("this process has a VM already")
        vm_spec = vm_file.spec_from_json(spec)
        accel = resolve(accel, vcpus=vm_spec.vcpus, rings=vm_spec.rings)
        self._config = {
            "name": name,
            "spec": vm_spec,
            "accel": accel,
            "costs": by_name(costs),
            "load": load,
            "backends": arguments.checked(backends, Map(str), "backends"),
            "disk": None if disk is None else arguments.checked(disk, arguments.DISK, "disk"),
            "dirty_rate": dirty_rate,
        }
        return {"accel": accel}

    def _build(self, handed_over: VmHandoverState | None = None) -> Vm:
        self._require_configured()
        config = self._config
        disk = config["disk"]
        self._vm = Vm(
            config["spec"],
            accel=config["accel"],
            costs=config["costs"],
            backends=config["backends"],
            disk=None if disk is None else DiskUse(write=disk["writable"]),
            timeout=self._parameters.timeout,
            observe=self._emit,
            handed_over=handed_over,
        )
        return self._vm

    def _require_configured(self) -> None:
        """Raise `EmuError` unless a VM has been configured and not been built."""
        if not self._config:
            raise EmuError("x-create must come first")
        if self._vm is not None:
            raise EmuError("this process has a VM already")

    def _discard(self) -> None:
        """Close the VM, if there is one, and keep its configuration."""
        if self._vm is not None:
            self._vm.close()
            self._vm = None

    def start(self) -> None:
        self._job = None
        self._build()
        self._boot(self._config["load"], self._config["dirty_rate"])

    def prepare(self) -> None:
        self._build().guest.attach()
        self.prepared = True

    def await_incoming(self, vm: Vm) -> None:
        """Use a VM that the caller has built for a later `incoming`; this object owns it."""
        self._vm = vm
        vm.guest.attach()
        self.prepared = True

    def boot(self, vm: Vm, load: str) -> None:
        """Boot a VM that the caller has built, instead of one that `create` has configured.

        Args:
            vm: this object owns it from now on; `release` closes it.
            load: ``none``, ``light`` or ``heavy``.

        Raises:
            EmuError: there is a VM already.
            VhostUserError: a device cannot be started.
        """
        if self._vm is not None:
            raise EmuError("this process has a VM already")
        self._vm = vm
        self._boot(load)

    def _boot(self, load: str, dirty_rate: int = 0) -> None:
        vm = self.vm
        vm.boot(lambda: calibrate(vm, self._history, self._parameters.timeout))
        vm.guest.set_dirty_rate(dirty_rate)
        vm.guest.start_load(load)

    def incoming(
        self,
        uri: str,
        *,
        handover: bool = False,
        tls: list[str] | None = None,
        disks: JsonObject | None = None,
    ) -> JsonObject:
        self._refuse_while_migrating()
        listener = Listener(uri, _credentials(tls))
        job = Job(self._emit)
        accept = partial(_accept, listener, timeout=self._parameters.timeout)
        try:
            side = (
                self._handover_destination(job)
                if handover
                else self._destination(job, accept, disks)
            )
        except (*FAILURES, ValueError):
            listener.close()
            raise

        def receive() -> None:
            with closing(listener):
                stream = accept(wait=True)
                with self._arrival_lock:
                    job.observe("MIGRATION", {"status": "active"})  # no device comes or goes now
                    self.settle()
                side.run(stream)

        def abort() -> None:
            # Once the source has connected, only its connection can be interrupted.
            if not listener.cancel():
                side.abort()

        side.set_autostart(autostart=self._autostart)
        self._job = job
        self.prepared = False
        job.start(side, receive, cancel=listener.cancel, abort=abort)
        return {"uri": listener.uri}

    def _destination(
        self, job: Job, accept: Callable[[], MigrationStream], disks: JsonObject | None
    ) -> DestinationBase:
        """A destination with a VM that is built and connected to back-ends of its own."""
        if self.prepared:
            vm = self.vm
        else:
            vm = self._build()
            vm.guest.attach()
        return Destination(
            vm,
            parameters=self._parameters,
            observe=job.observe,
            history=self._history,
            check_disks=None if disks is None else partial(disk_comparison.differences, disks),
            accept=accept,
        )

    def _handover_destination(self, job: Job) -> DestinationBase:
        """A destination that builds its VM from the source's memory and connections."""
        self._require_configured()
        return HandoverDestination(
            self._config["spec"],
            self._build,
            self._discard,
            parameters=self._parameters,
            observe=job.observe,
            history=self._history,
            accel=self._config["accel"],
        )

    def migrate(
        self,
        uri: str,
        strategy: str,
        options: JsonObject,
        tls: list[str] | None = None,
        between: JsonObject | None = None,
        loopback_only: bool = False,  # noqa: FBT001, FBT002  an argument of QMP
    ) -> None:
        vm = self.vm
        parameters = self._parameters
        # ``between`` is None if the destination belongs to this run.
        other_run = arguments.checked(between or {}, arguments.BETWEEN, "between")
        arguments.checked(options, arguments.OPTIONS, "options")
        self._refuse_before_arrival()
        self._refuse_while_migrating()
        self._refuse_while_measuring()
        if self._has_left:
            raise EmuError("the VM runs at the destination")
        job = Job(self._emit)
        open_stream = partial(
            connect,
            uri,
            timeout=parameters.timeout,
            credentials=_credentials(tls),
            loopback_only=loopback_only,
        )
        try:
            strategy_options = StrategyOptions(**options)
            scheduler = registry.make(strategy, strategy_options)
            side = self._source(scheduler, job, open_stream, other_run.get("stats", ()))
        except (ValueError, TypeError) as error:
            raise EmuError(str(error)) from None

        def send() -> None:
            content = hello(
                vm,
                strategy,
                strategy_options,
                streams=parameters.streams,
                disks=other_run.get("disks"),
                report=between is not None,
            )
            side.run(open_stream(), content)

        self._job = job
        job.start(side, send, cancel=side.cancel)

    def _source(
        self,
        strategy: Strategy,
        job: Job,
        open_stream: Callable[[], MigrationStream],
        stats: Sequence[str] | None,
    ) -> Source:
        return (HandoverSource if strategy.hands_over else Source)(
            self.vm,
            strategy,
            parameters=self._parameters,
            observe=job.observe,
            history=self._history,
            connect=open_stream,
            report_fields=lambda: {
                "served": None if stats is None or not self._counters_match else served(stats)
            },
        )

    def set_parameters(self, parameters: JsonObject) -> None:
        before = self._parameters
        self._parameters = Parameters.from_json(parameters, before)
        if self._vm is not None:
            self._vm.timeout = self._parameters.timeout
        if self._parameters.check_locks != before.check_locks:
            enable_checking(self._parameters.check_locks)

    def query_parameters(self) -> JsonObject:
        return self._parameters.to_json()

    def _refuse_while_migrating(self) -> None:
        self.settle()
        if self._job is not None and self._job.running:
            raise EmuError("a migration is in progress")

    def _refuse_while_measuring(self) -> None:
        if self._dirty_rate.measuring:
            raise EmuError("the dirty rate is being measured: wait for its end")

    def cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def stop(self) -> None:
        if self._set_autostart(autostart=False):
            return
        self._refuse_while_migrating()
        vm = self.vm
        if vm.machine.vcpus.paused:
            return
        vm.reconnect.pause()
        vm.pause_vcpus()
        vm.drain_requests(vm.timeout)
        vm.stop_devices()
        self._emit("STOP", {})

    def cont(self) -> None:
        if self._set_autostart(autostart=True):
            return
        self._refuse_while_migrating()
        if self._has_left:
            raise EmuError("the VM runs at the destination: it must not run here, too")
        vm = self.vm
        if not vm.machine.vcpus.paused:
            return
        vm.recover_devices()
        vm.resume_vcpus()
        vm.reconnect.resume()
        vm.reconnect.await_all(RECONNECT_TIMEOUT)
        _require_back_ends(vm)
        self._emit("RESUME", {})

    def reset(self) -> None:
        self._refuse_before_arrival()
        self._refuse_while_migrating()
        vm = self.vm
        if vm.machine.vcpus.paused:
            raise EmuError("the VM is paused: cont first")
        # No other thread may start a device between its reset and its activation.
        with vm.reconnect.paused():
            _require_back_ends(vm)
            self._was_reset = True
            reset_devices(vm)
        vm.guest.resume_load()
        self._emit("RESET", {"guest": False})
        vm.reconnect.await_all(RECONNECT_TIMEOUT)
        _require_back_ends(vm)

    def calc_dirty_rate(self, calc_time: int, mode: str = "dirty-bitmap") -> None:
        self._refuse_before_arrival()
        self._refuse_while_migrating()
        if mode != "dirty-bitmap":
            raise EmuError(f"Parameter 'mode' is {mode!r}: only dirty-bitmap is supported")
        if not 1 <= calc_time <= MAX_CALC_TIME:
            raise EmuError(f"Parameter 'calc-time' is {calc_time}: 1 to {MAX_CALC_TIME} s")
        self._dirty_rate.start(self.vm, calc_time)

    def query_dirty_rate(self) -> JsonObject:
        return self._dirty_rate.query()

    @property
    def _side(self) -> MigrationSide | None:
        """This process's side of the current migration, or of the last one."""
        return None if self._job is None else self._job.side

    def query_migrate(self) -> JsonObject:
        return {} if self._job is None else self._job.describe()

    def query_status(self) -> JsonObject:
        vm = self._vm
        if vm is None:
            return {"status": "prelaunch", "running": False}
        if vm.machine.vcpus.paused:
            status = "paused"
            if self._awaits_vm:
                status = "inmigrate"
            elif self._has_left:
                status = "postmigrate"
            elif self._job is not None and self._job.status == "device":
                status = "finish-migrate"
            return {"status": status, "running": False}
        return {"status": "running", "running": True}

    def timeline(self) -> JsonObject:
        side = self._side
        if side is None:
            raise EmuError("this process has not taken part in a migration")
        return {
            **side.timeline.to_json(),
            "commits": self.vm.machine.commits - side.commits_before,
            **side.figures(),
        }

    def request_log(self) -> JsonObject:
        guest = self.vm.guest
        return {
            **guest.request_log()._asdict(),
            "guest_gap_ns": self._guest_gap(),
            "counters_match": self._counters_match,
        }

    @property
    def _counters_match(self) -> bool:
        """Whether the back-ends' counters count the same requests as the guest's request log."""
        replaced = self._hotplug is not None and self._hotplug.replaced
        return not self._was_reset and not replaced

    def _guest_gap(self) -> int:
        """The gap that the blackout made in the guest's heartbeat; without one, the largest gap."""
        side = self._side
        if side is not None and side.guest_gap_ns:
            return side.guest_gap_ns
        return self.vm.guest.heartbeat.max_gap_ns

    def quiesce(self, timeout: float) -> None:
        self._refuse_before_arrival()
        self.settle()
        vm = self.vm
        left = vm.guest.quiesce(timeout)
        if left:
            devices = ", ".join(
                f"{device.outstanding} of {spec.name}"
                for spec, device in zip(vm.spec.devices, vm.guest.progress(), strict=True)
                if device.outstanding
            )
            raise EmuError(
                f"{left} requests and packets are still in flight after {timeout:g} s: {devices}"
            )

    def resume_load(self) -> None:
        self._refuse_before_arrival()
        self.vm.guest.resume_load()

    def stats(self) -> JsonObject:
        return {"now_ns": now(), "classes": self.vm.guest.stats()}

    def verify(self, timeout: float, images: JsonObject) -> JsonObject:
        self.settle()
        guest = self.vm.guest
        numbered = arguments.images_by_number(images)
        found = guest.verify(timeout)
        if not found.finished:
            raise EmuError(f"the guest has not read all of its blocks back within {timeout:g} s")
        stored = [
            check_image(path, number, guest.disks.generations(number))
            for number, path in numbered.items()
            if self._hotplug is None or self._hotplug.has_original(f"blk{number}")
        ]
        return {
            "checked": found.checked,
            "corrupted": found.corrupted + sum(len(image.corrupted) for image in stored),
            "images": len(stored),
        }

    def disk_reader(self, action: str, limit: int | None = None) -> JsonObject:
        if limit is not None and limit < 0:
            raise EmuError(f"Parameter 'limit' is {limit}: 0 or more")
        reader = self.vm.guest.reader
        if reader is None:
            raise EmuError("the guest reads no disk: blk0 has a scratch image")
        if action == "start":
            reader.start(limit)
        elif action == "limit":
            reader.set_limit(limit)
        elif action != "status":
            raise EmuError(f"unknown action {action!r}: use start, limit or status")
        return reader.status()._asdict()

    def release(self) -> None:
        if self._hotplug is not None:
            self._hotplug.close()
            self._hotplug = None
        self.prepared, self._autostart, self._was_reset = False, True, False
        self._dirty_rate.close()
        if self._job is not None:
            self._job.close()
        if self._vm is not None:
            self._vm.close()
        self._vm = self._job = None
        self._config = {}

    def close(self) -> None:
        self.release()
