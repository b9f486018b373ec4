"""--trace-events and --trace-file of all programs."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.backends.programs import NET, fails, rig_at
from tests.backends.served import program
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user import trace_events, tracing

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NET, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


def test_help_lists_each_event_with_its_text() -> None:
    done = run("--trace-events", "help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    for event in (trace_events.READ, trace_events.BACKEND_WRITE, trace_events.RING_STATE):
        assert lines[event.name] == event.help
    assert list(lines) == sorted(lines)


def test_a_file_needs_events(tmp_path: Path) -> None:
    line = fails([*NET, "--trace-file", str(tmp_path / "trace")], status=2)
    assert "--trace-file needs --trace-events" in line
    assert not (tmp_path / "trace").exists()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "none" / "trace"
    line = fails([*NET, "--trace-events", "*", "--trace-file", str(file)], status=2)
    assert f"--trace-file {file}: No such file or directory" in line


@pytest.mark.parametrize("variable", [False, True])
def test_events_go_to_the_file_behind_what_is_there(
    tmp_path: Path, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pattern is an option, or the environment's."""
    path, file = str(tmp_path / "s"), tmp_path / "trace"
    file.write_text("before\n")
    pattern = "vhost_user_backend_read"
    arguments = [*NET, "--socket-path", path, "--trace-file", str(file)]
    if variable:
        monkeypatch.setenv(tracing.PATTERNS_VARIABLE, pattern)
    else:
        arguments += ["--trace-events", pattern]
    with program(arguments), rig_at(path, 2) as rig:
        rig.set_features()
    first, *lines = file.read_text().splitlines()
    assert first == "before"
    assert any("GET_FEATURES" in line for line in lines)
    assert all(pattern in line for line in lines)


def test_a_pattern_of_no_event_is_reported() -> None:
    """The program runs on: here it ends as no socket is given."""
    done = run("--trace-events", "nothing_*")
    assert "no trace event matches 'nothing_*': see --trace-events help" in done.stderr
    assert done.returncode == 2
