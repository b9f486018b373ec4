"""Programs of a run: process group, end, and exit description."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.orchestrator import managed_process
from emu.orchestrator.managed_process import Daemon, ManagedProcess, await_end, end
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

PATIENT = "import time, sys; sys.stderr.write('here\\n'); sys.stderr.flush(); time.sleep(1000)"
DEAF = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.stderr.write('deaf\\n'); sys.stderr.flush(); time.sleep(1000)"
)


def start(code: str, log: Path) -> ManagedProcess:
    program = ManagedProcess("a program", [sys.executable, "-c", code], log=log)
    wait_until(lambda: program.last_line() or not program.running, "it prints, or ends")
    return program


def test_a_program_has_a_process_group_of_its_own(tmp_path: Path) -> None:
    program = start(PATIENT, tmp_path / "log")
    assert os.getpgid(program.pid) == program.pid != os.getpgrp()
    end([program])


def test_a_program_starts_in_the_directory_that_is_given(tmp_path: Path) -> None:
    directory = tmp_path / "here"
    directory.mkdir()
    code = "import os, sys; print(os.getcwd()); sys.exit(3)"
    argv = [sys.executable, "-c", code]
    program = ManagedProcess("a program", argv, log=tmp_path / "log", directory=directory)
    _wait_for_end(program)
    assert (program.last_line(), program.status) == (str(directory), 3)
    assert not program.succeeded
    end([program])


def test_end_reaps_programs_and_closes_descriptors(tmp_path: Path) -> None:
    before = open_fds()
    programs = [start(PATIENT, tmp_path / f"log{n}") for n in range(3)]
    end(programs)
    assert not any(psutil.pid_exists(program.pid) for program in programs)
    assert open_fds() <= before


def _wait_for_end(program: ManagedProcess) -> None:
    assert await_end([program], TIMEOUT)


def _kill(program: ManagedProcess) -> None:
    os.kill(program.pid, signal.SIGKILL)
    _wait_for_end(program)


def _take_status(program: ManagedProcess) -> None:
    os.kill(program.pid, signal.SIGKILL)
    os.waitpid(program.pid, 0)


#: What one of several programs is, and what happens to it before their end.
BEHAVIOURS: dict[str, tuple[str, Callable[[ManagedProcess], object]]] = {
    "obeys": (PATIENT, lambda _program: None),
    "ignores SIGTERM": (DEAF, lambda _program: None),
    "has ended": ("import sys; sys.exit('over')", _wait_for_end),
    "was killed": (PATIENT, _kill),
    "is stopped": (PATIENT, lambda program: os.kill(program.pid, signal.SIGSTOP)),
    "has lost its status": (PATIENT, _take_status),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_program_is_reaped_whatever_one_of_them_does(
    behaviour: str, place: int, tmp_path: Path
) -> None:
    before = open_fds()
    code, happens = BEHAVIOURS[behaviour]
    codes = [PATIENT] * 3
    codes[place] = code
    programs = [start(each, tmp_path / f"log{n}") for n, each in enumerate(codes)]
    happens(programs[place])
    end(programs, timeout=0.5 if behaviour in ("ignores SIGTERM", "is stopped") else TIMEOUT)
    assert not any(psutil.pid_exists(program.pid) for program in programs)
    assert open_fds() <= before


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_at_one_program_leaves_no_other_one(place: int, tmp_path: Path) -> None:
    """A descriptor that is not there any more is an error, which is raised at the end."""
    programs = [start(PATIENT, tmp_path / f"log{n}") for n in range(3)]
    os.close(programs[place].pidfd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        end(programs)
    assert not any(psutil.pid_exists(program.pid) for program in programs)


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = start(DEAF, tmp_path / "log")
    end([program], timeout=0.2)
    assert not psutil.pid_exists(program.pid)


def test_the_exit_description_of_a_killed_program(tmp_path: Path) -> None:
    program = start(PATIENT, tmp_path / "log")
    os.kill(program.pid, signal.SIGKILL)
    assert program.exit_description() == "a program ended by SIGKILL: here"
    end([program])


def test_the_description_of_a_program_that_runs_has_its_state_and_last_line(tmp_path: Path) -> None:
    program = start(PATIENT, tmp_path / "log")
    program.send(signal.SIGSTOP)
    expected = "its state is stopped, the last line of its output is: here"
    wait_until(lambda: program.running_description() == expected, expected)
    (tmp_path / "log").write_text("")
    assert program.running_description() == "its state is stopped, it has printed nothing"
    end([program], 0.0)
    assert program.running_description() == "its state is unknown, it has printed nothing"


def test_the_wait_for_the_end_has_a_timeout(tmp_path: Path) -> None:
    program = start(PATIENT, tmp_path / "log")
    assert not await_end([program], 0.05)
    end([program])


PARENT = """
import os, signal, sys
from pathlib import Path
from emu.orchestrator.managed_process import ManagedProcess
program = ManagedProcess("a program", [sys.executable, "-c", "import time; time.sleep(1000)"],
                  log=Path(sys.argv[1]))
