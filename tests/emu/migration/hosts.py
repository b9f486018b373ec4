"""Source and destination hosts inside the test process: real back-ends in threads, real VMs."""
# ruff: noqa: D102 - the names describe them

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from backends import stats
from backends.blk_device import BlkDevice
from backends.control import ControlOptions
from backends.fabric import Fabric
from backends.image import Image
from backends.io_pool import IoPool
from backends.loop import Loop
from backends.net_device import NetDevice
from backends.server import DeviceServer, listen
from backends.stop_policy import StopPolicy
from devices.blk import VhostUserBlk
from emu.config import vm_file
from emu.config.costs import NATIVE, CostModel
from emu.config.migration_parameters import Parameters
from emu.config.ring_use import RingUse, first_units, these_rings
from emu.config.vm_spec import DeviceGroup, DeviceSpec, VmSpec
from emu.migration.destination import Destination
from emu.migration.endpoint import Listener, connect
from emu.migration.handover import HandoverDestination, HandoverSource
from emu.migration.handshake import hello
from emu.migration.source import Source
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from emu.vm.vm import Vm
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.codec import HEADER, REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    import pytest

    from emu.migration.history import History
    from emu.migration.stream import MigrationStream
    from emu.migration.tls import Credentials
    from emu.vm.handover_state import VmHandoverState
    from emu.vm_process.control import Control

#: Those with which `make test` runs what `make test-all` runs with each strategy.
QUICK = {"qemu-2021", "prewired", "handover"}
#: The strategies that stop the rings at the source and start them at the destination.
RING_STOPPING_STRATEGIES = [name for name in STRATEGIES if not make(name).hands_over]
SPEC = VmSpec(3, 256 << 20, (DeviceGroup("net", 1, 4), DeviceGroup("blk", 2, 2)))


def _partly_used(net: RingUse, blk: RingUse) -> VmSpec:
    groups = DeviceGroup("net", 1, 4, net), DeviceGroup("blk", 2, 4, blk)
    return VmSpec(3, 256 << 20, groups)


#: VMs whose guests use some rings only: the others are not set up, or are disabled (a NIC's).
PARTLY_USED = {
    "some": _partly_used(these_rings([2, 3]), these_rings([1, 3])),
    "one pair enabled": _partly_used(first_units(1, 2), these_rings([2])),
    "one kind": _partly_used(these_rings([]), these_rings([0, 3])),
    "none": _partly_used(these_rings([]), these_rings([])),
}
IMAGE_BYTES = 16 << 20
PARAMETERS = Parameters(timeout=TIMEOUT)
#: Both disks have one thread for real flushes: on a busy disk a request waits for those of others.
CONTROL = ControlOptions(StopPolicy(drain_limit=int(TIMEOUT * 1e9)))
#: One thread, so that jobs are done in the order of their submission.
POOL_THREADS = 1


