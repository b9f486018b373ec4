"""Our front-end on back-ends of other projects: real I/O, and live migrations."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.config.costs import NATIVE
from emu.config.ring_use import first_units, these_rings
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.vm.reset import reset_devices
from emu.vm.vm import Vm
from tests.emu.migration.hosts import (
    IMAGE_BYTES,
    RING_STOPPING_STRATEGIES,
    Migration,
    await_packets,
    await_requests,
    check_request_log,
    check_started,
)
from tests.emu.runs import EMU
from tests.peers.programs import Running, pmd_back_end, prefix, storage_daemon
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = pytest.mark.peer

DISKS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 2),))
#: Each disk has 4 rings, of which the guest uses two.
SOME_RINGS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 4, these_rings([1, 3])),))
NO_RINGS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 4, these_rings([])),))
#: Seconds for each answer: two polling testpmds use most of two cores.
PEER_TIMEOUT = 20.0
NIC = VmSpec(2, 256 << 20, (DeviceGroup("net", 1, 4),))
#: The guest enables one pair of two, or sets up one only: testpmd waits for the first one.
ONE_PAIR_ENABLED = VmSpec(2, 256 << 20, (DeviceGroup("net", 1, 4, first_units(1, 2)),))
ONE_PAIR = VmSpec(2, 256 << 20, (DeviceGroup("net", 1, 4, these_rings([0, 1])),))


def serve_disks(side: str, folder: Path, owned: ExitStack, spec: VmSpec) -> dict[str, str]:
    """A qemu-storage-daemon for each disk, on the same images on both sides."""
    sockets = {}
    for disk in spec.devices:
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


@pytest.mark.parametrize(
    "spec", [DISKS, SOME_RINGS, NO_RINGS], ids=["all rings", "some rings", "no ring"]
)
@pytest.mark.parametrize("strategy", RING_STOPPING_STRATEGIES)
def test_storage_daemon_to_storage_daemon(
    strategy: str, spec: VmSpec, tmp_path: Path, owned: ExitStack
) -> None:
    """By each strategy, under load; each block is read back at the end.

    QEMU 7.2's daemon answers GET_VRING_BASE while requests are in flight, and completes them into
    the memory of a VM that has migrated, where its guest never sees them. So the source waits for
    them before it stops the rings (`VhostDevice.drains`).
    """
    vm = make_vm(spec, serve_disks("a", tmp_path, owned, spec), owned)
    other = make_vm(spec, serve_disks("b", tmp_path, owned, spec), owned)
    vm.boot()
    vm.guest.start_load("heavy")
    await_requests(vm, 500)
    Migration(vm, other, strategy, tmp_path).run()
    check_started(other)
    await_requests(other, 500)
    check_request_log(other)


@pytest.mark.parametrize(
    "spec", [NIC, ONE_PAIR_ENABLED, ONE_PAIR], ids=["two pairs", "one enabled", "one set up"]
)
def test_testpmd_to_testpmd(spec: VmSpec, tmp_path: Path, owned: ExitStack) -> None:
    """Frames that the guest sends come back to it, before and after."""
    vm = make_vm(spec, serve_nic("a", tmp_path, owned), owned)
    other = make_vm(spec, serve_nic("b", tmp_path, owned), owned)
    vm.boot()
    vm.guest.start_load("heavy")
    await_packets(vm, 500)
    Migration(vm, other, "prewired", tmp_path).run()
    check_started(other)
    await_packets(other, 500)
    other.guest.quiesce(TIMEOUT)
    totals = other.guest.request_log()
    assert totals.packets_duplicated == totals.packets_corrupted == totals.corrupted == 0


@pytest.mark.parametrize("load", ["light", "heavy"])
@pytest.mark.parametrize("rings", ["1,3", "3", "none"])
def test_attach_to_a_storage_daemon_of_four_rings(
    rings: str, load: str, tmp_path: Path, owned: ExitStack
) -> None:
    """`emu attach --rings-used`: each request is completed once, on the rings in use."""
    image, path = tmp_path / "disk.img", tmp_path / "s"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    daemon = Running(storage_daemon(image, path, queues=4), tmp_path / "log")
    owned.enter_context(daemon).await_socket(path)
    options = ("--rings", "4", "--rings-used", f"blk={rings}", "--load", load, "--for", "1s")
    done = subprocess.run(
        [*EMU, "attach", "--blk", str(path), *options],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    running, counters = done.stderr.splitlines()
    assert running == f"running (soft): blk0x4 (used: {rings}) on {path}"
    assert counters.startswith("blk: 0 requests") == (rings == "none")


@pytest.mark.parametrize("spec", [DISKS, SOME_RINGS], ids=["all rings", "some rings"])
def test_resets_under_load(spec: VmSpec, tmp_path: Path, owned: ExitStack) -> None:
    """QEMU 7.2's daemon would complete requests of before a reset in the rings of after it."""
    vm = make_vm(spec, serve_disks("a", tmp_path, owned, spec), owned)
    vm.boot()
    vm.guest.start_load("heavy")
    for _ in range(10):
        await_requests(vm, 200)
        with vm.reconnect.paused():
            reset_devices(vm)
        vm.guest.resume_load()
        assert not vm.reconnect.lost
        check_started(vm)
    await_requests(vm, 200)
    check_request_log(vm)
