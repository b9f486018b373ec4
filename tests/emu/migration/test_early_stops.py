"""Back-ends that reply to GET_VRING_BASE with requests in flight, and complete those later.

The specification forbids that (vhost-user, GET_VRING_BASE, since e7985b6a56). These back-ends offer
INFLIGHT_SHMFD, so their requests are not awaited before the rings stop (`VhostDevice.drains`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backends.stops import Stops
from devices.procedure import Phase
from emu.vm.reset import reset_devices
from tests import slow
from tests.emu.migration.hosts import (
    RING_STOPPING_STRATEGIES,
    Host,
    Migration,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import VhostUserError
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from devices.device import VhostDevice
    from devices.vring import Vring
    from emu.vm.vm import Vm
    from vhost_user.messages import Request

#: Looks at the used indices after which the requests may complete: the first one finds them.
LOOKS = 3


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The back-ends reply to GET_VRING_BASE at once; a ring is given up when it is idle."""

    def reply(self: Stops, request: Request) -> bool:
        assert isinstance(request.payload, VringState)
        ring = self._device.rings[request.payload.ring]
        ring.begin_stop()
        base = ring.queue.last_avail if ring.queue and ring.in_flight else ring.stop()
        self._connection.reply(request, VringState(ring.index, base))
        return True

    def give_up(self: Stops) -> None:
        for ring in self._device.rings:
            if ring.stopping and not ring.in_flight:
                ring.stop()

    monkeypatch.setattr(Stops, "_get_vring_base", reply)
    monkeypatch.setattr(Stops, "ring_idle", give_up)


@pytest.fixture
def busy(early: None, vm: Vm, hosts: tuple[Host, Host], owned: ExitStack) -> threading.Event:
    """Both disks have taken requests, which they complete when the event is set."""
    release = hosts[0].hold_requests()
    owned.callback(release.set)
    for disk in ("blk0", "blk1"):
        wait_until(lambda disk=disk: hosts[0].requests_taken(disk))  # type: ignore[misc]
    return release


def released_by_waiting(vm: Vm, release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests complete when the VM has looked for them `LOOKS` times."""
    look: Callable[[VhostDevice], list[Vring]] = vm._stopped_early
    found: list[Vring] = []

    def count(device: VhostDevice) -> list[Vring]:
        rings = look(device)
        found.extend(rings)
        if len(found) >= LOOKS:
            release.set()
        return rings

    monkeypatch.setattr(vm, "_stopped_early", count)


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
    released_by_waiting(vm, busy, monkeypatch)
    migration = Migration(vm, other, strategy, tmp_path)
    migration.run()
    assert busy.is_set()
    spans = migration.source.timeline.spans
    assert [span.in_blackout for span in spans if span.phase is Phase.DRAIN_REQUESTS] == [True]
    await_requests(other)
    check_request_log(other)


def test_a_migration_fails_whose_rings_do_not_complete_their_requests(
    busy: threading.Event, vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rolled back, and the inflight region records the requests for the back-end."""
    migration = Migration(vm, other, "split", tmp_path)
    wait = vm.await_stopped_rings
    monkeypatch.setattr(vm, "await_stopped_rings", lambda _, **options: wait(0.1, **options))
    try:
        with pytest.raises(VhostUserError, match=r"blk0: its back-end has stopped ring \d"):
            migration.run()
    finally:
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
    released_by_waiting(vm, busy, monkeypatch)
    migration = Migration(vm, other, "split", tmp_path)
    migration.run()
    assert busy.is_set()
    other.recover_devices()
    other.resume_vcpus()
    await_requests(other)
    check_request_log(other)


def test_a_reset_awaits_the_requests_of_rings_that_stopped_early(
    busy: threading.Event, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the back-end would complete them in the rings as set up again."""
    released_by_waiting(vm, busy, monkeypatch)
    with vm.reconnect.paused():
        reset_devices(vm)
        assert not vm.reconnect.lost
    assert busy.is_set()
    vm.guest.resume_load()
    await_requests(vm)
    check_request_log(vm)


def test_a_base_before_a_completed_request_is_refused(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination would complete the request once more."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    assert vm.await_stopped_rings(0) == []
    ring = vm.devices[1].rings[0]
    monkeypatch.setattr(ring, "base", (ring.base - 1) & 0xFFFF)
    with pytest.raises(VhostUserError, match=r"blk0: .* as the base of ring 0, and completed"):
        vm.await_stopped_rings(TIMEOUT)
