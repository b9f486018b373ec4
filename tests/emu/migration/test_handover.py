"""A VM changes hands within a host: its devices run on, and no failure costs any of them."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, EmuError, MigrationError
from emu.migration.endpoint import Listener
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.sites import (
    Migration,
    Site,
    await_disk,
    await_work,
    check_request_log,
    wait_until,
)
from tests.emu.migration.test_cancel import cancel_at
from tests.emu.migration.test_reset import BLK1, activate, reset
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.handover_state import VmHandoverState
    from emu.vm.vm import Vm


@pytest.fixture
def migration(vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack) -> Migration:
    """A handover that has not begun."""
    return Migration(vm, other, "handover", tmp_path, owned=owned)


def ring_events(site: Site) -> dict[str, tuple[int, int]]:
    """The starts and stops of rings that each back-end has made."""
    return {name: site.ring_events(name) for name in site.loops}


def test_the_back_ends_hear_nothing_of_it(
    vm: Vm, migration: Migration, sites: tuple[Site, Site]
) -> None:
    """Nothing is stopped, or started, on either side, and no memory is sent."""
    before = ring_events(sites[0]), ring_events(sites[1])
    migration.run()
    assert (ring_events(sites[0]), ring_events(sites[1])) == before
    assert all(sites[0].active(device.name) for device in vm.devices)
    precopy = migration.source.precopy
    assert (precopy.rounds, precopy.bytes) == (0, 0)
    await_work(migration.there)
    check_request_log(migration.there)


def test_what_is_in_flight_stays_so(vm: Vm, migration: Migration) -> None:
    """Requests that were made over here complete over there, once."""
    made = vm.guest.request_log().requests
    migration.run()
    assert migration.source.requests_in_flight > 0
    await_work(migration.there)
    assert migration.there.guest.request_log().requests > made
    check_request_log(migration.there)


def test_the_memory_is_the_same(vm: Vm, migration: Migration) -> None:
    """Not a copy: what the source still maps is what the guest writes."""
    migration.run()
    await_work(migration.there)
    check_request_log(migration.there)
    assert vm.guest.request_log() == migration.there.guest.request_log()


def test_there_and_back_and_on(
    vm: Vm, sites: tuple[Site, Site], tmp_path: Path, owned: ExitStack
) -> None:
    """What was handed over can be migrated by any strategy, and handed over again."""
    here = vm
    for strategy in ("handover", "handover", "prewired", "handover"):
        # A handover needs no destination with back-ends of its own.
        waiting = here
        if strategy == "prewired":
            waiting = sites[1].vm()
            owned.callback(waiting.close)
        migration = Migration(here, waiting, strategy, tmp_path, owned=owned)
        migration.run()
        here = migration.there
        await_work(here)
    check_request_log(here)


@pytest.mark.parametrize("moment", ["active", "PREPARED", "device", "READY"])
def test_can_be_cancelled(
    vm: Vm, migration: Migration, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM runs on, its devices as they were."""
    bases = [(ring.started, ring.base) for device in vm.devices for ring in device.rings]
    cancel_at(migration, moment, monkeypatch)
    with pytest.raises(CancelledError):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert not vm.machine.paused
    assert bases == [(ring.started, ring.base) for d in vm.devices for ring in d.rings]
    await_work(vm)
    check_request_log(vm)


def test_after_a_failure_the_next_one_goes(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed over in vain has been let go of."""
    first = Migration(vm, other, "handover", tmp_path, owned=owned)
    cancel_at(first, "READY", monkeypatch)
    with pytest.raises(CancelledError):
        first.run()
    second = Migration(vm, other, "handover", tmp_path, owned=owned)
    second.run()
    await_work(second.there)
    check_request_log(second.there)


def test_the_destination_cannot_build_it(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is the source's, which runs on."""

    def refuse(_handed_over: VmHandoverState) -> Vm:
        raise EmuError("no room for it")

    monkeypatch.setattr(migration.destination, "_build", refuse)
    with pytest.raises(MigrationError, match="no room for it"):
        migration.run()
    await_work(vm)
    check_request_log(vm)


def test_a_device_that_is_reset_meanwhile_is_handed_over_anew(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the guest leaves its devices alone, with what they are then."""
    source = migration.source
    expect = source._await_prepared
    steps = [lambda: reset(vm, BLK1), lambda: activate(vm, BLK1)]

    def prepared(stream: MigrationStream) -> bytes:
        got = expect(stream)
        if steps:
            steps.pop(0)()
        return got

    monkeypatch.setattr(source, "_await_prepared", prepared)
    migration.run()
    assert not steps
    await_disk(migration.there, 1, 0)
    check_request_log(migration.there)


def test_a_guest_that_never_rests_is_given_up(
    vm: Vm, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on here."""
    source = migration.source
    expect = source._await_prepared

    def prepared(stream: MigrationStream) -> bytes:
        got = expect(stream)
        reset(vm, BLK1)
        activate(vm, BLK1)
        return got

    monkeypatch.setattr(source, "_await_prepared", prepared)
    with pytest.raises(MigrationError, match="changed its devices"):
        migration.run()
    await_work(vm)
    check_request_log(vm)


def test_a_back_end_that_dies_in_the_blackout_is_missed_over_there(
    vm: Vm, migration: Migration, sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This side is not concerned any more; when it is reconnected its requests complete."""
    pause = vm.pause_vcpus

    def pause_and_kill(deadline: float) -> None:
        pause(deadline)
        sites[0].kill("blk1")

    monkeypatch.setattr(vm, "pause_vcpus", pause_and_kill)
    migration.run()
    there = migration.there
    wait_until(lambda: "blk1" in there.reconnect.lost)
    await_disk(there, 0, 0)
    sites[0].revive("blk1")
    wait_until(lambda: not there.reconnect.lost)
    await_disk(there, 1, 0)
    check_request_log(there)


def test_a_side_with_devices_of_its_own_is_none_to_hand_over_to(
    vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack
) -> None:
    """Both ways round it is refused by name, before anything is touched."""
    migration = Migration(vm, other, "prewired", tmp_path)
    with pytest.raises(MigrationError, match="devices of its own"):
        migration.run(strategy="handover")
    migration = Migration(vm, other, "handover", tmp_path, owned=owned)
    with pytest.raises(MigrationError, match="until they are handed over: split"):
        migration.run(strategy="split")
    await_work(vm)
    check_request_log(vm)


def test_descriptors_do_not_go_over_tcp(vm: Vm, migration: Migration) -> None:
    """It says what handover needs."""
    migration.listener.close()
    migration.listener = Listener("tcp:127.0.0.1:0")
    with pytest.raises(MigrationError, match="same host"):
        migration.run()
    await_work(vm)
    check_request_log(vm)


def test_nonsense_is_refused(migration: Migration) -> None:
    """A section that is no handed_over, and one whose descriptors do not come."""
    migration.listener.close()
    for payload in (b"[]", b"{", b"[[true,true,[],null,false],{},[],3]"):
        ours, theirs = socket.socketpair()
        stream = MigrationStream(ours, timeout=TIMEOUT)
        stream.send(Kind.HELLO, json.dumps(migration._hello).encode())
        stream.send(Kind.HANDOVER, payload)
        ours.shutdown(socket.SHUT_WR)  # nothing more comes, and WELCOME is taken
        with pytest.raises(MigrationError):
            migration.destination.run(MigrationStream(theirs, timeout=TIMEOUT))
        stream.close()
