"""migrate_cancel at any moment: the VM runs on where it was, or it is too late."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, MigrationError
from emu.migration.destination import Destination
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.sites import MOVES, Migration, await_work, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.strategies.base import Strategy
    from emu.strategies.task import Stage, Task
    from emu.vm.vm import Vm


def cancel_at(migration: Migration, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the source cancelled at that moment of its own run."""
    source = migration.source
    observe, strategy = source._observe, source._strategy
    stop, receive = strategy.stop, source._expect

    def watch(name: str, data: dict[str, object]) -> None:
        observe(name, data)
        told = name if name == "MIGRATION_PASS" else data.get("status", "")
        if told == moment:
            assert source.cancel()

    def stop_and_cancel(tasks: Sequence[Task], stage: Stage) -> None:
        stop(tasks, stage)
        assert source.cancel()

    def expect(stream: MigrationStream, kind: Kind) -> bytes:
        got = receive(stream, kind)
        if kind.name == moment:
            assert source.cancel() is (kind is not Kind.RUNNING)
        return got

    monkeypatch.setattr(source, "_observe", watch)
    monkeypatch.setattr(source, "_expect", expect)
    if moment == "stopped":
        monkeypatch.setattr(strategy, "stop", stop_and_cancel)


@pytest.mark.parametrize(
    "moment", ["active", "MIGRATION_PASS", "PREPARED", "device", "stopped", "READY"]
)
def test_the_vm_runs_on_at_the_source(
    vm: Vm, other: Vm, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the migration was at; nothing is lost, and the next one goes."""
    migration = Migration(vm, other, "prewired", tmp_path)
    cancel_at(migration, moment, monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert not vm.machine.paused
    assert other.machine.paused
    assert not migration.source.lost
    await_work(vm)
    check_request_log(vm)


@pytest.mark.parametrize("name", MOVES)
def test_every_strategy_can_be_cancelled_when_its_devices_have_stopped(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start again."""
    migration = Migration(vm, other, name, tmp_path)
    cancel_at(migration, "stopped", monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert not vm.machine.paused
    await_work(vm)
    check_request_log(vm)


def test_after_the_vm_was_given_away_it_is_too_late(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration completes, and the VM runs at one side only."""
    migration = Migration(vm, other, "prewired", tmp_path)
    cancel_at(migration, "RUNNING", monkeypatch)
    migration.run()
    assert not migration.source.cancel()
    assert vm.machine.paused
    assert not other.machine.paused
    await_work(other)
    check_request_log(other)


def test_a_cancel_wakes_who_waits_for_a_silent_destination(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not take the deadline for that."""
    migration = Migration(vm, other, "split", tmp_path)
    waits, goes = threading.Event(), threading.Event()
    destination = migration.destination
    assert isinstance(destination, Destination)
    prepare = destination._prepare

    def dawdle(strategy: Strategy, stream: MigrationStream) -> None:
        prepare(strategy, stream)
        waits.set()
        assert goes.wait(TIMEOUT)

    monkeypatch.setattr(destination, "_prepare", dawdle)

    def cancel() -> None:
        assert waits.wait(TIMEOUT)
        assert migration.source.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migration.run()
        except MigrationError as error:
            failures.append(error)
        ended.set()

    runner = threading.Thread(target=run)
    runner.start()
    canceller.join(TIMEOUT)
    await_work(vm)
    goes.set()
    runner.join(3 * TIMEOUT)
    assert ended.is_set()
    assert isinstance(failures[0], CancelledError)
    check_request_log(vm)
