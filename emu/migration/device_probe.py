"""What devices are expected to take for a stop and a start, found out while the VM runs.

GET_FEATURES is the probe: it goes to each device's own connection, through the back-end's
control plane, and back, and changes nothing. Timed one after the other it gives the round trip
that lock-step pays for each message; with all devices in flight, what a message costs when nobody
waits for it alone. What a back-end does only when it is really stopped (finish what it has begun,
``--stop-time``) does not show: for that there is `emu.migration.history`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from devices.procedure import Ask, Phase
from emu.errors import MigrationError
from emu.migration.convergence import Expected
from emu.migration.state import pack_devices
from emu.strategies.base import DeviceCost
from emu.strategies.split import Split
from emu.strategies.task import Stage, begun
from emu.strategies.timeline import Timeline, now
from vhost_user.messages import FrontendRequest, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.device import VhostDevice
    from devices.procedure import Procedure
    from emu.machine.machine import Machine
    from emu.migration.history import History
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

#: Passes over all devices; the smallest figures count. The VM runs, and is often in the way.
PASSES = 3
#: Messages to each device when all are asked at once.
MESSAGES = 8
#: Nanoseconds after which no further pass begins.
PASSES_NS = 15_000_000
#: What a pause of the vCPUs is expected to take when none is known: one tick of the guest.
PAUSE_NS = 1_000_000
#: Messages of a ring's start (`devices.lifecycle.start_ahead`): NUM, CALL, ADDR, KICK; then BASE,
#: ADDR, ENABLE.
_AHEAD, _PLACEMENT = 4, 3


class DeviceProbe:
    """Times the devices of one side.

    Args:
        devices: connected, and nobody else talks to them meanwhile.
        machine: whose notifiers they have.
        deadline: seconds that a back-end may take for an answer.

    Raises:
        VhostUserError: a back-end does not answer: better now than in the blackout.
    """

    def __init__(self, devices: Sequence[VhostDevice], machine: Machine, deadline: float) -> None:
        self._devices = devices
        self._stage = Stage(machine, Timeline(), deadline)
        self._round_trips: dict[str, int] = {}
        self._share = 0
        #: Nanoseconds of one notifier, as a commit of many at once showed it.
        self._edit = min(
            (r.ns // (r.host + r.guest) for r in list(machine.records) if r.host + r.guest > 1),
            default=0,
        )
        begin = now()
        for _ in range(PASSES):
            self._one_by_one()
            self._all_at_once()
            if now() - begin > PASSES_NS:
                break

    def _one_by_one(self) -> None:
        for device in self._devices:
            connection = device.connection
            (message,) = connection.prepare([Request(FrontendRequest.GET_FEATURES)])
            start = now()
            connection.exchange(message, self._stage.timeout)
            took = now() - start
            self._round_trips[device.name] = min(took, self._round_trips.get(device.name, took))

    def _all_at_once(self) -> None:
        tasks = begun(self._devices, _question)
        start = now()
        Split().drive(tasks, self._stage)
        took = (now() - start) // max(1, MESSAGES * len(tasks))
        self._share = min(took, self._share or took)

    def stop(self, strategy: Strategy) -> int:
        """Nanoseconds that this strategy should need to stop them: a GET_VRING_BASE a ring."""
        costs = [
            self._cost(device, asked=sum(ring.started for ring in device.rings))
            for device in self._devices
        ]
        return strategy.estimate(costs) + self._notifiers(strategy)

    def start(self, strategy: Strategy) -> int:
        """The same of a start, of which only the last message, and the table, are waited for."""
        costs = []
        for device in self._devices:
            rings = len(device.configured())
            asked, posted = 1, _PLACEMENT * rings - 1
            if not strategy.prepares_ahead:
                asked, posted = 2, posted + 1 + _AHEAD * rings
            costs.append(self._cost(device, asked=asked, posted=posted))
        return strategy.estimate(costs) + self._notifiers(strategy)

    def _cost(self, device: VhostDevice, *, asked: int, posted: int = 0) -> DeviceCost:
        return DeviceCost(
            asked=asked,
            posted=posted,
            round_trip=self._round_trips[device.name],
            share=self._share,
        )

    def _notifiers(self, strategy: Strategy) -> int:
        """Host and guest notifiers of all rings, where they change in the blackout."""
        if strategy.prepares_ahead:
            return 0
        return 2 * self._edit * sum(len(device.rings) for device in self._devices)


def _question(device: VhostDevice) -> Procedure:
    questions = [Request(FrontendRequest.GET_FEATURES)] * MESSAGES
    yield Ask.of(Phase.PROBE, device.connection, questions)


class Forecast:
    """At the source: what is known of the blackout besides memory, from whomever.

    Args:
        vm: which runs.
        strategy: how its devices are going to be stopped and started.
        history: last known costs; it learns what the destination knows.
        deadline: seconds that a back-end may take for an answer.
    """

    def __init__(self, vm: Vm, strategy: Strategy, history: History, deadline: float) -> None:
        self._vm = vm
        self._strategy = strategy
        self._history = history
        self._deadline = deadline
        self._expected: Expected | None = None
        self._probed = Expected()

    def expected(self) -> Expected:
        """The rest of the blackout; the first call probes."""
        if self._expected is None:
            with self._vm.driving:
                probe = DeviceProbe(self._vm.devices, self._vm.machine, self._deadline)
            # The destination's devices are taken to be like these until it has spoken.
            self._probed = Expected(
                probe.stop(self._strategy), probe.start(self._strategy), self._vcpus()
            )
            self._expected = self._with_past()
        return self._expected

    def _vcpus(self) -> int:
        """Packing the devices' state is most of saving; loading it takes about as long."""
        start = now()
        pack_devices(self._vm.devices)
        return PAUSE_NS + 2 * (now() - start)

    def _with_past(self) -> Expected:
        """What is probed, and what is known from before."""
        stop, start, vcpus = self._probed
        history = self._history
        return Expected(
            history.devices("src", self._strategy, stop),
            history.devices("dst", self._strategy, start),
            history.vcpus() or vcpus,
        )

    def learn(self, payload: bytes) -> None:
        """What the destination said with PREPARED (`prepared`); nothing is all right.

        Raises:
            MigrationError: it is invalid.
        """
        self.expected()
        if not payload:
            return
        try:
            said = json.loads(payload)
            self._probed = self._probed._replace(start=int(said["start_ns"]))
            self._history.learn(said["past"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MigrationError("stream", "the destination's PREPARED is invalid") from None
        self._expected = self._with_past()


def prepared(vm: Vm, strategy: Strategy, history: History, deadline: float) -> bytes:
    """At the destination: what it expects of the start, and knows from before.

    Raises:
        VhostUserError: a back-end does not answer.
    """
    with vm.driving:
        start = DeviceProbe(vm.devices, vm.machine, deadline).start(strategy)
    return json.dumps({"start_ns": start, "past": history.to_json()}).encode()
