"""What differs between two JSON documents of `emu migrate`, of `emu sweep` or of `emu conform`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.json_input import Each, JsonInputError, Map, Maybe, Members, check, parse
from emu.report.cells import counted
from emu.report.permutation import SLOWER, shown_p_value, verdict
from emu.report.results import COMPLETED, SCHEMA, shape_of_groups, totals
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from emu.json_input import Shape
    from emu.qmp.protocol import JsonObject

MIGRATION, SWEEP, CONFORMANCE = "migration", "sweep", "conformance"
#: The commands that write documents of each kind.
COMMANDS = {MIGRATION: "emu migrate", SWEEP: "emu sweep", CONFORMANCE: "emu conform"}
#: The figures that are compared; a smaller one is better.
FIGURES = ("downtime_ms", "guest_gap_ms", "network_gap_ms", "stop_ms", "start_ms")
_WRONG = ("lost", "duplicated", "corrupted", "packets_duplicated", "packets_reordered")
#: Members of a document that say what was measured. Others are the results.
_SETTINGS: dict[str, Shape] = {
    **dict.fromkeys(("accel", "costs", "load", "control", "stop_policy", "via", "network"), str),
    **dict.fromkeys(("dirty_rate", "stop_time_ms"), float),
    "back_ends": Map(object),
    "host": Map(object),
    "vm": Members(
        {"devices": Each(Members({"class": str, "count": int, "rings": int}))},
        {"vcpus": int, "memory_bytes": int},
    ),
}
_RUN = Members(
    {
        "strategy": str,
        "outcome": str,
        "phases": Each(
            Members({"phase": str, "class": str, "wall_ms": float, "in_blackout": bool})
        ),
    },
    {
        **dict.fromkeys(FIGURES, Maybe(float)),
        "integrity": Maybe(Members({}, dict.fromkeys(_WRONG, int))),
    },
)
_MIGRATION = Members({"runs": Each(_RUN)}, _SETTINGS)
_SHAPES: dict[str, Shape] = {
    MIGRATION: _MIGRATION,
    SWEEP: Members({"migrations": Each(_MIGRATION)}, _SETTINGS),
    CONFORMANCE: Members(
        {
            "role": str,
            "cases": Each(
                Members({"id": str, "area": str, "rule": str, "severity": str, "verdict": str})
            ),
        },
        {"peer": Map(object)},
    ),
}


class DocumentError(ValueError):
    """A document cannot be compared; the text says why."""


class Document(NamedTuple):
    """One of the two documents.

    Attributes:
        kind: `MIGRATION`, `SWEEP` or `CONFORMANCE`.
        whole: the members that are compared.
    """

    kind: str
    whole: JsonObject


def read(data: bytes) -> Document:
    """A document from its text.

    Raises:
        DocumentError: it is not one of these, or of a schema that is not known.
    """
    try:
        value = parse(data)
        kind = _kind(value)
        if value.get("schema") != SCHEMA:
            found = one_line(str(value.get("schema")), 20)
            raise DocumentError(f"has the schema {found}, and this version reads {SCHEMA}")
        return Document(kind, check(value, _SHAPES[kind]))
    except JsonInputError as error:
        raise DocumentError(f"is no document of emu: {one_line(str(error), 200)}") from None


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        for kind, name in ((MIGRATION, "runs"), (SWEEP, "migrations"), (CONFORMANCE, "summary")):
            if name in value:
                return kind
        if "samples" in value:
            raise DocumentError("is a document of emu run, which cannot be compared")
        if "cases" in value:
            raise DocumentError("is a list of cases, without verdicts")
    names = ", ".join(COMMANDS.values())
    raise DocumentError(f"is no document of {names}")


class Comparison(NamedTuple):
    """One figure of one strategy, with one VM.

    Attributes:
        devices, rings: of the VM, in total.
        strategy: its name.
        figure: one of `FIGURES`, or a phase in the blackout and a class of devices.
        before, after: milliseconds of each completed migration.
        p: the p-value of the difference; None if these are too few migrations to show any.
    """

    devices: int
    rings: int
    strategy: str
    figure: str
    before: Sequence[float]
    after: Sequence[float]
    p: float | None

    @property
    def change_percent(self) -> float | None:
        """Of the medians; None if one is missing, or the first one is 0."""
        if not self.before or not self.after or not statistics.median(self.before):
            return None
        return 100 * (statistics.median(self.after) / statistics.median(self.before) - 1)

    @property
    def verdict(self) -> str:
        """Of `permutation.verdict`."""
        return verdict(self.before, self.after, self.p)

    def to_json(self) -> JsonObject:
        """An element of ``figures``."""
        return {
            **dict(zip(("devices", "rings", "strategy", "figure"), self, strict=False)),
            "before": _series(self.before),
            "after": _series(self.after),
            "change_percent": _rounded(self.change_percent),
            "p": _rounded(self.p),
            "verdict": self.verdict,
        }


def _series(values: Sequence[float]) -> JsonObject:
    return {
        "median_ms": _rounded(statistics.median(values)) if values else None,
        "migrations": len(values),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class Change(NamedTuple):
    """A verdict that differs, or a setting.

    Attributes:
        name: the case's id, or the name of the setting.
        before, after: the values; None if a document does not have it.
        text: the rule of a case.
    """

    name: str
    before: Any
    after: Any
    text: str = ""

    def to_json(self) -> JsonObject:
        """An element of ``settings`` or of ``cases``."""
        value = {"name": self.name, "before": self.before, "after": self.after}
        return value | ({"rule": self.text} if self.text else {})


class Compared(NamedTuple):
    """A strategy that both documents have, with one VM.

    Attributes:
        devices, rings: of the VM, in total.
        strategy: its name.
        before, after: how many migrations completed.
    """

    devices: int
    rings: int
    strategy: str
    before: int
    after: int


class Unjudged(NamedTuple):
    """A strategy with figures that have too few runs for the test.

    Attributes:
        text: one line on it.
        whole: no figure of the strategy has enough.
    """

    text: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What differs between two documents of one kind.

    Attributes:
        kind: of both.
        settings: what was not the same in the two runs.
        figures: of migrations and sweeps.
        failures: the migrations that failed, and of how many, in each document.
        missing: strategies, with their VM, that only one of the documents has.
        compared: strategies, with their VM, that both have.
        cases: of conformance, those whose verdicts differ.
        verdicts: the number of each verdict, in each document.
    """

    kind: str
    settings: list[Change]
    figures: list[Comparison] = field(default_factory=list)
    failures: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    missing: list[str] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    cases: list[Change] = field(default_factory=list)
    verdicts: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})

    @property
    def new_failures(self) -> list[Change]:
        """The cases that fail in the second document only."""
        return [case for case in self.cases if case.after == "FAIL"]

    @property
    def unjudged(self) -> list[Unjudged]:
        """The strategies with figures of which the test cannot tell whether they have changed."""
        found = []
        for each in self.compared:
            rows = [row for row in self.figures if row[:3] == each[:3]]
            without = [row.figure for row in rows if row.p is None]
            whole = len(without) == len(rows)
            if whole or without:
                which = "" if whole else f"{', '.join(without)}: "
                runs = f"{counted(each.before, 'completed migration')} before, {each.after} after"
                found.append(
                    Unjudged(
                        f"{each.strategy} ({counted(each.devices, 'device')}): {which}"
                        "too few runs to tell: "
                        f"{runs}; use --repeat 4 or more for both documents",
                        whole,
                    )
                )
        return found

    def regressions(self, percent: float) -> list[str]:
        """What has become worse, one text for each.

        Args:
            percent: a figure may grow so much, even if the difference is real.
        """
        found = [
            f"{case.name} {case.before or 'was not run'}, now FAIL" for case in self.new_failures
        ]
        for row in self.figures:
            change = row.change_percent  # None: from 0, which is more than any percentage
            if row.verdict == SLOWER and (change is None or change > percent):
                grown = "from 0" if change is None else f"{change:+.1f}%"
                found.append(
                    f"{row.strategy} {row.figure} {grown} ({counted(row.devices, 'device')})"
                )
        before, after = (bad for bad, _ in self.failures)
        if after > before:
            found.append(f"{counted(after, 'migration')} failed, and {before} before")
        return found

    def to_json(self) -> JsonObject:
        """The whole document."""
        value: JsonObject = {
            "schema": SCHEMA,
            "compared": self.kind,
            "settings": [change.to_json() for change in self.settings],
        }
        if self.kind == CONFORMANCE:
            return value | {
                "cases": [case.to_json() for case in self.cases],
                "verdicts": dict(zip(("before", "after"), self.verdicts, strict=True)),
            }
        return value | {
            "figures": [row.to_json() for row in self.figures],
            "failed": dict(
                zip(("before", "after"), (bad for bad, _ in self.failures), strict=True)
            ),
            "only_in_one": self.missing,
        }


