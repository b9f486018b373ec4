"""One side of a migration: its programs, its commands, and the error when a program ends."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from emu.errors import CommandError, ProgramError
from emu.orchestrator import vm_host
from emu.orchestrator.run_directory import RunDirectory
from emu.orchestrator.signals import SignalWatcher
from emu.orchestrator.vm_host import VmHost
from tests.emu.fake_runs import FAKE_VM, disk_file, machine_plan, no_leftovers
from tests.timeouts import TIMEOUT
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from pathlib import Path


def host(owned: ExitStack, **changes: Any) -> VmHost:
    """A side with running programs."""
    watcher = owned.enter_context(SignalWatcher())
    directory = owned.enter_context(RunDirectory())
    made = VmHost("A", machine_plan(**changes), directory, watcher, FAKE_VM)
    owned.callback(made.stop)
    made.start_programs()
    made.await_programs()
    return made


def test_stop_ends_all_programs_of_the_side() -> None:
    """The VM's process ends when its monitor is closed."""
    with no_leftovers() as pids, ExitStack() as stack:
        side = host(stack)
        pids.extend(side.pids)
        assert len(pids) == 5
        assert all(map(psutil.pid_exists, pids))
        side.stop()
        assert side.pids == []


def test_x_create_describes_the_vm(owned: ExitStack) -> None:
    """With the sockets of its back-ends."""
    side = host(owned, accel="auto")
    assert side.create() == "soft"
    side.boot()
    assert side.execute("query-status") == {"status": "running", "running": True}
    log, gap_ms = side.request_log()
    assert (log.requests, gap_ms) == (10, 1.9)
    side.quiesce()
    assert side.verify() == (0, True)
    assert side.shortage() == ""


def test_images_are_those_of_disks_without_a_users_file(owned: ExitStack, tmp_path: Path) -> None:
    """The user's file is compared by its digest."""
    assert host(owned)._images().keys() == {"0", "1"}
    disk = disk_file(tmp_path / "disk", bytes(512))
    assert host(owned, disk=disk)._images().keys() == {"1"}


def test_commands_of_an_incoming_migration_are_answered_together(
    owned: ExitStack, tmp_path: Path
) -> None:
    """They are sent without waiting; the URI is in the last response."""
    side = host(owned)
    uri = f"unix:{tmp_path / 'stream'}"
    side.begin_incoming(uri)
    assert side.accel == ""
    assert side.await_incoming() == uri
    assert side.accel == "soft"
    side.begin_incoming(uri + "2", release=True)
    assert side.await_incoming() == uri + "2"


def test_a_command_that_is_refused_names_the_side(
    owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "refuse-create")
    with pytest.raises(CommandError, match="VM A: this host cannot have such a VM"):
        host(owned).create()


def test_a_process_that_ends_during_a_command_is_an_error_with_its_last_line(
    owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "die-at-start")
    side = host(owned)
    side.create()
    with pytest.raises(ProgramError, match="VM process A ended with status 7: the fake machine"):
        side.boot()


@pytest.mark.parametrize("which", [0, -1])
def test_the_end_of_any_program_ends_a_wait(owned: ExitStack, which: int) -> None:
    """The VM's process, or a back-end."""
    side = host(owned)
    program = os.pidfd_open(side.pids[which])
    owned.callback(os.close, program)
    signal.pidfd_send_signal(program, signal.SIGKILL)
    # Not its state in /proc: a main thread can be a zombie before the other threads have ended.
    assert readable([program], TIMEOUT)
    with pytest.raises(ProgramError, match="by SIGKILL"):
        side.execute("query-commands", timeout=vm_host.QUICK)


def test_events_are_taken_once(owned: ExitStack, tmp_path: Path) -> None:
    """Without waiting for further events."""
    side = host(owned)
    side.create()
    side.boot()
    assert list(side.take_events()) == []
    side.execute("migrate_cancel")
    (event,) = side.take_events()
    assert (event.name, event.data["status"]) == ("MIGRATION", "cancelled")
    assert list(side.take_events()) == []


def test_before_the_start_there_is_no_monitor() -> None:
    with SignalWatcher() as watcher, RunDirectory() as directory:
        side = VmHost("B", machine_plan(), directory, watcher, FAKE_VM)
        with pytest.raises(ProgramError, match="VM process B has not been started"):
            side.execute("query-status")
        side.stop()
