"""The supervisor ends all programs in any case."""

from __future__ import annotations

import io
import os
import signal
from typing import TYPE_CHECKING

import pytest

from emu.errors import CommandError, ProgramError, SignalError
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import LineProgress
from tests.emu.fake_runs import FAKE_VM, machine_plan, no_leftovers
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from emu.orchestrator.managed_process import ManagedProcess


def supervise(*, sides: int = 2) -> Supervisor:
    """Fake VMs with real back-ends."""
    return Supervisor(machine_plan(), LineProgress(io.StringIO()), sides=sides, vm_program=FAKE_VM)


def interrupt(pids: list[int], supervisor: Supervisor) -> None:
    """Start all programs, and send a signal to this process."""
    with supervisor:
        supervisor.start_programs()
        pids += [pid for side in supervisor.sides for pid in side.pids]
        os.kill(os.getpid(), signal.SIGINT)
        supervisor.watcher.pause(TIMEOUT)


@pytest.mark.slow
def test_a_signal_ends_all_programs_and_a_second_run_starts_at_once() -> None:
    """No process and no file is left in between."""
    for _ in range(2):
        with no_leftovers() as pids, pytest.raises(SignalError):
            interrupt(pids, supervise())
        assert len(pids) == 10


def start(supervisor: Supervisor, error: CommandError | None = None) -> None:
    """Start all, then wait; or lose a back-end and fail."""
    with supervisor:
        supervisor.start_programs()
        if error is None:
            supervisor.watcher.pause(TIMEOUT)
            return
        if "gone" in str(error):
            os.kill(supervisor.sides[0].backends.pids[0], signal.SIGKILL)
        raise error


@pytest.mark.slow
@pytest.mark.parametrize("program", [1, 3, 6, 10])
def test_a_signal_at_any_moment_of_the_start(program: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when so many of the ten programs have been started."""
    supervisor = supervise()
    watch = supervisor.watcher.watch

    def watch_and_signal(started: ManagedProcess) -> None:
        watch(started)
        pids.append(started.pid)
        if len(pids) == program:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(supervisor.watcher, "watch", watch_and_signal)
    with no_leftovers() as pids, pytest.raises(SignalError):
        start(supervisor)
    assert len(pids) >= program
    assert not supervisor.directory.path.exists()


def test_the_error_of_a_command_names_a_back_end_that_has_ended() -> None:
    """The error of the command follows in parentheses."""
    error = CommandError("VM A", "GenericError", "net0: the peer has gone")
    with no_leftovers(), pytest.raises(ProgramError, match=r"by SIGKILL.*net0: the peer has gone"):
        start(supervise(sides=1), error)


def test_the_error_of_a_command_is_unchanged_without_an_ended_program() -> None:
    """All back-ends run."""
    error = CommandError("VM A", "GenericError", "no")
    with no_leftovers(), pytest.raises(CommandError, match="VM A: no"):
        start(supervise(sides=1), error)
