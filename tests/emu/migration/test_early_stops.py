"""Back-ends that reply to GET_VRING_BASE with requests in flight.

These offer INFLIGHT_SHMFD, so their requests are not awaited before the rings stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.guest.layout import RX_BUFFERS
from tests import slow
from tests.emu.early_stops import take_receive_buffers, while_waiting
from tests.emu.migration.hosts import (
    RING_STOPPING_STRATEGIES,
    Host,
    Migration,
    await_disk,
    await_packets,
    await_requests,
    check_request_log,
    without_inflight,
)
from tests.timeouts import TIMEOUT
from vhost_user.errors import Disconnected, VhostUserError

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
    while_waiting(busy.set, monkeypatch)
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
    while_waiting(list, monkeypatch, timeout=0.1)
    connections = [device.connection for device in vm.devices]
    migration = Migration(vm, other, strategy, tmp_path)
    with pytest.raises(VhostUserError, match=r"blk0: its back-end has stopped ring \d"):
        migration.run()
    assert not busy.is_set()
    assert [device.connection for device in vm.devices] == connections
    busy.set()
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("region", ["with a region", "without one"])
@pytest.mark.parametrize("strategy", slow.all_but({"prewired"}, RING_STOPPING_STRATEGIES))
def test_a_back_end_that_dies_meanwhile_fails_the_migration_at_once(
    request: pytest.FixtureRequest,
    hosts: tuple[Host, Host],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    region: str,
) -> None:
    """Whether the source waits before its rings stop or after it; the VM runs on at the source."""
    if region == "without one":
        without_inflight(monkeypatch)
    busy: threading.Event = request.getfixturevalue("busy")
    vm: Vm = request.getfixturevalue("vm")
    while_waiting(lambda: hosts[0].fail("blk1"), monkeypatch)
    migration = Migration(vm, request.getfixturevalue("other"), strategy, tmp_path)
    with pytest.raises(Disconnected, match="blk1"):
        migration.run()
    busy.set()
    assert not vm.machine.paused
    vm.reconnect.await_all(TIMEOUT)
    for disk in (0, 1):
        await_disk(vm, disk, 0)
    check_request_log(vm)


@pytest.mark.parametrize(
    "strategy", slow.all_but({"qemu-2021", "prewired"}, RING_STOPPING_STRATEGIES)
)
def test_receive_buffers_that_a_back_end_holds_are_not_lost(
    request: pytest.FixtureRequest, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken all of them ahead of the frames, and its base is behind them.

    The destination takes them again.
    """
    take_receive_buffers(monkeypatch)
    vm: Vm = request.getfixturevalue("vm")
    other: Vm = request.getfixturevalue("other")
    migration = Migration(vm, other, strategy, tmp_path)
    migration.run()
    receive = [ring for ring in vm.devices[0].rings if not ring.index % 2]
    assert any(ring.held for ring in receive)
    assert not any(ring.held for device in other.devices for ring in device.rings)
    spans = migration.source.timeline.spans
    assert Phase.DRAIN_REQUESTS not in {span.phase for span in spans}
    await_packets(other, 4 * RX_BUFFERS * len(receive))
    check_request_log(other)


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
    while_waiting(busy.set, monkeypatch)
    migration = Migration(vm, other, "split", tmp_path)
    migration.run()
    assert busy.is_set()
    other.recover_devices()
    other.resume_vcpus()
    await_requests(other)
    check_request_log(other)
