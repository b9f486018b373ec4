"""The results of migrations, and their JSON (schema 1, described in docs/reference/json.md)."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil

from emu.config.device_kinds import KINDS
from emu.guest.workload import TICK_NS
from emu.report.proofs import Proof, compared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from devices.procedure import Phase, Side
    from emu.config.plan import MachinePlan
    from emu.guest.request_log import RequestLog
    from emu.qmp.protocol import JsonObject
    from emu.report.timeline import TimelineRow
    from emu.strategies.timeline import Span

SCHEMA = 1
COMPLETED = "completed"
ROLLED_BACK = "rolled-back"
#: Milliseconds between two heartbeats of a running guest.
HEARTBEAT_MS = TICK_NS / 1e6
_CLASS_ORDER = ("vm", *KINDS)


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """One phase for one class of devices, in or outside of the blackout.

    Attributes:
        device_class: a name of `KINDS`, or ``vm`` if the phase belongs to no device.
        wall_ms: from the first start to the last end.
        busy_ms: sum of the spans.
        count: messages or notifiers that the spans cover.
        in_blackout: whether the VM was down meanwhile.
        shared: another class's row has the same spans: one commit served both.
    """

    phase: Phase
    device_class: str
    wall_ms: float
    busy_ms: float
    count: int
    in_blackout: bool
    shared: bool = False

    @property
    def order(self) -> tuple[int, int, bool]:
        """The sort key: by phase, then class, the blackout first."""
        known_class = self.device_class in _CLASS_ORDER
        kind = _CLASS_ORDER.index(self.device_class) if known_class else len(_CLASS_ORDER)
        return self.phase.order, kind, not self.in_blackout

    def to_json(self) -> JsonObject:
        """An element of ``phases``."""
        return {
            "phase": self.phase.value,
            "class": self.device_class,
            "wall_ms": round(self.wall_ms, 4),
            "busy_ms": round(self.busy_ms, 4),
            "count": self.count,
            "in_blackout": self.in_blackout,
            "shared": self.shared,
        }


def phase_rows(spans: Iterable[Span]) -> list[PhaseRow]:
    """Spans of both sides, summed up by phase, class and whether the VM was down."""
    groups: dict[tuple[Phase, str, bool], list[Span]] = {}
    classes: dict[tuple[Phase, int, int], set[str]] = {}
    for span in spans:
        groups.setdefault((span.phase, span.device_class, span.in_blackout), []).append(span)
        classes.setdefault((span.phase, span.start, span.end), set()).add(span.device_class)
    rows = [
        PhaseRow(
            phase,
            device_class,
            (max(span.end for span in group) - min(span.start for span in group)) / 1e6,
            sum(span.end - span.start for span in group) / 1e6,
            sum(span.units for span in group),
            in_blackout,
            shared=any(len(classes[span.phase, span.start, span.end]) > 1 for span in group),
        )
        for (phase, device_class, in_blackout), group in groups.items()
    ]
    return sorted(rows, key=lambda row: row.order)


def devices_ms(spans: Iterable[Span], side: Side) -> float:
    """From the first step of the first device in the blackout to the last step of the last one."""
    own = [
        span
        for span in spans
        if span.side == side and span.in_blackout and span.device_class != "vm"
    ]
    return (max(s.end for s in own) - min(s.start for s in own)) / 1e6 if own else 0.0


def heartbeat_age_ms(marks: Mapping[str, int]) -> float | None:
    """The age of the guest's last heartbeat when the pause began, by the source's marks."""
    if "last_beat_ns" not in marks:
        return None
    return max(0, marks["pause_start_ns"] - marks["last_beat_ns"]) / 1e6


@dataclass(frozen=True, slots=True)
class Precopy:
    """What pre-copy sent, and the downtime that its last decision expected.

    docs/reference/json.md describes the members; None if unknown.
    """

    rounds: int = 0
    bytes: int = 0
    ms: float = 0.0
    reason: str | None = None
    expected_downtime_ms: float | None = None
    expected_memory_ms: float | None = None
    expected_stop_ms: float | None = None
    expected_start_ms: float | None = None
    expected_vcpus_ms: float | None = None
    dirty_bytes_per_s: int | None = None
    bytes_per_s: int | None = None
    throttle_percent: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Integrity:
    """Outcome of the guest's requests and packets between two points at which none is in flight.

    ``errors``, ``packets`` and ``proofs`` are not part of the JSON; the error of a run has failed
    requests.

    Attributes:
        proofs: what was compared, if the VM has it.
    """

    requests: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    packets_lost: int = 0
    packets_duplicated: int = 0
    packets: int = 0
    packets_reordered: int = 0
    errors: int = 0
    proofs: frozenset[Proof] = frozenset(Proof)

    @property
    def clean(self) -> bool:
        """Whether all counters of failures are 0; packets may be lost, as on a network."""
        wrong = (self.lost, self.duplicated, self.corrupted, self.errors)
        return not any((*wrong, self.packets_duplicated, self.packets_reordered))

    def failures(self) -> str:
        """The counters of failures that are not 0, as text."""
        wrong = ("lost", "duplicated", "corrupted", "errors")
        names = (*wrong, "packets_duplicated", "packets_reordered")
        found = [f"{name.replace('_', ' ')} {n}" for name in names if (n := getattr(self, name))]
        return ", ".join(found)

    def __add__(self, other: Integrity) -> Integrity:
        """The sum of two intervals, with what was compared in both."""
        mine, yours = asdict(self), asdict(other)
        proofs = mine.pop("proofs") & yours.pop("proofs")
        return Integrity(**{name: mine[name] + yours[name] for name in mine}, proofs=proofs)

    def to_json(self) -> JsonObject:
        """The member ``integrity``."""
        value = asdict(self)
        for extra in ("packets", "errors", "proofs"):
            del value[extra]
        return value


def integrity_between(before: RequestLog, after: RequestLog, unverified: int = 0) -> Integrity:
    """Differences between two readings of the guest's request log.

    Args:
        before: the first reading.
        after: the second reading.
        unverified: blocks that read back wrong afterwards, which the request log does not count.
    """
    return Integrity(
        requests=after.requests - before.requests,
        lost=after.lost - before.lost,
        duplicated=after.duplicated - before.duplicated,
        corrupted=after.corrupted - before.corrupted + unverified,
        packets_lost=after.packets_lost - before.packets_lost,
        packets_duplicated=after.packets_duplicated - before.packets_duplicated,
        packets=after.packets_sent - before.packets_sent,
        packets_reordered=after.packets_reordered - before.packets_reordered,
        errors=after.errors - before.errors,
    )


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """One migration. The figures of the downtime are None if it was rolled back.

    Attributes:
        heartbeat_age_ms: age of the guest's last heartbeat when the pause began; None if unknown.
        downtime_error_ms: error bound of the downtime; None if both ends are of one clock.
        missed: the failure that the strategy demonstrates and that did not occur; else empty.
        checked_elsewhere: the VM runs in another run, which checks its request log.
        timeline: what ran when; in the JSON for one run of each strategy.
    """

    strategy: str
    repeat: int
    outcome: str
    downtime_ms: float | None = None
    guest_gap_ms: float | None = None
    heartbeat_age_ms: float | None = None
    network_gap_ms: float | None = None
    stop_ms: float | None = None
    start_ms: float | None = None
    commits: int = 0
    requests_in_flight_at_stop: int = 0
    phases: tuple[PhaseRow, ...] = ()
    precopy: Precopy = Precopy()
    integrity: Integrity = Integrity()
    error: str | None = None
    disk_sha256: str | None = None
    downtime_error_ms: float | None = None
    checked_elsewhere: bool = False
    missed: str = ""
    timeline: tuple[TimelineRow, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it completed and no request was lost, duplicated or corrupted."""
        return not self.failure

    @property
    def failure(self) -> str:
        """Why it is not `ok`; empty if it is."""
        if self.missed:
            return self.missed
        if self.outcome != COMPLETED:
            return f"{self.outcome}: {self.error or 'unknown reason'}"
        return "" if self.integrity.clean else self.integrity.failures()

    @property
    def disagreement(self) -> str:
        """How the downtime figures contradict each other; empty if they do not.

        The gap in the guest's heartbeat begins with its last beat, which is older than the pause,
        and the offset of two hosts' clocks is known up to `downtime_error_ms`. The rest of the gap
        cannot be longer than the accounted downtime. An unknown age of the last beat is assumed to
        be one period. Differences below a hundredth of a millisecond, the precision of the report,
        are ignored.
        """
        accounted, guest = self.downtime_ms, self.guest_gap_ms
        if accounted is None or guest is None:
            return ""
        age = HEARTBEAT_MS if self.heartbeat_age_ms is None else self.heartbeat_age_ms
        explained = accounted + age + (self.downtime_error_ms or 0.0)
        if round(guest, 2) <= round(explained, 2):
            return ""
        return (
            f"the guest's heartbeat has a gap of {guest:.2f} ms; the accounted downtime, the age "
            f"of the last beat and the error of the clocks explain {explained:.2f} ms of it"
        )

    def to_json(self) -> JsonObject:
        """An element of ``runs``."""
        value: JsonObject = {
            "strategy": self.strategy,
            "repeat": self.repeat,
            "outcome": self.outcome,
            "downtime_ms": _rounded(self.downtime_ms),
            "guest_gap_ms": _rounded(self.guest_gap_ms),
            "heartbeat_age_ms": _rounded(self.heartbeat_age_ms),
            "network_gap_ms": _rounded(self.network_gap_ms),
            "stop_ms": _rounded(self.stop_ms),
            "start_ms": _rounded(self.start_ms),
            "commits": self.commits,
            "requests_in_flight_at_stop": self.requests_in_flight_at_stop,
            "phases": [row.to_json() for row in self.phases],
            "precopy": asdict(self.precopy),
            "integrity": None if self.checked_elsewhere else self.integrity.to_json(),
        }
        if self.downtime_error_ms is not None:
            value["downtime_error_ms"] = round(self.downtime_error_ms, 4)
        if self.error is not None:
            value["error"] = self.error
        if self.missed:
            value["missed"] = self.missed
        if self.disk_sha256 is not None:
            value["disk_sha256"] = self.disk_sha256
        return value


