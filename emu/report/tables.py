"""The report of `emu migrate`: the RFC's table, the downtime, the integrity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from backends.durations import format_duration
from emu.report.cells import (
    count,
    counted,
    median_downtime,
    milliseconds,
    new_table,
    ratio,
    runs_note,
    size,
)
from emu.report.phase_table import PhaseTable
from emu.report.proofs import compared, complete
from emu.report.results import MigrationReport, median
from vhost_user.console import console_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from rich.table import Table

    from emu.config.plan import MachinePlan
    from emu.config.vm_spec import VmSpec
    from emu.report.results import Integrity, MigrationResult


def size_text(spec: VmSpec) -> str:
    """``4 vCPUs, 1 device, 20 rings``."""
    parts = (spec.vcpus, "vCPU"), (len(spec.devices), "device"), (spec.rings, "ring")
    return ", ".join(counted(number, noun) for number, noun in parts)


def vm_line(plan: MachinePlan, accel: str) -> str:
    """One line with the VM, its load, and the injected costs."""
    spec = plan.spec
    devices = ", ".join(
        f"{g.count} {g.device_class} x {g.rings} rings {g.use.note(g.rings)}".rstrip()
        for g in spec.groups
    )
    costs = "native costs" if plan.costs == "native" else f"costs of {plan.costs} injected"
    extra = f", back-ends stop in {format_duration(plan.stop_time)}" if plan.stop_time else ""
    return (
        f"{spec.vcpus} vCPUs, {size(spec.memory_bytes)}, {devices}; accelerator {accel}, {costs}, "
        f"load {plan.load}, control {plan.control}, stop policy {plan.stop_policy}{extra}"
    )


def back_end_lines(plan: MachinePlan) -> list[str]:
    """A line for each class of devices that other back-ends than this project's serve."""
    titles = plan.other_back_ends | {name: each.title for name, each in plan.back_ends.items()}
    return [f"back-ends of {name}: {title}" for name, title in titles.items()]


def proof_line(plan: MachinePlan, integrity: Integrity) -> str:
    """One line on what the guest's request log was compared with.

    It is empty if that is everything, and all back-ends are this project's.
    """
    if complete(plan, integrity.proofs) and not plan.other_back_ends:
        return ""
    return "proof: " + ", ".join(compared(plan, integrity.proofs))


def integrity_line(integrity: Integrity, when: str = "") -> str:
    """One line on the outcome of the guest's requests and packets.

    Args:
        integrity: their outcome.
        when: when packets were dropped, such as ``while the VM was down``.
    """
    allowed = f" {when} (as on a wire)".replace("  ", " ") if integrity.packets_lost else ""
    text = (
        f"integrity: {integrity.requests} requests, lost {integrity.lost}, "
        f"duplicated {integrity.duplicated}, corrupted {integrity.corrupted}; "
        f"packets: {integrity.packets} sent, {integrity.packets_lost} dropped{allowed}, "
        f"{integrity.packets_duplicated} duplicated, {integrity.packets_reordered} reordered"
    )
    return text + (f"; {integrity.errors} requests failed" if integrity.errors else "")


def downtime_table(report: MigrationReport, *, plain: bool) -> Table:
    """The three downtime figures of each strategy, with commits and requests, in 80 columns."""
    table = new_table(f"downtime, ms{runs_note(report)}", plain=plain)
    table.add_column("strategy")
    names = ("accounted", "guest", "network", "x", "commits", "in flight", "runs")
    for name in names:
        table.add_column(name, justify="right")
    first = median_downtime(report, report.strategies[0]) if report.strategies else None
    for name in report.strategies:
        runs = report.completed(name)
        asked = sum(run.strategy == name for run in report.runs)
        downtime = median_downtime(report, name)
        table.add_row(
            name,
            milliseconds(downtime) + _plus_minus(runs),
            milliseconds(median([run.guest_gap_ms for run in runs])),
            milliseconds(median([run.network_gap_ms for run in runs])),
            ratio(first, downtime),
            count(median([run.commits for run in runs])),
            count(median([run.requests_in_flight_at_stop for run in runs])),
            f"{len(runs)}/{asked}",
        )
    return table


def _plus_minus(runs: list[MigrationResult]) -> str:
    errors = [run.downtime_error_ms for run in runs if run.downtime_error_ms is not None]
    return f" ±{max(errors):.2f}" if errors else ""


def _spread(runs: list[MigrationResult]) -> str:
    values = [run.downtime_ms for run in runs if run.downtime_ms is not None]
    if len(values) < 2:
        return ""
    least, most = milliseconds(min(values)), milliseconds(max(values))
    return f"; downtime {least} to {most} ms in {len(values)} runs"


