"""Notify addresses, vectors and vCPUs of rings."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from collections import Counter

import pytest

from emu.config.vm_spec import DeviceGroup, DeviceSpec, VmSpec
from emu.errors import EmuError
from emu.machine.interrupt_routing import InterruptRouting
from emu.machine.ram import HIGH_START, LOW_BYTES

SPEC = VmSpec()


@pytest.fixture
def routing() -> InterruptRouting:
    return InterruptRouting(SPEC.devices, SPEC.vcpus)


def _rings() -> list[tuple[int, int]]:
    return [
        (index, ring) for index, device in enumerate(SPEC.devices) for ring in range(device.rings)
    ]


def test_notify_addresses_are_unique_and_map_to_their_rings(routing: InterruptRouting) -> None:
    addresses = {routing.notify_address(*where): where for where in _rings()}
    assert len(addresses) == SPEC.rings
    assert all(LOW_BYTES <= address < HIGH_START for address in addresses)
    assert all(routing.ring_at(address) == where for address, where in addresses.items())


def test_other_addresses_belong_to_no_ring(routing: InterruptRouting) -> None:
    first = routing.notify_address(0, 0)
    last = routing.notify_address(39, 3)
    assert [routing.ring_at(at) for at in (first - 4, first + 2, last + 4, last + 0x1000)] == [
        None
    ] * 4


def test_vectors_are_unique_and_map_to_their_rings(routing: InterruptRouting) -> None:
    vectors = [routing.vector(*where) for where in _rings()]
    assert sorted(vectors) == list(range(SPEC.rings)) == list(range(routing.vectors))
    assert [routing.ring_of(vector) for vector in vectors] == _rings()


def test_vcpu_0_takes_no_ring_and_the_others_share_them_evenly(routing: InterruptRouting) -> None:
    taken = Counter(routing.vcpu_of(vector) for vector in range(SPEC.rings))
    shares = [taken[vcpu] for vcpu in range(SPEC.vcpus)]
    assert shares[0] == 0
    assert sum(shares) == SPEC.rings
    assert min(shares[1:]) > 0
    assert max(shares) <= 4


def test_both_rings_of_a_pair_go_to_one_vcpu(routing: InterruptRouting) -> None:
    for device in range(16):
        for pair in range(16):
            vcpus = {routing.vcpu_of(routing.vector(device, 2 * pair + side)) for side in (0, 1)}
            assert len(vcpus) == 1


def test_a_single_vcpu_takes_all() -> None:
    routing = InterruptRouting([DeviceSpec("blk", 0, 4)], 1)
    assert [routing.vcpu_of(vector) for vector in range(4)] == [0] * 4


@pytest.mark.parametrize("where", [(-1, 0), (40, 0), (0, 32), (0, -1)])
def test_a_ring_that_does_not_exist(routing: InterruptRouting, where: tuple[int, int]) -> None:
    with pytest.raises(EmuError):
        routing.notify_address(*where)
    with pytest.raises(EmuError):
        routing.vector(*where)


def test_a_vector_that_does_not_exist(routing: InterruptRouting) -> None:
    with pytest.raises(EmuError):
        routing.vcpu_of(SPEC.rings)
    with pytest.raises(EmuError):
        routing.ring_of(-1)


def test_more_rings_than_vectors() -> None:
    spec = VmSpec(groups=(DeviceGroup("blk", 257, 256),))
    with pytest.raises(EmuError, match="65792 rings"):
        InterruptRouting(spec.devices, spec.vcpus)