class Host:
    """The back-ends of one host, each device on an event loop of its own."""

    def __init__(self, name: str, folder: Path, spec: VmSpec = SPEC) -> None:
        self.spec = spec
        self.loops: dict[str, Loop] = {}
        self.sockets: dict[str, str] = {}
        self._servers: dict[str, DeviceServer] = {}
        self._pool = IoPool(POOL_THREADS)
        self._folder = folder
        self._fabric = Fabric(switch=False)
        self._replaced_loops: list[Loop] = []
        for device in spec.devices:
            self.sockets[device.name] = str(folder / f"{name}-{device.name}.sock")
            self._serve(device)

    def _serve(self, device: DeviceSpec) -> None:
        path = self.sockets[device.name]
        loop = self.loops[device.name] = Loop(device.name)
        if device.device_class == "blk":
            image = self._folder / f"{device.name}.img"
            if not image.exists():
                with image.open("wb") as file:
                    file.truncate(IMAGE_BYTES)
            backend: BlkDevice | NetDevice = BlkDevice(
                device.name, loop, Image(str(image)), device.rings, self._pool
            )
        else:
            backend = NetDevice(device.name, loop, device.rings, self._fabric)
        self._servers[device.name] = DeviceServer(backend, listen(path), CONTROL)
        loop.start()

    def restart(self, device: str) -> None:
        """Start a new back-end on the socket path of the one that was killed."""
        self._replaced_loops.append(self.loops[device])
        self._serve(next(spec for spec in self.spec.devices if spec.name == device))

    def vm(self, costs: CostModel = NATIVE, accel: str = "soft") -> Vm:
        return Vm(self.spec, accel=accel, costs=costs, backends=self.sockets, timeout=TIMEOUT)

    def create(self, control: Control, name: str = "A", load: str = "heavy") -> None:
        """Describe the host's VM to a control that has none."""
        control.create(
            name=name,
            spec=vm_file.spec_to_json(self.spec),
            accel="soft",
            costs="native",
            load=load,
            backends=self.sockets,
        )

    def ring_events(self, device: str) -> tuple[int, int]:
        """How many rings the device's back-end has started, and stopped."""
        counters = self._servers[device].device.counters
        return counters[stats.RING_STARTS], counters[stats.RING_STOPS]

    def logs(self, device: str) -> bool:
        """Whether the device's back-end logs what it writes."""
        return self._servers[device].device.guest.log_mark is not None

    def active(self, device: str) -> bool:
        """Whether the back-end serves a ring of the device, after all pending events."""
        answer = queue.SimpleQueue[bool]()
        rings = self._servers[device].device.rings
        self.loops[device].post(
            lambda: self.loops[device].again(
                lambda: answer.put(any(ring.queue is not None for ring in rings))
            )
        )
        return answer.get(timeout=TIMEOUT)

    def hold(self, device: str) -> threading.Event:
        """Stop the device's back-end in the middle of its work, until the event is set."""
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            release.wait(TIMEOUT)

        self.loops[device].post(hold)
        assert held.wait(TIMEOUT)
        return release

    def hold_requests(self) -> threading.Event:
        """Complete no request of a disk until the event is set; the loops go on."""
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            release.wait(TIMEOUT)

        self._pool.submit(hold, print)
        assert held.wait(TIMEOUT)
        return release

    def requests_taken(self, device: str) -> int:
        """Requests that the device's back-end has taken, and does not complete at once."""
        answer = queue.SimpleQueue[int]()
        rings = self._servers[device].device.rings
        self.loops[device].post(lambda: answer.put(sum(ring.in_flight for ring in rings)))
        return answer.get(timeout=TIMEOUT)

    def send_stray(self, device: str) -> None:
        """The device's back-end sends a reply that is not due."""
        sent = threading.Event()

        def send() -> None:
            control = self._servers[device]._control
            assert control is not None
            channel = control._connection._channel
            channel.queue(HEADER.pack(FrontendRequest.GET_FEATURES, VERSION | REPLY, 8) + bytes(8))
            channel.flush()
            sent.set()

        self.loops[device].post(send)
        assert sent.wait(TIMEOUT)

    def fail(self, device: str) -> None:
        """The device's back-end closes its connection, as after an error, and serves the next."""
        failed = threading.Event()

        def fail() -> None:
            self._servers[device].device_failed(OSError("the device has failed"))
            failed.set()

        self.loops[device].post(fail)
        assert failed.wait(TIMEOUT)

    def kill(self, device: str) -> None:
        """End the device's back-end at an arbitrary moment, with requests in flight."""
        assert self.loops[device].stop(TIMEOUT)
        drained = threading.Event()
        self._pool.submit(drained.set, print)
        assert drained.wait(TIMEOUT)
        self._servers.pop(device).close()

    def close(self) -> None:
        for name in self._servers:
            assert self.loops[name].stop(TIMEOUT)
        self._pool.close()
        for server in self._servers.values():
            server.close()
        for loop in (*self.loops.values(), *self._replaced_loops):
            loop.close()


def without_inflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The back-ends of disks seem to lack the inflight region from now on."""
    wanted = VhostUserBlk.wanted_protocol_features & ~ProtocolFeature.INFLIGHT_SHMFD
    monkeypatch.setattr(VhostUserBlk, "wanted_protocol_features", wanted)


class Events:
    """Records the events of a migration."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, object]]] = []

    def __call__(self, name: str, data: dict[str, object]) -> None:
        self.seen.append((name, data))


