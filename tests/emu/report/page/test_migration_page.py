"""The page of `emu migrate`: its sentence, figures and tables say what the document has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emu.json_input import JsonInputError
from emu.report.page.content import BAD, GOOD
from emu.report.page.migration_page import page
from emu.report.results import Integrity
from tests.emu.report.page.samples import migrations, rolled_back, rows_of, run, table_of

STEPS = "The RFC's table, and ours"


def test_the_sentence_has_the_vm_and_the_gain() -> None:
    """The first strategy is the one to compare with."""
    made = page(migrations())
    assert made.sentence == (
        "A VM with 2 vCPUs, 256 MiB of memory, 2 NICs x 4 rings and 2 disks x 2 rings was migrated "
        "live 2 times under heavy load; its downtime was 210.0 ms with qemu-2021 and 21.00 ms with "
        "prewired, 10.0 times less."
    )
    assert [(tile.label, tile.value, tile.tone) for tile in made.tiles] == [
        ("qemu-2021", "210.0 ms", ""),
        ("prewired", "21.00 ms", GOOD),
    ]
    assert made.command == "emu migrate --net 2x4"
    assert made.facts["accelerator"] == "soft"


def test_the_rfc_s_figures_stand_beside_ours() -> None:
    """Every row of the RFC is there, also where the VM has no such step."""
    made = page(migrations())
    rows = rows_of(table_of(made, STEPS))
    assert ["src", "net", "get vring base", "1376.0", "294.0", "110.0", "11.00"] in rows
    assert ["dst", "net", "enable host notify", "2022.0", "114.0", "-", "-"] in rows
    assert ["src", "net", "disable host notify", "1011.0", "116.0", "10.00*", "1.00*"] in rows
    assert ["src", "vm", "pause vcpus", "-", "-", "10.00", "1.00"] in rows
    assert rows[-1] == ["", "", "downtime", "5600.0", "962.0", "210.0", "21.00"]


def test_what_ran_outside_of_the_blackout_has_its_own_table() -> None:
    """It is no part of the other one."""
    made = page(migrations())
    rows = rows_of(table_of(made, "What ran outside of the blackout"))
    assert rows == [["dst", "net", "set mem table", "20.00", "2.00"]]


def test_each_strategy_has_a_timeline_of_its_typical_run() -> None:
    """The run whose downtime is nearest to the median."""
    runs = [run("split", 1, 9), run("split", 2, 2), run("split", 3, 1), run("prewired")]
    made = page(migrations(*runs))
    figures = [figure for figure in made.figures if figure.zooms]
    assert [figure.title for figure in figures] == ["split, run 2: 42.00 ms", "prewired: 21.00 ms"]
    shade, bars = figures[1].spec["layer"]
    assert shade["data"]["values"] == [{"start": 0, "end": 21.0}]
    values = bars["data"]["values"]
    assert len(values) == len(migrations(runs[3])["runs"][0]["timeline"])
    assert bars["encoding"]["y"]["sort"] == [
        *("vm", "all net", *(f"net{number}" for number in range(11)), "all blk", "blk0"),
    ]
    (before,) = [value for value in values if value["faint"]]
    assert (before["step"], before["start"], before["end"]) == ("dst.set mem table", -8, -6)


def test_a_failure_is_the_outcome() -> None:
    """A migration that was rolled back, or a request that was lost."""
    failed = page(migrations(run("prewired"), rolled_back("no <b>way</b>")))
    assert failed.outcome.tone == BAD
    assert failed.outcome.text == "split, run 1: rolled-back: no <b>way</b>"
    alone = page(migrations(rolled_back("no")))
    assert "no migration completed" in alone.sentence
    assert not alone.figures
    lost = migrations()
    lost["runs"][0]["integrity"]["lost"] = 1
    assert page(lost).outcome.tone == BAD
    assert page(migrations()).outcome.tone == GOOD


def test_the_outcome_names_what_was_compared() -> None:
    """Documents of earlier releases do not say it."""
    document = migrations()
    compared = ", ".join(document["compared"])
    assert compared.startswith("the guest's request log, ")
    assert page(document).outcome.text.endswith(f"; proof: {compared}")
    del document["compared"]
    assert "proof" not in page(document).outcome.text


def test_integrity_may_be_known_at_the_destination_only() -> None:
    """With --to the destination checks it."""
    document = migrations(run("prewired"))
    document["runs"][0]["integrity"] = None
    assert "the destination checks" in page(document).outcome.text
    assert Integrity().clean


def test_another_document_is_an_error() -> None:
    """With the place in its text."""
    document = migrations()
    document["runs"][0]["phases"][0]["wall_ms"] = "1"
    with pytest.raises(JsonInputError, match=r"runs\[0\].phases\[0\].wall_ms is not a number"):
        page(document)


def test_the_rows_of_a_timeline_are_in_the_order_of_their_numbers() -> None:
    """Whatever the devices are called, and however many runs have a timeline."""
    document = migrations(run("split"), run("split", 2))
    one, two = document["runs"]
    two["timeline"] = two.get("timeline") or one["timeline"]
    one["timeline"] = two["timeline"]
    names = ["net10", "net", "net2", "net02", "9" * 5000, "\N{SUPERSCRIPT TWO}"]
    rows = [row for row in one["timeline"] if row["device"]]
    one["timeline"] = [{**rows[0], "class": "net", "device": name} for name in names]
    figures = [figure for figure in page(document).figures if figure.zooms]
    assert len({figure.name for figure in figures}) == 2
    order = figures[0].spec["layer"][1]["encoding"]["y"]["sort"]
    assert order == ["9" * 5000, "net", "net02", "net2", "net10", "\N{SUPERSCRIPT TWO}"]


@pytest.mark.parametrize("gap", [30.0, None])
def test_a_client_in_the_network_has_columns_where_there_is_one(gap: float | None) -> None:
    """No column of dashes, and no word about marks that are not there."""
    made = page(migrations(replace(run("prewired"), network_gap_ms=gap)))
    has = gap is not None
    for title in ("Strategies side by side", "All migrations"):
        assert ("network" in [each.title for each in table_of(made, title).columns]) == has
    assert made.tiles[0].notes[0] == ("guest 21.50, network 30.00 ms" if has else "guest 21.50 ms")
    assert ("triangles" in made.figures[0].caption) == has
