"""The page with all results."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.aims import AIMS
from bench.document import RESULTS, USAGE, main, page
from bench.performance_tables import DOCUMENT, END, TABLES, begin
from tests.bench.session_documents import (
    benchmark,
    dirty_log,
    disk,
    document,
    failed,
    nic,
    session,
    skipped,
)

if TYPE_CHECKING:
    from pathlib import Path

NO_DAEMON = "qemu-storage-daemon is not installed"


def section(text: str, title: str) -> list[str]:
    """The lines below a heading, without empty ones, up to the next heading."""
    lines = text.splitlines()
    below = lines[lines.index(title) + 1 :]
    end = next((n for n, line in enumerate(below) if line.startswith("#")), len(below))
    return [line for line in below[:end] if line]


def test_the_run() -> None:
    lines = section(page(session()), "# Results")
    assert "    make bench" in lines
    assert lines[-4:] == [
        "- Date: 2026-11-30, commit 0123456789ab",
        "- Host: 2 CPUs (Some CPU), 16.0 GiB of memory, Linux 6.1.2, CPython 3.11.7",
        "- Load average: 0.2 at the beginning, 1.8 at the end",
        "- Duration: 7 min 12 s",
    ]


def test_a_run_of_a_part_and_one_on_a_busy_host_are_called_so() -> None:
    text = page(session(command="pytest bench/bench_tap.py", load_averages=[6.0, 7.0]))
    assert "    .venv/bin/pytest bench/bench_tap.py" in text.splitlines()
    assert "**Other programs ran meanwhile:**" in text
    assert "**This run had a part of the benchmarks only:**" in text
    assert "**" not in "".join(section(page(session()), "# Results"))


def test_each_aim_is_in_the_table() -> None:
    rows = section(page(session()), "## Aims")
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[3:]] == [
        aim.title for aim in AIMS
    ]


def test_an_aim_that_is_missed_has_the_points_and_the_reason() -> None:
    text = page(session(disk("read", 4, 1, 1, 2.0), disk("write", 64, 4, 32, 0.84)))
    title = "Rate of a disk's requests, divided by that of qemu-storage-daemon"
    row = f"| {title} | at least 1 | 2.00 to 0.84 | missed at 1 of 2 points, by up to 16% |"
    assert row in section(text, "## Aims")
    missed = section(text, "### Missed")
    at = missed.index(f"- **{title}**, at writes of 64 KiB, 4 rings, depth 32 (0.84):")
    assert missed[at + 1].startswith("  All programs copy the data once")


def test_an_aim_that_is_reached_has_no_reason() -> None:
    text = page(session(nic(64, 0.5, 3.8), seconds=60.0))
    assert "### Missed" not in text
    assert "| at least 0.3 | 0.50 | reached |" in text


def test_an_aim_that_was_not_measured_has_the_reason() -> None:
    missing = [skipped("bench_data_path.py::test_disk[read-4k-1-1]", NO_DAEMON)]
    found = section(page(session(not_measured=missing)), "### Not measured")
    assert (
        f"- **Rate of a disk's requests, divided by that of qemu-storage-daemon**: {NO_DAEMON}."
        in found
    )


def test_each_group_has_the_table_of_the_summary() -> None:
    text = page(
        session(
            benchmark("bench_a.py::test_x[1]", "group", seconds=0.01, cells={"x floor": "1.5"}),
            benchmark("bench_a.py::test_x[2]", "group", seconds=0.02, cells={"note": "a|b"}),
            dirty_log("a page", 1, 0.0005),
        )
    )
    assert section(text, "### group") == [
        "| benchmark | median | x floor | note |",
        "| --- | ---: | ---: | ---: |",
        "| x[1] | 10.0 ms | 1.5 | - |",
        r"| x[2] | 20.0 ms | - | a\|b |",
    ]
    assert section(text, "### dirty log")[2:] == ["| a page | 500 us | 1 |"]


def test_what_has_no_result_is_named() -> None:
    missing = [skipped("bench_kvm.py::test_routes", "no KVM"), failed("bench_tap.py::test_x")]
    assert section(page(session(not_measured=missing)), "## Benchmarks without a result") == [
        "- `bench_kvm.py::test_routes` skipped: no KVM",
        "- `bench_tap.py::test_x` failed",
    ]
    assert "without a result" not in page(session())


def test_cases_without_a_result_for_the_same_reason_are_one_line() -> None:
    names = [f"bench_kvm.py::test_routes[{count} vcpus]" for count in (1, 16, 224)]
    missing = [*(skipped(name, "no KVM") for name in names[:2]), failed(names[2])]
    assert section(page(session(not_measured=missing)), "## Benchmarks without a result") == [
        "- `bench_kvm.py::test_routes`, 2 cases, skipped: no KVM",
        "- `bench_kvm.py::test_routes[224 vcpus]` failed",
    ]


def test_both_documents_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(document(nic(64, 0.58, 3.83))))
    old = "\n".join(f"{begin(name)}\n{END}" for name in TABLES)
    (tmp_path / DOCUMENT).write_text(old)
    (tmp_path / RESULTS).write_text("what was there before\n")
    main([str(tmp_path), str(file)])
    assert "| 64 B | 3.83 |" in (tmp_path / DOCUMENT).read_text()
    written = (tmp_path / RESULTS).read_text()
    assert written.startswith("# Results\n")
    assert "before\n" not in written
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / DOCUMENT),
        "  not measured, and left as it was: disks",
        "  not measured, and left as it was: streams",
        "  not measured, and left as it was: dirty log",
        str(tmp_path / RESULTS),
    ]


def test_nothing_is_written_if_a_place_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(document()))
    (tmp_path / DOCUMENT).write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"bench\.document: performance\.md has no"):
        main([str(tmp_path), str(file)])
    assert (tmp_path / DOCUMENT).read_text() == "nothing\n"
    assert not (tmp_path / RESULTS).exists()


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=USAGE):
        main([])
    file = tmp_path / "bench.json"
    with pytest.raises(SystemExit, match=r"bench\.document: .*No such file"):
        main([str(tmp_path), str(file)])
    file.write_text("no JSON")
    with pytest.raises(SystemExit, match=r"bench\.document: Expecting value"):
        main([str(tmp_path), str(file)])