class Migration:
    """One migration from a running VM to a waiting one, both in this process."""

    def __init__(
        self,
        source: Vm,
        destination: Vm,
        strategy: str,
        folder: Path,
        parameters: Parameters = PARAMETERS,
        history: History | None = None,
        owned: ExitStack | None = None,
        *,
        tls: tuple[Credentials, Credentials] | None = None,
        report: bool = False,
    ) -> None:
        self.events = Events()
        #: The VM that runs afterwards: `destination`, or the one built for a handover.
        self.destination_vm = destination
        options = StrategyOptions(threads=3)
        chosen = make(strategy, options)
        # The credentials of source and destination.
        ours, theirs = (None, None) if tls is None else tls
        uri = f"unix:{folder / 'stream'}" if tls is None else "tcp:127.0.0.1:0"
        self.listener = Listener(uri, theirs)
        self._credentials = ours
        self.source = (HandoverSource if chosen.hands_over else Source)(
            source,
            chosen,
            parameters=parameters,
            observe=self.events,
            history=history,
            connect=self._connect,
            report_fields=lambda: {"served": 7},
        )
        self.destination: Destination | HandoverDestination
        self._built: list[Vm] = []
        if chosen.hands_over:
            if owned is None:
                raise ValueError("a handover needs a stack that closes the new VM")
            owned.callback(self._discard)
            self.destination = HandoverDestination(
                source.spec,
                self._build,
                self._discard,
                parameters=parameters,
                observe=self.events,
                accel=source.machine.accel.name,
            )
        else:
            self.destination = Destination(
                destination, parameters=parameters, observe=self.events, accept=self._accept
            )
            destination.guest.attach()
        self.received: list[BaseException | None] = []
        self._hello = hello(source, strategy, options, streams=parameters.streams, report=report)
        self._thread = threading.Thread(target=self._receive)

    def _build(self, handed_over: VmHandoverState) -> Vm:
        accel = self.destination_vm.machine.accel.name
        vm = Vm(
            self.destination_vm.spec,
            accel=accel,
            costs=NATIVE,
            backends={},
            handed_over=handed_over,
        )
        self._built.append(vm)
        self.destination_vm = vm
        return vm

    def _discard(self) -> None:
        for vm in self._built:
            vm.close()
        self._built.clear()

    def _receive(self) -> None:
        try:
            self.destination.run(self._accept())
        except Exception as error:  # noqa: BLE001  the test checks it
            self.received.append(error)
        else:
            self.received.append(None)

    def _connect(self) -> MigrationStream:
        return connect(self.listener.uri, timeout=TIMEOUT, credentials=self._credentials)

    def _accept(self) -> MigrationStream:
        stream = self.listener.accept(timeout=TIMEOUT, connect_timeout=TIMEOUT)
        assert stream is not None
        return stream

    def run(self, **changes: object) -> None:
        """Migrate; raises the source's error.

        Args:
            changes: members of HELLO to replace.
        """
        self._thread.start()
        try:
            self.run_source(**changes)
        finally:
            self._thread.join(3 * TIMEOUT)
            self.listener.close()
            assert not self._thread.is_alive()
        self._check_downtimes()

    def run_source(self, **changes: object) -> None:
        """Migrate to the listener, without a destination that accepts the connection."""
        self.source.run(self._connect(), {**self._hello, **changes})

    def _check_downtimes(self) -> None:
        """Each of the three measurements of the downtime is positive."""
        start = self.source.timeline.marks["pause_start_ns"]
        assert start < self.destination.timeline.marks["running_ns"]
        if not self.destination_vm.machine.paused:
            assert self.destination.guest_gap_ns > 0


def loaded_vm(host: Host, owned: ExitStack, load: str) -> Vm:
    """A VM that was booted, and whose guest makes requests; ``owned`` closes it."""
    vm = host.vm()
    owned.callback(vm.close)
    vm.boot()
    vm.guest.start_load(load)
    await_requests(vm)
    return vm


def await_requests(vm: Vm, requests: int = 50) -> None:
    """Return when that many more requests of the guest have completed, if its disks have rings."""
    if not vm.guest.disks.queues:
        return
    enough = vm.guest.request_log().completed + requests
    wait_until(lambda: vm.guest.request_log().completed >= enough)


def await_disk(vm: Vm, disk: int, ring: int) -> None:
    """Return when 20 more requests of this ring have completed."""
    queues = vm.guest.disks.queues
    unit = next(u for u in queues if (u.place.number, u.place.position) == (disk, ring))
    enough = unit.request_log().completed + 20
    wait_until(lambda: unit.request_log().completed >= enough)


def await_packets(vm: Vm, packets: int) -> None:
    """Return when the guest has received that many more packets."""
    enough = vm.guest.request_log().packets_received + packets
    wait_until(lambda: vm.guest.request_log().packets_received >= enough)


def check_started(vm: Vm) -> None:
    """Those rings are started that the guest's drivers have set up."""
    for device, spec in zip(vm.devices, vm.spec.devices, strict=True):
        started = tuple(ring.index for ring in device.rings if ring.started)
        assert started == spec.rings_set_up


def check_request_log(vm: Vm) -> None:
    """No request is lost, duplicated or corrupted, and every block reads back as written."""
    assert vm.guest.quiesce(TIMEOUT) == 0
    totals = vm.guest.request_log()
    assert totals.intact, totals
    assert totals.outstanding == 0
    assert totals.requests == totals.completed
    assert bool(totals.completed) == bool(vm.guest.disks.queues)
    verified = vm.guest.verify(TIMEOUT)
    assert verified.finished
    assert verified.corrupted == 0
