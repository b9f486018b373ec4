"""The state of a paused vCPU, as sent by a migration."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: flags, number of pending vectors, time to the timer in microseconds.
_HEADER = struct.Struct("<HHI")
_RAW_LENGTH = struct.Struct("<I")
_HALTED = 1
_RAW = 2
_NO_TIMER = 0xFFFF_FFFF
_NS_PER_US = 1000


class VcpuStateError(EmuError):
    """The data is not a state of these vCPUs."""


class VcpuState(NamedTuple):
    """The state of a paused vCPU.

    Attributes:
        halted: it waits for an interrupt; otherwise a pause interrupted its guest code, and it
            runs first after a resume.
        pending: interrupt vectors that were read from their eventfds and are not handled yet.
        timer_ns: nanoseconds until its timer is due, 0 if it is due; None for no timer. It is a
            duration, as two hosts have different clocks.
        raw: registers and local APIC, for an accelerator that runs machine code.
    """

    halted: bool = True
    pending: tuple[int, ...] = ()
    timer_ns: int | None = None
    raw: bytes = b""

    def pack(self) -> bytes:
        """8 bytes, 2 for each pending vector, and the raw state with its length if there is one.

        The timer is rounded up to a microsecond.
        """
        if self == IDLE:
            return _IDLE_BYTES
        timer = _NO_TIMER
        if self.timer_ns is not None:
            timer = min(-(-self.timer_ns // _NS_PER_US), _NO_TIMER - 1)
        flags = (_HALTED if self.halted else 0) | (_RAW if self.raw else 0)
        count = len(self.pending)
        data = _HEADER.pack(flags, count, timer) + struct.pack(f"<{count}H", *self.pending)
        return data + _RAW_LENGTH.pack(len(self.raw)) + self.raw if self.raw else data


def pack(states: Sequence[VcpuState]) -> bytes:
    """All vCPUs of a machine, in order."""
    return b"".join([state.pack() for state in states])


#: A vCPU that waits for interrupts, as nearly all do; packed and unpacked without its fields.
IDLE = VcpuState()
_IDLE_BYTES = _HEADER.pack(_HALTED, 0, _NO_TIMER)


def unpack(data: bytes, count: int) -> list[VcpuState]:
    """The states that `pack` packed.

    Args:
        data: the states, and nothing else.
        count: number of states.

    Raises:
        VcpuStateError: the data is too short, too long, or invalid.
    """
    states = []
    at = 0
    try:
        for _ in range(count):
            state, at = _unpack_one(data, at)
            states.append(state)
    except struct.error:
        raise VcpuStateError(f"the state of vcpu{len(states)} of {count} is truncated") from None
    if at != len(data):
        raise VcpuStateError(f"{len(data) - at} bytes follow the state of {count} vCPUs")
    return states


def _unpack_one(data: bytes, at: int) -> tuple[VcpuState, int]:
    if data.startswith(_IDLE_BYTES, at):
        return IDLE, at + len(_IDLE_BYTES)
    flags, count, timer = _HEADER.unpack_from(data, at)
    if flags & ~(_HALTED | _RAW):
        raise VcpuStateError(f"a vCPU's state has unknown flags {flags:#x}")
    at += _HEADER.size
    vectors = struct.Struct(f"<{count}H")
    pending = vectors.unpack_from(data, at)
    at += vectors.size
    raw = b""
    if flags & _RAW:
        (length,) = _RAW_LENGTH.unpack_from(data, at)
        at += _RAW_LENGTH.size
        raw = bytes(data[at : at + length])
        at += length
        if len(raw) != length:
            raise struct.error
    timer_ns = None if timer == _NO_TIMER else timer * _NS_PER_US
    return VcpuState(bool(flags & _HALTED), pending, timer_ns, raw), at
