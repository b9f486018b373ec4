"""The heartbeat in guest memory."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import threading
import time

from emu.guest.heartbeat import Heartbeat
from tests.timeouts import TIMEOUT
from vhost_user.memory import PAGE_SIZE

MS = 1_000_000


def make() -> tuple[Heartbeat, list[tuple[int, int]], memoryview]:
    words = memoryview(bytearray(PAGE_SIZE)).cast("Q")
    marks: list[tuple[int, int]] = []
    return Heartbeat(words, 0x1000, lambda gpa, length: marks.append((gpa, length))), marks, words


def test_gaps_are_measured_and_the_page_marked() -> None:
    heart, marks, _ = make()
    heart.start(10 * MS)
    heart.beat(11 * MS)
    heart.beat(18 * MS)
    heart.beat(19 * MS)
    assert heart.max_gap_ns == 7 * MS
    assert heart.gaps() == [(11 * MS, 18 * MS)]
    assert heart.count == 3
    assert heart.last == 19 * MS
    assert marks == [(0x1000, PAGE_SIZE)] * 4


def test_the_gap_of_a_blackout_is_found_among_others() -> None:
    heart, _, _ = make()
    heart.start(0 * MS + 1)
    for at in (1, 31, 32, 33, 43, 44):
        heart.beat(at * MS)
    assert heart.gap_between(34 * MS, 40 * MS) == 10 * MS
    assert heart.gap_between(30 * MS, 40 * MS) == 30 * MS
    assert heart.gap_between(43 * MS, 99 * MS) == 0
    assert heart.max_gap_ns == 30 * MS


def test_a_beat_that_is_older_than_the_last_is_dropped() -> None:
    heart, _, _ = make()
    heart.start(10 * MS)
    heart.beat(12 * MS)
    heart.beat(11 * MS)
    assert (heart.last, heart.count) == (12 * MS, 1)


def test_only_the_latest_gaps_are_kept() -> None:
    heart, _, _ = make()
    heart.start(1)
    for index in range(1, 101):
        heart.beat(index * 5 * MS)
    gaps = heart.gaps()
    assert len(gaps) == 64
    assert gaps[-1] == (495 * MS, 500 * MS)
    assert gaps == sorted(gaps)


def test_another_process_continues_from_memory_alone() -> None:
    heart, _, words = make()
    heart.start(1 * MS)
    heart.beat(2 * MS)
    copy = memoryview(bytearray(words.tobytes())).cast("Q")
    other = Heartbeat(copy, 0x1000, lambda _gpa, _length: None)
    other.attach()
    other.beat(2 * MS + 300)
    assert other.gap_at(2 * MS + 100) == 300  # however short: it is the gap of the blackout
    other.beat(52 * MS)
    assert other.gap_between(3 * MS, 52 * MS) == 50 * MS - 300
    assert other.gap_at(30 * MS) == 50 * MS - 300
    assert other.gap_at(53 * MS) == 0


def test_beats_of_many_threads_never_lose_the_last() -> None:
    heart, _, _ = make()
    heart.start(time.monotonic_ns())
    stop = threading.Event()
    latest = [0] * 4

    def beat(index: int) -> None:
        while not stop.is_set():
            now = time.monotonic_ns()
            heart.beat(now)
            latest[index] = now

    threads = [threading.Thread(target=beat, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    stop.wait(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert heart.last >= max(latest)


def test_the_first_gap_is_recorded_before_the_first_beat_is_visible() -> None:
    """The thread that calls `beat` may be preempted in between, for any length of time."""
    heart, _, words = make()
    heart.start(1 * MS)
    seen: list[tuple[int, int]] = []

    class Interrupted(Heartbeat):
        def _record(self, start: int, end: int) -> None:
            seen.append((self.first_ns, self.gap_at(3 * MS)))
            super()._record(start, end)
            seen.append((self.first_ns, self.gap_at(3 * MS)))

    there = Interrupted(words, 0x1000, lambda _gpa, _length: None)
    there.attach()
    there.beat(5 * MS)
    assert seen == [(0, 0), (0, 4 * MS)]
    assert (there.first_ns, there.gap_at(3 * MS)) == (5 * MS, 4 * MS)


def test_awaits_the_next_beat() -> None:
    heart, _, _ = make()
    heart.start(5)
    assert heart.await_beat(0.01) is None
    timer = threading.Timer(0.02, heart.beat, [6])
    timer.start()
    assert heart.await_beat(TIMEOUT) == 6
    timer.join(TIMEOUT)
