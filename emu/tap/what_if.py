"""What other strategies would have made of a stop or a start, from the times of its replies.

A reply takes a wake-up of both sides and the back-end's own work. In lock-step every reply costs
both. With all requests in flight the wake-up is paid once, and what remains is the work: that of
the slowest device if all devices' back-ends work at the same time, that of the slowest process if
one thread of each process serves its devices, that of all if they have one CPU. The wire shows
which devices a process serves, but not its threads, so an estimate has all three.

A reply that needs no work, such as that to GET_FEATURES, shows the wake-up of its process. Most of
these replies take about the same time, a few much longer, when a process waits for a CPU; so may
any other reply. What a reply takes longer than the slowest one without work is its own work. Each
faster one counts like most of its kind: first replies of a device, in which a back-end may have to
wait for requests in flight, and the others. Where no reply without work was seen, what a reply took
longer than the fastest one counts.

Only messages with replies count: what a message without one costs does not show on the wire, nor
does the front-end's own work.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

from emu.strategies.base import StrategyOptions
from emu.tap.back_end_processes import BackEnd
from emu.tap.transitions import Phase

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from emu.tap.transitions import Span, Transition

#: Nanoseconds of a request at least, with others in flight: the back-end's system calls for its
#: header, its payload and its reply.
LEAST_WORK = 10_000
#: Size of the pool of the strategy `threads`, as by default in `emu migrate`.
THREADS = StrategyOptions().threads


class Estimate(NamedTuple):
    """An estimate for one strategy, in nanoseconds.

    Attributes:
        strategy: its name.
        apart: if all devices' back-ends work at the same time.
        processes: if each process serves its devices in one thread.
        together: if one thread, or one CPU, serves all of them.
    """

    strategy: str
    apart: int
    processes: int
    together: int


class _Bounds(NamedTuple):
    """See `Estimate`."""

    apart: int
    processes: int
    together: int


class _Device(NamedTuple):
    """A device: its process, the nanoseconds of its replies, and those of them that are work."""

    process: Hashable
    latencies: list[int]
    work: int


def what_if(transition: Transition) -> list[Estimate]:
    """The estimates for `qemu-2021`, `threads`, `split` and `prewired`.

    There are none without replies, or if requests were in flight at the same time: the time of such
    a reply is that of the requests before it, too. Nor are there any for what is not a part of the
    blackout.
    """
    if transition.is_ahead:
        return []
    spans = [span for row in transition.rows for span in row.spans if span.latencies]
    if not spans or any(row.at_once > 1 for row in transition.rows):
        return []
    if any(span.busy > span.wall for span in spans):
        return []
    fastest = min(min(span.latencies) for span in spans)
    back_ends = {
        span.device: transition.back_ends.get(span.device, BackEnd(span.device)) for span in spans
    }
    wake_ups = {each.process: each.wake_up or fastest for each in back_ends.values()}
    devices = _devices(spans, back_ends, wake_ups)
    lockstep = sum(sum(device.latencies) for device in devices)
    work = _in_flight(devices, wake_ups)
    pool = _pool([sum(device.latencies) for device in devices])
    ahead = [span for span in spans if span.phase is not Phase.SET_MEM_TABLE]
    late = _in_flight(_devices(ahead, back_ends, wake_ups), wake_ups)
    return [
        Estimate("qemu-2021", lockstep, lockstep, lockstep),
        Estimate("threads", *(max(pool, bound) for bound in work)),
        Estimate("split", *work),
        Estimate("prewired", *late),
    ]


def _devices(
    spans: Sequence[Span],
    back_ends: Mapping[str, BackEnd],
    wake_ups: Mapping[Hashable, int],
) -> list[_Device]:
    """The devices in their order, with the work of their replies."""
    kinds: defaultdict[Hashable, list[int]] = defaultdict(list)
    for span in spans:
        process = back_ends[span.device].process
        for place, latency in enumerate(span.latencies):
            kinds[process, span.phase, place > 0].append(latency)
    usual = {kind: median_low(latencies) for kind, latencies in kinds.items()}
    devices: dict[str, _Device] = {}
    for span in spans:
        process, _, slowest = back_ends[span.device]
        device = devices.get(span.device, _Device(process, [], 0))
        work = device.work
        for place, latency in enumerate(span.latencies):
            alike = slowest is not None and latency <= slowest
            taken = usual[process, span.phase, place > 0] if alike else latency
            work += max(LEAST_WORK, taken - wake_ups[process])
        devices[span.device] = _Device(process, [*device.latencies, *span.latencies], work)
    return list(devices.values())


def _in_flight(devices: Sequence[_Device], wake_ups: Mapping[Hashable, int]) -> _Bounds:
    """The bounds with all requests in flight."""
    if not devices:
        return _Bounds(0, 0, 0)
    of_process: defaultdict[Hashable, int] = defaultdict(int)
    for device in devices:
        of_process[device.process] += device.work
    return _Bounds(
        max(wake_ups[device.process] + device.work for device in devices),
        max(wake_ups[process] + work for process, work in of_process.items()),
        max(wake_ups[process] for process in of_process) + sum(of_process.values()),
    )


def _pool(times: Sequence[int]) -> int:
    """The time of a pool of threads, where each takes the next device when it is free."""
    threads = [0] * THREADS
    for taken in times:
        heapq.heapreplace(threads, threads[0] + taken)
    return max(threads)
