"""The kernel's virtual machine: memory, state, errors."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm import KvmAccelerator
from emu.machine.accel.kvm_vm import Exit, KernelMachine, KvmError, halted, open_error
from tests.emu.machine.accel.conftest import (
    MEMORY,
    VCPUS,
    KvmBench,
    make,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOENT, "kvm_intel"), (errno.EACCES, "group kvm"), (errno.EMFILE, "Too many open")],
)
def test_the_error_text_without_kvm_has_advice(number: int, advice: str) -> None:
    assert open_error(number).startswith("/dev/kvm ")
    assert advice in open_error(number)


def test_a_closed_machine_does_nothing() -> None:
    bench = KvmBench()
    bench.close()
    bench.accel.pause(1.0)
    bench.accel.resume(1.0)
    with pytest.raises(EmuError, match="Bad file descriptor"):
        bench.vcpus.arm(0, 0)


def test_only_pages_that_the_guest_wrote_since_the_last_call_are_dirty(kvm: KvmBench) -> None:
    """The mailbox of each vCPU that has received an interrupt."""
    kvm.vcpus.pause()
    own = image.reserved_bytes(VCPUS) >> 12
    kernel = accelerator(kvm).kernel
    kernel.dirty_pages(1, own)
    assert kernel.dirty_pages(1, own) == []
    kvm.vcpus.arm(2, 0)
    kvm.vcpus.resume()
    wait_until(lambda: kvm.mailboxes[2].counts[image.TIMER_VECTOR])
    kvm.vcpus.pause()
    first = MEMORY - image.reserved_bytes(VCPUS) >> 12
    mailbox = (image.layout_of(kvm.ram, VCPUS).mailbox(2) >> 12) - first
    assert mailbox in kernel.dirty_pages(1, own)


def test_a_state_of_another_size_is_refused(kvm: KvmBench) -> None:
    """Loading a state that was just saved sets no part, as all parts equal the kernel's."""
    kvm.vcpus.pause()
    kernel = accelerator(kvm).kernel
    state = kernel.save(1)
    assert kernel.load(1, state) == 0
    with pytest.raises(KvmError, match=f"has {len(state) - 1} bytes, not {len(state)}"):
        kernel.load(1, state[:-1])


def test_a_vcpu_that_waits_for_an_interrupt_is_halted(kvm: KvmBench) -> None:
    """A vCPU that was only powered on is not."""
    fresh = KvmBench.__new__(KvmBench)
    super(KvmBench, fresh).__init__("kvm")
    assert not any(halted(accelerator(fresh).kernel.save(vcpu)) for vcpu in range(VCPUS))
    fresh.close()

    def halts() -> bool:
        kvm.vcpus.pause()
        found = halted(accelerator(kvm).kernel.save(1))
        kvm.vcpus.resume()
        return found

    wait_until(halts)


def test_memory_that_cannot_be_mapped_is_an_error(kvm: KvmBench) -> None:
    """It overlaps another slot."""
    kvm.vcpus.pause()
    with pytest.raises(KvmError, match="KVM cannot map 4096 bytes of memory at 0x0"):
        accelerator(kvm).kernel.map(7, 0, kvm.ram.view(0, 4096))


@pytest.fixture
def kernel() -> Iterator[KernelMachine]:
    """A machine without memory and, at first, without vCPUs."""
    made = make("kvm")
    assert isinstance(made, KvmAccelerator)
    yield made.kernel
    made.close()


@pytest.fixture(scope="module")
def held_store(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``held_store.c``, compiled."""
    library = tmp_path_factory.mktemp("held") / "held_store.so"
    source = Path(__file__).parent / "held_store.c"
    compiler = os.environ.get("CC", "cc")
    environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, env=environment)
    return ctypes.CDLL(str(library))


def run_page() -> tuple[int, int]:
    """Address and bytes of what the only vCPU of this process shares with the kernel."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    (line,) = (line for line in lines if "anon_inode:kvm-vcpu:0" in line)
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    return start, end - start


@pytest.mark.parametrize(
    "end",
    [lambda kernel: kernel.stop(), lambda kernel: kernel.end(0)],
    ids=["the machine stops", "the vcpu ends"],
)
def test_a_vcpu_that_is_about_to_enter_ends_all_the_same(
    kernel: KernelMachine, held_store: ctypes.CDLL, end: Callable[[KernelMachine], None]
) -> None:
    """It has seen that it need not end, and no other thread has seen yet that it enters."""
    kernel.create_vcpus(1)
    outcome: list[Exit | Exception | None] = []

    def run() -> None:
        try:
            outcome.append(kernel.run(0))
        except KvmError as error:  # there is no code: it has entered
            outcome.append(error)
        kernel.thread_ends(0)

    start, size = run_page()
    thread = threading.Thread(target=run, daemon=True)
    assert held_store.hold(ctypes.c_void_p(start), ctypes.c_size_t(size)) == 0
    try:
        thread.start()
        wait_until(held_store.is_held)
        end(kernel)
    finally:
        held_store.release()
        thread.join(TIMEOUT)
    assert outcome == [None]


def test_vcpus_of_which_some_could_not_be_created_stop_and_close(kernel: KernelMachine) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
    try:
        with pytest.raises(KvmError, match="KVM cannot create 8 vCPUs: Too many open files"):
            kernel.create_vcpus(8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kernel.pause(TIMEOUT)
    kernel.stop()


def test_vcpus_are_created_once(kernel: KernelMachine) -> None:
    kernel.create_vcpus(2)
    with pytest.raises(KvmError, match="KVM cannot create 2 vCPUs: Invalid argument"):
        kernel.create_vcpus(2)


def test_a_vcpu_that_does_not_exist_has_no_state(kernel: KernelMachine) -> None:
    kernel.create_vcpus(2)
    state = kernel.save(1)
    for number in (2, 2**32 - 1):
        with pytest.raises(KvmError, match="Invalid argument"):
            kernel.save(number)
        with pytest.raises(KvmError, match="Invalid argument"):
            kernel.load(number, state)
        kernel.end(number)
        kernel.thread_ends(number)


def accelerator(bench: KvmBench) -> KvmAccelerator:
    """Its accelerator."""
    assert isinstance(bench.accel, KvmAccelerator)
    return bench.accel
