"""When to switch over: the expected blackout, and whether another round makes it shorter.

Nothing here sends, waits or reads a clock: `Convergence` gets the numbers of each round and
returns what to do next, so that it can be tested with numbers alone.

QEMU compares what is dirty with bandwidth x downtime-limit (migration/migration.c,
`migration_iteration_run`); the time that devices take to stop and to start is not in it. Here it
is: on a VM with many rings it is most of the blackout.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from emu.machine.throttle import MAX_PERCENT

#: Rounds after which memory is taken not to converge.
MAX_ROUNDS = 30
#: A round makes progress when it leaves less than this share of what was to be sent before it.
PROGRESS = 0.9
#: Bytes; less than this is not worth a round of its own.
SMALL = 1 << 20
#: Upper limit of the assumed bandwidth, bytes a second, until the stream has carried `SMALL`.
ASSUMED_BANDWIDTH = 1 << 30
#: Rounds in a row without progress before the guest is throttled, or the rounds end.
STUCK_ROUNDS = 2
#: Shares of its time that the guest is kept from running, in percent: as in QEMU
#: (cpu-throttle-initial, cpu-throttle-increment); the most is `MAX_PERCENT`, as there.
FIRST_THROTTLE = 20
THROTTLE_STEP = 10
_NS = 1_000_000_000


class Action(Enum):
    """What comes next."""

    GO_ON = "another round"
    THROTTLE = "slow the guest down, and another round"
    SWITCH = "switch over"
    GIVE_UP = "give up"


class Reason(Enum):
    """Why there is no further round; the values are those of the JSON."""

    CONVERGED = "converged"
    DEVICES = "devices"
    NO_PROGRESS = "no-progress"
    ROUNDS = "rounds"


class Expected(NamedTuple):
    """What the blackout is expected to take besides memory, in nanoseconds.

    Attributes:
        stop: of the devices, at the source.
        start: of the devices, at the destination.
        vcpus: to pause, save, load and resume the vCPUs, and to send the devices' state.
    """

    stop: int = 0
    start: int = 0
    vcpus: int = 0


class Round(NamedTuple):
    """What one round did.

    Attributes:
        sent: bytes.
        remaining: bytes that are dirty now.
        ns: from the harvest of dirty pages before it to the one after it.
        paced_ns: what of that went by until the last byte was sent.
        sending_ns: what of that was sending; the rest was waiting for the bandwidth's limit.
    """

    sent: int
    remaining: int
    ns: int
    paced_ns: int
    sending_ns: int


class Outlook(NamedTuple):
    """What is expected of a switch-over now.

    Attributes:
        memory_ns: to send what is dirty. The switch-over's memory is not held back by a limit.
        devices: the rest.
        dirty_rate: bytes a second that become dirty.
        rate: bytes a second that rounds send, any limit included.
        bandwidth: bytes a second that the stream takes.
        throttle: percent of its time that the guest is kept from running.
    """

    memory_ns: int = 0
    devices: Expected = Expected()
    dirty_rate: int = 0
    rate: int = 0
    bandwidth: int = 0
    throttle: int = 0

    @property
    def downtime_ns(self) -> int:
        """The whole blackout."""
        return self.memory_ns + sum(self.devices)


class Decision(NamedTuple):
    """What to do next, and why there is no further round (None while there is)."""

    action: Action
    reason: Reason | None
    outlook: Outlook


class Convergence:
    """Decides after each round. It keeps numbers only.

    Args:
        limit_ns: what the blackout may be expected to take.
        auto_converge: the guest may be slowed down.
        abort: fail if the limit cannot be kept; otherwise switch over regardless.
    """

    def __init__(self, limit_ns: int, *, auto_converge: bool = False, abort: bool = False) -> None:
        self.limit_ns = limit_ns
        self.rounds = 0
        self.throttle = 0
        self._auto_converge = auto_converge
        self._abort = abort
        self._before: int | None = None
        self._stuck = 0
        # Bytes and nanoseconds of sending; older rounds count for less and less.
        self._sent = 0
        self._sending_ns = 0

    def decide(self, done: Round, devices: Expected) -> Decision:
        """What to do after a round.

        Args:
            done: its numbers.
            devices: the rest of the blackout, as far as it is known.
        """
        self.rounds += 1
        outlook = self._outlook(done, devices)
        progress = self._progress(done)
        if outlook.downtime_ns <= self.limit_ns:
            self._stuck = 0
            return Decision(Action.SWITCH, Reason.CONVERGED, outlook)
        if sum(devices) > self.limit_ns:
            # No round makes that shorter; rounds go on as long as they shorten the rest.
            if progress and self.rounds < MAX_ROUNDS:
                return Decision(Action.GO_ON, None, outlook)
            return self._end_rounds(Reason.DEVICES, outlook)
        if self.rounds >= MAX_ROUNDS:
            return self._end_rounds(Reason.ROUNDS, outlook)
        allowed = 1 if self.throttle else STUCK_ROUNDS
        if progress or self._stuck < allowed:
            return Decision(Action.GO_ON, None, outlook)
        if self._auto_converge and self.throttle < MAX_PERCENT:
            self._stuck = 0
            self.throttle = min(
                MAX_PERCENT, self.throttle + THROTTLE_STEP if self.throttle else FIRST_THROTTLE
            )
            return Decision(Action.THROTTLE, None, outlook._replace(throttle=self.throttle))
        return self._end_rounds(Reason.NO_PROGRESS, outlook)

    def _outlook(self, done: Round, devices: Expected) -> Outlook:
        self._sent = self._sent // 2 + done.sent
        self._sending_ns = self._sending_ns // 2 + done.sending_ns
        bandwidth = self._sent * _NS // max(self._sending_ns, 1)
        if self._sent < SMALL:
            # The socket's buffer may have taken all of it.
            bandwidth = min(bandwidth, ASSUMED_BANDWIDTH)
        return Outlook(
            memory_ns=done.remaining * _NS // bandwidth if bandwidth else 0,
            devices=devices,
            dirty_rate=done.remaining * _NS // max(done.ns, 1),
            rate=done.sent * _NS // max(done.paced_ns, 1),
            bandwidth=bandwidth,
            throttle=self.throttle,
        )

    def _progress(self, done: Round) -> bool:
        """Whether this round left clearly less than the one before; counts those that did not."""
        before = done.sent if self._before is None else self._before
        self._before = done.remaining
        progress = done.remaining >= SMALL and done.remaining < before * PROGRESS
        self._stuck = 0 if progress else self._stuck + 1
        return progress

    def _end_rounds(self, reason: Reason, outlook: Outlook) -> Decision:
        return Decision(Action.GIVE_UP if self._abort else Action.SWITCH, reason, outlook)


def explain(decision: Decision, limit_ns: int) -> str:
    """Why it does not converge, with the numbers, and what to change; '' if it does."""
    outlook = decision.outlook
    devices = outlook.devices
    expected = (
        f"a downtime of {_ms(outlook.downtime_ns)} is expected (memory {_ms(outlook.memory_ns)}, "
        f"devices {_ms(devices.stop + devices.start)}, vCPUs {_ms(devices.vcpus)}), "
        f"the limit is {_ms(limit_ns)}"
    )
    if decision.reason is Reason.DEVICES:
        return (
            f"{expected}: the devices alone take longer than that, and no further round changes "
            "it. Raise --downtime-limit, or use another --strategy"
        )
    if decision.reason in (Reason.NO_PROGRESS, Reason.ROUNDS):
        throttled = f" at a throttle of {outlook.throttle}%" if outlook.throttle else ""
        advice = "" if outlook.throttle else ", let --auto-converge slow the guest down"
        return (
            f"memory does not converge: {_mib(outlook.dirty_rate)} become dirty{throttled}, "
            f"{_mib(outlook.rate)} are sent; {expected}. Raise --downtime-limit or "
            f"--max-bandwidth{advice}"
        )
    return ""


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _mib(rate: int) -> str:
    return f"{rate / (1 << 20):.1f} MiB/s"
