"""``--trace-events`` and ``--trace-file`` of every command that has them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.backends.programs import NET, fails, rig_at
from tests.backends.served import program
from tests.slow import all_but
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from vhost_user import trace_events, tracing
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Request

if TYPE_CHECKING:
    from pathlib import Path

#: Module and arguments of each command; with these it ends once its options have been parsed.
COMMANDS = {
    "emu migrate": ("emu", "migrate", "--memory", "x"),
    "emu run": ("emu", "run", "--memory", "x"),
    "emu sweep": ("emu", "sweep", "--memory", "x"),
    "emu attach": ("emu", "attach", "--net", "/none", "--memory", "x"),
    "vhost-emu-blk": ("backends.blk", "--fd", "99", "--blk-file", "/none"),
    "vhost-emu-net": ("backends.net", "--fd", "99"),
    "vhost-emu-rng": ("backends.rng", "--fd", "99"),
    "vhost-emu-serve": ("backends.serve", "--fd", "99", "--plugin", "/none"),
}
#: A back-end whose files may have so many bytes.
LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from backends import net
net.main()
"""
EVERY_COMMAND = pytest.mark.parametrize(
    "command", all_but({"emu migrate", "vhost-emu-blk"}, COMMANDS)
)


def _run(
    command: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    module, *own = COMMANDS[command]
    return subprocess.run(
        [sys.executable, "-m", module, *own, *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@EVERY_COMMAND
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--trace-events", "nonsense"), "--trace-events nonsense: no such event; there are "),
        (("--trace-events", "vhost_user_*,vhost_usr_*"), "--trace-events vhost_usr_*: no such"),
        (("--trace-events", "*", "--trace-file", "/dev/full"), "/dev/full: No space left"),
        (("--trace-events", "*", "--trace-file", "/none/x"), "/none/x: No such file"),
        (("--trace-file", "trace"), "--trace-file needs --trace-events"),
    ],
    ids=["unknown", "second unknown", "full", "no directory", "no events"],
)
def test_what_cannot_be_traced_is_a_usage_error(
    command: str, arguments: tuple[str, ...], text: str
) -> None:
    """Before anything is started; an unknown name is reported with those that exist."""
    done = _run(command, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    if "there are" in text:
        assert "vhost_user_ring_state" in done.stderr
        assert ("migration_status" in done.stderr) == command.startswith("emu")


@EVERY_COMMAND
def test_a_fifo_that_no_process_reads_is_a_usage_error(command: str, tmp_path: Path) -> None:
    """The program would wait at its start, without a line."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = _run(command, "--trace-events", "*", "--trace-file", str(fifo))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--trace-file {fifo}: no process reads this FIFO" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@EVERY_COMMAND
def test_the_environment_may_be_meant_for_other_programs(command: str) -> None:
    """An event that this one does not have is reported, and changes nothing else."""
    done = _run(command, environment={"EMU_TRACE": "vhost_user_read,nonsense"})
    warning, error = done.stderr.splitlines()
    assert warning == "no trace event matches 'nonsense': see --trace-events help"
    assert "trace" not in error


def test_help_lists_each_event_with_its_text() -> None:
    """In the order of the names."""
    done = _run("vhost-emu-net", "--trace-events", "help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    for event in (trace_events.READ, trace_events.BACKEND_WRITE, trace_events.RING_STATE):
        assert lines[event.name] == event.help
    assert list(lines) == sorted(lines)


def test_a_file_without_events_is_not_made(tmp_path: Path) -> None:
    """The command line is checked first."""
    line = fails([*NET, "--trace-file", str(tmp_path / "trace")], status=2)
    assert "--trace-file needs --trace-events" in line
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("variable", [False, True])
def test_events_are_appended_to_the_file(
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
    with program(arguments) as process:
        with rig_at(path, 2) as rig:
            rig.set_features()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    before, begin, *lines, end = file.read_text().splitlines()
    assert before == "before"
    assert begin.endswith(f" vhost-emu-net trace_begin patterns={pattern}")
    assert end.endswith(" vhost-emu-net trace_end")
    assert any("GET_FEATURES" in line for line in lines)
    assert all(pattern in line for line in lines)


def test_a_file_that_can_take_no_more_is_reported_at_the_end(tmp_path: Path) -> None:
    """One line that names the file, and the status is 1: as when the disk gets full."""
    ready, ready_fd = os.pipe()
    path, file = tmp_path / "s", tmp_path / "trace"
    limit = 100  # bytes: room for the first line, and not for the next ones

    options = ["--trace-events", "*", "--trace-file", str(file), "--ready-fd", str(ready_fd)]
    with subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(limit), "--socket-path", str(path), *options],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[ready_fd],
    ) as process:
        os.close(ready_fd)
        assert os.read(ready, 1)
        os.close(ready)
        with closing(FrontendConnection.connect(str(path), name="traced")) as connection:
            connection.call(Request(FrontendRequest.GET_FEATURES))
        process.terminate()
        _, errors = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert process.returncode == 1
    assert "trace_begin patterns=*\n" in file.read_text()
    line = f"--trace-file {file}: File too large: the trace is incomplete"
    assert errors == f"vhost-emu-net: {line}\n"
