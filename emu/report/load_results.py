"""What a VM that ran under load reports, and what is known of one that came from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.report.results import Integrity, document_head

if TYPE_CHECKING:
    from emu.config.plan import MachinePlan
    from emu.qmp.protocol import JsonObject


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
        """As it stands in ``arrival`` of docs/reference/json.md."""
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
    """Counters at one moment, and how fast they grew since the sample before.

    Attributes:
        seconds: since the first sample.
        totals: by class of devices and counter, since the guest booted.
        rates: the same, for each second.
    """

    seconds: float
    totals: Counts
    rates: dict[str, dict[str, float]]


@dataclass(slots=True)
class LoadReport:
    """What came of a run."""

    machine: MachinePlan
    accel: str
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    totals: Counts = field(default_factory=dict)
    integrity: Integrity = field(default_factory=Integrity)
    arrival: Arrived | None = None

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
            **({} if self.arrival is None else {"arrival": self.arrival.to_json()}),
        }
