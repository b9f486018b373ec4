"""What the documents of migrations and sweeps have in common."""

from __future__ import annotations

from emu.json_input import check
from emu.report.page.documents import MIGRATIONS, SWEEP, devices_text, facts_of
from tests.emu.report.page.samples import migrations, sweep_document


def test_the_commands_documents_have_the_shapes() -> None:
    """They are checked in full before a page is made."""
    assert check(migrations(), MIGRATIONS)["runs"]
    assert check(sweep_document(), SWEEP)["points"]


def test_devices_are_named_by_their_kind() -> None:
    """In the plural, if there are several; a kind of a plug-in that is not here has its name."""
    devices = [
        {"class": "net", "count": 1, "rings": 4},
        {"class": "blk", "count": 2, "rings": 1},
        {"class": "gpu", "count": 3, "rings": 2},
    ]
    assert devices_text({"devices": devices}) == (
        "1 NIC x 4 rings and 2 disks x 1 rings and 3 gpu devices x 2 rings"
    )


def test_the_host_and_the_settings_are_facts() -> None:
    """Those that are not set are left out."""
    document = check({**migrations(), "stop_time_ms": 20.0, "dirty_rate": 1 << 20}, MIGRATIONS)
    facts = facts_of(document)
    assert facts["host: CPUs"] == str(document["host"]["cpus"])
    assert facts["costs"] == "native: nothing injected"
    assert facts["back-ends stop in"] == "20 ms"
    assert facts["dirty rate"] == "1 MiB/s"
    assert "dirty rate" not in facts_of(check(migrations(), MIGRATIONS))
