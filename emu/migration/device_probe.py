"""The expected time to stop and to start the devices, measured while the VM runs.

The probe sends GET_FEATURES, which goes through the device's connection and its back-end's control
plane and changes no state. Sent to one device after the other, it measures the round trip that
lock-step takes for each message; sent to all devices at once, the time that a message takes among
many. It does not measure what a back-end does only when it is stopped (completing requests,
``--stop-time``): `emu.migration.history` covers that.

A running guest competes with the probe for CPUs and for the interpreter: a round trip takes three
to twenty times as long as in the blackout. So the devices are also timed once while the guest does
not run: before it boots, or before the incoming migration (`calibrate`). The probe of the running
VM then finds the devices that have become slower than the others.
"""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING

from devices.procedure import Ask, Phase
from emu.errors import MigrationError, Operation
from emu.json_input import Members, read
from emu.migration.convergence import DeviceDowntime
from emu.migration.history import NS, SHAPE, IdleCosts, NotifierCosts
from emu.migration.vmstate import pack_bases
from emu.strategies.base import DeviceCost
from emu.strategies.split import Split
from emu.strategies.task import Stage, begin_tasks
from emu.strategies.timeline import Timeline, now
from vhost_user.messages import FrontendRequest, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.device import VhostDevice
    from devices.notifiers import Edit
    from devices.procedure import Procedure
    from emu.machine.machine import Machine
    from emu.migration.history import History
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

_PREPARED = Members({"start_ns": NS, "history": SHAPE})
#: Passes over all devices; the smallest figures count, as a VM that runs often delays a message.
PASSES = 3
#: Nanoseconds after which no further pass begins: while the VM runs, and while it does not.
PASSES_NS, IDLE_PASSES_NS = 15_000_000, 60_000_000
#: Nanoseconds that a pause of the vCPUs is expected to take when none was measured: one tick of the
#: guest.
PAUSE_NS = 1_000_000
#: A device that has become this many times slower than the others counts as slow.
_SLOWER = 3
#: How often the notifiers of a device are changed; the smallest figure counts. On a busy host some
#: changes take ten times as long, because KVM waits for a grace period.
_CHANGES = 3
#: Rings whose notifiers are changed in commits of their own.
_SINGLE_RINGS = 8
#: Nanoseconds: a round trip that takes longer is not explained by a guest that runs.
_CONTENDED_NS = 50_000_000
#: Messages of a ring's start (`devices.lifecycle.start`), and those that `start_ahead` sends after
#: the switchover: BASE, ADDR, ENABLE.
_START, _PLACEMENT = 6, 3