@dataclass(slots=True)
class MigrationReport:
    """All migrations of one `emu migrate`.

    Attributes:
        machine: the VM and its back-ends.
        accel: the accelerator that was used.
        runs: the migrations, in order.
        disk_sha256: digest of the first disk's image file, as the host reads it.
        seconds: duration of the whole run.
        via: transport of the migration stream.
        network: between the VM and the client outside: ``loopback`` or ``netns``.
        strict_downtime: a run whose downtime figures contradict each other fails.
        not_run: migrations that were not finished, because the command ended before.
    """

    machine: MachinePlan
    accel: str
    runs: list[MigrationResult] = field(default_factory=list)
    disk_sha256: str | None = None
    seconds: float = 0.0
    via: str = "unix"
    network: str = "loopback"
    strict_downtime: bool = False
    not_run: int = 0

    @property
    def ok(self) -> bool:
        """Whether all have run, every run is `ok`, and the guest read the same disk as the host."""
        return bool(self.runs) and not self.not_run and all(map(self._run_ok, self.runs))

    def _run_ok(self, run: MigrationResult) -> bool:
        agrees = not (self.strict_downtime and run.disagreement)
        return run.ok and agrees and self.disk_matches(run)

    def disk_matches(self, run: MigrationResult) -> bool:
        """Whether the digest of the disk that the guest read is the host's."""
        return run.outcome != COMPLETED or run.disk_sha256 == self.disk_sha256

    def failure(self, *, shown: bool = False) -> str:
        """The first run that is not `ok`, with its error.

        Args:
            shown: the report was printed with the errors: name only the run.
        """
        for run in self.runs:
            where = f"{run.strategy}, run {run.repeat}"
            if run.missed:
                return f"{where}: {run.missed}"
            if run.outcome != COMPLETED:
                return f"{where} was {run.outcome if shown else run.failure}"
            if run.failure:
                return f"{where}: {run.failure}"
            if self.strict_downtime and run.disagreement:
                return f"{where}: {run.disagreement}"
            if not self.disk_matches(run):
                return f"{where}: the guest read another disk, sha256 {run.disk_sha256}"
        return self.ended_early or "nothing was migrated"

    @property
    def ended_early(self) -> str:
        """How many migrations were not finished, as text; empty if all were."""
        if not self.not_run:
            return ""
        return f"{self.not_run} of {self.not_run + len(self.runs)} migrations were not finished"

    @property
    def strategies(self) -> list[str]:
        """The strategies, in the order of their first runs."""
        return list(dict.fromkeys(run.strategy for run in self.runs))

    def completed(self, strategy: str) -> list[MigrationResult]:
        """The completed runs of a strategy."""
        return [r for r in self.runs if r.strategy == strategy and r.outcome == COMPLETED]

    @property
    def integrity(self) -> Integrity:
        """The sum of all runs."""
        return sum((run.integrity for run in self.runs), start=Integrity())

    def typical(self, strategy: str) -> MigrationResult | None:
        """The completed run of a strategy whose downtime is nearest to the median."""
        runs = [run for run in self.completed(strategy) if run.downtime_ms is not None]
        middle = median([run.downtime_ms for run in runs]) or 0.0
        return min(runs, key=lambda run: abs((run.downtime_ms or 0.0) - middle), default=None)

    def to_json(self, *, timelines: bool = True) -> JsonObject:
        """The whole document.

        Args:
            timelines: with the timeline of the run that is `typical` of each strategy.
        """
        runs = [run.to_json() for run in self.runs]
        if timelines:
            chosen = [self.typical(name) for name in self.strategies]
            for run, value in zip(self.runs, runs, strict=True):
                if run.timeline and any(run is each for each in chosen):
                    value["timeline"] = [row.to_json() for row in run.timeline]
        elsewhere = any(run.checked_elsewhere for run in self.runs)
        return {
            **document_head(self.machine, self.accel),
            "via": self.via,
            "network": self.network,
            **({} if elsewhere else {"compared": compared(self.machine, self.integrity.proofs)}),
            "runs": runs,
            **({"not_run": self.not_run} if self.not_run else {}),
        }


