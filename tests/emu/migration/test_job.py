"""One migration of a VM's process, as query-migrate reports it."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import CancelledError, EmuError, MigrationError, Operation
from emu.migration.job import Job
from emu.migration.side import MigrationSide
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.qmp.protocol import JsonObject


class Side(MigrationSide):
    """A side without a VM."""

    def __init__(self) -> None:
        super().__init__(0)

    def figures(self) -> JsonObject:
        return {}

    def query(self, status: str, remaining: int) -> JsonObject:
        return {"seen": [status, remaining]}


class Run:
    """A job whose work waits until `end`, and its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.proceed, self.ended = threading.Event(), threading.Event()
        self.side = Side()
        self.job = Job(self._emit)

    def _emit(self, name: str, data: JsonObject) -> None:
        self.events.append((name, data))
        if data.get("status") in ("completed", "failed", "cancelled"):
            self.ended.set()

    def start(self, work: Callable[[], None], *, cancel: Callable[[], bool] = bool) -> None:
        def waits() -> None:
            assert self.proceed.wait(TIMEOUT)
            work()

        self.job.start(self.side, waits, cancel=cancel)

    def end(self) -> None:
        self.proceed.set()
        assert self.ended.wait(TIMEOUT)

    @property
    def statuses(self) -> list[str]:
        return [data["status"] for name, data in self.events if name == "MIGRATION"]


def fail(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_migration_that_completes() -> None:
    run = Run()
    run.start(lambda: None)
    assert run.job.running
    run.job.observe("MIGRATION", {"status": "active"})
    run.job.observe("MIGRATION_PASS", {"pass": 1, "remaining": 7, "bytes": 9})
    assert "error-desc" not in run.job.describe()
    run.end()
    assert run.statuses == ["setup", "active", "completed"]
    answer = run.job.describe()
    assert answer["status"] == "completed"
    assert answer["seen"] == ["completed", 7]
    assert {"total-time", "setup-time"} <= set(answer)
    assert "error-desc" not in answer


def test_a_migration_does_not_run_when_its_end_is_reported() -> None:
    """A client that has read the last event may go on at once."""
    reported: list[tuple[str, bool]] = []
    job = Job(lambda _name, data: reported.append((data["status"], job.running)))
    job.start(Side(), lambda: None, cancel=bool)
    job.close()
    assert reported[-1] == ("completed", False)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MigrationError(Operation.STREAM, "broken"), "failed"),
        (OSError(5, "an error"), "failed"),
        (CancelledError(), "cancelled"),
    ],
)
def test_a_migration_that_fails_has_a_reason(error: Exception, status: str) -> None:
    run = Run()
    run.start(fail(error))
    run.side.lost = {"blk1": EmuError("gone")}
    run.end()
    assert run.statuses == ["setup", status]
    text = f"{error}; blk1 is left without a back-end"
    assert run.job.describe()["error-desc"] == run.events[-1][1]["error-desc"] == text


def test_an_error_that_is_not_of_emu_is_the_reason_too(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a plug-in's strategy; its traceback is in the log of the process."""
    run = Run()
    run.start(fail(AttributeError("no such thing")))
    run.end()
    assert run.events[-1][1]["error-desc"] == "AttributeError: no such thing"
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_after_a_cancel_only_the_end_is_reported() -> None:
    run = Run()
    run.start(fail(CancelledError()), cancel=lambda: True)
    run.job.cancel()
    run.job.observe("MIGRATION", {"status": "device"})
    run.end()
    assert run.statuses == ["setup", "cancelling", "cancelled"]


def test_a_cancel_is_not_the_status_of_a_migration_that_it_has_ended() -> None:
    """The migration ends at once, before the cancel is reported."""
    run = Run()

    def cancel() -> bool:
        run.end()
        return True

    run.start(fail(CancelledError()), cancel=cancel)
    run.job.cancel()
    assert run.statuses == ["setup", "cancelled"]
    assert run.job.status == "cancelled"


def test_a_cancel_that_is_too_late_changes_nothing() -> None:
    run = Run()
    run.start(lambda: None, cancel=lambda: False)
    run.job.cancel()
    run.end()
    run.job.cancel()
    assert run.statuses == ["setup", "completed"]


def test_closing_a_job_ends_its_migration() -> None:
    run = Run()

    def cancel() -> bool:
        run.proceed.set()
        return True

    run.start(fail(CancelledError()), cancel=cancel)
    run.job.close()
    assert not run.job.running
    assert run.statuses[-1] == "cancelled"
