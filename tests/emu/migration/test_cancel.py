"""migrate_cancel at any moment: the VM runs on at the source, or it is too late."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, MigrationError
from emu.migration.destination import Destination
from emu.migration.stream import Kind, MigrationStream
from tests import slow
from tests.emu.migration.hosts import (
    QUICK,
    RING_STOPPING_STRATEGIES,
    Migration,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.strategies.base import Strategy
    from emu.strategies.task import Stage, Task
    from emu.vm.vm import Vm


def cancel_at(migration: Migration, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel the migration at that moment, from the source's own thread."""
    source = migration.source
    observe, strategy = source._observe, source.strategy
    stop, receive = strategy.stop, source._receive_expected

    def watch(name: str, data: dict[str, object]) -> None:
        observe(name, data)
        reached = name if name == "MIGRATION_PASS" else data.get("status", "")
        if reached == moment:
            assert source.cancel()

    def stop_and_cancel(tasks: Sequence[Task], stage: Stage) -> None:
        stop(tasks, stage)
        assert source.cancel()

    def expect(stream: MigrationStream, kind: Kind) -> bytes:
        payload = receive(stream, kind)
        if kind.name == moment:
            assert source.cancel() is (kind is not Kind.RUNNING)
        return payload

    monkeypatch.setattr(source, "_observe", watch)
    monkeypatch.setattr(source, "_receive_expected", expect)
    if moment == "stopped":
        monkeypatch.setattr(strategy, "stop", stop_and_cancel)


@pytest.mark.parametrize(
    "moment",
    slow.all_but(
        {"active", "stopped", "READY"},
        ["active", "MIGRATION_PASS", "PREPARED", "device", "stopped", "READY"],
    ),
)
def test_the_vm_runs_on_at_the_source(
    vm: Vm, other: Vm, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment of the migration; no request is lost."""
    migration = Migration(vm, other, "prewired", tmp_path)
    cancel_at(migration, moment, monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert not vm.machine.paused
    assert other.machine.paused
    assert not migration.source.lost
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("name", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
def test_every_strategy_can_be_cancelled_after_its_devices_have_stopped(
    vm: Vm, other: Vm, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The devices start again."""
    migration = Migration(vm, other, name, tmp_path)
    cancel_at(migration, "stopped", monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert not vm.machine.paused
    await_requests(vm)
    check_request_log(vm)


def test_a_cancel_after_go_is_too_late(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration completes, and the VM runs at the destination only."""
    migration = Migration(vm, other, "prewired", tmp_path)
    cancel_at(migration, "RUNNING", monkeypatch)
    migration.run()
    assert not migration.source.cancel()
    assert vm.machine.paused
    assert not other.machine.paused
    await_requests(other)
    check_request_log(other)


def test_a_cancel_ends_the_wait_for_a_silent_destination(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not take the whole timeout."""
    migration = Migration(vm, other, "split", tmp_path)
    prepared, proceed = threading.Event(), threading.Event()
    destination = migration.destination
    assert isinstance(destination, Destination)
    prepare = destination._prepare

    def prepare_and_wait(strategy: Strategy, stream: MigrationStream) -> None:
        prepare(strategy, stream)
        prepared.set()
        assert proceed.wait(TIMEOUT)

    monkeypatch.setattr(destination, "_prepare", prepare_and_wait)

    def cancel() -> None:
        assert prepared.wait(TIMEOUT)
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
    await_requests(vm)
    proceed.set()
    runner.join(3 * TIMEOUT)
    assert ended.is_set()
    assert isinstance(failures[0], CancelledError)
    check_request_log(vm)
