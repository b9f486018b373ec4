"""The document on trace events, and a migration that emits every kind of event."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emu.report import trace_document
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.tracing import EVENTS

DOCS = Path(__file__).parents[3] / "docs" / "reference"
SMALL = "migrate --net 1x2 --blk 1x1 --vcpus 2 --memory 256M --accel soft --strategy prewired -q"
LINE = re.compile(r'(\d+\.\d{6}) (\S+) (\w+)((?: \w+=(?:"[^"]*(?:\\.[^"]*)*"|\S+))*)')


def test_the_document_is_up_to_date() -> None:
    """``make docs`` generates it."""
    assert (DOCS / trace_document.DOCUMENT).read_text() == trace_document.text()


def _emu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emu.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


def test_a_traced_migration_emits_every_event(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    done = _emu(*SMALL.split(), "--trace-events", "*", "--trace-file", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        seen.setdefault(match[3], set()).add(match[2])
    names = {name for name, event in EVENTS.items() if event in _defined()}
    assert set(seen) == names
    assert len(seen["vhost_user_write"]) == 2  # both VM processes
    assert len(seen["vhost_user_backend_read"]) == 4  # disks and NICs of both sides


def _defined() -> list[object]:
    return [value for source in trace_document.SOURCES for value in vars(source).values()]


@pytest.mark.slow
def test_no_event_is_traced_by_default() -> None:
    done = _emu(*SMALL.split())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_environment_variable_enables_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMU_TRACE", "migration_status")
    done = _emu(*SMALL.split())
    assert done.returncode == 0
    lines = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert all(line and line[3] == "migration_status" for line in lines)
    assert any(line and line[4] == " status=completed" for line in lines)


@pytest.mark.parametrize("program", ["emu.cli", "backends.blk", "backends.net"])
def test_every_program_lists_the_events(program: str) -> None:
    command = ["migrate"] if program == "emu.cli" else []
    done = subprocess.run(
        [sys.executable, "-m", program, *command, "--trace-events", "help"],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=True,
    )
    assert "vhost_user_write: " in done.stdout
