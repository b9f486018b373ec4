"""The results of `emu run`: samples, totals, and the source's report of an incoming migration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.report.proofs import compared
from emu.report.results import Integrity, document_head

if TYPE_CHECKING:
    from emu.config.plan import MachinePlan
    from emu.qmp.protocol import JsonObject


@dataclass(frozen=True, slots=True)
class IncomingReport:
    """The source's completion report of an incoming migration.

    Attributes:
        strategy: of the migration; None if the source disconnected before it sent its report.
        downtime_ms, downtime_error_ms: measured by the source; the error is None on one clock.
        bytes, rounds: of pre-copy.
        served: requests that the source's back-ends had completed; None if they have no counters.
    """

    strategy: str | None = None
    downtime_ms: float | None = None
    downtime_error_ms: float | None = None
    bytes: int = 0
    rounds: int = 0
    served: int | None = None

    @classmethod
    def from_json(cls, report: JsonObject) -> IncomingReport:
        """Parse a completion report; a missing or invalid one has no figures."""
        try:
            error, served = report["downtime_error_ns"], report["served"]
            return cls(
                strategy=str(report["strategy"]),
                downtime_ms=int(report["downtime_ns"]) / 1e6,
                downtime_error_ms=None if error is None else int(error) / 1e6,
                bytes=int(report["precopy"]["bytes"]),
                rounds=int(report["precopy"]["rounds"]),
                served=None if served is None else int(served),
            )
        except (KeyError, TypeError, ValueError):
            return cls()

    def __str__(self) -> str:
        if self.strategy is None or self.downtime_ms is None:
            return "the VM has arrived; the source sent no completion report"
        bound = "" if self.downtime_error_ms is None else f" ±{self.downtime_error_ms:.2f}"
        return (
            f"the VM has arrived: {self.strategy}, downtime {self.downtime_ms:.2f}{bound} ms, "
            f"{self.bytes / (1 << 20):.1f} MiB in {self.rounds} rounds"
        )

    def to_json(self) -> JsonObject:
        """The member ``arrival`` of docs/reference/json.md."""
        return {
            "strategy": self.strategy,
            "downtime_ms": self.downtime_ms,
            "downtime_error_ms": self.downtime_error_ms,
            "rounds": self.rounds,
            "bytes": self.bytes,
            "served_before": self.served,
        }


Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment, and their rates since the sample before.

    Attributes:
        seconds: since the first sample.
        totals: by class of devices and counter, since the guest booted.
        rates: the same, per second.
    """

    seconds: float
    totals: Counts
    rates: dict[str, dict[str, float]]


@dataclass(slots=True)
class LoadReport:
    """The results of one `emu run`.

    Attributes:
        departed: the VM was migrated to another run by QMP's migrate, and is checked there.
    """

    machine: MachinePlan
    accel: str
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    totals: Counts = field(default_factory=dict)
    integrity: Integrity = field(default_factory=Integrity)
    arrival: IncomingReport | None = None
    departed: bool = False

    @property
    def did_nothing(self) -> bool:
        """No device has completed anything, although the guest has a load and uses rings."""
        busy = self.machine.load != "none" and self.machine.spec.rings_used
        return bool(busy) and not any(any(counts.values()) for counts in self.totals.values())

    def to_json(self) -> JsonObject:
        """The document that docs/reference/json.md describes."""
        return {
            **document_head(self.machine, self.accel),
            "seconds": round(self.seconds, 3),
            "samples": [
                {
                    "seconds": round(sample.seconds, 3),
                    **{
                        name: {f"{key}_per_s": round(rate, 1) for key, rate in rates.items()}
                        for name, rates in sample.rates.items()
                    },
                }
                for sample in self.samples
            ],
            "totals": self.totals,
            "integrity": self.integrity.to_json(),
            "compared": compared(self.machine, self.integrity.proofs),
            **({} if self.arrival is None else {"arrival": self.arrival.to_json()}),
            **({"departed": True} if self.departed else {}),
        }
