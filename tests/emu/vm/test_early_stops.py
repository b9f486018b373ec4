"""`StoppedRings`: requests that a back-end has left in flight when it stopped a ring.

How a migration uses it: tests/emu/migration/test_early_stops.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.vm.reset import reset_devices
from tests.emu.early_stops import while_waiting
from tests.emu.migration.hosts import (
    await_disk,
    await_requests,
    check_request_log,
    loaded_vm,
    without_inflight,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import BackendError, Disconnected, VhostUserError
from vhost_user.virtqueue import split_sizes

if TYPE_CHECKING:
    import threading
    from contextlib import ExitStack

    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host


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
    while_waiting(busy.set, monkeypatch)
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
    while_waiting(busy.set, monkeypatch)
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


def test_a_back_end_that_dies_meanwhile_is_lost_at_once(
    busy: threading.Event, vm: Vm, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset goes on with the next device."""
    waits: list[None] = []

    def fail_once() -> None:
        if waits:
            busy.set()
        else:
            hosts[0].fail("blk0")
        waits.append(None)

    while_waiting(fail_once, monkeypatch)
    with vm.reconnect.paused():
        reset_devices(vm)
        assert len(waits) == 2
        assert list(vm.reconnect.lost) == ["blk0"]
        assert isinstance(vm.reconnect.lost["blk0"], Disconnected)
    vm.guest.resume_load()
    vm.reconnect.await_all(TIMEOUT)
    for disk in (0, 1):
        await_disk(vm, disk, 0)
    check_request_log(vm)


def test_receive_rings_are_not_awaited(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is taken without a frame is no request; one with a frame to send is."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    receive, transmit = vm.devices[0].rings[:2]
    base = receive.base
    monkeypatch.setattr(receive, "base", (base + 3) & 0xFFFF)
    assert vm.stopped_rings().await_requests(0) == []
    assert (receive.held, receive.base_elsewhere) == (3, base)
    monkeypatch.setattr(transmit, "base", (transmit.base + 3) & 0xFFFF)
    with pytest.raises(VhostUserError, match="net0: its back-end has stopped ring 1 and not"):
        vm.stopped_rings().await_requests(0.01)


def test_a_message_that_is_not_due_ends_the_wait(
    busy: threading.Event, vm: Vm, hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does while a reply is awaited."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    stopped = vm.stopped_rings()
    vm.stop_devices()
    while_waiting(lambda: hosts[0].send_stray("blk1"), monkeypatch)
    with pytest.raises(BackendError, match="blk1"):
        stopped.await_requests(TIMEOUT)
    assert vm.devices[2].connection.broken
    busy.set()
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    vm.reconnect.await_all(TIMEOUT)
    await_disk(vm, 1, 0)
    check_request_log(vm)


def test_a_back_end_that_dies_before_the_stop_is_named_at_once(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests are awaited before the stop, as no inflight region records them."""
    without_inflight(monkeypatch)
    vm = loaded_vm(hosts[0], owned, "heavy")
    release = hosts[0].hold_requests()
    owned.callback(release.set)
    wait_until(lambda: hosts[0].requests_taken("blk0"))
    with vm.reconnect.paused():
        vm.pause_vcpus()
        while_waiting(lambda: hosts[0].fail("blk0"), monkeypatch)
        with pytest.raises(Disconnected, match="blk0"):
            vm.drain_requests(TIMEOUT)
        release.set()
        vm.recover_devices()
        vm.resume_vcpus()
    vm.reconnect.await_all(TIMEOUT)
    await_disk(vm, 0, 0)
    check_request_log(vm)


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


@pytest.mark.parametrize("accel", ["soft", "kvm"], indirect=True)
def test_what_is_completed_while_the_vm_stands_still_is_handled_after_cont(
    busy: threading.Event, vm: Vm
) -> None:
    """The back-ends call the guest while its vCPUs are paused, and the irqfds are assigned."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    stopped = vm.stopped_rings()
    vm.stop_devices()
    busy.set()
    stopped.await_requests(TIMEOUT)
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    await_requests(vm)
    check_request_log(vm)