def compare(before: Document, after: Document, *, phases: bool = False) -> Result:
    """What differs.

    Args:
        before: the first document.
        after: the second one.
        phases: compare the phases in the blackout, too.

    Raises:
        DocumentError: they are of different kinds, or have nothing in common.
    """
    if before.kind != after.kind:
        one, other = (COMMANDS[document.kind] for document in (before, after))
        raise DocumentError(f"one is a document of {one}, the other one of {other}")
    if before.kind == CONFORMANCE:
        return _verdicts(before.whole, after.whole)
    named = any(map(_has_twins, (before, after)))
    old, new = (_runs(document, named=named) for document in (before, after))
    rows = [
        Comparison(devices, rings, strategy, figure, one, other, shown_p_value(one, other))
        for (devices, rings, strategy), runs in old.items()
        for figure, one, other in _figures(
            runs, new.get((devices, rings, strategy), []), phases=phases
        )
        if (devices, rings, strategy) in new
    ]
    if not old.keys() & new.keys():
        raise DocumentError("they have no strategy on a VM of the same size in common")
    return Result(
        before.kind,
        list(_settings(before, after)),
        rows,
        (_failed(old), _failed(new)),
        [
            f"{strategy} ({counted(devices, 'device')})"
            for devices, rings, strategy in {**old, **new}
            if ((devices, rings, strategy) in old) != ((devices, rings, strategy) in new)
        ],
        [
            Compared(*key, *(len(_completed(runs[key])) for runs in (old, new)))
            for key in old
            if key in new
        ],
    )


