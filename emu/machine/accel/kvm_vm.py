"""The kernel's VM: a wrapper of `_kvm` that raises exceptions."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from vhost_user import extension

if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    from emu.machine.accel._kvm import ffi, lib

    extension.check(lib, "emu.machine.accel._kvm", Path(__file__).with_name("native"))
except ImportError as error:  # it is built on x86-64 only, with the kernel's headers
    ffi = lib = None
    NOT_BUILT = str(error)
else:
    NOT_BUILT = ""

DEVICE = "/dev/kvm"
#: KVM_GET_API_VERSION since 2007; any other version is a different interface.
API_VERSION = 12
_WORDS = 4
#: KVM_MP_STATE_HALTED of linux/kvm.h.
_MP_STATE_HALTED = 3
#: Addresses below this are ports.
_PORTS_END = 0x1_0000
#: The more likely values of KVM_EXIT_* of linux/kvm.h.
_EXITS = {
    0: "unknown",
    2: "port I/O",
    6: "a read of a device",
    8: "a shutdown",
    17: "an internal error",
}
_REASONS = {
    errno.ENOENT: "is missing: load the module kvm_intel or kvm_amd, or run on a host that has it",
    errno.EACCES: "may not be opened by this user: join the group kvm, or ask for access to it",
    errno.EPERM: "may not be opened here: allow the container to access it",
    errno.ENODEV: "has no driver: virtualisation is disabled in the firmware, or not supported",
}


class KvmError(EmuError):
    """An error of KVM, or KVM does not work on this host.

    Attributes:
        errno: the kernel's, or 0.
        done: number of entries of a batch that were completed before the error.
    """

    def __init__(self, text: str, number: int = 0, done: int = 0) -> None:
        super().__init__(f"{text}: {os.strerror(number)}" if number else text)
        self.errno = number
        self.done = done


class Exit(NamedTuple):
    """A vCPU's write that no ioeventfd takes."""

    address: int
    value: int


def is_port(ioeventfd: Ioeventfd) -> bool:
    """Whether its address is a port; ``native/guest.c`` distinguishes them in the same way."""
    return ioeventfd.address < _PORTS_END


def open_error(number: int) -> str:
    """The error text for a failure to open /dev/kvm, with advice."""
    return f"{DEVICE} {_REASONS.get(number, 'cannot be opened: ' + os.strerror(number))}"


