"""Pre-copy: memory is sent in rounds while the VM runs, until the expected downtime is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import MigrationError, Operation
from emu.migration.bandwidth import TokenBucket
from emu.migration.convergence import (
    PROGRESS,
    Action,
    Convergence,
    Decision,
    Round,
    explain,
)
from emu.migration.ram_sync import RamSync, chunks, total
from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.config.migration_parameters import Parameters
    from emu.machine.ram import GuestRam
    from emu.migration.device_probe import DowntimeForecast
    from emu.migration.stream import RamSender, Run
    from emu.qmp.protocol import JsonObject

#: Bytes between two checks for a cancel.
CHUNK = 64 << 20
#: Nanoseconds: pages that become dirty after the last decision are still sent before the blackout
#: if that takes no longer than this, or if fewer are dirty afterwards.
LAST_ROUND_NS = 50_000_000
#: Nanoseconds between two MIGRATION events during a long round.
EVENT_PERIOD_NS = 5_000_000_000
_NS = 1_000_000_000

#: Called with the name of an event (as QMP has it) and its data.
Observer = Callable[[str, dict[str, object]], None]


class PrecopyProgress(NamedTuple):
    """What pre-copy has sent, and its last decision.

    Attributes:
        rounds: how many have been sent.
        bytes: of all of them.
        ns: nanoseconds since the first round began.
        decision: the last one; None before the end of the first round.
        note: why memory did not converge; empty if it did.
    """

    rounds: int = 0
    bytes: int = 0
    ns: int = 0
    decision: Decision | None = None
    note: str = ""

    @property
    def expected_ns(self) -> int:
        """The downtime that the last decision expected, in nanoseconds."""
        return 0 if self.decision is None else self.decision.estimate.downtime_ns

    def to_json(self) -> JsonObject:
        """The member ``precopy`` of docs/reference/json.md."""
        answer: JsonObject = {"rounds": self.rounds, "bytes": self.bytes, "ms": self.ns / 1e6}
        if self.decision is not None:
            _, reason, estimate = self.decision
            answer |= {
                "reason": None if reason is None else reason.value,
                "expected_downtime_ms": round(estimate.downtime_ns / 1e6, 4),
                "expected_memory_ms": round(estimate.memory_ns / 1e6, 4),
                "expected_stop_ms": round(estimate.devices.stop / 1e6, 4),
                "expected_start_ms": round(estimate.devices.start / 1e6, 4),
                "expected_vcpus_ms": round(estimate.devices.vcpus / 1e6, 4),
                "dirty_bytes_per_s": estimate.dirty_rate,
                "bytes_per_s": estimate.rate,
                "throttle_percent": estimate.throttle,
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
        observe: called with an event for every round.
        forecast: predicts the downtime besides memory.
        throttle: sets the share of its time that the guest does not run, in percent.
        pause: waits for a number of seconds, or until a cancel.
        check: raises after a cancel.

    Attributes:
        progress: what has been sent so far, and the last decision.
    """

    def __init__(
        self,
        ram: GuestRam,
        sync: RamSync,
        stream: RamSender,
        parameters: Parameters,
        observe: Observer,
        *,
        forecast: DowntimeForecast,
        throttle: Callable[[int], None],
        pause: Callable[[float], object],
        check: Callable[[], None],
    ) -> None:
        self.progress = PrecopyProgress()
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
        """Send rounds until the switchover; `send_last_round` and the blackout follow.

        While the destination prepares, the guest writes on, so a decision from before PREPARED is
        made again afterwards.

        Args:
            await_prepared: returns the payload of PREPARED.

        Raises:
            MigrationError: memory does not converge, and on-no-converge is ``abort``.
        """
        runs = self._sync.all_pages()
        decided = prepared = False
        while not (decided and prepared):
            began = now()
            sent, sending_ns = self._send(runs)
            paced_ns = now() - began
            if decided:
                self._forecast.use_destination(await_prepared())
                prepared = True
            runs = self._sync.dirty()
            done = Round(sent, total(runs), now() - began, paced_ns, sending_ns)
            decided = self._decide(done)
        # `send_last_round` or the blackout sends them.
        self._sync.put_back(runs)

    def _decide(self, done: Round) -> bool:
        """Whether to switch over; throttles the guest if auto-converge needs it."""
        decision = self._convergence.decide(done, self._forecast.expected())
        note = explain(decision, self._limit_ns)
        self._record(decision, note)
        self._observe(
            "MIGRATION_PASS",
            {
                "pass": self.progress.rounds,
                "remaining": done.remaining,
                "bytes": self._stream.bytes_sent,
                "expected-downtime": decision.estimate.downtime_ns // 1_000_000,
            },
        )
        if decision.action is Action.FAIL:
            raise MigrationError(Operation.PRE_COPY, note)
        if decision.action is Action.THROTTLE:
            self._throttle(decision.estimate.throttle)
        return decision.action is Action.SWITCH

    def send_last_round(self) -> None:
        """Send the pages that are dirty now, directly before the blackout, if that shortens it.

        It does not if the guest writes faster than the bandwidth limit: more pages would be dirty
        afterwards than before. Pages that are not sent here are sent in the blackout.
        """
        decision = self.progress.decision
        assert decision is not None  # noqa: S101  `run` has decided
        runs = self._sync.dirty()
        size = total(runs)
        estimate = decision.estimate
        rate = self._bucket.rate or estimate.bandwidth
        if size * _NS <= LAST_ROUND_NS * rate or estimate.dirty_rate < PROGRESS * estimate.rate:
            began = now()
            self._send(runs)
            size = min(size, estimate.dirty_rate * (now() - began) // _NS)
        else:
            self._sync.put_back(runs)
        self._throttle(0)
        memory_ns = size * _NS // max(estimate.bandwidth, 1)
        self._record(
            decision._replace(estimate=estimate._replace(memory_ns=memory_ns)), self.progress.note
        )

    def _record(self, decision: Decision, note: str) -> None:
        sent = self._stream.bytes_sent
        rounds = self._convergence.rounds
        self.progress = PrecopyProgress(rounds, sent, now() - self._start, decision, note)

    def _send(self, runs: Sequence[Run]) -> tuple[int, int]:
        """Send memory within the bandwidth limit; return bytes, and nanoseconds of sending."""
        sent = sending_ns = 0
        bucket, whole = self._bucket, total(runs)
        if bucket.rate and whole * _NS > EVENT_PERIOD_NS * bucket.rate:
            self._report_progress(sent, whole)
        for chunk in chunks(runs, bucket.chunk if bucket.rate else CHUNK):
            self._check()
            began = now()
            self._stream.send_ram(self._ram, chunk)
            sending_ns += now() - began
            size = total(chunk)
            sent += size
            self._wait(bucket.consume(size), sent, whole)
        self._stream.end_round()
        self._check()
        return sent, sending_ns

    def _wait(self, left: int, sent: int, whole: int) -> None:
        """Let so many nanoseconds pass, and report the round when an event is due."""
        while True:
            if now() - self._last_event > EVENT_PERIOD_NS:
                self._report_progress(sent, whole)
            if left <= 0:
                return
            self._pause(min(left, EVENT_PERIOD_NS) / _NS)
            self._check()
            left -= EVENT_PERIOD_NS

    def _report_progress(self, sent: int, whole: int) -> None:
        """An event about the bytes of a round that takes long, and the limit on its bandwidth."""
        self._last_event = now()
        self._observe(
            "MIGRATION_ROUND",
            {
                "round": self._convergence.rounds + 1,
                "sent": sent,
                "size": whole,
                "max-bandwidth": self._bucket.rate,
            },
        )
