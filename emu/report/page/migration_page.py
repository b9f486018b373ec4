"""The page of `emu migrate`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from devices.procedure import Phase
from emu.config.costs import RFC_TABLE, RFC_TOTAL_CONCURRENT_MS, RFC_TOTAL_SERIAL_MS
from emu.json_input import check
from emu.report.cells import count, milliseconds, size
from emu.report.page import charts
from emu.report.page.content import BAD, DIM, GOOD, Cell, Column, Figure, Page, Section, Table, Tile
from emu.report.page.documents import MIGRATIONS, devices_text, facts_of
from emu.report.page.theme import PART_COLOURS, PHASE_COLOURS
from emu.report.results import COMPLETED, Integrity, median
from emu.report.tables import integrity_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.qmp.protocol import JsonObject

_Key = tuple[str, str]
_ORDER = {phase.value: phase.order for phase in Phase}
#: Timelines on the picture; the first and the last strategies.
_PICTURED = 2
#: Digits of a device's number.
_DIGITS = 9
_RFC_NOTE = (
    "RFC: the figures of the RFC of March 2021 (224 vCPUs, 16 NICs x 32 rings, 24 disks x 4 rings, "
    "on its author's host), one device after the other, and with its thread pool."
)


def page(document: JsonObject) -> Page:
    """The page of a document of ``emu migrate --json``.

    Raises:
        JsonInputError: the document has another shape.
    """
    return _Migrations(check(document, MIGRATIONS)).page()


def outcome_of(runs: Sequence[JsonObject], document: JsonObject) -> Cell:
    """The first run that was rolled back, or the line on integrity of all runs.

    Args:
        runs: of all VMs.
        document: has ``not_run`` if the command ended early, and may have ``compared``.
    """
    for run in runs:
        reason = run.get("missed") or run.get("error")
        if reason or run["outcome"] != COMPLETED:
            which = f"{run['strategy']}, run {run['repeat']}"
            return Cell(f"{which}: {run['outcome']}: {reason or 'unknown reason'}", BAD)
    if not_run := document.get("not_run"):
        text = _integrity(runs, document).text
        return Cell(f"{not_run} migrations were not finished; {text}", BAD)
    return _integrity(runs, document)


def _integrity(runs: Iterable[JsonObject], document: JsonObject) -> Cell:
    known = [run["integrity"] for run in runs if run["integrity"] is not None]
    if not known:
        return Cell("integrity: the destination checks the guest's request log when its run ends")
    names = [name for name in Integrity.__dataclass_fields__ if name in known[0]]
    total = Integrity(**{name: sum(each[name] for each in known) for name in names})
    text = integrity_line(total, "while the VM was down").replace("packets: 0 sent, ", "packets: ")
    if proofs := document.get("compared"):
        text += f"; proof: {', '.join(proofs)}"
    return Cell(text, GOOD if total.clean else BAD)


class _Migrations:
    """The runs of one document."""

    def __init__(self, document: JsonObject) -> None:
        self._document = document
        self._runs: list[JsonObject] = document["runs"]
        self._names = list(dict.fromkeys(run["strategy"] for run in self._runs))
        self._parts = [part for name in self._names if (part := self._part(name)) is not None]

    def _completed(self, name: str) -> list[JsonObject]:
        return [
            run
            for run in self._runs
            if run["strategy"] == name
            and run["outcome"] == COMPLETED
            and run["downtime_ms"] is not None
        ]

    def _median(self, name: str, key: str) -> float | None:
        return median([run[key] for run in self._completed(name)])

    def _part(self, name: str) -> charts.Parts | None:
        downtime = self._median(name, "downtime_ms")
        if downtime is None:
            return None
        return charts.Parts(
            name,
            downtime,
            self._median(name, "stop_ms") or 0.0,
            self._median(name, "start_ms") or 0.0,
            self._median(name, "guest_gap_ms"),
            self._median(name, "network_gap_ms"),
            [run["downtime_ms"] for run in self._completed(name)],
        )

    def page(self) -> Page:
        """All of it."""
        drawn = [run for run in self._runs if run.get("timeline")]
        timelines = [self._timeline(run, number) for number, run in enumerate(drawn)]
        sections = []
        if self._parts:
            sections += [self._compared(), self._steps(in_blackout=True)]
        if timelines:
            sections.append(
                Section(
                    "What ran when in the blackout",
                    "A row for each device, and one for the VM; the time in which no vCPU runs is "
                    "shaded, and begins at 0. Each strategy has its own time axis. Drag to move, "
                    "hold Ctrl and turn the wheel to zoom, or use the buttons; what ran before and "
                    "after is to the left and to the right, in paler colours.",
                    timelines,
                )
            )
        if self._parts:
            sections.append(self._steps(in_blackout=False))
        sections.append(self._all_runs())
        return Page(
            title="Live migration: the downtime of vhost-user devices",
            sentence=self._sentence(),
            tiles=self._tiles(),
            outcome=outcome_of(self._runs, self._document),
            sections=[section for section in sections if section.blocks],
            facts=self._facts(),
            command=self._document.get("command", ""),
            picture=self._picture(timelines),
        )

    def _sentence(self) -> str:
        vm = self._document["vm"]
        shape = (
            f"A VM with {vm['vcpus']} vCPUs, {size(vm['memory_bytes'])} of memory, "
            f"{devices_text(vm)} was migrated live"
        )
        times = f"{len(self._runs)} times" if len(self._runs) != 1 else "once"
        load = f"under {self._document['load']} load"
        text = f"{shape} {times} {load}"
        if not self._parts:
            return f"{text}; no migration completed."
        first, best = self._parts[0], min(self._parts, key=lambda part: part.downtime)
        if best is first:
            return f"{text}; its downtime was {_ms(first.downtime)} with {first.strategy}."
        return (
            f"{text}; its downtime was {_ms(first.downtime)} with {first.strategy} and "
            f"{_ms(best.downtime)} with {best.strategy}, {_times(first.downtime, best.downtime)} "
            "less."
        )

    def _tiles(self) -> list[Tile]:
        tiles = []
        for part in self._parts:
            seen = f", network {milliseconds(part.network)}" if part.network is not None else ""
            notes = [f"guest {milliseconds(part.guest)}{seen} ms"]
            tone = ""
            first = self._parts[0].downtime
            if part is not self._parts[0]:
                notes.insert(0, _ratio_note(first, part.downtime, self._parts[0].strategy))
                tone = GOOD if part.downtime < first else BAD
            if len(part.runs) > 1:
                least, most = milliseconds(min(part.runs)), milliseconds(max(part.runs))
                notes.append(f"median of {len(part.runs)}: {least} to {most} ms")
            tiles.append(Tile(part.strategy, _ms(part.downtime), notes, tone))
        return tiles

    def _compared(self) -> Section:
        legend = dict(PART_COLOURS)
        by_client = any(part.network is not None for part in self._parts)
        marks = "Diamonds: the gap that the guest saw in its heartbeat"
        marks += "; triangles: the one that a client in the network saw." if by_client else "."
        if any(len(part.runs) > 1 for part in self._parts):
            marks += " Bars are medians, strokes the single runs."
        figure = Figure(
            "downtime", "The downtime by its parts", charts.downtimes(self._parts), legend, marks
        )
        gaps = ("accounted", "guest", *(("network",) if by_client else ()))
        columns = (*gaps, "factor", "commits", "in flight", "runs")
        rows = []
        most = max(part.downtime for part in self._parts)
        first = self._parts[0].downtime
        for part in self._parts:
            asked = sum(run["strategy"] == part.strategy for run in self._runs)
            rows.append(
                [
                    Cell(part.strategy),
                    Cell(milliseconds(part.downtime), share=part.downtime / most if most else 0),
                    Cell(milliseconds(part.guest)),
                    *([Cell(milliseconds(part.network))] if by_client else ()),
                    _factor(first, part.downtime),
                    Cell(count(self._median(part.strategy, "commits"))),
                    Cell(count(self._median(part.strategy, "requests_in_flight_at_stop"))),
                    Cell(f"{len(part.runs)}/{asked}"),
                ]
            )
        table = Table([Column("strategy", numeric=False), *map(Column, columns)], rows)
        return Section(
            "Strategies side by side",
            "Downtimes in ms: accounted by the VM processes from the pause of the first vCPU at "
            "the source until the last one runs at the destination; the longest gap in the "
            "heartbeat that the guest writes"
            + (
                "; and the longest gap between answers to a client in the network, which includes "
                "the time that packets wait."
                if by_client
                else ". No client in the network measured a third one."
            ),
            [figure, table],
        )

    def _steps(self, *, in_blackout: bool) -> Section:
        cells = {
            part.strategy: self._cells(part.strategy, in_blackout=in_blackout)
            for part in self._parts
        }
        rfc = {(row.phase.value, row.device_class): row for row in RFC_TABLE} if in_blackout else {}
        keys = {key for own in cells.values() for key in own} | rfc.keys()
        ordered = sorted(keys, key=lambda key: (_ORDER.get(key[0], len(_ORDER)), _class(key[1])))
        names = [name for name, own in cells.items() if own or in_blackout]
        longest = max((cell[0] for own in cells.values() for cell in own.values()), default=0.0)
        longest_rfc = max((row.serial_ms for row in rfc.values()), default=0.0)
        rows = []
        for key in ordered:
            row = [Cell(text) for text in _step(key)]
            if rfc:
                theirs = rfc.get(key)
                times = (theirs.serial_ms, theirs.concurrent_ms) if theirs else (None, None)
                row += [_time(value, longest_rfc, tone=DIM) for value in times]
            for name in names:
                wall, shared = cells[name].get(key, (None, False))
                row.append(_time(wall, longest, mark="*" if shared else ""))
            rows.append(row)
        if in_blackout:
            total = [Cell(""), Cell(""), Cell("downtime")]
            figures = (RFC_TOTAL_SERIAL_MS, RFC_TOTAL_CONCURRENT_MS)
            total += [Cell(milliseconds(value), DIM) for value in figures]
            total += [Cell(milliseconds(part.downtime)) for part in self._parts]
            rows.append(total)
        titles = [*(("RFC, serial", "RFC, pool") if rfc else ()), *names]
        columns = [*(Column(name, numeric=False) for name in ("side", "class", "phase"))]
        columns += [Column(name) for name in titles]
        notes = [_RFC_NOTE] if rfc else []
        if any(shared for own in cells.values() for _, shared in own.values()):
            notes.append("* one commit for several classes: the row of each has the same time.")
        if in_blackout:
            heading = "The RFC's table, and ours"
            text = (
                "Wall times in ms, from the first start of a phase to its last end. Phases may "
                "overlap, so their sum may be more than the downtime. A phase without a figure did "
                "not run in the blackout."
            )
        else:
            heading = "What ran outside of the blackout"
            text = "Wall times in ms of the phases that a strategy has while the VM runs."
        table = Table(columns, rows, total=in_blackout, notes=notes)
        return Section(heading, text, [table] if names and ordered else [])

    def _cells(self, name: str, *, in_blackout: bool) -> dict[_Key, tuple[float, bool]]:
        """Medians of the wall times, and whether a commit served several classes."""
        found: dict[_Key, list[JsonObject]] = defaultdict(list)
        for run in self._completed(name):
            for row in run["phases"]:
                if row["in_blackout"] == in_blackout:
                    found[row["phase"], row["class"]].append(row)
        return {
            key: (
                median([row["wall_ms"] for row in rows]) or 0.0,
                any(row["shared"] for row in rows),
            )
            for key, rows in found.items()
        }

    def _timeline(self, run: JsonObject, number: int) -> Figure:
        rows = run["timeline"]
        length = run["downtime_ms"] or max((row["end_ms"] for row in rows), default=0.0)
        used = [name for name in PHASE_COLOURS if any(row["phase"] == name for row in rows)]
        colours = {str(name).replace("_", " "): PHASE_COLOURS[name] for name in used}
        bars = [
            charts.Bar(
                _row_name(row),
                row["phase"].replace("_", " "),
                row["start_ms"],
                row["end_ms"],
                {
                    "from": f"{row['start_ms']:.3f} ms",
                    "to": f"{row['end_ms']:.3f} ms",
                    "wall": f"{row['end_ms'] - row['start_ms']:.3f} ms",
                    "sum of its spans": f"{row['busy_ms']:.3f} ms",
                    "messages, notifiers": str(row["count"]),
                },
                faint=not row["in_blackout"],
            )
            for row in rows
            if row["phase"] in PHASE_COLOURS
        ]
        names = {(_class(row["class"]), _natural(_row_name(row)), _row_name(row)) for row in rows}
        order = list(dict.fromkeys(name for *_, name in sorted(names)))
        several = f", run {run['repeat']}" if len(self._completed(run["strategy"])) > 1 else ""
        return Figure(
            f"timeline-{number}",
            f"{run['strategy']}{several}: {_ms(length)}",
            charts.timeline(bars, order, colours, length),
            colours,
            zooms=True,
        )

    def _all_runs(self) -> Section:
        by_client = any(run["network_gap_ms"] is not None for run in self._runs)
        gaps = {"accounted": "downtime_ms", "guest": "guest_gap_ms"}
        gaps |= {"network": "network_gap_ms"} if by_client else {}
        gaps |= {"stop": "stop_ms", "start": "start_ms"}
        columns = ["run", *gaps, "commits"]
        columns += ["pre-copy", "rounds", "requests", "lost", "duplicated", "corrupted"]
        rows = []
        for run in self._runs:
            integrity = run["integrity"] or {}
            wrong = [integrity.get(name) for name in ("lost", "duplicated", "corrupted")]
            rows.append(
                [
                    Cell(run["strategy"]),
                    Cell(str(run["repeat"])),
                    *(Cell(milliseconds(run[name])) for name in gaps.values()),
                    Cell(str(run["commits"])),
                    Cell(size(run["precopy"]["bytes"])),
                    Cell(str(run["precopy"]["rounds"])),
                    Cell(count(integrity.get("requests"))),
                    *(Cell(count(number), BAD if number else "") for number in wrong),
                ]
            )
        table = Table([Column("strategy", numeric=False), *map(Column, columns)], rows)
        return Section(
            "All migrations", "In the order in which they were made; times in ms.", [table]
        )

    def _facts(self) -> dict[str, str]:
        facts = facts_of(self._document)
        vm = self._document["vm"]
        return {
            "VM": f"{vm['vcpus']} vCPUs, {size(vm['memory_bytes'])}, {devices_text(vm)}",
            **facts,
            "stream": self._document["via"],
            "network": self._document["network"],
        }

    def _picture(self, timelines: Sequence[Figure]) -> JsonObject:
        parts = []
        if self._parts:
            parts.append(("The downtime by its parts, ms", charts.downtimes(self._parts)))
        shown = timelines if len(timelines) <= _PICTURED else [timelines[0], timelines[-1]]
        parts += [(f"What ran when: {figure.title}", figure.spec) for figure in shown]
        legend = {name: colour for figure in shown for name, colour in figure.legend.items()}
        return charts.stacked(
            self._sentence(),
            outcome_of(self._runs, self._document).text,
            parts,
            {**PART_COLOURS, **legend},
        )


def _class(name: str) -> tuple[int, str]:
    known = ("vm", "net", "blk")
    return (known.index(name), name) if name in known else (len(known), name)


def _row_name(row: JsonObject) -> str:
    name = row["class"] if row["class"] == "vm" else row["device"] or f"all {row['class']}"
    return str(name)


def _natural(name: str) -> tuple[str, int]:
    """The sort key: ``net``, ``net2``, ``net10``."""
    letters = name.rstrip("0123456789")
    digits = name[len(letters) :]
    return (letters, int(digits)) if 0 < len(digits) <= _DIGITS else (name, -1)


def _step(key: _Key) -> tuple[str, str, str]:
    side, _, step = key[0].partition(".")
    return side, key[1], step.replace("_", " ")


def _time(value: float | None, longest: float, *, mark: str = "", tone: str = "") -> Cell:
    if value is None:
        return Cell("-", DIM)
    return Cell(milliseconds(value) + mark, tone, value / longest if longest else 0.0)


def _ms(value: float) -> str:
    return f"{milliseconds(value)} ms"


def _times(first: float, other: float) -> str:
    return f"{first / other:.1f} times" if other else "-"


def _ratio_note(first: float, other: float, name: str) -> str:
    if not first or not other:
        return ""
    if other <= first:
        return f"{first / other:.1f}x shorter than {name}"
    return f"{other / first:.1f}x longer than {name}"


def _factor(first: float, other: float) -> Cell:
    if not first or not other:
        return Cell("-", DIM)
    factor = round(first / other, 2)
    return Cell(f"{factor:.1f}x" if factor >= 1 else f"{factor:.2f}x", GOOD if factor > 1 else "")
