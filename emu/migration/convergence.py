"""When to switch over: the expected downtime, and whether another round makes it shorter.

`Convergence` takes the numbers of each round and returns what to do next. It does not send, wait or
read a clock, so it can be tested with numbers alone.

QEMU compares the dirty bytes with bandwidth x downtime-limit (migration/migration.c,
`migration_iteration_run`), without the time that devices take to stop and to start. Here that time
is included: on a VM with many rings it is most of the blackout.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from emu.machine.throttle import MAX_PERCENT

#: After this many rounds, memory is considered not to converge.
MAX_ROUNDS = 30
#: A round makes progress when fewer bytes are dirty after it than this share of those before it.
PROGRESS = 0.9
#: Bytes; a further round for less than this does not count as progress.
SMALL = 1 << 20
#: Upper limit of the assumed bandwidth, bytes a second, until the stream has carried `SMALL`.
ASSUMED_BANDWIDTH = 1 << 30
#: Rounds without progress, in succession, before the guest is throttled or the rounds end.
STALLED_ROUNDS = 2
#: Percent of its time that the guest does not run: defaults of QEMU's cpu-throttle-initial and
#: cpu-throttle-increment. The maximum is `MAX_PERCENT`.
FIRST_THROTTLE = 20
THROTTLE_STEP = 10
_NS = 1_000_000_000


class Action(Enum):
    """What to do after a round."""

    CONTINUE = "another round"
    THROTTLE = "slow the guest down, and another round"
    SWITCH = "switch over"
    FAIL = "fail the migration"


class Reason(Enum):
    """Why there is no further round; the values are those of the JSON."""

    CONVERGED = "converged"
    DEVICES = "devices"
    NO_PROGRESS = "no-progress"
    ROUNDS = "rounds"


class DeviceDowntime(NamedTuple):
    """The expected downtime besides memory, in nanoseconds.

    Attributes:
        stop: to stop the devices, at the source.
        start: to start the devices, at the destination.
        vcpus: to pause, save, load and resume the vCPUs, and to send the devices' state.
    """

    stop: int = 0
    start: int = 0
    vcpus: int = 0


class Round(NamedTuple):
    """The numbers of one round.

    Attributes:
        sent: bytes.
        remaining: bytes that are dirty afterwards.
        ns: nanoseconds from the dirty bitmap sync before the round to the one after it.
        paced_ns: the part of ``ns`` until the last byte was sent.
        sending_ns: the part of ``paced_ns`` spent sending; the rest is waits for the bandwidth
            limit.
    """

    sent: int
    remaining: int
    ns: int
    paced_ns: int
    sending_ns: int


class SwitchoverEstimate(NamedTuple):
    """The downtime that is expected if the switchover begins now.

    Attributes:
        memory_ns: to send the dirty memory. The bandwidth limit does not apply to the switchover.
        devices: the rest.
        dirty_rate: bytes a second that become dirty.
        rate: bytes a second that rounds send, including waits for the bandwidth limit.
        bandwidth: bytes a second that the stream carries without the limit.
        throttle: percent of its time that the guest does not run.
    """

    memory_ns: int = 0
    devices: DeviceDowntime = DeviceDowntime()
    dirty_rate: int = 0
    rate: int = 0
    bandwidth: int = 0
    throttle: int = 0

    @property
    def downtime_ns(self) -> int:
        """The whole downtime, in nanoseconds."""
        return self.memory_ns + sum(self.devices)


class Decision(NamedTuple):
    """What to do next, and why there is no further round (None if there is one)."""

    action: Action
    reason: Reason | None
    estimate: SwitchoverEstimate


class Convergence:
    """Decides after each round. It keeps numbers only.

    Args:
        limit_ns: the largest expected downtime at which it switches over, in nanoseconds.
        auto_converge: throttle the guest when memory does not converge.
        abort: fail if the limit cannot be kept; otherwise switch over regardless.
    """

    def __init__(self, limit_ns: int, *, auto_converge: bool = False, abort: bool = False) -> None:
        self.limit_ns = limit_ns
        self.rounds = 0
        self.throttle = 0
        self._auto_converge = auto_converge
        self._abort = abort
        self._before: int | None = None
        self._stalled = 0
        # Bytes and nanoseconds of sending; the weight of a round halves with each later one.
        self._sent = 0
        self._sending_ns = 0

    def decide(self, done: Round, devices: DeviceDowntime) -> Decision:
        """What to do after a round.

        Args:
            done: the numbers of the round.
            devices: the expected downtime besides memory.
        """
        self.rounds += 1
        estimate = self._estimate(done, devices)
        progress = self._progress(done)
        if estimate.downtime_ns <= self.limit_ns:
            self._stalled = 0
            return Decision(Action.SWITCH, Reason.CONVERGED, estimate)
        if sum(devices) > self.limit_ns:
            # No round makes that shorter; rounds continue while they shorten the rest.
            if progress and self.rounds < MAX_ROUNDS:
                return Decision(Action.CONTINUE, None, estimate)
            return self._end_rounds(Reason.DEVICES, estimate)
        if self.rounds >= MAX_ROUNDS:
            return self._end_rounds(Reason.ROUNDS, estimate)
        allowed = 1 if self.throttle else STALLED_ROUNDS
        if progress or self._stalled < allowed:
            return Decision(Action.CONTINUE, None, estimate)
        if self._auto_converge and self.throttle < MAX_PERCENT:
            self._stalled = 0
            self.throttle = min(
                MAX_PERCENT, self.throttle + THROTTLE_STEP if self.throttle else FIRST_THROTTLE
            )
            return Decision(Action.THROTTLE, None, estimate._replace(throttle=self.throttle))
        return self._end_rounds(Reason.NO_PROGRESS, estimate)

    def _estimate(self, done: Round, devices: DeviceDowntime) -> SwitchoverEstimate:
        self._sent = self._sent // 2 + done.sent
        self._sending_ns = self._sending_ns // 2 + done.sending_ns
        bandwidth = self._sent * _NS // max(self._sending_ns, 1)
        if self._sent < SMALL:
            # All bytes may still be in the socket's buffer.
            bandwidth = min(bandwidth, ASSUMED_BANDWIDTH)
        return SwitchoverEstimate(
            memory_ns=done.remaining * _NS // bandwidth if bandwidth else 0,
            devices=devices,
            dirty_rate=done.remaining * _NS // max(done.ns, 1),
            rate=done.sent * _NS // max(done.paced_ns, 1),
            bandwidth=bandwidth,
            throttle=self.throttle,
        )

    def _progress(self, done: Round) -> bool:
        """Whether clearly less is dirty than before this round; counts the rounds without that."""
        before = done.sent if self._before is None else self._before
        self._before = done.remaining
        progress = done.remaining >= SMALL and done.remaining < before * PROGRESS
        self._stalled = 0 if progress else self._stalled + 1
        return progress

    def _end_rounds(self, reason: Reason, estimate: SwitchoverEstimate) -> Decision:
        return Decision(Action.FAIL if self._abort else Action.SWITCH, reason, estimate)


def explain(decision: Decision, limit_ns: int) -> str:
    """Why memory does not converge, with the numbers and advice; '' if it does."""
    estimate = decision.estimate
    devices = estimate.devices
    expected = (
        f"a downtime of {_ms(estimate.downtime_ns)} is expected (memory {_ms(estimate.memory_ns)}, "
        f"devices {_ms(devices.stop + devices.start)}, vCPUs {_ms(devices.vcpus)}), "
        f"the limit is {_ms(limit_ns)}"
    )
    if decision.reason is Reason.DEVICES:
        return (
            f"{expected}: the devices alone take longer than that, and no further round changes "
            "it. Raise --downtime-limit, or use another --strategy"
        )
    if decision.reason in (Reason.NO_PROGRESS, Reason.ROUNDS):
        throttled = f" at a throttle of {estimate.throttle}%" if estimate.throttle else ""
        advice = "" if estimate.throttle else ", let --auto-converge slow the guest down"
        return (
            f"memory does not converge: {_mib(estimate.dirty_rate)} become dirty{throttled}, "
            f"{_mib(estimate.rate)} are sent; {expected}. Raise --downtime-limit or "
            f"--max-bandwidth{advice}"
        )
    return ""


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _mib(rate: int) -> str:
    return f"{rate / (1 << 20):.1f} MiB/s"
