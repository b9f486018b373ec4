"""The destination of a migration from another run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from emu.errors import MigrationError, ProgramError
from tests.emu.fake_runs import disk_file
from tests.emu.orchestrator.two_runs import TwoRuns

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


@pytest.mark.slow
def test_the_destination_receives_the_sources_report(owned: ExitStack, tmp_path: Path) -> None:
    """The socket's path is printed before: the source's command needs it."""
    runs = TwoRuns(tmp_path, owned)
    assert f"waiting for a VM at {runs.endpoint.uri}" in runs.there.getvalue()
    assert "prepare: a small VM" in runs.there.getvalue()
    assert runs.migrate().ok
    report = runs.incoming.await_vm()
    assert (report.strategy, report.downtime_ms, report.served) == ("split", 4.0, 10)


@pytest.mark.slow
def test_a_migration_completes_without_the_sources_report(
    owned: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "no-report")
    runs = TwoRuns(tmp_path, owned)
    runs.migrate()
    report = runs.incoming.await_vm()
    assert (report.strategy, report.downtime_ms) == (None, None)


@pytest.mark.slow
def test_a_migration_that_fails_is_an_error_with_the_reason(
    owned: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "refuse-migration")
    runs = TwoRuns(tmp_path, owned)
    runs.migrate()
    with pytest.raises(MigrationError, match="incoming: the migration failed: no such disk"):
        runs.incoming.await_vm()


def test_the_users_disk_is_read_before_the_vm_is_built(owned: ExitStack, tmp_path: Path) -> None:
    """The digest is compared with the source's."""
    disk = disk_file(tmp_path / "disk", b"x" * 1024)
    runs = TwoRuns(tmp_path, owned, disk=disk)
    text = runs.there.getvalue()
    assert text.index(f"read {disk.path} on the host") < text.index("prepare: ")


def test_the_end_of_the_vms_process_ends_the_wait(owned: ExitStack, tmp_path: Path) -> None:
    runs = TwoRuns(tmp_path, owned)
    os.kill(runs.incoming._side.pids[0], signal.SIGKILL)
    with pytest.raises(ProgramError, match="VM process A ended by SIGKILL"):
        runs.incoming.await_vm()