def _beside(report: MigrationReport) -> Iterable[str]:
    """Lines with each strategy's last pre-copy and the range of its downtimes."""
    for name in report.strategies:
        runs = report.completed(name)
        if runs:
            last = runs[-1].precopy
            which = "last run: " if len(runs) > 1 else ""
            sent = f"pre-copy {last.rounds} rounds, {size(last.bytes)}{_expectation(runs[-1])}"
            yield f"{name}: {which}{sent}{_spread(runs)}"


def _expectation(run: MigrationResult) -> str:
    """The downtime that the last decision expected, and the actual one."""
    expected = run.precopy.expected_downtime_ms
    if expected is None:
        return ""
    throttled = run.precopy.throttle_percent
    slow = f", guest throttled by {throttled}%" if throttled else ""
    actual = milliseconds(run.downtime_ms)
    return f"{slow}; expected downtime {milliseconds(expected)} ms, was {actual}"


def _not_converged(runs: Iterable[MigrationResult]) -> Iterable[str]:
    """Lines with the reasons why runs exceeded the downtime limit, each once, with its runs."""
    by_reason: dict[str | None, list[MigrationResult]] = {}
    for run in runs:
        if run.precopy.note:
            by_reason.setdefault(run.precopy.reason, []).append(run)
    for first, *others in by_reason.values():
        which = f"{first.strategy}, run {first.repeat}"
        yield f"{which}: switched over although {first.precopy.note}"
        if others:
            names = ", ".join(f"{run.strategy} run {run.repeat}" for run in others)
            yield f"the same reason holds for {names}"


def _lines(report: MigrationReport) -> Iterable[str]:
    if report.ended_early:
        yield report.ended_early
    for run in report.runs:
        which = f"{run.strategy}, run {run.repeat}"
        if run.error is not None:
            yield f"{which}: {run.outcome}: {run.error}"
        if run.missed:
            yield f"{which}: {run.missed}"
        if run.disagreement:
            yield f"{which}: {run.disagreement}"
    yield from _not_converged(report.runs)
    disk = report.machine.disk
    if disk is not None:
        completed = [run for run in report.runs if run.downtime_ms is not None]
        same = sum(report.disk_matches(run) for run in completed)
        yield f"disk: the guest read all of {disk.path}"
        share = f"{same} of {len(completed)} migrations"
        yield f"      across {share} with the digest that the host has,"
        yield f"      sha256 {report.disk_sha256}"
    for run in report.runs:
        if run.downtime_error_ms is not None:
            yield (
                f"{run.strategy}, run {run.repeat}: the offset of the hosts' clocks is measured by "
                f"round trips: the error of the downtime is below {run.downtime_error_ms:.3f} ms"
            )
    if any(run.checked_elsewhere for run in report.runs):
        yield "integrity: the destination checks the guest's request log when its run ends"
    else:
        yield integrity_line(report.integrity, "while the VM was down")
        if proof := proof_line(report.machine, report.integrity):
            yield proof


def render(report: MigrationReport, *, plain: bool, width: int | None) -> RenderableType:
    """The whole report.

    Args:
        report: the results.
        plain: without box-drawing characters and styles.
        width: the most columns of a table; None for no limit.
    """
    head = [vm_line(report.machine, report.accel), *back_end_lines(report.machine)]
    parts: list[RenderableType] = [Text("\n".join(head)), Text()]
    notes: list[str] = []
    complete = True
    for part in (
        PhaseTable(report, in_blackout=True),
        PhaseTable(report, in_blackout=False),
    ):
        if part:
            tables, sums = part.tables(plain=plain, width=width)
            parts += tables
            complete &= sums
            notes += part.legend()
    if not complete:
        notes.append("a wider terminal, or --wide, also shows the sums of the spans")
    if notes:
        parts += [*(Text(note, style="dim") for note in dict.fromkeys(notes)), Text()]
    parts += [downtime_table(report, plain=plain), *map(Text, _beside(report))]
    parts += map(Text, _lines(report))
    return Group(*parts)


def show(report: MigrationReport, stream: TextIO, *, wide: bool = False) -> None:
    """Print the report.

    Args:
        report: the results.
        stream: the output.
        wide: print all columns, regardless of the terminal's width.
    """
    console = console_for(stream)
    plain = not console.is_terminal
    if wide:
        console = console_for(stream, wide=True)
    whole = plain or wide
    parts = render(report, plain=plain, width=None if whole else console.width)
    console.print(parts, soft_wrap=whole)
