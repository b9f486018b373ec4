"""Limits and capabilities of KVM on this host."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import pytest

from backends.pacing import Pacer
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError
from emu.machine.accel import kvm_limits, registry
from emu.machine.accel.kvm_limits import BUS_ROOM
from emu.machine.machine import Machine
from tests.emu.machine.accel.conftest import (
    VCPUS,
    KvmBench,
    make,
)


def test_a_machine_with_more_rings_than_ioeventfds() -> None:
    make("kvm").close()
    spec = VmSpec(4, 1 << 30, (DeviceGroup("blk", 32, 64),))
    with pytest.raises(EmuError, match=r"with 4 vCPUs kvm has 1980 ioeventfds: .*--accel soft"):
        Machine(spec, pacer=Pacer(), accel="kvm")


def test_a_capability_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make("kvm").close()
    monkeypatch.setitem(kvm_limits._NEEDED, 1 << 20, "an unknown capability")
    with pytest.raises(EmuError, match=r"lacks an unknown capability: use --accel soft"):
        registry.create("kvm", lambda *_: None)


def test_each_vcpu_takes_the_room_of_an_ioeventfd() -> None:
    """On the port bus; the text of a full machine has the number."""
    assert kvm_limits.max_ioeventfds(1) - kvm_limits.max_ioeventfds(225) == 224
    assert f"makes {kvm_limits.max_ioeventfds(8)} ioeventfds" in kvm_limits.no_room(8)


def test_the_limits_are_those_of_the_host() -> None:
    """A machine with these limits can be created."""
    bench = KvmBench()
    limits = kvm_limits.limits(VCPUS)
    assert limits == bench.accel.find_limits(VCPUS)
    assert limits.max_vcpus >= VCPUS
    assert limits.max_routes > BUS_ROOM
    bench.close()
