"""vCPU threads: pausing, saving, resuming, timers, crashes."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import queue
import threading
import time

import psutil
import pytest

from emu.errors import EmuError
from emu.machine import vcpu_state
from emu.machine.vcpu_state import VcpuState, VcpuStateError
from tests.emu.guests import Holding, Recorder
from tests.emu.machine.soft_vcpus import SoftVcpus
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user.errors import DeadlineError

MS = 1_000_000


def test_power_on_ticks_every_vcpu_once(rig: SoftVcpus) -> None:
    guest = Recorder()
    rig.vcpus.start(guest)
    assert guest.ticks.empty()
    rig.vcpus.resume()
    assert sorted(guest.ticks.get(timeout=TIMEOUT)[0] for _ in range(4)) == [0, 1, 2, 3]
    assert guest.quiet()
    assert guest.ticks.empty()


def test_beat_is_called_when_guest_code_is_entered_and_left(rig: SoftVcpus) -> None:
    guest = Recorder()
    rig.run(guest)
    rig.vcpus.pause()
    before = len(guest.beats)
    assert before == 8
    rig.vcpus.resume()
    rig.signal(2)
    guest.next_interrupt()
    rig.vcpus.pause()
    more = guest.beats[before:]
    assert len(more) >= 2
    assert len(more) % 2 == 0
    assert more == sorted(more)


def test_pause_waits_for_guest_code(rig: SoftVcpus) -> None:
    guest = Holding()
    rig.run(guest)
    rig.signal(1)
    guest.wait_entered()
    with pytest.raises(DeadlineError, match="vcpu1 to leave guest code"):
        rig.vcpus.pause(0.02)
    assert rig.vcpus.paused
    guest.go.set()
    rig.vcpus.pause()
    rig.vcpus.resume()
    for misuse in (rig.vcpus.save, lambda: rig.vcpus.load([VcpuState()] * 4)):
        with pytest.raises(EmuError, match="pause them first"):
            misuse()


def test_state_moves_to_another_machine(rig: SoftVcpus) -> None:
    guest = Holding(listens=lambda: rig.vcpus.gate.paused)
    rig.run(guest)
    rig.signal(3)
    guest.wait_entered()
    rig.vcpus.pause()
    data = vcpu_state.pack(rig.vcpus.save())
    there, other = Recorder(), SoftVcpus(4)
    other.vcpus.start(there)
    other.vcpus.load(vcpu_state.unpack(data, 4))
    other.vcpus.resume()
    assert there.next_interrupt() == (3, 3)
    assert there.ticks.empty()  # it was loaded, not powered on
    other.close()
    guest.go.set()


def test_resume_returns_when_those_that_were_not_halted_have_run(rig: SoftVcpus) -> None:
    guest = Recorder()
    rig.vcpus.start(guest)
    rig.vcpus.load([VcpuState(halted=False)] * 2 + [VcpuState()] * 2)
    rig.vcpus.resume()
    assert len(guest.beats) >= 2
    rig.vcpus.pause()
    assert len(guest.beats) == 4


def test_resume_names_a_vcpu_that_does_not_run(rig: SoftVcpus) -> None:
    guest = Recorder()
    release = threading.Event()

    def beat(now: int) -> None:
        release.wait(TIMEOUT)

    guest.beat = beat
    rig.vcpus.start(guest)
    rig.vcpus.load([VcpuState()] * 3 + [VcpuState(halted=False)])
    with pytest.raises(DeadlineError, match="vcpu3 to run again"):
        rig.vcpus.resume(0.02)
    release.set()


def test_a_timer_survives_the_move_to_another_machine(rig: SoftVcpus) -> None:
    guest = Recorder({0: 40 * MS})
    rig.run(guest)
    rig.vcpus.pause()
    states = rig.vcpus.save()
    left = states[0].timer_ns
    assert left is not None
    assert 0 <= left <= 40 * MS
    there, other = Recorder(), SoftVcpus(4)
    other.vcpus.start(there)
    loaded = time.monotonic_ns()
    other.vcpus.load(states)
    other.vcpus.resume()
    vcpu, now = there.ticks.get(timeout=TIMEOUT)
    assert vcpu == 0
    assert now >= loaded + left
    other.close()


def test_a_timer_that_expires_during_a_pause_ticks_after_it(rig: SoftVcpus) -> None:
    guest = Recorder({0: 2 * MS})
    rig.run(guest)
    rig.vcpus.pause()
    while not guest.ticks.empty():
        guest.ticks.get()
    with pytest.raises(queue.Empty):
        guest.ticks.get(timeout=0.02)
    rig.vcpus.resume()
    assert guest.ticks.get(timeout=TIMEOUT)[0] == 0


def test_a_crash_is_recorded_and_the_others_continue(rig: SoftVcpus) -> None:
    class Faulty(Recorder):
        def take_interrupt(self, vcpu: int, vector: int) -> None:
            super().take_interrupt(vcpu, vector)
            if vcpu == 1:
                raise KeyError("driver")

    guest = Faulty()
    rig.run(guest)
    rig.signal(1)
    assert guest.next_interrupt() == (1, 1)
    rig.vcpus._threads[1].join(TIMEOUT)
    (crash,) = rig.vcpus.crashed
    assert str(crash) == "vcpu1: KeyError: 'driver'"
    assert crash.error.__traceback__ is not None
    rig.vcpus.pause()
    rig.vcpus.resume()
    rig.signal(2)
    assert guest.next_interrupt() == (2, 2)


def test_a_crash_keeps_no_view_of_guest_memory(rig: SoftVcpus) -> None:
    """Neither do the errors that have led to it: the memory is only released with the last view."""

    class Faulty(Recorder):
        def take_interrupt(self, vcpu: int, vector: int) -> None:
            view = memoryview(memory)
            super().take_interrupt(vcpu, vector)
            try:
                view[8]
            except IndexError as error:
                raise KeyError("driver") from error

    memory = bytearray(8)
    guest = Faulty()
    rig.run(guest)
    rig.signal(1)
    assert guest.next_interrupt() == (1, 1)
    rig.vcpus._threads[1].join(TIMEOUT)
    assert rig.vcpus.crashed
    memory.clear()  # a BufferError while there is a view


def test_pause_and_resume_are_idempotent(rig: SoftVcpus) -> None:
    guest = Recorder()
    rig.run(guest)
    rig.vcpus.resume()
    rig.vcpus.pause()
    rig.vcpus.pause()
    rig.vcpus.resume()
    rig.signal(0)
    assert guest.next_interrupt() == (0, 0)


def test_all_interrupts_during_pauses_are_taken(rig: SoftVcpus) -> None:
    counts = [0] * 4
    guest = Recorder()
    done = threading.Event()

    def interrupt(vcpu: int, vector: int) -> None:
        counts[vcpu] += 1
        if counts[vcpu] < 300:
            rig.signal(vcpu)
        elif min(counts) >= 300:
            done.set()

    guest.interrupt = interrupt
    rig.run(guest)
    for vcpu in range(4):
        rig.signal(vcpu)
    pauses = 0
    while not done.is_set():
        rig.vcpus.pause()
        assert not rig.vcpus.gate.inside
        frozen = list(counts)
        rig.vcpus.save()
        assert counts == frozen
        rig.vcpus.resume()
        pauses += 1
        done.wait(0.001)
    assert pauses > 1


def test_loading_the_wrong_number_of_states_is_an_error(rig: SoftVcpus) -> None:
    with pytest.raises(VcpuStateError, match="3 states for 4"):
        rig.vcpus.load([VcpuState()] * 3)


def test_starting_twice_and_resuming_before_start_are_errors(rig: SoftVcpus) -> None:
    with pytest.raises(EmuError, match="not been started"):
        rig.vcpus.resume()
    rig.vcpus.start(Recorder())
    with pytest.raises(EmuError, match="before"):
        rig.vcpus.start(Recorder())


def test_stop_ends_threads_in_any_state_and_releases_everything() -> None:
    process = psutil.Process()
    threads, fds = process.num_threads(), open_fds()
    for state in ("new", "started", "running", "paused"):
        rig = SoftVcpus(8)
        if state != "new":
            rig.vcpus.start(Recorder({0: MS}))
        if state in ("running", "paused"):
            rig.vcpus.resume()
            rig.signal(5)
        if state == "paused":
            rig.vcpus.pause()
        rig.close()
        rig.vcpus.stop()
        wait_until(lambda: process.num_threads() <= threads and open_fds() <= fds)


def test_stop_names_a_thread_that_does_not_end(rig: SoftVcpus) -> None:
    guest = Holding()
    rig.run(guest)
    rig.signal(1)
    guest.wait_entered()
    with pytest.raises(DeadlineError, match="the thread of vcpu1 to end"):
        rig.vcpus.stop(0.05)
    guest.go.set()
    rig.vcpus.stop()


def test_the_stack_size_of_other_threads_is_unchanged(rig: SoftVcpus) -> None:
    before = threading.stack_size()
    rig.vcpus.start(Recorder())
    assert threading.stack_size() == before