class DeviceProbe:
    """Times the devices of one side.

    Args:
        devices: connected, and used by no other thread meanwhile.
        machine: has their notifiers.
        timeout: seconds that a back-end may take to reply.

    Raises:
        VhostUserError: a back-end does not reply.
    """

    def __init__(self, devices: Sequence[VhostDevice], machine: Machine, timeout: float) -> None:
        self._devices = devices
        self._stage = Stage(machine, Timeline(), timeout)
        self._round_trips: dict[str, int] = {}
        self._share = 0
        begin, limit = now(), IDLE_PASSES_NS if machine.paused else PASSES_NS
        for _ in range(PASSES):
            self._one_by_one(devices)
            self._all_at_once()
            if now() - begin > limit:
                break
        begin = now()
        # About one figure in a hundred is large because the thread got no CPU, not because the
        # device is slow.
        while now() - begin < limit and (slow := self._slow()):
            self._one_by_one(slow)

    def _slow(self) -> list[VhostDevice]:
        """The devices that are much slower than most, or whose message was delayed."""
        if not self._devices:
            return []
        usual = median(self._round_trips.values())
        return [d for d in self._devices if self._round_trips[d.name] > _SLOWER * usual]

    def _one_by_one(self, devices: Sequence[VhostDevice]) -> None:
        for device in devices:
            connection = device.connection
            (message,) = connection.prepare([Request(FrontendRequest.GET_FEATURES)])
            start = now()
            connection.exchange(message, self._stage.timeout)
            took = now() - start
            self._round_trips[device.name] = min(took, self._round_trips.get(device.name, took))

    def _all_at_once(self) -> None:
        tasks = begin_tasks(self._devices, _probe_messages)
        start = now()
        Split().drive(tasks, self._stage)
        messages = sum(len(device.rings) for device in self._devices)
        took = (now() - start) // max(1, messages)
        self._share = min(took, self._share or took)

    @property
    def idle(self) -> tuple[dict[str, int], int]:
        """Round trips by device, and the share (`IdleCosts`), of a probe while no guest ran."""
        return dict(self._round_trips), self._share

    def compare(self, idle: IdleCosts | None) -> None:
        """Remove the slowdown by the running guest: the factor that most devices have in common."""
        known = {} if idle is None else idle.round_trips
        ratios = [ns / known[name] for name, ns in self._round_trips.items() if known.get(name)]
        if idle is None or not ratios:
            return
        contention = max(1.0, median(ratios))
        for name, ns in self._round_trips.items():
            own, before = int(ns / contention), known.get(name)
            if ns < _CONTENDED_NS:
                quick = before is not None and own < _SLOWER * before
                self._round_trips[name] = before if before is not None and quick else own
        self._share = min(self._share, idle.share)

    def stop(self, strategy: Strategy) -> int:
        """Nanoseconds that the strategy is expected to take for a GET_VRING_BASE of each ring."""
        costs = [
            self._cost(device, asked=sum(ring.started for ring in device.rings))
            for device in self._devices
        ]
        return strategy.estimate(costs)

    def start(self, strategy: Strategy) -> int:
        """Nanoseconds to start them; only the last message and SET_MEM_TABLE have a reply."""
        costs = []
        for device in self._devices:
            rings = len(device.configured_rings())
            asked, posted = 1, _PLACEMENT * rings - 1
            if not strategy.prepares_ahead:
                asked, posted = 2, _START * rings
            costs.append(self._cost(device, asked=asked, posted=posted))
        return strategy.estimate(costs)

    def notifiers(self, strategy: Strategy, costs: NotifierCosts | None) -> tuple[int, int]:
        """Nanoseconds to deassign, and to assign, all notifiers in the blackout."""
        if strategy.prepares_ahead or costs is None:
            return 0, 0
        rings = sum(len(device.rings) for device in self._devices)
        commits = strategy.commits(len(self._devices), rings)
        # A commit takes time for each notifier that is assigned then. The costs were measured while
        # all were assigned; in several commits it is half of them on average.
        commits = (commits + 1) // 2
        return (
            costs.deassign * rings + costs.deassign_commit * commits,
            costs.assign * rings + costs.assign_commit * commits,
        )

    def _cost(self, device: VhostDevice, *, asked: int, posted: int = 0) -> DeviceCost:
        return DeviceCost(
            asked=asked,
            posted=posted,
            round_trip=self._round_trips[device.name],
            share=self._share,
        )


def _probe_messages(device: VhostDevice) -> Procedure:
    """A message for each ring, as a stop has: each device costs time besides its messages."""
    messages = [Request(FrontendRequest.GET_FEATURES)] * len(device.rings)
    yield Ask.of(Phase.PROBE, device.connection, messages)


