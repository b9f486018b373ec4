"""The tables of ``docs/explanation/performance.md``."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from pathlib import Path

import pytest

from bench.performance_tables import DOCUMENT, END, TABLES, begin, document
from tests.bench.session_documents import dirty_log, disk, nic, session, stream

ROOT = Path(__file__).parents[2]
EMPTY = "\n".join(f"{name} before\n{begin(name)}\nold\n{END}\nafter {name}" for name in TABLES)


def rows(text: str, name: str) -> list[str]:
    """The lines of one table."""
    written = text.partition(begin(name))[2].partition(END)[0]
    return [line for line in written.splitlines() if line.startswith("|")]


def test_disks() -> None:
    text, _ = document(EMPTY, session(disk("read", 4, 1, 32, 1.5), disk("write", 64, 4, 128, 0.8)))
    assert rows(text, "disks")[2:] == [
        "| reads of 4 KiB | 1 | 32 | 2.00 | 3.00 | 1.50 | 1.00 | 0.50 |",
        "| writes of 64 KiB | 4 | 128 | 2.00 | 1.60 | 0.80 | 1.00 | 0.50 |",
    ]


def test_nics() -> None:
    text, _ = document(EMPTY, session(nic(64, 0.5, 3.83)))
    assert rows(text, "NICs")[2:] == ["| 64 B | 3.83 | 7.66 | 0.50 |"]


def test_streams() -> None:
    made = [stream("plain", 4096, 1, 0.73), stream("plain", 512, 1, 0.93, "again")]
    text, _ = document(EMPTY, session(*made))
    assert rows(text, "streams")[2:] == [
        "| plain | 4 GiB | 1 | 730 | 1000 | 73% | 1100 | 1000 |",
        "| plain | 512 MiB, again | 1 | 930 | 1000 | 93% | 1100 | 1000 |",
    ]


def test_the_dirty_log() -> None:
    text, _ = document(EMPTY, session(dirty_log("a page in each 2 MiB", 92160, 0.0137)))
    assert rows(text, "dirty log")[2:] == ["| a page in each 2 MiB | 92,160 | 13.70 |"]


def test_the_run_is_above_each_table_and_the_text_around_it_stays() -> None:
    text, _ = document(EMPTY, session(nic(64, 0.5, 3.83)))
    lines = text.splitlines()
    at = lines.index(begin("NICs"))
    assert lines[at - 1] == "NICs before"
    assert lines[at + 2] == (
        "2026-11-30, 2 CPUs (Some CPU), 16.0 GiB of memory, Linux 6.1.2, CPython 3.11.7, "
        "load average 0.2 to 1.8:"
    )
    assert "after NICs" in lines
    assert document(text, session(nic(64, 0.5, 3.83)))[0] == text


def test_a_table_that_was_not_measured_is_left_as_it_was() -> None:
    text, kept = document(EMPTY, session(nic(64, 0.5, 3.83)))
    assert kept == ["disks", "streams", "dirty log"]
    assert f"{begin('disks')}\nold\n{END}" in text


@pytest.mark.parametrize("name", TABLES)
def test_lines_that_are_missing_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{DOCUMENT} has no '<!-- written .*: {name} -->'"):
        document(EMPTY.replace(begin(name), ""), session())


def test_an_end_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="with '<!-- end -->' after it"):
        document(EMPTY.rpartition(END)[0], session())


def test_an_end_of_the_next_table_is_not_taken() -> None:
    """Else the text between the two would be lost."""
    with pytest.raises(ValueError, match=f"{DOCUMENT} has no .*: disks"):
        document(EMPTY.replace(END, "", 1), session(disk("read", 4, 1, 32, 1.5)))


def test_the_document_has_a_place_for_each() -> None:
    text = (ROOT / "docs/explanation" / DOCUMENT).read_text()
    assert document(text, session()) == (text, list(TABLES))
