"""A VM that comes from another run: `emu run --incoming`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.errors import HangUpError, MigrationError
from emu.orchestrator import shared_disks

if TYPE_CHECKING:
    from emu.migration.endpoint import Passage
    from emu.orchestrator.supervisor import Supervisor
    from emu.qmp.protocol import JsonObject

#: Seconds between two looks at whether the user wants to end the wait.
_LOOK = 3600.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is known of a VM that has come.

    Attributes:
        strategy: that moved it; None when the source went before it could tell.
        downtime_ms, downtime_error_ms: as the source figures them; the latter None on one clock.
        bytes, rounds: of memory that was sent while it ran.
        served: requests that the source's back-ends had completed.
    """

    strategy: str | None = None
    downtime_ms: float | None = None
    downtime_error_ms: float | None = None
    bytes: int = 0
    rounds: int = 0
    served: int | None = None

    @classmethod
    def told(cls, news: JsonObject) -> Arrived:
        """Of what the source told; of nothing, if it told nothing that makes sense."""
        try:
            error = news["downtime_error_ns"]
            return cls(
                strategy=str(news["strategy"]),
                downtime_ms=int(news["downtime_ns"]) / 1e6,
                downtime_error_ms=None if error is None else int(error) / 1e6,
                bytes=int(news["precopy"]["bytes"]),
                rounds=int(news["precopy"]["rounds"]),
                served=int(news["served"]),
            )
        except (KeyError, TypeError, ValueError):
            return cls()

    def __str__(self) -> str:
        if self.strategy is None or self.downtime_ms is None:
            return "the VM has arrived; the source has gone without a word on how"
        bound = "" if self.downtime_error_ms is None else f" ±{self.downtime_error_ms:.2f}"
        return (
            f"the VM has arrived: {self.strategy}, downtime {self.downtime_ms:.2f}{bound} ms, "
            f"{self.bytes / (1 << 20):.1f} MiB in {self.rounds} rounds"
        )

    def to_json(self) -> JsonObject:
        """As it stands in ``arrival`` of docs/json.md."""
        return {
            "strategy": self.strategy,
            "downtime_ms": self.downtime_ms,
            "downtime_error_ms": self.downtime_error_ms,
            "rounds": self.rounds,
            "bytes": self.bytes,
            "served_before": self.served,
        }


class Incoming:
    """Makes the one side of a supervisor ready for a VM, and waits for it."""

    def __init__(self, supervisor: Supervisor, passage: Passage) -> None:
        self._supervisor = supervisor
        self._passage = passage
        (self._side,) = supervisor.sides

    def await_source(self, what: str) -> None:
        """Build the VM and listen."""
        supervisor, plan = self._supervisor, self._supervisor.plan
        if plan.disk is not None:
            supervisor.progress.step(f"read {plan.disk.path} on the host")
        disk = shared_disks.of_file(plan, supervisor.attention)
        supervisor.progress.step(f"make ready: {what}")
        images = None if plan.images is None else str(plan.images)
        disks: JsonObject = {"images": images, "disk": disk}
        self._side.begin_incoming(self._passage.uri, tls=self._passage.tls, disks=disks)
        uri = self._side.await_incoming()
        supervisor.progress.done(f"waiting for a VM at {uri}")

    def await_vm(self) -> Arrived:
        """Return when the VM runs here.

        Raises:
            MigrationError: it does not; it runs on where it was.
        """
        while (outcome := self._outcome()) is None:
            self._supervisor.attention.wait([self._side.monitor.fileno()], _LOOK)
            try:
                self._side.monitor.receive()
            except HangUpError:
                self._side.execute("query-status")  # raises what became of the process
        if outcome["status"] != "completed":
            reason = outcome.get("error-desc", "the source says no more")
            raise MigrationError("incoming", f"no VM has come: {reason}")
        timeline = self._side.execute("x-timeline")
        return Arrived.told(timeline["source"])

    def _outcome(self) -> JsonObject | None:
        events = self._side.monitor.events
        while events:
            event = events.popleft()
            if event.name != "MIGRATION":
                continue
            if event.data.get("status") in ("completed", "failed", "cancelled"):
                return event.data
        return None
