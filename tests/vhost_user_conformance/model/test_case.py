"""The registration of cases in an area."""

from __future__ import annotations

from typing import Any

from vhost_user_conformance.model.case import BACK_END, FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity


def test_a_case_has_the_defaults_of_its_area() -> None:
    """Its own source comes first, and its needs are added."""
    area = Area("rings", BACK_END, "Ring states", needs=("MQ",))
    area.case(7, "first")(lambda _be: None)
    area.case(8, "second", spec="virtio", needs=("CONFIG",), severity=Severity.MAY)(
        lambda _be: None
    )
    first, second = area.cases
    assert (first.id, first.role, first.area) == ("VU-B-0007", BACK_END, "rings")
    assert (first.spec, first.needs, first.severity) == ("Ring states", ("MQ",), Severity.MUST)
    assert (second.spec, second.needs, second.severity) == (
        "virtio",
        ("MQ", "CONFIG"),
        Severity.MAY,
    )


def test_a_case_about_a_device_has_it_serve() -> None:
    """So that --device is needed."""
    area = Area("data", BACK_END, "s")
    area.case(1, "a disk", device="blk")(lambda _be: None)
    area.case(2, "any device", works=True)(lambda _be: None)
    area.case(3, "messages only")(lambda _be: None)
    assert [case.works for case in area.cases] == [True, True, False]


def test_each_value_is_a_case() -> None:
    """With the next number, its own sentence, and the value as the second argument."""
    area = Area("rings", FRONT_END, "s")
    calls: list[tuple[Any, Any]] = []
    area.each(10, ("a", "b"), "about {}")(lambda fe, value: calls.append((fe, value)))
    assert [(case.id, case.rule) for case in area.cases] == [
        ("VU-F-0010", "About a"),
        ("VU-F-0011", "About b"),
    ]
    for case in area.cases:
        case.run("fe")
    assert calls == [("fe", "a"), ("fe", "b")]


def test_the_cases_of_an_area_are_ordered_by_id() -> None:
    """In whatever order its modules are imported."""
    area = Area("rings", BACK_END, "s")
    for number in (30, 10, 20):
        area.case(number, "rule")(lambda _be: None)
    assert [case.id for case in area.cases] == ["VU-B-0010", "VU-B-0020", "VU-B-0030"]


def test_a_noun_after_the_number_1_is_singular() -> None:
    """The nouns of sizes and numbers, and not behind a minus sign."""
    area = Area("config", BACK_END, "s")
    sizes = (1, 11, "1 arbitrary", "2^32 - 1")
    area.each(1, sizes, "a read of {} bytes")(lambda _be, _value: None)
    assert [case.rule for case in area.cases] == [
        "A read of 1 byte",
        "A read of 11 bytes",
        "A read of 1 arbitrary byte",
        "A read of 2^32 - 1 bytes",
    ]