class DowntimeForecast:
    """At the source: predicts the downtime besides memory.

    It combines the probes of both sides with the history of both sides.

    Args:
        vm: a running VM.
        strategy: stops and starts its devices.
        history: last known costs; the destination's are merged into it.
        timeout: seconds that a back-end may take to reply.
    """

    def __init__(self, vm: Vm, strategy: Strategy, history: History, timeout: float) -> None:
        self._vm = vm
        self._strategy = strategy
        self._history = history
        self._timeout = timeout
        self._expected: DeviceDowntime | None = None
        self._probed = DeviceDowntime()
        self._probe: DeviceProbe | None = None

    def expected(self) -> DeviceDowntime:
        """The expected downtime besides memory; the first call probes the devices."""
        if self._expected is None:
            with self._vm.driving:
                self._probe = DeviceProbe(self._vm.devices, self._vm.machine, self._timeout)
            self._probe.compare(self._history.idle)
            # Until PREPARED, the destination's devices are assumed to be like the source's.
            self._probed = DeviceDowntime(0, self._probe.start(self._strategy), self._vcpus())
            self._expected = self._with_history()
        return self._expected

    def _vcpus(self) -> int:
        """Nanoseconds of the vCPUs: to load and to resume take about as long as to save."""
        idle = self._history.idle
        if idle is not None and self._measured:
            return PAUSE_NS + 4 * idle.state
        start = now()
        pack_bases(self._vm.devices)
        return PAUSE_NS + 2 * (now() - start)

    def _with_history(self) -> DeviceDowntime:
        """The measured figures, combined with the history."""
        probe, history, strategy = self._probe, self._history, self._strategy
        assert probe is not None  # noqa: S101  `expected` has made it
        _, start, vcpus = self._probed
        deassign, assign = probe.notifiers(strategy, history.notifiers)
        return DeviceDowntime(
            history.devices("src", strategy, probe.stop(strategy), deassign),
            history.devices("dst", strategy, start, assign),
            history.vcpus(strategy, vcpus if self._measured else 0) or vcpus,
        )

    @property
    def _measured(self) -> bool:
        """Whether the vCPUs of this VM were timed before it ran."""
        return self._history.idle is not None and bool(self._history.idle.state)

    def use_destination(self, payload: bytes) -> None:
        """Use the destination's figures, the payload of PREPARED (`prepared_payload`).

        Args:
            payload: may be empty: then the figures stay as they are.

        Raises:
            MigrationError: the payload is invalid.
        """
        self.expected()
        if not payload:
            return
        try:
            received = read(payload, _PREPARED)
            self._history.merge(received["history"])
        except ValueError as error:
            text = f"the destination's PREPARED is invalid: {error}"
            raise MigrationError(Operation.STREAM, text) from None
        self._probed = self._probed._replace(start=received["start_ns"])
        self._expected = self._with_history()


def prepared_payload(vm: Vm, strategy: Strategy, history: History, timeout: float) -> bytes:
    """The payload of PREPARED: the expected time to start the devices, and the history.

    Raises:
        VhostUserError: a back-end does not reply.
    """
    start = _time_devices(vm, history, timeout).start(strategy)
    return json.dumps({"start_ns": start, "history": history.to_json()}).encode()


def calibrate(vm: Vm, history: History, timeout: float) -> None:
    """Measure devices, vCPUs and notifiers of a paused VM whose devices have started.

    Args:
        vm: has not run yet.
        history: keeps the figures.
        timeout: seconds that a back-end may take to reply.

    Raises:
        VhostUserError: a back-end does not reply.
    """
    _time_devices(vm, history, timeout)
    state = min(_time_state(vm) for _ in range(PASSES))
    if history.idle is not None:
        history.idle = history.idle._replace(state=state)
    device = max(vm.devices, key=lambda device: len(device.rings))
    if device.host_notifiers and device.guest_notifiers:
        history.notifiers = _time_notifiers(vm.machine, device)


def _time_state(vm: Vm) -> int:
    start = now()
    vm.machine.save_vcpus()
    pack_bases(vm.devices)
    return now() - start


def _time_devices(vm: Vm, history: History, timeout: float) -> DeviceProbe:
    with vm.driving:
        probe = DeviceProbe(vm.devices, vm.machine, timeout)
    history.idle = IdleCosts(*probe.idle, 0)
    return probe


def _time_notifiers(machine: Machine, device: VhostDevice) -> NotifierCosts:
    """Deassign and assign a device's notifiers: all in one commit, and one commit for each.

    Several single commits follow each other, as in a stop in lock-step: KVM's first grace period
    takes longer than those after it.
    """
    rings = len(device.rings)
    single = min(rings, _SINGLE_RINGS)

    def commit(edits: Sequence[Edit], *, together: bool) -> int:
        start = now()
        for part in [edits] if together else [[edit] for edit in edits]:
            machine.apply(part)
        return now() - start

    def change(count: int, *, assign: bool, together: bool) -> int:
        """Nanoseconds for each ring."""
        both = (device.host_edits(assign=assign), device.guest_edits(assign=assign))
        return sum(commit(edits[:count], together=together) for edits in both) // count

    def quickest(count: int, *, together: bool) -> tuple[int, int]:
        passes = [
            [change(count, assign=assign, together=together) for assign in (False, True)]
            for _ in range(_CHANGES)
        ]
        return min(deassign for deassign, _ in passes), min(assign for _, assign in passes)

    one_deassign, one_assign = quickest(single, together=False)
    all_deassign, all_assign = quickest(rings, together=True)
    deassign, assign = min(one_deassign, all_deassign), min(one_assign, all_assign)
    return NotifierCosts(assign, one_assign - assign, deassign, one_deassign - deassign)
