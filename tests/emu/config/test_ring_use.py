"""Which rings of a device the guest uses: as options write them, and which are possible."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.config.ring_use import (
    ALL_RINGS,
    RingUse,
    first_units,
    parse_rings,
    rings_text,
    these_rings,
)


@pytest.mark.parametrize(
    ("text", "rings", "written"),
    [
        ("1,3", (1, 3), "1,3"),
        ("3,1", (1, 3), "1,3"),
        ("0-3", (0, 1, 2, 3), "0-3"),
        ("0-1,6-7,4", (0, 1, 4, 6, 7), "0-1,4,6-7"),
        (" 2 , 5 ", (2, 5), "2,5"),
        ("255", (255,), "255"),
        ("none", (), "none"),
    ],
)
def test_rings_are_read_and_written(text: str, rings: tuple[int, ...], written: str) -> None:
    assert parse_rings(text) == RingUse(rings)
    assert rings_text(rings) == written
    assert parse_rings(written) == RingUse(rings)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not a list of rings: write it like 1,3 or 0-3, or none"),
        ("-1", "is not a list of rings"),
        ("1,,2", "is not a list of rings"),
        ("1.5", "is not a list of rings"),
        ("two", "is not a list of rings"),
        ("\u00b2", "is not a list of rings"),
        ("none,1", "is not a list of rings"),
        ("1,1", "ring 1 is there twice"),
        ("0-3,2", "ring 2 is there twice"),
        ("3-1", "ends before it begins"),
        ("256", "256 is not a ring: 0 to 255"),
        ("0-999999999", "256 is not a ring: 0 to 255"),
    ],
)
def test_other_texts_are_refused(text: str, what: str) -> None:
    """Also a range that is too long to be spread out."""
    with pytest.raises(ValueError, match=what):
        parse_rings(text)


@pytest.mark.parametrize(("rings", "what"), [((-1,), "-1 is not a ring"), ((2, 2), "there twice")])
def test_indices_are_checked_wherever_they_come_from(rings: tuple[int, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        these_rings(rings)


@pytest.mark.parametrize("units", [-1, 0, 129, 1 << 40])
def test_a_driver_enables_at_least_one_pair_and_at_most_those_of_any_nic(units: int) -> None:
    with pytest.raises(ValueError, match=f"{units} is not a number of pairs: 1 to 128"):
        first_units(units, 2)


@pytest.mark.parametrize(
    ("use", "used", "set_up", "disabled", "note"),
    [
        (ALL_RINGS, (0, 1, 2, 3), (0, 1, 2, 3), (), ""),
        (these_rings([3, 1]), (1, 3), (1, 3), (), "(used: 1,3)"),
        (these_rings([]), (), (), (), "(used: none)"),
        (these_rings(range(4)), (0, 1, 2, 3), (0, 1, 2, 3), (), ""),
        (first_units(1, 2), (0, 1), (0, 1, 2, 3), (2, 3), "(used: 0-1, the others disabled)"),
        (first_units(2, 2), (0, 1, 2, 3), (0, 1, 2, 3), (), ""),
    ],
)
def test_of_a_device_of_four_rings(
    use: RingUse,
    used: tuple[int, ...],
    set_up: tuple[int, ...],
    disabled: tuple[int, ...],
    note: str,
) -> None:
    """Those that are not set up are in none of the three."""
    assert (use.used(4), use.set_up(4), use.disabled(4)) == (used, set_up, disabled)
    assert use.note(4) == note
    assert use.why_not(4, 2 if use.disable_others else 1, "NIC") == ""


@pytest.mark.parametrize(
    ("use", "count", "unit", "title", "why_not"),
    [
        (these_rings([1, 4]), 4, 1, "disk", "a disk of 4 rings has no ring 4"),
        (these_rings([1]), 1, 1, "entropy device", "an entropy device of 1 ring has no ring 1"),
        (these_rings([1]), 4, 2, "NIC", "ring 1 of a NIC is used together with ring 0"),
        (these_rings([0, 1, 2]), 4, 2, "NIC", "ring 2 of a NIC is used together with ring 3"),
        (first_units(3, 2), 4, 2, "NIC", "a NIC of 4 rings has 2 pairs"),
        (first_units(2, 2), 2, 2, "NIC", "a NIC of 2 rings has 1 pair"),
    ],
)
def test_what_a_device_does_not_have(
    use: RingUse, count: int, unit: int, title: str, why_not: str
) -> None:
    assert use.why_not(count, unit, title) == why_not


def test_an_error_names_the_option() -> None:
    assert these_rings([1, 3]).option("blk", 1) == "--rings-used blk=1,3"
    assert these_rings([]).option("net", 2) == "--rings-used net=none"
    assert first_units(3, 2).option("net", 2) == "--pairs-used 3"
