"""What other strategies would have made of a stop or a start."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from emu.tap.transitions import Kind, Phase, Span, Transition
from emu.tap.what_if import THREADS, what_if

MS = 1_000_000


def transition(phase: Phase, devices: list[list[int]], first: int = 0) -> Transition:
    """A transition whose devices' replies took these milliseconds."""
    made = Transition(phase.kind)
    now = 0
    for number, latencies in enumerate(devices, first):
        device, times = f"dev{number}", [each * MS for each in latencies]
        end = now + sum(times)
        made.spans[phase, device] = Span(phase, device, now, end, len(times), times)
        now = end
    return made


def estimates(made: Transition) -> dict[str, tuple[float, float]]:
    return {each.strategy: (each.apart / MS, each.together / MS) for each in what_if(made)}


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
