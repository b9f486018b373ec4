"""The figures in the document about the control run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.qemu_baseline.document import BEGIN, DOCUMENT, END, document, main

ROOT = Path(__file__).parents[3]


def result(**changes: Any) -> dict[str, Any]:
    stops = [{"stop_ms": 10.0, "cont_ms": 20.0, "gap_ms": gap} for gap in (30.0, 31.0, 40.0)]
    ours = [{"stop_ms": 1.0, "cont_ms": 2.0, "gap_ms": 3.1}]
    return {
        "command": "python -m bench.qemu_baseline --rounds 3",
        "host": {"cpus": 2, "kernel": "6.1"},
        "qemu": {"version": "7.2", "accel": "kvm"},
        "accel": "kvm",
        "load_averages": [0.5, 1.25],
        "vm": {
            "vcpus": 1,
            "memory_bytes": 256 << 20,
            "devices": [{"class": "blk", "count": 24, "rings": 4}],
        },
        "rounds": 3,
        "failures": [],
        "interrupted": False,
        "series": [
            {
                "back_ends": "own",
                "programs": "vhost-emu-blk",
                "vm": "qemu",
                "stops": stops,
                "migrations": {"qemu": [{"gap_ms": 200.0, "downtime_ms": 150.0}]},
            },
            {
                "back_ends": "own",
                "programs": "vhost-emu-blk",
                "vm": "vhost-emu",
                "stops": ours,
                "migrations": {"prewired": [{"gap_ms": 8.0, "downtime_ms": 7.5}]},
            },
        ],
        **changes,
    }


def test_both_vms_are_in_one_table(tmp_path: Path) -> None:
    path = tmp_path / DOCUMENT
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result()))
    main(tmp_path, [file])
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "    python -m bench.qemu_baseline --rounds 3" in lines
    assert any(line.startswith("2 CPUs, load average 0.5 to 1.2, Linux 6.1; ") for line in lines)
    assert [line for line in lines if line.startswith("|")] == [
        "| on vhost-emu-blk | QEMU | this project | ratio |",
        "|---|---|---|---|",
        "| `stop` and `cont`: gap | 31.00 (30.00 to 40.00) | 3.10 (3.10 to 3.10) | 10x |",
        "| `stop` | 10.00 | 1.00 | 10x |",
        "| `cont` | 20.00 | 2.00 | 10x |",
        "| migration, `prewired`: gap | 200.0 (200.0 to 200.0) | 8.00 (8.00 to 8.00) | 25x |",
        "| migration, `prewired`: reported downtime | 150.0 | 7.50 |  |",
    ]


def test_a_vm_that_has_failed_is_a_dash() -> None:
    made = result()
    made["series"][0] |= {"stops": [], "migrations": {}}
    lines = document(f"{BEGIN}\n{END}", [made]).splitlines()
    assert "| `stop` | - | 1.00 |  |" in lines
    assert "| migration, `prewired`: gap | - | 8.00 (8.00 to 8.00) |  |" in lines


def test_rounds_that_are_not_complete_are_named() -> None:
    text = document(f"{BEGIN}\n{END}", [result(failures=[{}], interrupted=True)])
    assert "; 3 rounds, in which 1 VM failed, interrupted before their end. Medians" in text
    assert "; 3 rounds. Medians" in document(f"{BEGIN}\n{END}", [result()])


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ValueError, match="no QEMU"):
        document(f"{BEGIN}\n{END}", [{"skipped": "no QEMU"}])
    with pytest.raises(ValueError, match="with an '<!-- end -->' after it"):
        document(f"{BEGIN}\n", [])


def test_the_document_has_a_place_for_them() -> None:
    text = (ROOT / "docs/explanation" / DOCUMENT).read_text()
    assert document(text, [result()]).count(BEGIN) == 1
