"""Devices that stop to complete requests, with real back-ends in the test's process."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backends.blk_device import BlkDevice
from backends.net_device import NetDevice
from emu.orchestrator import stalls
from emu.orchestrator.stalls import StallDetector
from tests.waiting import wait_until

if TYPE_CHECKING:
    from backends.ring import Ring
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host
    from vhost_user.virtqueue import DeviceQueue


def silence(monkeypatch: pytest.MonkeyPatch, device: str) -> threading.Event:
    """Have the back-end of one device take no request while the event is not set."""
    serve = threading.Event()
    kind = BlkDevice if device.startswith("blk") else NetDevice
    original = kind.process

    def process(backend: BlkDevice | NetDevice, ring: Ring, queue: DeviceQueue) -> bool:
        if backend.name == device and not serve.is_set():
            return False
        return original(backend, ring, queue)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "process", process)
    return serve


@pytest.mark.parametrize("device", ["blk1", "net0"])
def test_a_back_end_that_never_completes_anything_is_named(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    silence(monkeypatch, device)
    vm = hosts[0].vm()
    try:
        vm.boot()
        detector = StallDetector(vm)
        vm.guest.start_load("light")
        index = [spec.name for spec in vm.spec.devices].index(device)
        wait_until(
            lambda: all(
                progress.outstanding if number == index else progress.completed
                for number, progress in enumerate(vm.guest.progress())
            )
        )
        assert detector.describe().startswith(f"{device}: none of ")
        assert ";" not in detector.describe()
    finally:
        vm.close()


def test_a_back_end_that_completes_nothing_for_a_while_is_named(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it goes on; a paused VM does not count."""
    detector = StallDetector(vm)
    assert detector.describe() == ""
    serve = silence(monkeypatch, "blk0")
    detector.look()
    assert detector.describe() == ""
    monkeypatch.setattr(stalls, "STALL", 0.0)

    def named() -> bool:
        """Once what the back-end had taken before is completed."""
        detector.look()
        return "blk0: no request is completed for " in detector.describe()

    wait_until(named)
    vm.reconnect.pause()
    vm.pause_vcpus()
    detector.look()
    monkeypatch.undo()
    assert detector.describe() == ""
    serve.set()
    vm.resume_vcpus()
    vm.reconnect.resume()
