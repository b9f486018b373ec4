"""The document of a tap's report: the same from its records and from its log."""

from __future__ import annotations

import json

import pytest

from emu.json_input import JsonInputError
from emu.report.page.tap_page import page
from emu.tap import json_log
from emu.tap.proxy import Pair
from emu.tap.summary import (
    MAX_NAMES,
    MAX_TRANSITIONS,
    MAX_VIOLATIONS,
    Summary,
    described,
    of_log,
)
from emu.tap.transition_table import object_of
from tests.emu.tap.talk import F, Talk
from tests.emu.tap.test_transition_table import migration
from vhost_user.payloads import VringState

PAIRS = [Pair("dev", "/a", "/b")]


def conversation() -> Talk:
    """A request with a reply, and one that breaks a rule."""
    talk = Talk()
    talk.ask(F.GET_VRING_BASE, VringState(2, 0))
    talk.answer(F.GET_VRING_BASE, VringState(2, 9))
    talk.ask(F.SET_FEATURES, b"abc")
    talk.close()
    return talk


def test_the_log_has_the_same_as_the_records() -> None:
    """`emu report LOG` makes the page that --report would have made."""
    summary, talk, stops = Summary(), conversation(), migration()
    for record in talk.records:
        summary.take(record)
    for transition in stops:
        summary.add(transition)
    lines = [json_log.head(PAIRS), *map(json_log.line_of, talk.records)]
    lines += [json_log.line(object_of(transition)) for transition in stops]
    document = summary.document(described(PAIRS))
    assert of_log("\n".join(lines).encode()) == document
    assert document["connections"] == 1
    first = document["requests"][0]
    assert (first["name"], first["count"], first["replies"]) == ("VHOST_USER_GET_VRING_BASE", 1, 1)
    assert first["mean_ns"] == first["most_ns"] == 1000
    assert any("VU-F-0111" in each["text"] for each in document["violations"])
    assert len(document["transitions"]) == 2
    made = page(json.loads(json.dumps(document)))
    assert made.figures
    assert made.facts["host: CPUs"] == str(document["host"]["cpus"])


def test_memory_is_bounded() -> None:
    """A tap runs for weeks: the last stops and starts are kept, and some violations."""
    summary = Summary()
    for number in range(MAX_TRANSITIONS + 3):
        summary.read({"event": "stop", "number": number})
    for number in range(MAX_VIOLATIONS + 3):
        line = {"event": "request", "device": "dev", "name": "X", "violations": [str(number)]}
        summary.read(line)
    document = summary.document({"pairs": []})
    assert document["earlier_transitions"] == 3
    assert document["transitions"][0]["number"] == 3
    *told_apart, others = document["violations"]
    assert len(told_apart) == MAX_VIOLATIONS
    assert (others["device"], others["count"]) == ("other devices or rules", 3)
    for number in range(MAX_NAMES + 3):
        for event in ("request", "reply"):
            name = f"message {number}"
            summary.read({"event": event, "device": "dev", "name": name, "latency_ns": 9})
    by_name = {each["name"]: each for each in summary.document({})["requests"]}
    assert len(by_name) == MAX_NAMES + 1
    assert (by_name["other messages"]["count"], by_name["other messages"]["replies"]) == (4, 4)


def test_the_log_of_a_tap_that_was_killed() -> None:
    """The end of its last line is missing."""
    lines = [json_log.head(PAIRS), *map(json_log.line_of, conversation().records)]
    data = "\n".join(lines).encode()
    whole, cut = of_log(data), of_log(data + b'\n{"event":"requ')
    assert whole == cut
    assert whole["connections"] == 1


@pytest.mark.parametrize("line", ["{", "1", '{"event": "request"}', '{"event": "tap"}'])
def test_another_line_is_an_error_with_its_number(line: str) -> None:
    """And no exception of another kind."""
    with pytest.raises(JsonInputError, match="line 2"):
        of_log(f"{json_log.head(PAIRS)}\n{line}\n".encode())
