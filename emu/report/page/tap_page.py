"""The page of `emu tap`: the stops and starts that it saw, and what else would have come of them.

Names of devices are those of the user's sockets.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from devices.procedure import Phase
from emu.json_input import Each, Map, Maybe, Members, Whole, check
from emu.report.cells import counted, milliseconds
from emu.report.page import charts
from emu.report.page.content import BAD, GOOD, Cell, Column, Figure, Page, Section, Table, Tile
from emu.report.page.documents import host_facts
from emu.report.page.theme import PHASE_COLOURS, series_colours

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.qmp.protocol import JsonObject
    from emu.report.page.content import Block

_NS = Whole(most=(1 << 63) - 1)
_SPAN = Members(
    {
        "device": str,
        "time_ns": _NS,
        "end_ns": _NS,
        "replies_ns": _NS,
        "messages": int,
        "rings": Map(int),
    }
)
_ROW = Members(
    {
        "row": str,
        "wall_ns": _NS,
        "replies_ns": _NS,
        "messages": int,
        "at_once": int,
        "devices": Each(_SPAN),
    }
)
_TRANSITION = Members(
    {
        "event": str,
        "time_ns": _NS,
        "end_ns": _NS,
        "since_ns": Maybe(_NS),
        "migration": bool,
        "what_if": Each(
            Members({"strategy": str, "apart_ns": _NS, "processes_ns": _NS, "together_ns": _NS})
        ),
        "rows": Each(_ROW),
    },
    {"ahead": bool, "rings": int},
)
_SHAPE = Members(
    {
        "schema": int,
        "pairs": Each(Members({"device": str, "listen": str, "connect": str})),
        "connections": int,
        "requests": Each(
            Members({"name": str, "count": int, "replies": int, "mean_ns": _NS, "most_ns": _NS})
        ),
        "violations": Each(Members({"device": str, "text": str, "count": int})),
        "transitions": Each(_TRANSITION),
        "earlier_transitions": int,
    },
    {"command": str, "host": Map(object)},
)
#: The rows, in the colours that a migration's page has for them.
_COLOURS: Mapping[str, str] = {
    "disable vrings": PHASE_COLOURS[Phase.DISABLE_GUEST_NOTIFY],
    "get vring base": PHASE_COLOURS[Phase.GET_VRING_BASE],
    "set mem table": PHASE_COLOURS[Phase.SET_MEM_TABLE],
    "start vrings": PHASE_COLOURS[Phase.START_VRINGS],
}
_OTHER = PHASE_COLOURS[Phase.PAUSE_VCPUS]
#: Pairs that are listed.
_MAX_PAIRS = 8


def page(document: JsonObject) -> Page:
    """The page of a document of `emu.tap.summary`.

    Raises:
        JsonInputError: the document has another shape.
    """
    known = check(document, _SHAPE)
    transitions = [each for each in known["transitions"] if each["rows"]]
    sections = [
        _transition(each, place, title)
        for place, (each, title) in enumerate(
            zip(transitions, _titles(transitions), strict=True), 1
        )
    ]
    sections += [_requests(known), _violations(known)]
    outcome = _outcome(known)
    sentence = _sentence(known, transitions)
    longest = [max(own, key=_length) for own in _by_kind(transitions) if own]
    pictured = [
        (f"{section.title}: {block.title}", block.spec)
        for transition, section in zip(transitions, sections, strict=False)
        if any(transition is each for each in longest)
        for block in section.blocks
        if isinstance(block, Figure)
    ]
    return Page(
        title="What a tap saw between front-ends and back-ends",
        sentence=sentence,
        tiles=_tiles(known, transitions),
        outcome=outcome,
        sections=[section for section in sections if section.blocks],
        facts=_facts(known),
        command=known.get("command", ""),
        picture=charts.stacked(sentence, outcome.text, pictured, _COLOURS),
    )


def _sentence(document: JsonObject, transitions: list[JsonObject]) -> str:
    number = sum(each["count"] for each in document["requests"])
    text = (
        f"A tap of {counted(len(document['pairs']), 'device')} forwarded "
        f"{counted(number, 'request')} on {counted(document['connections'], 'connection')}, "
        f"and saw {_seen(document, transitions)}"
    )
    moves = [each for each in transitions if each["migration"] and each["since_ns"] is not None]
    if moves:
        longest = max(each["end_ns"] - each["since_ns"] for each in moves)
        text += f"; the longest migration took {_ms(longest)} ms from the stop's beginning"
    return text + "."


def _seen(document: JsonObject, transitions: list[JsonObject]) -> str:
    earlier = document["earlier_transitions"]
    if earlier:
        number = earlier + len(transitions)
        return f"{number} stops and starts of devices, of which the last {len(transitions)} follow"
    stops, starts = map(len, _by_kind(transitions))
    return f"{counted(stops, 'stop')} and {counted(starts, 'start')} of devices"


def _tiles(document: JsonObject, transitions: list[JsonObject]) -> list[Tile]:
    tiles = []
    for own in filter(None, _by_kind(transitions)):
        longest = max(own, key=_length)
        devices = counted(len(_devices(longest)), "device")
        title = f"longest {longest['event']}"
        tiles.append(Tile(title, f"{_ms(_length(longest))} ms", [devices]))
    slow = max(document["requests"], key=lambda each: each["most_ns"], default=None)
    if slow is not None and slow["replies"]:
        tiles.append(Tile("slowest reply", f"{_ms(slow['most_ns'])} ms", [slow["name"]]))
    wrong = sum(each["count"] for each in document["violations"])
    tiles.append(Tile("violations", str(wrong), (), BAD if wrong else GOOD))
    return tiles


def _outcome(document: JsonObject) -> Cell:
    wrong = sum(each["count"] for each in document["violations"])
    if not wrong:
        return Cell("No message broke a rule of the protocol that the tap checks.", GOOD)
    return Cell(f"{counted(wrong, 'violation')} of rules of the protocol.", BAD)


def _titles(transitions: list[JsonObject]) -> list[str]:
    """Such as ``Start 2: 3 devices, 6 rings``: the second start."""
    seen: Counter[str] = Counter()
    titles = []
    for each in transitions:
        what = "Set-up" if _is_ahead(each) else each["event"].capitalize()
        seen[what] += 1
        rings = f", {counted(each['rings'], 'ring')}" if "rings" in each else ""
        titles.append(f"{what} {seen[what]}: {counted(len(_devices(each)), 'device')}{rings}")
    return titles


def _transition(transition: JsonObject, number: int, title: str) -> Section:
    devices = _devices(transition)
    ahead = _is_ahead(transition)
    text = f"It took {_ms(_length(transition))} ms on the wire"
    text += ", ahead of the start: the VM ran elsewhere." if ahead else "."
    if transition["since_ns"] is not None:
        what = "migration" if transition["migration"] else "stop and start"
        taken = _ms(transition["end_ns"] - transition["since_ns"])
        text += f" The {what} took {taken} ms from the stop's beginning."
    start = transition["time_ns"]
    bars = [
        charts.Bar(
            span["device"],
            row["row"],
            (span["time_ns"] - start) / 1e6,
            (span["end_ns"] - start) / 1e6,
            {
                "wall": f"{_ms(span['end_ns'] - span['time_ns'])} ms",
                "replies": f"{_ms(span['replies_ns'])} ms",
                "messages": str(span["messages"]),
            },
        )
        for row in transition["rows"]
        for span in row["devices"]
    ]
    colours = {row["row"]: _COLOURS.get(row["row"], _OTHER) for row in transition["rows"]}
    blocks: list[Block] = [
        Figure(
            f"transition-{number}",
            f"What ran when: {_ms(_length(transition))} ms",
            charts.timeline(bars, devices, colours, _length(transition) / 1e6),
            colours,
            zooms=True,
        ),
        _rows(transition),
    ]
    if transition["what_if"] and len(devices) > 1:  # one device is stopped the same way by all
        blocks += _what_if(transition["what_if"], number)
    return Section(title, text, blocks)


def _rows(transition: JsonObject) -> Table:
    longest = max(row["wall_ns"] for row in transition["rows"])
    rows = [
        [
            Cell(row["row"]),
            Cell(_ms(row["wall_ns"]), share=row["wall_ns"] / longest if longest else 0.0),
            Cell(_ms(row["replies_ns"])),
            Cell(str(row["messages"])),
            Cell("serial" if row["at_once"] == 1 else f"{row['at_once']} devices at once"),
        ]
        for row in transition["rows"]
    ]
    columns = [Column("row", numeric=False), *map(Column, ("wall ms", "replies ms", "messages"))]
    return Table([*columns, Column("devices", numeric=False)], rows)


def _what_if(estimates: list[JsonObject], number: int) -> list[Block]:
    values = [
        (each["strategy"], each["apart_ns"] / 1e6, each["together_ns"] / 1e6) for each in estimates
    ]
    colours = series_colours([name for name, _, _ in values])
    caption = (
        "What other strategies would have made of it, from the times of its replies only: the dark "
        "part if the devices' back-ends work at the same time, up to the end of the pale part if "
        "one thread serves all of them."
    )
    figure = Figure(f"what-if-{number}", "What if", charts.ranges(values, colours), caption=caption)
    columns = ("a thread per device, ms", "per process, ms", "for all, ms")
    rows = [
        [
            Cell(each["strategy"]),
            *(Cell(_ms(each[name])) for name in ("apart_ns", "processes_ns", "together_ns")),
        ]
        for each in estimates
    ]
    return [figure, Table([Column("strategy", numeric=False), *map(Column, columns)], rows)]


def _requests(document: JsonObject) -> Section:
    columns = ("requests", "replies", "mean reply, ms", "slowest reply, ms")
    rows = []
    for each in document["requests"]:
        times = [_ms(each[name]) if each["replies"] else "-" for name in ("mean_ns", "most_ns")]
        numbers = (str(each["count"]), str(each["replies"]))
        rows.append([Cell(each["name"]), *map(Cell, (*numbers, *times))])
    table = Table([Column("message", numeric=False), *map(Column, columns)], rows)
    return Section("Messages", "", [table] if rows else [])


def _violations(document: JsonObject) -> Section:
    rows = [
        [Cell(each["device"]), Cell(each["text"]), Cell(str(each["count"]))]
        for each in document["violations"]
    ]
    columns = [Column("device", numeric=False), Column("rule", numeric=False), Column("times")]
    return Section("Violations of the protocol", "", [Table(columns, rows)] if rows else [])


def _facts(document: JsonObject) -> dict[str, str]:
    pairs = document["pairs"]
    facts = {
        f"device {pair['device']}": f"{pair['listen']} to {pair['connect']}"
        for pair in pairs[:_MAX_PAIRS]
    }
    if len(pairs) > _MAX_PAIRS:
        facts["further devices"] = str(len(pairs) - _MAX_PAIRS)
    if document["earlier_transitions"]:
        facts["earlier stops and starts"] = f"{document['earlier_transitions']}, not shown"
    return facts | host_facts(document.get("host", {}))


def _by_kind(transitions: list[JsonObject]) -> list[list[JsonObject]]:
    """The stops, and the starts; without what sets devices up ahead of a start."""
    known = [each for each in transitions if not _is_ahead(each)]
    return [[each for each in known if each["event"] == kind] for kind in ("stop", "start")]


def _is_ahead(transition: JsonObject) -> bool:
    return bool(transition.get("ahead", False))


def _devices(transition: JsonObject) -> list[str]:
    spans = [span for row in transition["rows"] for span in row["devices"]]
    return list(dict.fromkeys(span["device"] for span in spans))


def _length(transition: JsonObject) -> int:
    return int(transition["end_ns"] - transition["time_ns"])


def _ms(nanoseconds: int) -> str:
    return milliseconds(nanoseconds / 1e6)
