"""How commands end: by a signal at each of their stages, by SIGKILL, with SIGINT ignored."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from tests import slow
from tests.emu.runs import Run
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = ("--net", "1x2", "--blk", "1x1", "--vcpus", "1", "--memory", "256M", "--accel", "soft")
SLOW = ("--dirty-rate", "4M", "--max-bandwidth", "1M")
MIGRATE = ("migrate", *SMALL, "--strategy", "split", "--repeat", "100")
SWEEP = (
    *("sweep", "--devices", "2,3", "--rings", "2", "--vcpus", "1", "--memory", "256M"),
    *("--accel", "soft", "--strategy", "split", "--repeat", "1"),
)
#: An endless run: SIGINT is the ordinary end of its stage "run", and of no other one.
RUN = ("run", *SMALL)
INCOMING = ("run", *SMALL, "--images", "{images}", "--incoming", "unix:{folder}/stream")
PYTHON = shlex.quote(sys.executable)
TRACE = "--trace-events vhost_user_ring_state --trace-file {folder}/trace"
BACK_END = f"{PYTHON} -m backends.net --socket-path {{{{socket}}}} {TRACE}"
FRONT_END = f"{PYTHON} -m emu.cli attach --net {{{{socket}}}} --accel soft {TRACE}"
CONFORM = ("conform", "back-end", "--device", "net", "--exec", BACK_END)
CONFORM_FRONT_END = ("conform", "front-end", "--device", "net", "--exec", FRONT_END)
#: A back-end that reads a request and never answers, and its command.
SILENT = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
connection, _ = listener.accept()
connection.recv(12)
open(sys.argv[2], "w").write("vhost_user_ring_state: none will come")
time.sleep(1000)
"""
PROBE = (
    *("conform", "back-end", "--patience", "60", "--exec"),
    f"{PYTHON} {{folder}}/silent.py {{{{socket}}}} {{folder}}/trace",
)


class Stage(NamedTuple):
    """A moment in a command, and how it is seen.

    Attributes:
        argv: the command; ``{folder}`` and ``{images}`` are directories of the test.
        line: of stderr; "" for a line of the file ``trace``.
        number: of the lines with these words, the one to wait for.
        ordinary: SIGINT is the ordinary end, with status 0.
    """

    argv: tuple[str, ...]
    line: str
    number: int = 1
    ordinary: bool = False


STAGES = {
    "migrate: start": Stage(MIGRATE, "start: "),
    "migrate: boot": Stage(MIGRATE, "boot: "),
    "migrate: memory": Stage((*MIGRATE, *SLOW), "round 1: "),
    "migrate: check": Stage(MIGRATE, "check the guest's requests"),
    "migrate: second": Stage(MIGRATE, "migrate 2/"),
    "migrate: disk": Stage((*MIGRATE, "--disk", "{folder}/disk"), "on the host"),
    "run: start": Stage(RUN, "start: "),
    "run: boot": Stage(RUN, "boot: "),
    "run: run": Stage(RUN, "run", ordinary=True),
    "run: prepare": Stage(INCOMING, "prepare: "),
    "run: waiting": Stage(INCOMING, "waiting for a VM at "),
    "sweep: memory": Stage((*SWEEP, *SLOW), "round 1: "),
    "sweep: second VM": Stage(SWEEP, "boot: ", 2),
    "conform: probe": Stage(PROBE, ""),
    "conform: case": Stage(CONFORM, ""),
    "conform: front-end": Stage(CONFORM_FRONT_END, ""),
    "attach: waiting": Stage(("attach", "--net", "{folder}/none"), "waiting for a back-end at "),
}


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[Run]]:
    """What a test has started; it ends with the test."""
    made: list[Run] = []
    yield made
    for run in made:
        run.close()


