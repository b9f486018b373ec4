"""Handover to another process of the host: its devices run on, also after a failure."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, EmuError, MigrationError
from emu.migration.endpoint import Listener
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.hosts import (
    Host,
    Migration,
    await_disk,
    await_requests,
    check_request_log,
)
from tests.emu.migration.test_cancel import cancel_at
from tests.emu.migration.test_reset import BLK1, activate, reset
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.handover_state import VmHandoverState
    from emu.vm.vm import Vm


@pytest.fixture
def migration(vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack) -> Migration:
    """A handover that has not started yet."""
    return Migration(vm, other, "handover", tmp_path, owned=owned)


def ring_events(host: Host) -> dict[str, tuple[int, int]]:
    """How many rings each back-end has started, and stopped."""
    return {name: host.ring_events(name) for name in host.loops}


def test_no_ring_is_stopped_or_started(
    vm: Vm, migration: Migration, hosts: tuple[Host, Host]
) -> None:
    """The back-ends of both hosts keep their state, and no memory is sent."""
    before = ring_events(hosts[0]), ring_events(hosts[1])
    migration.run()
    assert (ring_events(hosts[0]), ring_events(hosts[1])) == before
    assert all(hosts[0].active(device.name) for device in vm.devices)
    precopy = migration.source.precopy_progress
    assert (precopy.rounds, precopy.bytes) == (0, 0)
    await_requests(migration.destination_vm)
    check_request_log(migration.destination_vm)


def test_requests_stay_in_flight(vm: Vm, migration: Migration) -> None:
    """Requests that the guest made at the source complete at the destination, once."""
    requests = vm.guest.request_log().requests
    migration.run()
    assert migration.source.requests_in_flight > 0
    await_requests(migration.destination_vm)
    assert migration.destination_vm.guest.request_log().requests > requests
    check_request_log(migration.destination_vm)


def test_the_memory_is_the_same(vm: Vm, migration: Migration) -> None:
    """It is not copied: the source's mapping shows what the guest writes at the destination."""
    migration.run()
    await_requests(migration.destination_vm)
    check_request_log(migration.destination_vm)
    assert vm.guest.request_log() == migration.destination_vm.guest.request_log()


def test_a_vm_is_handed_over_and_migrated_in_turn(
    vm: Vm, hosts: tuple[Host, Host], tmp_path: Path, owned: ExitStack
) -> None:
    """A VM that was handed over can be migrated by another strategy, and handed over again."""
    here = vm
    for strategy in ("handover", "handover", "prewired", "handover"):
        # A handover needs no destination with back-ends of its own.
        waiting = here
        if strategy == "prewired":
            waiting = hosts[1].vm()
            owned.callback(waiting.close)
        migration = Migration(here, waiting, strategy, tmp_path, owned=owned)
        migration.run()
        here = migration.destination_vm
        await_requests(here)
    check_request_log(here)


@pytest.mark.parametrize("moment", ["active", "PREPARED", "device", "READY"])
def test_can_be_cancelled(
    vm: Vm, migration: Migration, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM runs on, with its devices as before."""
    bases = [(ring.started, ring.base) for device in vm.devices for ring in device.rings]
    cancel_at(migration, moment, monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert not vm.machine.paused
    assert bases == [(ring.started, ring.base) for d in vm.devices for ring in d.rings]
    await_requests(vm)
    check_request_log(vm)


def test_a_handover_after_a_failed_one_completes(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination has closed the descriptors of the failed one."""
    first = Migration(vm, other, "handover", tmp_path, owned=owned)
    cancel_at(first, "READY", monkeypatch)
    with pytest.raises(CancelledError):
        first.run()
    second = Migration(vm, other, "handover", tmp_path, owned=owned)
    second.run()
    await_requests(second.destination_vm)
    check_request_log(second.destination_vm)


def test_a_destination_that_cannot_build_the_vm_sends_its_reason(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source raises the reason, and the VM runs on there."""

    def refuse(_handed_over: VmHandoverState) -> Vm:
        raise EmuError("no room for it")

    monkeypatch.setattr(migration.destination, "_build", refuse)
    with pytest.raises(MigrationError, match="no room for it"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)


def test_a_device_that_is_reset_meanwhile_is_handed_over_again(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt transfers the device's new state."""
    source = migration.source
    expect = source._await_prepared
    steps = [lambda: reset(vm, BLK1), lambda: activate(vm, BLK1)]

    def prepared(stream: MigrationStream) -> bytes:
        payload = expect(stream)
        if steps:
            steps.pop(0)()
        return payload

    monkeypatch.setattr(source, "_await_prepared", prepared)
    migration.run()
    assert not steps
    await_disk(migration.destination_vm, 1, 0)
    check_request_log(migration.destination_vm)


def test_a_handover_fails_if_the_guest_keeps_changing_its_devices(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM runs on at the source."""
    source = migration.source
    expect = source._await_prepared

    def prepared(stream: MigrationStream) -> bytes:
        payload = expect(stream)
        reset(vm, BLK1)
        activate(vm, BLK1)
        return payload

    monkeypatch.setattr(source, "_await_prepared", prepared)
    with pytest.raises(MigrationError, match="changed its devices"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)


def test_a_back_end_that_ends_in_the_blackout_is_lost_at_the_destination(
    vm: Vm, migration: Migration, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handover completes; when the back-end is reconnected its requests complete."""
    pause = vm.pause_vcpus

    def pause_and_kill(timeout: float) -> None:
        pause(timeout)
        hosts[0].kill("blk1")

    monkeypatch.setattr(vm, "pause_vcpus", pause_and_kill)
    migration.run()
    there = migration.destination_vm
    wait_until(lambda: "blk1" in there.reconnect.lost)
    await_disk(there, 0, 0)
    hosts[0].restart("blk1")
    wait_until(lambda: not there.reconnect.lost)
    await_disk(there, 1, 0)
    check_request_log(there)


def test_a_strategy_that_does_not_fit_the_destination_is_refused(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack
) -> None:
    """A handover to a VM with devices, and another strategy without; no state changes."""
    migration = Migration(vm, other, "prewired", tmp_path)
    with pytest.raises(MigrationError, match="devices of its own"):
        migration.run(strategy="handover")
    migration = Migration(vm, other, "handover", tmp_path, owned=owned)
    with pytest.raises(MigrationError, match="until they are handed over: split"):
        migration.run(strategy="split")
    await_requests(vm)
    check_request_log(vm)


def test_descriptors_do_not_go_over_tcp(vm: Vm, migration: Migration) -> None:
    """The error names what a handover needs."""
    migration.listener.close()
    migration.listener = Listener("tcp:127.0.0.1:0")
    with pytest.raises(MigrationError, match="same host"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)


def test_an_invalid_handover_section_is_refused(migration: Migration) -> None:
    """Invalid JSON, invalid contents, and missing descriptors."""
    migration.listener.close()
    for payload in (b"[]", b"{", b"[[true,true,[],null,false],{},[],3]"):
        ours, theirs = socket.socketpair()
        stream = MigrationStream(ours, timeout=TIMEOUT)
        stream.send(Kind.HELLO, json.dumps(migration._hello).encode())
        stream.send(Kind.HANDOVER, payload)
        ours.shutdown(socket.SHUT_WR)  # the descriptors are missing; WELCOME can still be sent
        with pytest.raises(MigrationError):
            migration.destination.run(MigrationStream(theirs, timeout=TIMEOUT))
        stream.close()