print(program.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_program_ends_when_its_run_is_killed(tmp_path: Path) -> None:
    """The kernel sends it SIGTERM."""
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    pid = int(subprocess.run(argv, capture_output=True, check=False).stdout)
    with suppress(psutil.NoSuchProcess):
        program = psutil.Process(pid)
        wait_until(lambda: not running([program]), "the program ends")


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ManagedProcess("nothing", [str(tmp_path / "nothing")], log=tmp_path / "log")


def test_a_program_with_an_open_stdin_waits_for_it_to_end(tmp_path: Path) -> None:
    code = "import sys; print('reads', flush=True); sys.stdin.read(); print('over', flush=True)"
    argv = [sys.executable, "-c", code]
    closed = ManagedProcess("a program", argv, log=tmp_path / "closed")
    assert await_end([closed], TIMEOUT)
    end([closed])
    program = ManagedProcess("a program", argv, log=tmp_path / "open", open_stdin=True)
    wait_until(lambda: program.last_line() == "reads", "it reads")
    assert program.running
    end([program])
    assert program.last_line() == "reads"


def test_a_daemon_is_watched_and_ended_like_a_child(tmp_path: Path, owned: ExitStack) -> None:
    log = tmp_path / "log"
    child = owned.enter_context(subprocess.Popen(["sleep", "1000"]))
    owned.callback(child.kill)
    daemon = Daemon("a daemon", child.pid, log)
    assert daemon.running
    assert not daemon.succeeded
    assert daemon.status is None
    end([daemon])
    assert child.wait(TIMEOUT) == -signal.SIGTERM
    assert daemon.exit_description() == "a daemon ended"


def test_a_daemon_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    with pytest.raises(ProcessLookupError):
        Daemon("a daemon", ended.pid, tmp_path / "log")


@pytest.mark.parametrize("deaf", [False, True])
def test_the_processes_of_a_whole_group_end_together(tmp_path: Path, deaf: bool) -> None:
    """Those that a shell has started, for example, whether they obey SIGTERM or not."""
    code = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {DEAF if deaf else PATIENT!r}]); "
        "sys.stderr.write(f'{p.pid}\\n'); sys.stderr.flush(); p.wait()"
    )
    argv = [sys.executable, "-c", code]
    program = ManagedProcess("a program", argv, log=tmp_path / "log", whole_group=True)
    wait_until(lambda: len((tmp_path / "log").read_text().split()) == 2, "both have printed")
    (pid,) = (int(word) for word in (tmp_path / "log").read_text().split() if word.isdigit())
    child = psutil.Process(pid)
    end([program], timeout=0.5 if deaf else TIMEOUT)
    wait_until(lambda: not running([child]), "the child has ended")


def test_the_processes_of_a_group_end_although_its_first_one_has(tmp_path: Path) -> None:
    """Also after its exit status was asked for: it has gone to the background without a word."""
    code = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {PATIENT!r}]); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{p.pid}} ')"
    )
    argv = [sys.executable, "-c", code]
    program = ManagedProcess(
        "a program", argv, log=tmp_path / "log", whole_group=True, advice="write its process id"
    )
    wait_until(lambda: not program.running, "it has ended")
    assert (program.status, program.succeeded) == (0, True)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert running([child])
    finally:
        end([program])
    wait_until(lambda: not running([child]), "the child has ended")
    assert program.status == 0


def test_a_program_that_ends_without_a_word_has_advice(tmp_path: Path) -> None:
    """Not where it has printed something, or failed."""
    for text, expected in (
        ("pass", "a program ended with status 0: do this"),
        ("print('no')", "a program ended with status 0: no"),
        ("raise SystemExit(3)", "a program ended with status 3"),
    ):
        argv = [sys.executable, "-c", text]
        program = ManagedProcess("a program", argv, log=tmp_path / "log", advice="do this")
        assert program.exit_description() == expected
        end([program])


LOUD = (
    "import sys; from time import sleep\n"
    "for number in range(4): print('x' * 999_999, flush=True)\n"
    "print('the last line', flush=True)\n"
    "sys.stdin.read(); print('after', flush=True); sleep(1000)"
)


@pytest.mark.parametrize("holes", [True, False])
def test_the_log_of_a_program_is_bounded(
    holes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines stay, also of what the program prints later."""

    def without(*_arguments: object) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    log = tmp_path / "log"
    argv = [sys.executable, "-c", LOUD]
    program = ManagedProcess("a program", argv, log=log, open_stdin=True)
    wait_until(lambda: program.last_line() == "the last line", "it prints")
    if not holes:
        monkeypatch.setattr(managed_process, "_LIBC", SimpleNamespace(fallocate64=without))
    before = log.stat().st_blocks
    program.trim_log()
    assert log.stat().st_blocks * 512 <= 4 * 4096 < before * 512
    assert program.last_line() == ("the last line" if holes else "")
    assert program._process.stdin is not None
    program._process.stdin.close()
    wait_until(lambda: program.last_line() == "after", "it prints again")
    assert log.stat().st_blocks * 512 <= 4 * 4096
    end([program])


def test_a_small_log_stays_as_it_is(tmp_path: Path) -> None:
    program = start(PATIENT, tmp_path / "log")
    program.trim_log()
    assert (tmp_path / "log").read_text() == "here\n"
    (tmp_path / "log").unlink()
    program.trim_log()
    end([program])