def started(
    runs: list[Run], argv: tuple[str, ...], folder: Path, *, before: tuple[str, ...] = ()
) -> Run:
    """A command with the directories of the test."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    with (folder / "disk").open("wb") as disk:
        disk.truncate(4 << 40)
    (folder / "silent.py").write_text(SILENT)
    words = [word.format(folder=folder, images=images) for word in argv]
    runs.append(Run(folder / f"{len(runs)}.err", words, before=before))
    return runs[-1]


def await_stage(run: Run, stage: Stage, folder: Path) -> None:
    """Return when the command has got there."""
    if stage.line:
        run.await_line(stage.line, count=stage.number)
    else:
        trace = folder / "trace"
        wait_until(lambda: trace.exists() and "vhost_user_ring_state" in trace.read_text())


def _quick(name: str) -> bool:
    return name in ("migrate: memory", "conform: case")


@pytest.mark.parametrize(
    "signum", slow.all_but({signal.SIGINT}, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if _quick(name) else pytest.mark.slow) for name in STAGES],
)
def test_a_signal_at_any_stage_is_one_line_and_leaves_nothing(
    name: str, signum: signal.Signals, tmp_path: Path, runs: list[Run]
) -> None:
    """No program, file or directory is left; the status is 128 plus the signal's number."""
    stage = STAGES[name]
    run = started(runs, stage.argv, tmp_path)
    await_stage(run, stage, tmp_path)
    run.process.send_signal(signum)
    ended = run.end()
    assert "Traceback" not in ended.err
    if stage.ordinary and signum == signal.SIGINT:
        assert ended.status == 0, ended.err
        return
    assert (ended.status, ended.last) == (128 + signum, f"emu: ended by {signum.name}")
    assert ended.err.count("emu: ") == 1
    assert not (tmp_path / "stream").exists()
    assert all(path.suffix == ".img" for path in (tmp_path / "images").iterdir())


#: Commands that are killed, and what the next one like it is to end with.
KILLED = {
    "migrate": ("migrate: memory", ("migrate", *SMALL, "--strategy", "split"), 0),
    "run": ("run: run", ("run", *SMALL, "--for", "200ms"), 0),
    "run --incoming": ("run: waiting", INCOMING, 128 + signal.SIGTERM),
    "conform": ("conform: case", (*CONFORM, "--only", "VU-B-0101"), 0),
}


@pytest.mark.parametrize("command", slow.all_but({"conform"}, KILLED))
def test_the_next_run_removes_what_a_killed_one_has_left(
    command: str, tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its programs end with it; its directory, its socket and its locks are no hindrance."""
    name, argv, status = KILLED[command]
    stage = STAGES[name]
    killed = started(runs, stage.argv, tmp_path)
    await_stage(killed, stage, tmp_path)
    family = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    killed.process.wait()
    wait_until(lambda: not running(family))
    left = [path for path in killed.tmp.iterdir() if path.is_dir()]
    assert len(left) == 1
    following = started(runs, argv, tmp_path, before=("env", f"TMPDIR={killed.tmp}"))
    if status:
        following.await_line(stage.line)
        following.process.send_signal(status - 128)
    ended = following.end()
    assert ended.status == status, ended.err
    assert list(killed.tmp.iterdir()) == []
    assert not (tmp_path / "stream").exists()


#: What a shell does for a job in the background of a script.
IGNORES_SIGINT = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
#: Commands, the moment of the signal, and what they do after it.
IGNORING = {
    "migrate": (STAGES["migrate: second"], "migrate 4/"),
    "run": (Stage((*RUN, "--for", "2s"), "run"), ""),
    "conform": (STAGES["conform: case"], ""),
}


@pytest.mark.parametrize("command", slow.all_but({"conform"}, IGNORING))
def test_sigint_stays_ignored_where_a_shell_has_it_ignored(
    command: str, tmp_path: Path, runs: list[Run]
) -> None:
    """Ctrl-C in a terminal is not meant for the jobs in the background of a script."""
    stage, later = IGNORING[command]
    run = started(runs, stage.argv, tmp_path, before=IGNORES_SIGINT)
    await_stage(run, stage, tmp_path)
    run.interrupt()
    if command == "run":
        ended = run.end()
        assert ended.status == 0
        assert "ran for 2" in ended.out
        return
    if later:
        run.await_line(later)
    else:
        trace = tmp_path / "trace"
        seen = trace.read_text().count("\n")
        wait_until(lambda: trace.read_text().count("\n") > seen + 20, "further cases run")
    run.process.terminate()
    assert run.end().status == 128 + signal.SIGTERM
