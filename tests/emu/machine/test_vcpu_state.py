"""vCPU states as bytes."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.machine.vcpu_state import (
    IDLE,
    VcpuState,
    VcpuStateError,
    pack,
    unpack,
)

_states = st.builds(
    VcpuState,
    st.booleans(),
    st.lists(st.integers(0, 0xFFFF), max_size=6).map(tuple),
    st.none() | st.integers(0, 4_000_000_000).map(lambda us: us * 1000),
    st.binary(max_size=40),
)


@given(st.lists(_states, max_size=8))
def test_round_trip(states: list[VcpuState]) -> None:
    assert unpack(pack(states), len(states)) == states


@given(st.binary(max_size=60), st.integers(0, 4))
def test_random_bytes_are_an_error_or_states(data: bytes, count: int) -> None:
    try:
        states = unpack(data, count)
    except VcpuStateError:
        return
    assert len(states) == count


def test_a_timer_is_never_early() -> None:
    (state,) = unpack(pack([VcpuState(timer_ns=1_000_001)]), 1)
    assert state.timer_ns == 1_001_000


def test_224_vcpus_with_interrupts_pending_fit_in_4_kib() -> None:
    states = [VcpuState(halted=False, pending=(1, 2, 3))] * 224
    assert len(pack(states)) < 4096


def test_trailing_bytes_are_an_error() -> None:
    with pytest.raises(VcpuStateError, match="1 bytes follow"):
        unpack(pack([IDLE]) + b"\0", 1)


def test_the_error_of_a_truncated_state_names_the_vcpu() -> None:
    with pytest.raises(VcpuStateError, match="vcpu1 of 2"):
        unpack(pack([IDLE, VcpuState(raw=b"registers")])[:-1], 2)
