"""The page of `emu sweep`."""

from __future__ import annotations

from emu.report.page.content import GOOD
from emu.report.page.sweep_page import page
from tests.emu.report.page.samples import rows_of, sweep_document, table_of


def test_downtime_against_rings_and_devices() -> None:
    """A chart for either, and one for stop and start."""
    made = page(sweep_document())
    titles = [figure.title for figure in made.figures]
    assert titles[:2] == ["Downtime against rings", "Downtime against devices"]
    values = made.figures[0].spec["data"]["values"]
    assert {(value["rings"], value["ms"]) for value in values} == {(32, 10.0), (320, 90.0)}
    assert made.figures[1].spec["encoding"]["x"]["field"] == "devices"
    assert {value["figure"] for value in made.figures[2].spec["data"]["values"]} == {
        "stop",
        "start",
    }


def test_growth_is_relative_to_the_smallest_vm() -> None:
    """Nine times the time for ten times the rings is good."""
    made = page(sweep_document())
    table = table_of(made, "The figures")
    assert rows_of(table)[2] == [
        *("qemu-2021", "40", "320", "10x", "90.00", "9.0x", "36.00", "9.0x", "27.00", "9.0x"),
    ]
    assert table.rows[2][5].tone == GOOD
    growth = "with 10 times the rings the downtime was 9.0 times as long with qemu-2021"
    assert growth in made.sentence


def test_no_point_is_no_figure() -> None:
    """All migrations were rolled back."""
    document = sweep_document()
    document["points"] = []
    assert not page(document).sections


def test_growth_is_told_of_strategies_that_migrated_the_largest_vm() -> None:
    """Whatever the order of the VMs; the factor of the rings is that of all of them."""
    document = sweep_document()
    document["points"].reverse()
    largest = document["points"][0]["strategy"]
    growth = page(document).sentence.partition("; ")[2]
    assert growth.startswith("with 10 times the rings the downtime was ")
    assert growth.count("times as long with") == 2
    assert growth.count("as long") == 2
    del document["points"][0]
    assert f"as long with {largest}" not in page(document).sentence
    for point in document["points"]:
        point["rings"] = 0
    assert "as long" not in page(document).sentence


def test_each_accelerator_has_a_series_of_its_own() -> None:
    """And a point has its VM in the table."""
    document = sweep_document()
    for at, point in enumerate(document["points"]):
        point["shape"], point["accel"] = "blk 4x8", ("soft", "kvm")[at % 2]
    made = page(document)
    assert {value["strategy"] for value in made.figures[0].spec["data"]["values"]} == {
        "qemu-2021, soft",
        "prewired, kvm",
    }
    assert rows_of(table_of(made, "The figures"))[0][:3] == ["qemu-2021, soft", "blk 4x8", "4"]
