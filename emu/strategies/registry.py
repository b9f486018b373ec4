"""Strategies: schedulers that drive the procedures of all devices.

A strategy is one class in one file of this package. To add one: write `Strategy.drive` (and set
``prepares_ahead`` if it works before the blackout), and name the class in `STRATEGIES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.strategies.base import Strategy
from emu.strategies.handover import Handover
from emu.strategies.prewired import Prewired
from emu.strategies.processes import Processes
from emu.strategies.qemu import Qemu2021, QemuNow
from emu.strategies.split import Split
from emu.strategies.threads import Threads
from emu.strategies.unsafe import UnsafeThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["DEFAULT_COMPARED", "STRATEGIES", "Strategy", "StrategyOptions", "make"]


class StrategyOptions(NamedTuple):
    """Options that some strategies take.

    Attributes:
        threads: workers of a pool of threads.
        processes: workers of a pool of processes.
        unsafe: run `threads` as the RFC first tried it; one of `unsafe.MODES`, or empty.
    """

    threads: int = 8
    processes: int = 2
    unsafe: str = ""


def _threads(options: StrategyOptions) -> Strategy:
    if options.unsafe:
        return UnsafeThreads(options.threads, options.unsafe)
    return Threads(options.threads)


STRATEGIES: dict[str, Callable[[StrategyOptions], Strategy]] = {
    "qemu-2021": lambda _options: Qemu2021(),
    "qemu-now": lambda _options: QemuNow(),
    "threads": _threads,
    "processes": lambda options: Processes(options.processes),
    "split": lambda _options: Split(),
    "prewired": lambda _options: Prewired(),
    "handover": lambda _options: Handover(),
}
DEFAULT_COMPARED = ("qemu-2021", "threads", "prewired")


def make(name: str, options: StrategyOptions | None = None) -> Strategy:
    """The strategy of that name.

    Raises:
        ValueError: there is none; the text lists those there are.
    """
    try:
        factory = STRATEGIES[name]
    except KeyError:
        raise ValueError(f"{name!r} is no strategy: use one of {listed(STRATEGIES)}") from None
    return factory(options or StrategyOptions())


def listed(names: Iterable[str]) -> str:
    """``a, b, c``, for messages."""
    return ", ".join(names)