def _migrations(document: Document) -> list[tuple[Any, JsonObject]]:
    """The devices of each VM, as far as they are known, and its document."""
    whole = document.whole
    migrations = whole["migrations"] if document.kind == SWEEP else [whole]
    return [(each["vm"]["devices"] if "vm" in each else (), each) for each in migrations]


def _has_twins(document: Document) -> bool:
    """Whether VMs of a sweep have as many devices and rings, or have another accelerator only."""
    sizes = [totals(devices) for devices, _ in _migrations(document)]
    return len(set(sizes)) < len(sizes)


def _runs(document: Document, *, named: bool) -> dict[tuple[int, int, str], list[JsonObject]]:
    """The runs by devices, rings and strategy.

    Args:
        document: of migrations.
        named: the VM and its accelerator follow the name of the strategy.
    """
    found: dict[tuple[int, int, str], list[JsonObject]] = {}
    for devices, migration in _migrations(document):
        vm = f" ({shape_of_groups(devices)}, {migration.get('accel', '?')})" if named else ""
        for run in migration["runs"]:
            found.setdefault((*totals(devices), f"{run['strategy']}{vm}"), []).append(run)
    return found


def _completed(runs: Iterable[JsonObject]) -> list[JsonObject]:
    return [run for run in runs if run["outcome"] == COMPLETED]


def _figures(
    before: Iterable[JsonObject], after: Iterable[JsonObject], *, phases: bool
) -> Iterator[tuple[str, list[float], list[float]]]:
    """The names of the figures that were measured, and their values in both documents."""
    old, new = (_completed(runs) for runs in (before, after))
    for name in FIGURES:
        one, other = (
            [run[name] for run in runs if run.get(name) is not None] for runs in (old, new)
        )
        if one or other:
            yield name, one, other
    if phases:
        times = [[_phases(run) for run in runs] for runs in (old, new)]
        for name in dict.fromkeys(name for runs in times for run in runs for name in run):
            one, other = ([run.get(name, 0.0) for run in runs] for runs in times)
            yield name, one, other


def _phases(run: JsonObject) -> dict[str, float]:
    return {
        f"{row['phase']}.{row['class']}": row["wall_ms"]
        for row in run["phases"]
        if row["in_blackout"]
    }


def _failed(runs: Mapping[Any, Iterable[JsonObject]]) -> tuple[int, int]:
    """How many runs failed, and of how many."""
    whole = [run for group in runs.values() for run in group]
    bad = [
        run
        for run in whole
        if run["outcome"] != COMPLETED or any((run.get("integrity") or {}).values())
    ]
    return len(bad), len(whole)


def _settings(before: Document, after: Document) -> Iterator[Change]:
    """What was not the same, by name; members of ``host`` and ``vm`` have the name before."""
    old, new = (_flat(document.whole) for document in (before, after))
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _flat(whole: JsonObject) -> JsonObject:
    found = {name: whole[name] for name in (*_SETTINGS, "role", "peer") if name in whole}
    for name in ("host", "vm", "peer"):
        found |= {f"{name}.{inner}": value for inner, value in found.pop(name, {}).items()}
    return found


def _verdicts(before: JsonObject, after: JsonObject) -> Result:
    if before["role"] != after["role"]:
        raise DocumentError(
            f"one is about a {before['role']}, the other one about a {after['role']}"
        )
    old, new = ({case["id"]: case for case in whole["cases"]} for whole in (before, after))
    if not old.keys() & new.keys():
        raise DocumentError("they have no case in common")
    changes = [
        Change(
            name,
            old[name]["verdict"] if name in old else None,
            new[name]["verdict"] if name in new else None,
            {**old, **new}[name]["rule"],
        )
        for name in sorted({**old, **new})
    ]
    counts = tuple(
        {
            verdict: sum(case["verdict"] == verdict for case in cases.values())
            for verdict in sorted({case["verdict"] for case in [*old.values(), *new.values()]})
        }
        for cases in (old, new)
    )
    return Result(
        CONFORMANCE,
        list(_settings(Document(CONFORMANCE, before), Document(CONFORMANCE, after))),
        cases=[change for change in changes if change.before != change.after],
        verdicts=(counts[0], counts[1]),
    )
