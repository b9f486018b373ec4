"""What a user reads while the cases run, and when they are over."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult

STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.UNSUPPORTED: "dim",
    Verdict.OBSERVED: "cyan",
    Verdict.ERROR: "yellow",
}
_WIDTH = 160


def console(file: TextIO) -> Console:
    """A console that breaks no line where there is no terminal to say how long one may be."""
    return Console(file=file, width=None if file.isatty() else _WIDTH, highlight=False)


def progress(target: Console) -> Progress:
    """The live line: how many cases are over, and which one was last."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[last]}"),
        console=target,
        transient=True,
        disable=not target.is_terminal,
    )


def listing(cases: Sequence[Case]) -> RenderableType:
    """All cases, a line each, and how many they are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "area", "rule", "needs"):
        table.add_column(name, no_wrap=name != "rule")
    for case in cases:
        needs = [*case.needs, *([case.device] if case.device else [])]
        table.add_row(case.id, case.area, case.rule, " ".join(needs))
    areas = len({case.area for case in cases})
    return Group(table, Text(f"cases: {len(cases)}, areas: {areas}"))


def by_area(results: Sequence[CaseResult]) -> Table:
    """How often each verdict came, for each area."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("area", no_wrap=True)
    for verdict in Verdict:
        table.add_column(str(verdict), justify="right", style=STYLES[verdict])
    areas = list(dict.fromkeys(result.case.area for result in results))
    for area in [*areas, ""]:
        mine = [result for result in results if not area or result.case.area == area]
        counts = [sum(result.verdict is verdict for result in mine) for verdict in Verdict]
        if not area:
            table.add_section()
        table.add_row(area or "all", *[str(count) if count else "-" for count in counts])
    return table


def details(results: Sequence[CaseResult], *, observed: bool) -> RenderableType:
    """What was observed, and then each case that failed, or could not be told, with its evidence.

    The end is what a user has on the screen.
    """
    parts: list[Text] = []
    for result in results:
        if observed and result.verdict is Verdict.OBSERVED:
            text = Text(f"{result.case.id} OBSERVED ", STYLES[Verdict.OBSERVED])
            parts.append(text.append(f"{result.case.rule}: {result.seen}", "default"))
    bad = [one for one in results if one.verdict in (Verdict.FAIL, Verdict.ERROR)]
    return Group(*parts, *map(evidence, bad))


def conclusion(results: Sequence[CaseResult]) -> Text:
    """The last line: whether the peer keeps the rules."""
    failed = sum(result.verdict is Verdict.FAIL for result in results)
    untold = sum(result.verdict is Verdict.ERROR for result in results)
    judged = failed + sum(result.verdict is Verdict.PASS for result in results)
    text = f"{failed} of {judged} rules broken" if failed else f"all {judged} rules kept"
    if not judged:
        text = "there was nothing to judge"
    text += f"; {untold} cases could not tell" if untold else ""
    return Text(text, STYLES[Verdict.FAIL if failed else Verdict.PASS])


def evidence(result: CaseResult) -> Text:
    """What failed: the rule, what was expected, what was seen, and the messages before it."""
    text = Text(f"{result.case.id} {result.verdict} ", STYLES[result.verdict])
    text.append(f"{result.case.rule} ({result.case.spec})", "default")
    if result.expected:
        text.append(f"\n    expected: {result.expected}", "default")
    first, *rest = result.seen.splitlines() or [""]
    text.append(f"\n    seen: {first}", "default")
    for line in rest:
        text.append(f"\n      {line}", "dim")
    return text


def write_junit(path: Path, role: str, results: Sequence[CaseResult]) -> None:
    """JUnit's XML, as CI systems read it. UNSUPPORTED and OBSERVED are skipped tests there.

    Raises:
        OSError: it cannot be written.
    """
    suite = ET.Element(
        "testsuite",
        name=f"vhost-user {role}",
        tests=str(len(results)),
        failures=str(sum(result.verdict is Verdict.FAIL for result in results)),
        errors=str(sum(result.verdict is Verdict.ERROR for result in results)),
        skipped=str(
            sum(result.verdict in (Verdict.UNSUPPORTED, Verdict.OBSERVED) for result in results)
        ),
        time=f"{sum(result.ms for result in results) / 1e3:.3f}",
    )
    for result in results:
        node = ET.SubElement(
            suite,
            "testcase",
            classname=f"vhost-user.{role}.{result.case.area}",
            name=f"{result.case.id} {result.case.rule}",
            time=f"{result.ms / 1e3:.3f}",
        )
        _outcome(node, result)
    ET.ElementTree(suite).write(path, encoding="unicode", xml_declaration=True)


def _outcome(node: ET.Element, result: CaseResult) -> None:
    names = {Verdict.FAIL: "failure", Verdict.ERROR: "error"}
    if result.verdict is Verdict.PASS:
        return
    child = ET.SubElement(node, names.get(result.verdict, "skipped"))
    first = result.seen.splitlines()[0] if result.seen else ""
    told = f"expected {result.expected}; {first}" if result.expected else first
    child.set("message", f"{result.verdict}: {told}")
    child.text = result.seen
