"""The watcher of a heartbeat."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import time

from bench.qemu_baseline.heartbeat import Gap, HeartbeatWatcher, longest_between, of_the_move
from tests.waiting import wait_until


def counters() -> tuple[memoryview, memoryview]:
    words = memoryview(bytearray(16)).cast("Q")
    return words[:1], words[1:]


def beat(watcher: HeartbeatWatcher, counter: memoryview, value: int) -> None:
    """Return when the watcher has seen it."""
    before = time.monotonic_ns()
    counter[0] = value
    wait_until(lambda: watcher.has_beaten_since(before), "the beat is seen")


def test_each_beat_ends_a_gap() -> None:
    counter, _ = counters()
    before = time.monotonic_ns()
    with HeartbeatWatcher([counter]) as watcher:
        for value in (1, 2, 5):
            beat(watcher, counter, value)
    after = time.monotonic_ns()
    assert len(watcher.gaps) == 3
    times = [watcher.gaps[0].start, *(gap.end for gap in watcher.gaps)]
    assert [before, *times, after] == sorted([before, *times, after])
    assert [gap.start for gap in watcher.gaps[1:]] == [gap.end for gap in watcher.gaps[:-1]]
    assert of_the_move(watcher.gaps) is None


def test_what_the_destination_receives_is_no_beat_of_its_own() -> None:
    source, destination = counters()
    with HeartbeatWatcher([source, destination]) as watcher:
        beat(watcher, source, 7)
        destination[0] = 5
        beat(watcher, source, 8)
        destination[0] = 8
        beat(watcher, destination, 9)
        beat(watcher, destination, 10)
    assert [gap.counter for gap in watcher.gaps] == [0, 0, 1, 1]
    assert of_the_move(watcher.gaps) == watcher.gaps[2]


def test_the_longest_gap_of_a_span_may_begin_before_it() -> None:
    gaps = [Gap(0, 50, 0), Gap(50, 60, 0), Gap(60, 90, 0), Gap(90, 200, 0)]
    assert longest_between(gaps, 40, 90) == gaps[0]
    assert longest_between(gaps, 50, 91) == gaps[3]
    assert longest_between(gaps, 200, 300) is None
    assert Gap(1_000_000, 3_500_000, 0).ms == 2.5
