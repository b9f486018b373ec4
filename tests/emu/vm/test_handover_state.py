"""The state that one process transfers to another: order and closing of its descriptors."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_each_device_has_its_own_descriptors_in_order(vm: Vm) -> None:
    state = vm.handover_state()
    found = list(state.by_device())
    assert [known.name for known, _ in found] == [device.name for device in vm.devices]
    assert [len(fds) for _, fds in found] == [known.descriptors for known, _ in found]
    assert tuple(fd for _, fds in found for fd in fds) == state.descriptors
    for device, (_, fds) in zip(vm.devices, found, strict=True):
        assert {fd for ring in device.rings for fd in (ring.kick_fd, ring.call_fd)} <= set(fds)


@pytest.mark.parametrize("fails", [False, True])
def test_received_descriptors_are_closed_at_the_end(vm: Vm, *, fails: bool) -> None:
    state = vm.handover_state()
    received = state._replace(
        memory=tuple(map(os.dup, state.memory)),
        descriptors=tuple(map(os.dup, state.descriptors)),
    )
    try:
        with received:
            assert all(map(is_open, (*received.memory, *received.descriptors)))
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert not any(map(is_open, (*received.memory, *received.descriptors)))
    assert all(map(is_open, (*state.memory, *state.descriptors)))
