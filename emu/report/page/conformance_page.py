"""The page of `emu conform`, from its JSON: text of the peer is in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.json_input import Each, Map, Maybe, Members, Real, check
from emu.report.page import charts
from emu.report.page.content import (
    BAD,
    DIM,
    GOOD,
    Case,
    Cases,
    Cell,
    Column,
    Figure,
    Page,
    Section,
    Table,
    Tile,
)
from emu.report.page.theme import VERDICT_COLOURS
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.qmp.protocol import JsonObject

_CASE = Members(
    {
        **dict.fromkeys(("id", "area", "rule", "spec", "severity", "verdict"), str),
        **dict.fromkeys(("expected", "seen"), str),
        "device": Maybe(str),
        "ms": Real(0, 1e12),
    },
    {"known": str},
)
_SHAPE = Members(
    {
        "schema": int,
        "role": str,
        "peer": Map(object),
        "offered": Map(object),
        "cases": Each(_CASE),
        "not_sane": Each(str),
        "not_run": int,
    },
    {"command": str},
)
#: Characters of a fact about the peer.
_LONGEST = 400
_ORDER = list(VERDICT_COLOURS)


def page(document: JsonObject) -> Page:
    """The page of a document of ``emu conform --json``.

    Raises:
        JsonInputError: the document has another shape.
    """
    known = check(document, _SHAPE)
    cases = [
        Case(
            verdict=case["verdict"] if case["verdict"] in VERDICT_COLOURS else "ERROR",
            **{name: case[name] for name in ("id", "area", "severity", "rule", "spec", "ms")},
            expected=case["expected"],
            seen=case["seen"],
            known=case.get("known"),
        )
        for case in known["cases"]
    ]
    counts = Counter(case.verdict for case in cases)
    by_area = Counter((case.area, case.verdict) for case in cases)
    listed = [
        (area, verdict, by_area[area, verdict])
        for area in dict.fromkeys(case.area for case in cases)
        for verdict in _ORDER
        if by_area[area, verdict]
    ]
    sentence = _sentence(known, counts, len(cases))
    legend = {name: colour for name, colour in VERDICT_COLOURS.items() if counts[name]}
    figure = charts.verdicts(listed)
    areas = Section(
        "Verdicts by area",
        "",
        [Figure("areas", "Cases of each area", figure, legend), _table(by_area)],
    )
    ordered = sorted(cases, key=lambda case: (_ORDER.index(case.verdict), _severity(case)))
    evidence = Section(
        "Cases and their evidence",
        "PASS: the peer keeps the rule. FAIL: it breaks it. UNSUPPORTED: it does not offer what "
        "the rule is about. OBSERVED: the specification is silent, or contradicts itself. ERROR: "
        "the suite could not find out. A case opens with what was expected and what was seen.",
        [Cases(ordered)],
    )
    return Page(
        title=f"Conformance of a vhost-user {known['role']}",
        sentence=sentence,
        tiles=_tiles(counts),
        outcome=_outcome(known, cases),
        sections=[areas, evidence] if cases else [],
        facts=_facts(known),
        command=known.get("command", ""),
        picture=charts.stacked(
            sentence, _outcome(known, cases).text, [("Verdicts by area", figure)], legend
        ),
    )


def _sentence(document: JsonObject, counts: Mapping[str, int], number: int) -> str:
    judged = number - counts["UNSUPPORTED"]
    return (
        f"{number} cases were run on a vhost-user {document['role']}; of the {judged} that it "
        f"supports it passes {counts['PASS']} and fails {counts['FAIL']}."
    )


def _outcome(document: JsonObject, cases: Sequence[Case]) -> Cell:
    if document["not_sane"]:
        names = ", ".join(document["not_sane"])
        return Cell(f"The peer does not work, so the verdicts show nothing: {names}", BAD)
    parts = []
    failed = [case for case in cases if case.verdict == "FAIL" and case.known is None]
    known = sum(case.verdict == "FAIL" and case.known is not None for case in cases)
    if failed:
        must = sum(case.severity == "must" for case in failed)
        parts.append(f"{len(failed)} cases failed, {must} of them with severity must")
    errors = sum(case.verdict == "ERROR" for case in cases)
    if errors:
        parts.append(f"{errors} cases ended as ERROR: the suite could not find out")
    if document["not_run"]:
        parts.append(f"{document['not_run']} cases were not run")
    if not parts:
        but = f" but {known} that are known to" if known else ""
        return Cell(f"No case failed{but}.", GOOD)
    if known:
        parts.append(f"{known} more are known to fail")
    return Cell("; ".join(parts) + ".", BAD)


def _tiles(counts: Mapping[str, int]) -> list[Tile]:
    tones = {"FAIL": BAD, "ERROR": BAD, "PASS": GOOD}
    shown = [name for name in _ORDER if counts[name] or name in ("FAIL", "PASS")]
    return [
        Tile(name, str(counts[name]), (), tones.get(name, "") if counts[name] else "")
        for name in shown
    ]


def _table(by_area: Mapping[tuple[str, str], int]) -> Table:
    areas = list(dict.fromkeys(area for area, _ in by_area))
    rows = []
    for area in areas:
        cells = [Cell(area)]
        for verdict in _ORDER:
            number = by_area.get((area, verdict), 0)
            wrong = verdict in ("FAIL", "ERROR") and number
            cells.append(
                Cell(str(number) if number else "-", BAD if wrong else "" if number else DIM)
            )
        rows.append(cells)
    sums = [sum(by_area.get((area, verdict), 0) for area in areas) for verdict in _ORDER]
    total = [Cell("all"), *(Cell(str(number)) for number in sums)]
    return Table([Column("area", numeric=False), *map(Column, _ORDER)], [*rows, total], total=True)


def _severity(case: Case) -> int:
    known = ("must", "should", "may")
    return known.index(case.severity) if case.severity in known else len(known)


def _facts(document: JsonObject) -> dict[str, str]:
    facts = {"role": document["role"]}
    for title in ("peer", "offered"):
        for name, value in document[title].items():
            if value not in (None, "", [], {}):
                facts[f"{title}: {name}".replace("_", " ")] = one_line(str(value), _LONGEST)
    return facts
