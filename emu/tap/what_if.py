"""What other strategies would have made of a stop or a start, from the times of its replies.

A reply takes a wake-up of both sides and the back-end's own work. The fastest reply of the
transition stands for the wake-up; what a reply took longer is work. In lock-step every reply costs
both; with all requests in flight the wake-up is paid once, and what remains is the work: that of
the slowest device if the devices' back-ends work at the same time, that of all of them if one
thread serves all. The wire does not show which of the two it is, so an estimate has both bounds.

Only messages with replies count: what a message without one costs does not show on the wire.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from emu.strategies.base import StrategyOptions
from emu.tap.transitions import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.tap.transitions import Span, Transition

#: Size of the pool of the strategy `threads`, as by default in `emu migrate`.
THREADS = StrategyOptions().threads


class Estimate(NamedTuple):
    """An estimate for one strategy, in nanoseconds.

    Attributes:
        strategy: its name.
        apart: if the devices' back-ends work at the same time.
        together: if one thread serves all of them.
    """

    strategy: str
    apart: int
    together: int


def what_if(transition: Transition) -> list[Estimate]:
    """The estimates for `qemu-2021`, `threads`, `split` and `prewired`.

    There are none without replies, or if requests were in flight at the same time: the time of such
    a reply is that of the requests before it, too.
    """
    spans = [span for row in transition.rows for span in row.spans if span.latencies]
    if not spans or any(row.at_once > 1 for row in transition.rows):
        return []
    if any(span.busy > span.wall for span in spans):
        return []
    devices = _by_device(spans)
    wake_up = min(min(latencies) for latencies in devices)
    lockstep = sum(map(sum, devices))
    work = _in_flight(devices, wake_up)
    pool = _pool([sum(latencies) for latencies in devices])
    ahead = [span for span in spans if span.phase is not Phase.SET_MEM_TABLE]
    late = _in_flight(_by_device(ahead), wake_up)
    return [
        Estimate("qemu-2021", lockstep, lockstep),
        Estimate("threads", pool, max(pool, work[1])),
        Estimate("split", *work),
        Estimate("prewired", *late),
    ]


def _by_device(spans: Iterable[Span]) -> list[list[int]]:
    """The latencies of each device, in the order of the devices."""
    devices: dict[str, list[int]] = {}
    for span in spans:
        devices.setdefault(span.device, []).extend(span.latencies)
    return list(devices.values())


def _in_flight(devices: Sequence[Sequence[int]], wake_up: int) -> tuple[int, int]:
    """The bounds with all requests in flight."""
    if not devices:
        return 0, 0
    work = [sum(latency - wake_up for latency in latencies) for latencies in devices]
    return wake_up + max(work), wake_up + sum(work)


def _pool(times: Sequence[int]) -> int:
    """The time of a pool of threads, where each takes the next device when it is free."""
    threads = [0] * THREADS
    for taken in times:
        heapq.heapreplace(threads, threads[0] + taken)
    return max(threads)
