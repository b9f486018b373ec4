"""What other strategies would have made of a stop or a start."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.tap.back_end_processes import BackEnd
from emu.tap.transitions import Kind, Phase, Span, Transition
from emu.tap.what_if import LEAST_WORK, THREADS, what_if

MS = 1_000_000


def transition(phase: Phase, devices: list[list[int]], first: int = 0) -> Transition:
    """A transition whose devices' replies took these milliseconds."""
    made = Transition(phase.kind)
    made.can_run = True
    now = 0
    for number, latencies in enumerate(devices, first):
        device, times = f"dev{number}", [each * MS for each in latencies]
        end = now + sum(times)
        made.spans[phase, device] = Span(phase, device, now, end, len(times), times)
        now = end
    return made


def estimates(made: Transition) -> dict[str, tuple[float, float]]:
    """Whole milliseconds: what a request takes at least is left out."""
    return {
        each.strategy: (round(each.apart / MS), round(each.together / MS)) for each in what_if(made)
    }


def test_a_stop_whose_replies_are_all_alike() -> None:
    """Only wake-ups: in flight there is one."""
    made = transition(Phase.GET_VRING_BASE, [[1, 1], [1, 1]])
    assert estimates(made) == {
        "qemu-2021": (4, 4),
        "threads": (2, 2),
        "split": (1, 1),
        "prewired": (1, 1),
    }


def test_work_is_done_at_the_same_time_or_one_after_the_other() -> None:
    made = transition(Phase.GET_VRING_BASE, [[1, 3], [5, 5], [1, 1]])
    assert estimates(made)["split"] == (9, 11)
    assert estimates(made)["qemu-2021"] == (16, 16)


def test_a_pool_takes_the_next_device_when_a_thread_is_free() -> None:
    made = transition(Phase.GET_VRING_BASE, [[2]] * (2 * THREADS) + [[3]])
    assert estimates(made)["threads"][0] == 7


def test_prewired_sends_the_memory_table_ahead() -> None:
    made = transition(Phase.SET_MEM_TABLE, [[10], [10]])
    made.spans |= transition(Phase.START_VRINGS, [[1], [3]]).spans
    assert estimates(made)["prewired"] == (3, 3)
    assert estimates(made)["split"] == (12, 21)


def test_without_replies_there_is_no_estimate() -> None:
    made = transition(Phase.START_VRINGS, [[], []])
    assert what_if(made) == []
    assert what_if(Transition(Kind.STOP)) == []


def test_what_is_set_up_ahead_has_no_estimate() -> None:
    """It is no part of the blackout."""
    made = transition(Phase.SET_MEM_TABLE, [[2], [2]])
    made.can_run = False
    assert what_if(made) == []


def test_everything_ahead_leaves_nothing() -> None:
    assert estimates(transition(Phase.SET_MEM_TABLE, [[2], [2]]))["prewired"] == (0, 0)


def test_requests_in_flight_have_no_estimate() -> None:
    """Of several devices, or of one."""
    made = transition(Phase.GET_VRING_BASE, [[2], [2]])
    made.spans[Phase.GET_VRING_BASE, "dev1"].start -= 1
    assert what_if(made) == []
    made = transition(Phase.GET_VRING_BASE, [[2, 2]])
    made.spans[Phase.GET_VRING_BASE, "dev0"].end -= 1
    assert what_if(made) == []


def in_processes(made: Transition, *back_ends: BackEnd) -> tuple[float, float, float]:
    """The bounds of `split` if two devices each are of one process."""
    made.back_ends = {device: back_ends[at // 2] for at, device in enumerate(made.devices)}
    (found,) = [each for each in what_if(made) if each.strategy == "split"]
    return found.apart / MS, found.processes / MS, found.together / MS


def test_the_devices_of_a_process_are_served_one_after_the_other() -> None:
    made = transition(Phase.GET_VRING_BASE, [[1, 3], [1, 4], [1, 6], [2, 1]])
    apart, processes, together = in_processes(made, BackEnd(1), BackEnd(2))
    assert apart == pytest.approx(6, abs=0.1)
    assert processes == pytest.approx(7, abs=0.1)
    assert together == pytest.approx(12, abs=0.1)


def test_a_reply_without_work_shows_the_wake_up() -> None:
    """All replies of the stop took longer than that."""
    made = transition(Phase.GET_VRING_BASE, [[5, 5], [5, 5], [9, 9], [9, 9]])
    assert in_processes(made, BackEnd(1, MS, MS), BackEnd(2, 3 * MS, 3 * MS)) == (15, 27, 43)


def test_a_slow_reply_may_have_waited_for_a_cpu() -> None:
    """It counts like the others, unless no reply without work has ever been as slow."""
    made = transition(Phase.GET_VRING_BASE, [[3, 3, 3, 3], [3, 3, 3, 30]])
    assert in_processes(made, BackEnd(1, MS, 40 * MS)) == (9, 17, 17)
    assert in_processes(made, BackEnd(1, MS, 20 * MS)) == (36, 44, 44)


def test_first_replies_are_compared_with_first_ones() -> None:
    """A back-end waits there for requests in flight."""
    made = transition(Phase.GET_VRING_BASE, [[21, 2], [21, 2], [61, 2]])
    assert in_processes(made, BackEnd(1, MS, 50 * MS), BackEnd(1, MS, 50 * MS))[1] == 1 + 63 + 40


def test_a_request_in_flight_takes_some_work() -> None:
    made = transition(Phase.GET_VRING_BASE, [[1] * 100])
    assert in_processes(made, BackEnd(1, MS, MS))[0] == 1 + 100 * LEAST_WORK / MS


def test_a_pool_is_not_faster_than_the_process() -> None:
    made = transition(Phase.GET_VRING_BASE, [[1, 9], [1, 9]])
    made.back_ends = dict.fromkeys(made.devices, BackEnd(1, MS))
    (pool,) = [each for each in what_if(made) if each.strategy == "threads"]
    assert pool.apart == 10 * MS
    assert pool.processes == 17 * MS + 2 * LEAST_WORK
