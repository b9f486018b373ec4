"""The page of `emu tap`."""

from __future__ import annotations

from emu.report.page.content import BAD, GOOD, Table
from emu.report.page.tap_page import page
from tests.emu.report.page.samples import rows_of, tap


def test_a_stop_has_its_rows_its_timeline_and_what_if() -> None:
    """As the tap prints them."""
    made = page(tap())
    section = made.sections[0]
    assert section.title == "Stop 1: 3 devices, 6 rings"
    timeline, what_if = made.figures
    assert timeline.title == "What ran when: 3.00 ms"
    bars = timeline.spec["layer"][1]["data"]["values"]
    assert [(bar["row"], bar["start"], bar["end"]) for bar in bars] == [
        ("disk0", 0, 1),
        ("disk1", 1, 2),
        ("disk2", 2, 3),
    ]
    tables = [rows_of(block) for block in section.blocks if isinstance(block, Table)]
    assert tables == [
        [["get vring base", "3.00", "1.50", "12", "serial"]],
        [["qemu-2021", "3.00", "3.00", "3.00"], ["split", "1.00", "1.50", "2.00"]],
    ]
    assert what_if.spec["data"]["values"][1]["_text"] == "1 to 2 ms"
    assert made.outcome.tone == GOOD


def test_violations_are_the_outcome() -> None:
    """Each with its device and its rule."""
    wrong = {"device": "disk0", "text": "VU-F-0111: the size", "count": 2}
    made = page(tap(violations=[wrong]))
    assert made.outcome.tone == BAD
    assert made.sections[-1].title == "Violations of the protocol"


def test_a_tap_that_has_seen_nothing() -> None:
    """It is a page all the same."""
    made = page(tap(transitions=[], requests=[], connections=0))
    assert not made.sections
    assert "saw 0 stops and 0 starts of devices" in made.sentence


def test_stops_that_are_not_shown_are_counted() -> None:
    """The last ones are shown, of a tap that has been there for weeks."""
    document = tap()
    document["earlier_transitions"] = 60
    shown = len(document["transitions"])
    text = f"saw {60 + shown} stops and starts of devices, of which the last {shown} follow"
    assert text in page(document).sentence


def test_stops_and_starts_are_numbered_apart() -> None:
    """As the sentence counts them; an older log has no number of rings."""
    document = tap()
    (stop,) = document["transitions"]
    start = {key: value for key, value in stop.items() if key != "rings"} | {"event": "start"}
    document["transitions"] = [start, stop, start, stop]
    made = page(document)
    assert [section.title for section in made.sections][:4] == [
        "Start 1: 3 devices",
        "Stop 1: 3 devices, 6 rings",
        "Start 2: 3 devices",
        "Stop 2: 3 devices, 6 rings",
    ]
    assert "saw 2 stops and 2 starts of devices" in made.sentence


def test_what_is_set_up_ahead_is_no_start() -> None:
    """It has a section of its own, and the VM does not wait for it."""
    document = tap()
    document["transitions"].append({**document["transitions"][0], "event": "start", "ahead": True})
    made = page(document)
    assert made.sections[1].title == "Set-up 1: 3 devices, 6 rings"
    assert "saw 1 stop and 0 starts of devices" in made.sentence
    assert [tile.label for tile in made.tiles][:2] == ["longest stop", "slowest reply"]
