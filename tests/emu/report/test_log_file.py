"""A log that never delays its writer."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.report import log_file
from emu.report.log_file import LogFile
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


def test_lines_are_in_order(tmp_path: Path) -> None:
    """And replace what the file has held."""
    path = tmp_path / "log"
    path.write_text("old\n" * 1000)
    log = LogFile.open(path)
    for number in range(5000):
        log.put_line(str(number))
    assert log.close() == ""
    assert path.read_text() == "".join(f"{number}\n" for number in range(5000))


def test_a_reader_that_is_too_slow_costs_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted; those that are written are whole."""
    monkeypatch.setattr(log_file, "_PATIENCE", 0.1)
    read, write = os.pipe()
    log = LogFile("log", write, room=100_000)
    entry = b"x" * 999 + b"\n"
    taken = sum(log.put(entry) for _ in range(1000))
    assert log.dropped == 1000 - taken > 0
    complaint = log.close()
    assert complaint.startswith("log: ")
    assert complaint.endswith(" entries are missing: its reader was too slow")
    with os.fdopen(read, "rb") as stream:
        lines = stream.read().splitlines()
    assert {len(line) for line in lines} == {999}


def test_a_reader_that_has_gone_is_reported() -> None:
    read, write = os.pipe()
    os.close(read)
    log = LogFile("log", write)
    log.put_line("a")
    assert log.close() == "log: Broken pipe: the log is incomplete"
    log.put_line("b")
    assert log.dropped == 1


def test_a_full_disk_is_reported() -> None:
    log = LogFile("log", os.open("/dev/full", os.O_WRONLY))
    log.put_line("a")
    assert log.close() == "log: No space left on device: the log is incomplete"


def test_a_file_ends_with_a_whole_entry(tmp_path: Path) -> None:
    """Also where the disk is full in the middle of one."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from emu.report.log_file import LogFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2050, 2050))\n"
        "log = LogFile.open(Path(sys.argv[1]))\n"
        "for number in range(100): log.put_line('x' * 99)\n"
        "print(log.close())\n"
    )
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=True,
    )
    assert done.stdout == f"{path}: File too large: the log is incomplete\n"
    assert path.read_text() == ("x" * 99 + "\n") * 20


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(EmuError, match="link"):
        LogFile.open(tmp_path / "link")
    assert (tmp_path / "file").read_text() == "precious"


def test_the_reader_of_a_fifo_may_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or never: the tap forwards all the same, and a signal ends it."""
    os.mkfifo(tmp_path / "fifo")
    log = LogFile.open(tmp_path / "fifo")
    log.put_line("a")
    with (tmp_path / "fifo").open() as reader:
        assert log.close() == ""
        assert reader.read() == "a\n"
    monkeypatch.setattr(log_file, "_PATIENCE", 0.1)
    alone = LogFile.open(tmp_path / "fifo")
    alone.put_line("a")
    assert alone.close() == f"{tmp_path / 'fifo'}: 1 entry is missing: its reader was too slow"
    (tmp_path / "fifo").open().close()  # ends the thread
