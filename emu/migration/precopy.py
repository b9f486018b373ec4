"""The memory that is sent while the VM runs, in rounds, until the expected blackout is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import MigrationError
from emu.migration.bandwidth import TokenBucket
from emu.migration.convergence import (
    PROGRESS,
    Action,
    Convergence,
    Decision,
    Round,
    explain,
)
from emu.migration.ram_sync import RamSync, pieces, total
from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.config.migration_parameters import Parameters
    from emu.machine.ram import GuestRam
    from emu.migration.device_probe import Forecast
    from emu.migration.stream import RamSender, Run
    from emu.qmp.protocol import JsonObject

#: Bytes between two checks for a cancel.
PIECE = 64 << 20
#: What is dirty after the last decision is still sent before the blackout if that takes no longer
#: than this (nanoseconds), or if less is dirty afterwards.
TOP_UP_NS = 50_000_000
#: Nanoseconds between two events of a round that takes long.
EVENT_PERIOD_NS = 5_000_000_000
_NS = 1_000_000_000

#: Called with the name of an event (as QMP has it) and its data.
Observer = Callable[[str, dict[str, object]], None]


class Precopied(NamedTuple):
    """What was sent while the VM ran: rounds, bytes, nanoseconds; and the last decision.

    Attributes:
        decision: the last one, once there is one.
        note: why it did not converge, if it did not.
    """

    rounds: int = 0
    bytes: int = 0
    ns: int = 0
    decision: Decision | None = None
    note: str = ""

    @property
    def expected_ns(self) -> int:
        """The blackout that the last decision expected, in nanoseconds."""
        return 0 if self.decision is None else self.decision.outlook.downtime_ns

    def to_json(self) -> JsonObject:
        """The member ``precopy`` of docs/reference/json.md."""
        answer: JsonObject = {"rounds": self.rounds, "bytes": self.bytes, "ms": self.ns / 1e6}
        if self.decision is not None:
            _, reason, outlook = self.decision
            answer |= {
                "reason": None if reason is None else reason.value,
                "expected_downtime_ms": round(outlook.downtime_ns / 1e6, 4),
                "expected_memory_ms": round(outlook.memory_ns / 1e6, 4),
                "expected_stop_ms": round(outlook.devices.stop / 1e6, 4),
                "expected_start_ms": round(outlook.devices.start / 1e6, 4),
                "expected_vcpus_ms": round(outlook.devices.vcpus / 1e6, 4),
                "dirty_bytes_per_s": outlook.dirty_rate,
                "bytes_per_s": outlook.rate,
                "throttle_percent": outlook.throttle,
                "note": self.note or None,
            }
        return answer


class Precopy:
    """Sends memory in rounds while the VM runs.

    Args:
        ram: the guest's memory.
        sync: finds dirty memory.
        stream: to the destination.
        parameters: the limits of the migration.
        observe: gets an event for every round.
        forecast: what the blackout is expected to take besides memory.
        throttle: keeps the guest from running for a share of its time, in percent.
        pause: waits for so many seconds, or until a cancel.
        check: raises after a cancel.

    Attributes:
        sent: what has been sent so far.
    """

    def __init__(
        self,
        ram: GuestRam,
        sync: RamSync,
        stream: RamSender,
        parameters: Parameters,
        observe: Observer,
        *,
        forecast: Forecast,
        throttle: Callable[[int], None],
        pause: Callable[[float], object],
        check: Callable[[], None],
    ) -> None:
        self.sent = Precopied()
        self._ram = ram
        self._sync = sync
        self._stream = stream
        self._limit_ns = parameters.downtime_limit * 1_000_000
        self._convergence = Convergence(
            self._limit_ns,
            auto_converge=parameters.auto_converge,
            abort=parameters.on_no_converge == "abort",
        )
        self._bucket = TokenBucket(parameters.max_bandwidth)
        self._observe = observe
        self._forecast = forecast
        self._throttle = throttle
        self._pause = pause
        self._check = check
        self._start = self._last_event = now()

    def run(self, await_prepared: Callable[[], bytes]) -> None:
        """All rounds, until it is time to switch over. Then `top_up`, and the blackout.

        While the destination prepares the guest writes on, so what is decided before PREPARED
        is decided again afterwards.

        Args:
            await_prepared: returns the payload of PREPARED.

        Raises:
            MigrationError: it does not converge, and on-no-converge is ``abort``.
        """
        runs = self._sync.everything()
        decided = prepared = False
        while not (decided and prepared):
            began = now()
            sent, sending_ns = self._send(runs)
            paced_ns = now() - began
            if decided:
                self._forecast.learn(await_prepared())
                prepared = True
            runs = self._sync.dirty()
            done = Round(sent, total(runs), now() - began, paced_ns, sending_ns)
            decided = self._decide(done)
        # `top_up` or the blackout sends them.
        self._sync.put_back(runs)

    def _decide(self, done: Round) -> bool:
        """Whether to switch over; slows the guest down if need be."""
        decision = self._convergence.decide(done, self._forecast.expected())
        note = explain(decision, self._limit_ns)
        self._note(decision, note)
        self._observe(
            "MIGRATION_PASS",
            {
                "pass": self.sent.rounds,
                "remaining": done.remaining,
                "bytes": self._stream.bytes_sent,
                "expected-downtime": decision.outlook.downtime_ns // 1_000_000,
            },
        )
        if decision.action is Action.GIVE_UP:
            raise MigrationError("pre-copy", note)
        if decision.action is Action.THROTTLE:
            self._throttle(decision.outlook.throttle)
        return decision.action is Action.SWITCH

    def top_up(self) -> None:
        """The last step before the blackout: send what is dirty now, if that shortens it.

        It does not if the guest writes faster than the bandwidth limit: more would be dirty
        after it than before. What is not sent is sent in the blackout.
        """
        decision = self.sent.decision
        assert decision is not None  # noqa: S101  `run` has decided
        runs = self._sync.dirty()
        size = total(runs)
        outlook = decision.outlook
        rate = self._bucket.rate or outlook.bandwidth
        if size * _NS <= TOP_UP_NS * rate or outlook.dirty_rate < PROGRESS * outlook.rate:
            began = now()
            self._send(runs)
            size = min(size, outlook.dirty_rate * (now() - began) // _NS)
        else:
            self._sync.put_back(runs)
        self._throttle(0)
        memory_ns = size * _NS // max(outlook.bandwidth, 1)
        self._note(decision._replace(outlook=outlook._replace(memory_ns=memory_ns)), self.sent.note)

    def _note(self, decision: Decision, note: str) -> None:
        sent = self._stream.bytes_sent
        rounds = self._convergence.rounds
        self.sent = Precopied(rounds, sent, now() - self._start, decision, note)

    def _send(self, runs: Sequence[Run]) -> tuple[int, int]:
        """Send memory, no faster than the limit; return its bytes, and nanoseconds of sending."""
        sent = sending_ns = 0
        bucket = self._bucket
        for piece in pieces(runs, bucket.piece if bucket.rate else PIECE):
            self._check()
            began = now()
            self._stream.send_ram(self._ram, piece)
            sending_ns += now() - began
            size = total(piece)
            sent += size
            wait = bucket.consume(size)
            if wait:
                self._pause(wait / _NS)
            if now() - self._last_event > EVENT_PERIOD_NS:
                self._last_event = now()
                self._observe("MIGRATION", {"status": "active"})
        self._stream.end_round()
        self._check()
        return sent, sending_ns
