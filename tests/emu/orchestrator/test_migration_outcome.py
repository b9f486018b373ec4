"""The wait for a migration's end, with scripted sides."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from emu.errors import MigrationError, ProgramError
from emu.orchestrator import migration_outcome
from emu.orchestrator.migration_outcome import ENDED, MigrationOutcome, Role, completed, reason
from emu.orchestrator.signals import SignalWatcher
from emu.qmp.client import Event
from emu.report.progress import LineProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.orchestrator.vm_host import VmHost
    from emu.qmp.protocol import JsonObject


class Scripted:
    """A side with scripted events; None is the end of its process."""

    def __init__(self, *events: Event | None) -> None:
        self.monitor = self
        self.executed: list[str] = []
        self.at_cancel: list[Event | None] = []
        self._events = list(events)
        self._pending = False
        self._readable, self._writable = os.pipe()
        self._signal()

    def _signal(self) -> None:
        if self._events and not self._pending:
            os.write(self._writable, b"x")
            self._pending = True

    def fileno(self) -> int:
        return self._readable

    def take_events(self) -> Iterator[Event]:
        if self._events and self._pending:
            os.read(self._readable, 1)
            self._pending = False
        while self._events:
            event = self._events.pop(0)
            if event is None:
                raise ProgramError("VM process A ended with status 7")
            yield event

    def execute(self, command: str) -> JsonObject:
        self.executed.append(command)
        self._events = list(self.at_cancel)
        self._signal()
        return {}

    def close(self) -> None:
        os.close(self._readable)
        os.close(self._writable)


def ended(status: str, **data: Any) -> Event:
    return Event("MIGRATION", {"status": status, **data})


def wait(source: Scripted | None, destination: Scripted | None, **options: Any) -> dict[Role, Any]:
    sides = {"source": source, "destination": destination}
    given = cast("dict[Role, VmHost]", {role: side for role, side in sides.items() if side})
    with SignalWatcher() as watcher:
        try:
            return MigrationOutcome(given, watcher, **options).wait()
        finally:
            for side in sides.values():
                if side:
                    side.close()


@pytest.mark.parametrize("status", ENDED)
def test_each_final_status_ends_the_wait_for_its_side(status: str) -> None:
    assert wait(Scripted(ended("active"), ended(status)), None)["source"]["status"] == status
    assert wait(None, Scripted(ended(status)))["destination"]["status"] == status


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_the_destination_is_not_awaited_if_the_source_has_failed(status: str) -> None:
    assert list(wait(Scripted(ended(status)), Scripted())) == ["source"]


def test_both_sides_are_awaited_if_the_migration_has_completed() -> None:
    outcome = wait(Scripted(ended("completed")), Scripted(ended("completed")))
    assert set(outcome) == {"source", "destination"}
    assert all(completed(data) for data in outcome.values())


def test_rounds_of_the_source_are_shown() -> None:
    out = io.StringIO()
    events = [
        Event("MIGRATION_ROUND", {"round": 1, "sent": sent, "size": 8 << 20, "max-bandwidth": rate})
        for sent, rate in ((0, 1 << 10), (4 << 20, 1 << 20), (6 << 20, 0))
    ]
    passed = Event("MIGRATION_PASS", {"pass": 1, "remaining": 1 << 20, "bytes": 8 << 20})
    source = Scripted(*events, passed, Event("STOP", {}), ended("completed"))
    wait(source, None, progress=LineProgress(out))
    assert out.getvalue().splitlines() == [
        "  round 1: 0 B of 8 MiB sent, 2.28 h left at 1 KiB a second",
        "  round 1: 4 MiB of 8 MiB sent, 4 s left at 1 MiB a second",
        "  round 1: 6 MiB of 8 MiB sent",
        "  round 1: 8.0 MiB sent, 1.0 MiB dirty",
    ]


@pytest.mark.parametrize("role", ["source", "destination"])
def test_the_end_of_a_process_is_an_error(role: str) -> None:
    sides = {"source": Scripted(), "destination": Scripted(), role: Scripted(None)}
    with pytest.raises(ProgramError, match="status 7"):
        wait(sides["source"], sides["destination"])


def test_silence_cancels_once_and_then_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_outcome, "SILENCE", 0.05)
    source = Scripted()
    source.at_cancel = [ended("cancelled")]
    outcome = wait(source, None)
    assert source.executed == ["migrate_cancel"]
    assert reason(outcome["source"]) == "cancelled"
    mute = Scripted()
    with pytest.raises(MigrationError, match=r"no event for 0\.05 s, twice"):
        wait(mute, None)
    assert mute.executed == ["migrate_cancel"]


def test_idle_is_called_until_a_side_has_ended() -> None:
    source = Scripted()
    calls = []

    def idle() -> None:
        calls.append(1)
        if len(calls) == 3:
            source.at_cancel = [ended("failed", **{"error-desc": "no route"})]
            source.execute("nothing")

    assert reason(wait(source, None, idle=idle, step=0.01)["source"]) == "no route"
    assert len(calls) == 3