def document_head(machine: MachinePlan, accel: str) -> JsonObject:
    """The members that all JSON documents of this project have in common."""
    return {
        "schema": SCHEMA,
        "host": host_facts(),
        "vm": {
            "vcpus": machine.spec.vcpus,
            "memory_bytes": machine.spec.memory_bytes,
            "devices": [
                {
                    "class": group.device_class,
                    "count": group.count,
                    "rings": group.rings,
                    "rings_used": list(group.use.used(group.rings)),
                    "rings_disabled": list(group.use.disabled(group.rings)),
                }
                for group in machine.spec.groups
            ],
        },
        "accel": accel,
        "costs": machine.costs,
        "load": machine.load,
        "dirty_rate": machine.dirty_rate,
        "control": machine.control,
        "stop_policy": machine.stop_policy,
        "stop_time_ms": machine.stop_time / 1e6,
        "back_ends": machine.other_back_ends,
    }


def totals(groups: Iterable[JsonObject]) -> tuple[int, int]:
    """How many devices and rings a VM has, from ``vm.devices`` of a document."""
    sizes = [(group["count"], group["rings"]) for group in groups]
    return sum(count for count, _ in sizes), sum(count * rings for count, rings in sizes)


def shape_of_groups(groups: Iterable[JsonObject]) -> str:
    """The devices of a VM, ``net 16x32, blk 24x4``, from ``vm.devices`` of a document."""
    return ", ".join(f"{group['class']} {group['count']}x{group['rings']}" for group in groups)


def host_facts() -> JsonObject:
    """Properties of the host that affect the figures, without its name."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "vhost_emu": version("vhost-emu"),
    }


def median(values: Sequence[float | None]) -> float | None:
    """The median of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