class KernelMachine:
    """One VM of the kernel, paused at first. Only the vCPUs' threads call `run`.

    Raises:
        KvmError: KVM does not work, or cannot create another VM.
    """

    def __init__(self) -> None:
        if NOT_BUILT:
            raise KvmError(f"this build is without KVM ({NOT_BUILT})")
        reason = ffi.new("int *")
        self._machine = lib.vk_open(reason)
        if not self._machine:
            number = -reason[0]
            if not os.access(DEVICE, os.R_OK | os.W_OK):
                raise KvmError(open_error(number))
            raise KvmError("KVM cannot create a virtual machine", number)
        self._state_size = int(lib.vk_state_size())
        self._state = ffi.new("char[]", self._state_size)
        self._set = ffi.new("uint32_t *")
        self._taken = ffi.new("uint64_t[]", _WORDS)

    # -- memory

    def map(self, slot: int, gpa: int, view: memoryview, *, log: bool = False) -> None:
        """Map guest memory; with ``log`` the guest's writes are logged."""
        host = ffi.from_buffer("char[]", view)
        self._check(
            lib.vk_memory(self._machine, slot, gpa, len(view), host, log),
            f"KVM cannot map {len(view)} bytes of memory at {gpa:#x}",
        )

    def replace(self, slot: int, gpa: int, view: memoryview, *, log: bool = False) -> None:
        """Map other memory at the same address; the vCPUs are paused."""
        # KVM cannot change the userspace address of a slot: it is removed first.
        self.map(slot, gpa, view[:0])
        self.map(slot, gpa, view, log=log)

    def dirty_pages(self, slot: int, pages: int) -> list[int]:
        """The pages of a slot, from 0, that the guest has written since the last call."""
        words = -(-pages // 64)
        bitmap = ffi.new("uint64_t[]", words)
        self._check(
            lib.vk_dirty_log(self._machine, slot, bitmap), "KVM cannot return its dirty log"
        )
        return [
            64 * word + bit
            for word in range(words)
            if bitmap[word]
            for bit in range(64)
            if bitmap[word] >> bit & 1
        ]

    # -- notifiers

    def change_ioeventfds(self, ioeventfds: Sequence[Ioeventfd], *, assign: bool) -> None:
        """Assign or deassign ioeventfds.

        Raises:
            KvmError: the one with the index `done` failed; those before it are changed.
        """
        port, match = lib.KVM_IOEVENTFD_FLAG_PIO, lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        entries = [
            (
                max(datamatch, 0),
                address,
                size,
                fd,
                (port if address < _PORTS_END else 0) | (0 if datamatch == ANY_VALUE else match),
            )
            for address, size, datamatch, fd, _ in ioeventfds
        ]
        array = ffi.new("struct kvm_ioeventfd[]", entries)
        done = ffi.new("size_t *")
        result = lib.vk_ioeventfds(self._machine, array, len(entries), assign, done)
        self._check(result, "the kernel refuses", done[0])

    def change_irqfds(self, irqfds: Sequence[tuple[int, int]], *, assign: bool) -> None:
        """Assign or deassign irqfds: pairs of GSI and eventfd. Raises as `change_ioeventfds`."""
        array = ffi.new("vk_irqfd[]", irqfds)
        done = ffi.new("size_t *")
        result = lib.vk_irqfds(self._machine, array, len(irqfds), assign, done)
        self._check(result, "the kernel refuses", done[0])

    def make_routes(self, count: int) -> Any:
        """A table of ``count`` unused entries (vCPU, vector)."""
        return ffi.new("vk_route[]", count)

    def set_routes(self, table: Any, count: int) -> None:
        """Set the first ``count`` entries of a table as the routing table, in one commit."""
        result = lib.vk_routes(self._machine, table, count)
        self._check(result, f"KVM cannot set a table of {count} routes")

    def interrupt(self, vcpu: int, vector: int) -> None:
        """Raise an interrupt, whether the machine is paused or not."""
        self._check(lib.vk_interrupt(self._machine, vcpu, vector), f"no interrupt for vcpu{vcpu}")

    def take(self, words: memoryview) -> list[int]:
        """Read and clear four words of guest memory; each word atomically."""
        lib.vk_take(ffi.from_buffer(words), self._taken, _WORDS)
        return list(self._taken)

    def put_back(self, words: memoryview, bits: Sequence[int]) -> None:
        """Set bits of four words of guest memory; each word atomically."""
        lib.vk_put_back(ffi.from_buffer(words), ffi.new("uint64_t[]", bits), _WORDS)

    # -- vCPUs

    def create_vcpus(self, count: int) -> None:
        """Create the vCPUs; once."""
        self._check(lib.vk_vcpus(self._machine, count), f"KVM cannot create {count} vCPUs")

    def begin(self, vcpu: int, layout: image.ImageLayout) -> None:
        """Power a vCPU on."""
        mailbox = layout.mailbox(vcpu)
        start = {
            "rip": layout.code,
            "rsp": mailbox + image.STACK_TOP,
            "cr3": layout.tables,
            "gdt": layout.descriptors,
            "idt": layout.gates,
            "gs": mailbox,
            "gdt_limit": image.GDT_LIMIT,
            "idt_limit": image.IDT_LIMIT,
            "code": image.CODE_SELECTOR,
            "data": image.DATA_SELECTOR,
        }
        result = lib.vk_begin(self._machine, vcpu, ffi.new("vk_start *", start))
        self._check(result, f"vcpu{vcpu} cannot be powered on")

    def run(self, vcpu: int) -> Exit | None:
        """Run guest code, and wait while the machine is paused; None if the thread has to end.

        Raises:
            KvmError: the vCPU cannot continue.
        """
        out = ffi.new("vk_exit *")
        lib.vk_run(self._machine, vcpu, out)
        if out.reason == lib.VK_STOPPED:
            return None
        if out.reason == lib.VK_WRITE:
            return Exit(out.address, out.value)
        if not out.kernel_reason:
            raise KvmError(f"KVM cannot run it (at {out.rip:#x})", out.detail)
        reason = _EXITS.get(out.kernel_reason, f"exit {out.kernel_reason}")
        raise KvmError(f"the guest's code ended with {reason} ({out.detail}) at {out.rip:#x}")

    def thread_ends(self, vcpu: int) -> None:
        """From the vCPU's thread: it will not call `run` again."""
        lib.vk_thread_ends(self._machine, vcpu)

    def end(self, vcpu: int) -> None:
        """Make its `run` return."""
        lib.vk_end(self._machine, vcpu)

    def pause(self, timeout: float) -> bool:
        """Stop all vCPUs; returns whether all stopped within ``timeout`` seconds."""
        return self._in_time(lib.vk_pause(self._machine, int(timeout * 1e9)))

    def resume(self, timeout: float) -> bool:
        """Resume all vCPUs; returns whether each ran within ``timeout`` seconds."""
        return self._in_time(lib.vk_resume(self._machine, int(timeout * 1e9)))

    def _in_time(self, result: int) -> bool:
        if result == -errno.ETIMEDOUT:
            return False
        self._check(result, "KVM")
        return True

    def stop(self) -> None:
        """Make every `run` return, now and from now on."""
        lib.vk_stop(self._machine)

    def save(self, vcpu: int) -> bytes:
        """The state of a paused vCPU: registers, local APIC, and whether it is halted."""
        result = lib.vk_save(self._machine, vcpu, self._state)
        self._check(result, f"the state of vcpu{vcpu} cannot be read")
        return bytes(ffi.buffer(self._state))

    def load(self, vcpu: int, state: bytes) -> int:
        """Set the state of a paused vCPU; returns how many parts of it differed and were set.

        Raises:
            KvmError: the state is invalid.
        """
        if len(state) != self._state_size:
            raise KvmError(
                f"the state of vcpu{vcpu} has {len(state)} bytes, not {self._state_size}"
            )
        self._set[0] = 0
        result = lib.vk_load(self._machine, vcpu, state, self._set)
        self._check(result, f"KVM cannot set the state of vcpu{vcpu}")
        return int(self._set[0])

    def close(self) -> None:
        """Close the VM; the vCPUs' threads have ended. Idempotent."""
        lib.vk_close(self._machine)
        self._machine = ffi.NULL

    @staticmethod
    def _check(result: int, text: str, done: int = 0) -> None:
        if result < 0:
            raise KvmError(text, -result, done)


def halted(state: bytes) -> bool:
    """Whether the vCPU with this state (`KernelMachine.save`) waits for an interrupt.

    ``vcpu_state`` in native/kvm.c ends with ``struct kvm_mp_state`` and a reserved u32.
    """
    (mp_state,) = struct.unpack_from("<I", state, len(state) - 8)
    return bool(mp_state == _MP_STATE_HALTED)


def guest_code() -> bytes:
    """The machine code that the vCPUs run."""
    return bytes(ffi.buffer(lib.vk_guest_code, lib.vk_guest_end - lib.vk_guest_code))


def capability(number: int) -> int:
    """The result of KVM_CHECK_EXTENSION; 0 if it is not supported.

    Raises:
        KvmError: KVM does not work on this host.
    """
    if NOT_BUILT:
        raise KvmError(f"this build is without KVM ({NOT_BUILT})")
    value = int(lib.vk_capability(number))
    if value < 0:
        raise KvmError(open_error(-value))
    return value


def api_version() -> int:
    """The result of KVM_GET_API_VERSION.

    Raises:
        KvmError: KVM does not work on this host.
    """
    if NOT_BUILT:
        raise KvmError(f"this build is without KVM ({NOT_BUILT})")
    value = int(lib.vk_api())
    if value < 0:
        raise KvmError(open_error(-value))
    return value
