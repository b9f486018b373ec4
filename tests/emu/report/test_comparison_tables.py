"""The report of `emu compare`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from emu.report.comparison import compare, read
from emu.report.comparison_tables import show
from tests.emu.report.comparable import conformance, migration, report, sweep_of
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import cases_of

FAST = (1000.0, 1001.0, 1002.0, 1003.0, 1004.0)
SLOW = (2000.0, 2001.0, 2002.0, 2003.0, 2004.0)


def lines(before: Any, after: Any, **more: Any) -> list[str]:
    result = compare(*(read(json.dumps(each).encode()) for each in (before, after)), **more)
    file = io.StringIO()
    show(result, Console(file=file, force_terminal=True, width=80, color_system=None))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_tables_fit_80_columns() -> None:
    """A sweep has one column more, and a phase has the longest name."""
    old, new = (
        sweep_of([report({"qemu-2021": times}, disks=disks) for disks in (2, 800)])
        for times in (FAST, SLOW)
    )
    found = lines(old, new, phases=True)
    assert max(map(len, found)) <= 80
    words = [line.split() for line in found]
    row = ["800", "qemu-2021", "downtime", "1002.0", "2002.0", "+99.8%", "0.008", "slower"]
    assert row in words
    assert sum(line[2:4] == ["src", "get"] for line in words) == 2


def test_the_reader_is_told_what_the_figures_show() -> None:
    found = lines(migration({"split": FAST}), migration({"split": FAST}, accel="kvm"))
    assert found[0] == "differs: accel: soft -> kvm"
    assert any(line.startswith("slower, faster: p < 0.05") for line in found)
    found = lines(migration({"split": FAST[:1]}), migration({"split": SLOW[:1]}))
    assert found[-1] == "?: too few runs to tell: use --repeat 4 or more for both documents"


def test_conformance_has_new_failures_first() -> None:
    old = conformance(Verdict.FAIL, Verdict.PASS, Verdict.OBSERVED)
    new = conformance(Verdict.PASS, Verdict.FAIL, Verdict.PASS, Verdict.PASS)
    one, two, three, four = (case.id for case in cases_of(BACK_END)[:4])
    titles = ("new failures", "mended", "only in the second document", "other changes", "  VU-")
    heads = [line.partition(":")[0] for line in lines(old, new) if line.startswith(titles)]
    assert heads == [
        "new failures",
        f"  {two} PASS -> FAIL",
        "mended",
        f"  {one} FAIL -> PASS",
        "only in the second document",
        f"  {four} - -> PASS",
        "other changes",
        f"  {three} OBSERVED -> PASS",
    ]
    assert lines(old, new)[-2:] == ["before: 1 FAIL, 1 OBSERVED, 1 PASS", "after: 1 FAIL, 3 PASS"]
