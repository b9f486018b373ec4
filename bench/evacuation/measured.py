"""Measured evacuations: some VMs of one shape run on this host, and migrate a few at a time.

Each VM has one core, as those of the sweep that the costs are from: a wake-up on another core takes
several times as long as one on the same. The VMs are spread over the cores.
"""

from __future__ import annotations

import json
import pickle
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.config.plan import MigrationPlan
    from emu.orchestrator.signals import SignalWatcher

#: Seconds for a VM to boot, or to migrate, with the others beside it.
TIMEOUT = 120.0
_TICK = 0.2
#: Seconds in which the processor time of VMs that do not migrate is measured.
_IDLE_SECONDS = 2.0
#: Seconds for a VM to end in order.
_END_TIMEOUT = 10.0


class Evacuation(NamedTuple):
    """What an evacuation took.

    Attributes:
        strategy: of all migrations.
        parallel: the most migrations at one time.
        seconds: from the begin of the first migration to the end of the last one.
        downtimes_ms: of the VMs.
        migration_seconds: of the VMs, from the command to the switchover.
        cpu_seconds: processor time of each VM's processes meanwhile.
        idle_cores: that all VMs use while none of them migrates.
    """

    strategy: str
    parallel: int
    seconds: float
    downtimes_ms: list[float]
    migration_seconds: list[float]
    cpu_seconds: list[float]

    idle_cores: float = 0.0

    @property
    def downtime_ms(self) -> float:
        """The median of the downtimes."""
        return statistics.median(self.downtimes_ms)


_Line = dict[str, Any]
_Lines = queue.SimpleQueue[tuple[int, _Line]]


class _Vm:
    """A process of `bench.evacuation.vm`; its lines come with its number."""

    def __init__(self, number: int, plan: MigrationPlan, lines: _Lines) -> None:
        self._number = number
        self._lines = lines
        self._tree: list[psutil.Process] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.evacuation.vm", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self._write(pickle.dumps(plan))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        last: _Line = {}
        for line in self._process.stdout:
            last = json.loads(line)
            self._lines.put((self._number, last))
        if "downtimes_ms" not in last:
            self._lines.put((self._number, {"failure": "its process has ended"}))

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def migrate(self) -> None:
        """Let it migrate."""
        self._write(b"\n")

    @property
    def cpu_seconds(self) -> float:
        """Processor time of its processes so far."""
        if not self._tree:
            own = psutil.Process(self._process.pid)
            self._tree = [own, *own.children(recursive=True)]
        times = [each.cpu_times() for each in self._tree]
        return sum(each.user + each.system for each in times)

    def close(self) -> None:
        """End it in order."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT)
        self._process.kill()
        self._process.wait()


def evacuate(
    plan: MigrationPlan, vms: int, parallels: Sequence[int], watcher: SignalWatcher
) -> list[Evacuation]:
    """Boot some VMs, and migrate all of them, back and forth, by each strategy in turn.

    Args:
        plan: of one VM; it repeats once for each number of ``parallels``.
        vms: their number.
        parallels: the most migrations at one time, for each repetition.
        watcher: of signals, which end it.

    Raises:
        EmuError: a VM failed.
        SignalError: the user has ended it.
    """
    lines: _Lines = queue.SimpleQueue()
    rounds: list[list[_Line]] = []
    downtimes: list[list[float]] = []
    with ExitStack() as stack:
        made = []
        for number in range(vms):
            made.append(_Vm(number, plan, lines))
            stack.callback(made[-1].close)
            _next(lines, watcher)  # one after the other, so that none waits for the others for long
        idle_cores = _idle_cores(made, watcher)
        for at, (_, repeat) in enumerate(plan.sequence):
            if at:
                for _ in made:  # all have checked their requests
                    _next(lines, watcher)
            rounds.append(_round(made, parallels[repeat - 1], lines, watcher))
        downtimes += [_next(lines, watcher)["downtimes_ms"] for _ in made]
    return [
        Evacuation(
            strategy,
            parallels[repeat - 1],
            (max(each["end_ns"] for each in ended) - min(each["begin_ns"] for each in ended)) / 1e9,
            [own[at] for own in downtimes],
            [(each["end_ns"] - each["begin_ns"]) / 1e9 for each in ended],
            [each["cpu_seconds"] for each in ended],
            idle_cores,
        )
        for at, ((strategy, repeat), ended) in enumerate(zip(plan.sequence, rounds, strict=True))
    ]


def _idle_cores(vms: Sequence[_Vm], watcher: SignalWatcher) -> float:
    before = sum(each.cpu_seconds for each in vms)
    begin = time.monotonic()
    watcher.pause(_IDLE_SECONDS)
    used: float = sum(each.cpu_seconds for each in vms) - before
    return used / (time.monotonic() - begin)


def _round(vms: Sequence[_Vm], parallel: int, lines: _Lines, watcher: SignalWatcher) -> list[_Line]:
    """Migrate all VMs once; what each of them took."""
    waiting = deque(vms)
    ended: list[_Line] = []
    for _ in range(min(parallel, len(vms))):
        waiting.popleft().migrate()
    early: list[tuple[int, _Line]] = []
    while len(ended) < len(vms):
        number, line = _next_of(lines, watcher)
        if "end_ns" not in line:  # one that has migrated waits for its next migration
            early.append((number, line))
            continue
        ended.append(line)
        if waiting:
            waiting.popleft().migrate()
    for each in early:
        lines.put(each)
    return ended


def _next(lines: _Lines, watcher: SignalWatcher) -> _Line:
    return _next_of(lines, watcher)[1]


def _next_of(lines: _Lines, watcher: SignalWatcher) -> tuple[int, _Line]:
    for _ in range(int(TIMEOUT / _TICK)):
        watcher.check()
        try:
            number, line = lines.get(timeout=_TICK)
        except queue.Empty:
            continue
        if line.get("failure"):
            raise EmuError(f"VM {number}: {line['failure']}")
        return number, line
    raise EmuError(f"no VM has booted or migrated within {TIMEOUT:g} s")
