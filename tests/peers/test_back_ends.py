"""Our front-end on back-ends of other projects: real I/O, and live migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.costs import NATIVE
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.vm.vm import Vm
from tests.emu.migration.hosts import (
    IMAGE_BYTES,
    RING_STOPPING_STRATEGIES,
    Migration,
    await_requests,
    check_request_log,
)
from tests.peers.programs import Running, pmd_back_end, prefix, storage_daemon
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = pytest.mark.peer

DISKS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 2),))
#: Seconds for each answer: two polling testpmds use most of two cores.
PEER_TIMEOUT = 20.0
NIC = VmSpec(2, 256 << 20, (DeviceGroup("net", 1, 4),))


def serve_disks(side: str, folder: Path, owned: ExitStack) -> dict[str, str]:
    """A qemu-storage-daemon for each disk, on the same images on both sides."""
    sockets = {}
    for disk in DISKS.devices:
        image = folder / f"{disk.name}.img"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(IMAGE_BYTES)
        path = folder / f"{side}-{disk.name}.sock"
        argv = storage_daemon(image, path, queues=disk.rings)
        running = owned.enter_context(Running(argv, folder / f"{side}-{disk.name}.log"))
        running.await_socket(path)
        sockets[disk.name] = str(path)
    return sockets


def serve_nic(side: str, folder: Path, owned: ExitStack) -> dict[str, str]:
    """A dpdk-testpmd that sends frames back."""
    path = folder / f"{side}-net0.sock"
    argv = pmd_back_end(path, queues=2, prefix=f"{prefix(folder)}-{side}")
    owned.enter_context(Running(argv, folder / f"{side}.log")).await_socket(path)
    return {"net0": str(path)}


def make_vm(spec: VmSpec, backends: dict[str, str], owned: ExitStack) -> Vm:
    """A VM on these back-ends."""
    vm = Vm(spec, accel="soft", costs=NATIVE, backends=backends, timeout=PEER_TIMEOUT)
    owned.callback(vm.close)
    return vm


@pytest.mark.parametrize("strategy", RING_STOPPING_STRATEGIES)
def test_storage_daemon_to_storage_daemon(strategy: str, tmp_path: Path, owned: ExitStack) -> None:
    """By each strategy, under load; each block is read back at the end.

    QEMU 7.2's daemon answers GET_VRING_BASE while requests are in flight, and completes them into
    the memory of a VM that has migrated, where its guest never sees them. So the source waits for
    them before it stops the rings (`VhostDevice.drains`).
    """
    vm = make_vm(DISKS, serve_disks("a", tmp_path, owned), owned)
    other = make_vm(DISKS, serve_disks("b", tmp_path, owned), owned)
    vm.boot()
    vm.guest.start_load("heavy")
    await_requests(vm, 500)
    Migration(vm, other, strategy, tmp_path).run()
    await_requests(other, 500)
    check_request_log(other)


def test_testpmd_to_testpmd(tmp_path: Path, owned: ExitStack) -> None:
    """Frames that the guest sends come back to it, before and after."""
    vm = make_vm(NIC, serve_nic("a", tmp_path, owned), owned)
    other = make_vm(NIC, serve_nic("b", tmp_path, owned), owned)
    vm.boot()
    vm.guest.start_load("heavy")
    await_packets(vm, 500)
    Migration(vm, other, "prewired", tmp_path).run()
    await_packets(other, 500)
    other.guest.quiesce(TIMEOUT)
    totals = other.guest.request_log()
    assert totals.packets_duplicated == totals.packets_corrupted == totals.corrupted == 0


def await_packets(vm: Vm, count: int) -> None:
    """Return when the guest has received that many more packets."""
    enough = vm.guest.request_log().packets_received + count
    wait_until(lambda: vm.guest.request_log().packets_received >= enough)
