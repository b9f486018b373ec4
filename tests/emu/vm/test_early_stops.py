"""`StoppedRings`: requests that a back-end has left in flight when it stopped a ring.

How a migration uses it: tests/emu/migration/test_early_stops.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.vm.reset import reset_devices
from tests.emu.early_stops import released_by_waiting
from tests.emu.migration.hosts import await_requests, check_request_log
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError
from vhost_user.virtqueue import split_sizes

if TYPE_CHECKING:
    import threading

    from emu.vm.vm import Vm


def test_the_used_rings_that_changed_meanwhile_are_returned(
    busy: threading.Event, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A back-end may log its last write after this side has seen it."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    stopped = vm.stopped_rings()
    early = [each for each in stopped._rings if each.is_early()]
    assert {each.device.name for each in early} == {"blk0", "blk1"}
    released_by_waiting(busy, monkeypatch)
    runs = stopped.await_requests(TIMEOUT)
    assert not any(each.is_early() for each in early)
    for each in early:
        first, end = each.where.used, each.where.used + split_sizes(each.where.size).used
        assert any(gpa <= first and end <= gpa + length for gpa, length in runs)
    assert stopped.await_requests(0) == []


def test_a_base_before_a_completed_request_is_refused(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination would complete the request once more."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    assert vm.stopped_rings().await_requests(0) == []
    ring = vm.devices[1].rings[0]
    monkeypatch.setattr(ring, "base", (ring.base - 1) & 0xFFFF)
    with pytest.raises(VhostUserError, match=r"blk0: .* as the base of ring 0, and has completed"):
        vm.stopped_rings().await_requests(TIMEOUT)


def test_a_reset_awaits_them(
    busy: threading.Event, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the back-end would complete them in the rings as set up again."""
    released_by_waiting(busy, monkeypatch)
    with vm.reconnect.paused():
        reset_devices(vm)
        assert not vm.reconnect.lost
    assert busy.is_set()
    vm.guest.resume_load()
    await_requests(vm)
    check_request_log(vm)


def test_a_device_that_does_not_complete_them_is_lost_at_a_reset(
    busy: threading.Event, vm: Vm
) -> None:
    """After the time-out; the others are reset."""
    vm.timeout = 0.2
    with vm.reconnect.paused():
        reset_devices(vm)
        assert not busy.is_set()
        assert list(vm.reconnect.lost) == ["blk0", "blk1"]
        assert "not completed the requests before its base" in str(vm.reconnect.lost["blk0"])
        assert all(ring.started for ring in vm.devices[0].rings)


@pytest.mark.parametrize("early", ["completes", "suspends"], indirect=True)
def test_cont_needs_no_completions(busy: threading.Event, vm: Vm) -> None:
    """On the same host the back-end has the inflight region, and goes on."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    assert not busy.is_set()
    assert not vm.reconnect.lost
    busy.set()
    await_requests(vm)
    check_request_log(vm)
