"""Back-ends that reply to GET_VRING_BASE with requests in flight.

These offer INFLIGHT_SHMFD, so their requests are not awaited before the rings stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.vm.early_stops import StoppedRings
from tests import slow
from tests.emu.early_stops import released_by_waiting
from tests.emu.migration.hosts import (
    RING_STOPPING_STRATEGIES,
    Migration,
    await_requests,
    check_request_log,
)
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    import threading
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.mark.parametrize(
    "strategy", slow.all_but({"qemu-2021", "prewired"}, RING_STOPPING_STRATEGIES)
)
def test_a_migration_awaits_the_requests_of_rings_that_stopped_early(
    busy: threading.Event,
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the stop and before the last memory is sent: the destination's guest sees them."""
    assert not vm.drains
    released_by_waiting(busy, monkeypatch)
    migration = Migration(vm, other, strategy, tmp_path)
    migration.run()
    assert busy.is_set()
    spans = migration.source.timeline.spans
    assert [span.in_blackout for span in spans if span.phase is Phase.DRAIN_REQUESTS] == [True]
    await_requests(other)
    check_request_log(other)


@pytest.mark.parametrize("early", ["completes", "suspends"], indirect=True)
@pytest.mark.parametrize("strategy", slow.all_but({"prewired"}, RING_STOPPING_STRATEGIES))
def test_a_migration_fails_whose_rings_do_not_complete_their_requests(
    busy: threading.Event,
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is rolled back on the same connections: the inflight region records the requests."""
    wait = StoppedRings._wait
    monkeypatch.setattr(StoppedRings, "_wait", staticmethod(lambda early, _: wait(early, 0.1)))
    connections = [device.connection for device in vm.devices]
    migration = Migration(vm, other, strategy, tmp_path)
    with pytest.raises(VhostUserError, match=r"blk0: its back-end has stopped ring \d"):
        migration.run()
    assert not busy.is_set()
    assert [device.connection for device in vm.devices] == connections
    busy.set()
    await_requests(vm)
    check_request_log(vm)


def test_a_handover_needs_no_completions(
    busy: threading.Event, vm: Vm, other: Vm, tmp_path: Path, owned: ExitStack
) -> None:
    """Its rings run on, and the requests complete in the new process's VM."""
    migration = Migration(vm, other, "handover", tmp_path, owned=owned)
    migration.run()
    assert not busy.is_set()
    busy.set()
    await_requests(migration.destination_vm)
    check_request_log(migration.destination_vm)


def test_a_vm_that_was_stopped_migrates_when_its_requests_are_completed(
    busy: threading.Event, vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before pre-copy: the dirty log does not cover rings that do not run."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    released_by_waiting(busy, monkeypatch)
    migration = Migration(vm, other, "split", tmp_path)
    migration.run()
    assert busy.is_set()
    other.recover_devices()
    other.resume_vcpus()
    await_requests(other)
    check_request_log(other)
