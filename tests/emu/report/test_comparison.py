"""What differs between two documents."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import Any

import pytest

from emu.report.comparison import CONFORMANCE, MIGRATION, SWEEP, DocumentError, compare, read
from tests.emu.report.comparable import conformance, migration, report, sweep_of
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import cases_of

FAST = (10.0, 11.0, 12.0, 13.0, 14.0)
SLOW = (20.0, 21.0, 22.0, 23.0, 24.0)


def result(before: Any, after: Any, **more: Any) -> Any:
    one, other = (read(json.dumps(whole).encode()) for whole in (before, after))
    return compare(one, other, **more)


def test_a_figure_is_slower_faster_or_the_same() -> None:
    old = migration({"split": FAST, "prewired": SLOW, "threads": FAST})
    new = migration({"split": SLOW, "prewired": FAST, "threads": FAST})
    found = result(old, new)
    rows = {row.strategy: row for row in found.figures if row.figure == "downtime_ms"}
    assert {name: row.verdict for name, row in rows.items()} == {
        "split": "slower",
        "prewired": "faster",
        "threads": "no difference",
    }
    assert rows["split"].p == pytest.approx(2 / 252)
    assert rows["split"].change_percent == pytest.approx(100 * (22 / 12 - 1))
    assert (found.kind, found.settings, found.missing) == (MIGRATION, [], [])
    assert found.regressions(50) == [
        "split downtime_ms +83.3% (2 devices)",
        "split stop_ms +83.3% (2 devices)",
    ]
    assert found.regressions(100) == []


def test_three_repetitions_show_nothing() -> None:
    found = result(migration({"split": FAST[:3]}), migration({"split": SLOW[:3]}))
    assert {row.verdict for row in found.figures} == {"too few runs"}
    assert found.regressions(0) == []
    assert [each.whole for each in found.unjudged] == [True]


def test_one_device_is_no_plural() -> None:
    documents = (migration({"split": FAST[:3]}, disks=1) for _ in range(2))
    (each,) = result(*documents).unjudged
    assert each.text.startswith("split (1 device): too few runs to tell")


def test_a_strategy_that_never_completed_is_not_judged() -> None:
    """Although it has no figures at all."""
    documents = (migration({"split": FAST, "threads": (None,) * 5}) for _ in range(2))
    (each,) = result(*documents).unjudged
    assert each.whole
    assert each.text.startswith("threads (2 devices): too few runs to tell: 0 completed migrations")


def test_phases_are_compared_if_asked_for() -> None:
    documents = migration({"split": FAST}), migration({"split": SLOW})
    assert [row.figure for row in result(*documents).figures] == ["downtime_ms", "stop_ms"]
    (row,) = result(*documents, phases=True).figures[2:]
    assert (row.figure, row.verdict) == ("src.get_vring_base.blk", "slower")


def test_settings_failures_and_missing_strategies_are_named() -> None:
    old = migration({"split": FAST, "threads": FAST})
    new = migration({"split": (*FAST, None), "prewired": FAST}, accel="kvm")
    found = result(old, new)
    (setting,) = found.settings
    assert setting.to_json() == {"name": "accel", "before": "soft", "after": "kvm"}
    assert found.failures == ((0, 10), (1, 11))
    assert found.missing == ["threads (2 devices)", "prewired (2 devices)"]
    assert found.regressions(0) == ["1 migration failed, and 0 before"]


def test_a_sweep_is_compared_for_each_vm() -> None:
    old, new = (
        sweep_of([report({"prewired": times}, disks=disks) for disks, times in sizes])
        for sizes in (((2, FAST), (8, FAST)), ((2, FAST), (8, SLOW)))
    )
    found = result(old, new)
    assert found.kind == SWEEP
    verdicts = {(row.devices, row.rings): row.verdict for row in found.figures}
    assert verdicts == {(2, 4): "no difference", (8, 16): "slower"}


def test_verdicts_that_differ() -> None:
    old = conformance(Verdict.PASS, Verdict.FAIL, Verdict.FAIL, Verdict.PASS)
    new = conformance(Verdict.FAIL, Verdict.PASS, Verdict.FAIL, Verdict.PASS, Verdict.FAIL)
    found = result(old, new)
    ids = [case.id for case in cases_of(BACK_END)[:5]]
    assert found.kind == CONFORMANCE
    assert [tuple(change)[:3] for change in found.cases] == [
        (ids[0], "PASS", "FAIL"),
        (ids[1], "FAIL", "PASS"),
        (ids[4], None, "FAIL"),
    ]
    assert [case.name for case in found.new_failures] == [ids[0], ids[4]]
    assert found.regressions(0) == [f"{ids[0]} PASS, now FAIL", f"{ids[4]} was not run, now FAIL"]
    assert found.verdicts == ({"FAIL": 2, "PASS": 2}, {"FAIL": 3, "PASS": 2})
    whole = found.to_json()
    assert (whole["schema"], whole["compared"], len(whole["cases"])) == (1, CONFORMANCE, 3)


def test_vms_of_the_same_size_are_not_mixed_up() -> None:
    """Nor accelerators: the names of the strategies have both, in either document."""
    one, other = report({"split": FAST}), report({"split": SLOW}, accel="kvm")
    found = result(sweep_of([one, other]), sweep_of([one]))
    assert [each.strategy for each in found.compared] == ["split (blk 2x2, soft)"]
    assert found.missing == ["split (blk 2x2, kvm) (2 devices)"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no document of emu: "),
        ("[]", "is no document of emu migrate, emu sweep, emu conform"),
        ("{}", "is no document of emu migrate"),
        ('{"schema": 1, "samples": []}', "is a document of emu run"),
        ('{"schema": 1, "cases": []}', "is a list of cases"),
        ('{"schema": 7, "runs": []}', "has the schema 7, and this version reads 1"),
        ('{"runs": []}', "has the schema None"),
        ('{"schema": 1, "runs": [{}]}', r"is no document of emu: runs\[0\].strategy is missing"),
        ('{"schema": 1, "runs": ' + "[" * 100_000, "is no document of emu: "),
    ],
)
def test_what_is_no_document(text: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read(text.encode())


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            migration({"split": FAST}),
            conformance(Verdict.PASS),
            "emu migrate, the other one of emu",
        ),
        (migration({"split": FAST}), migration({"threads": FAST}), "no strategy on a VM"),
        (migration({"split": FAST}), migration({"split": FAST}, disks=3), "no strategy on a VM"),
        (conformance(Verdict.PASS), conformance(Verdict.PASS, role=FRONT_END), "about a back-end"),
        (conformance(Verdict.PASS), conformance(Verdict.PASS, first=3), "no case in common"),
    ],
)
def test_what_cannot_be_compared(before: Any, after: Any, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        result(before, after)


def test_a_figure_that_was_0_has_grown() -> None:
    """Such as a phase that was not there before; no percentage can tell how much."""
    old, new = migration({"split": FAST}), migration({"split": FAST})
    for run in old["runs"]:
        run["phases"] = []
    found = result(old, new, phases=True)
    (row,) = found.figures[2:]
    assert (row.verdict, row.change_percent) == ("slower", None)
    assert found.regressions(1000) == ["split src.get_vring_base.blk from 0 (2 devices)"]
    (back,) = result(new, old, phases=True).figures[2:]
    assert (back.verdict, back.change_percent) == ("faster", -100)
