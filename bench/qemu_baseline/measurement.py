"""What is measured of a VM, whichever it is: a stop and a start, and a migration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bench.qemu_baseline.heartbeat import HeartbeatWatcher, longest_between, of_the_move
from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.qemu_baseline.heartbeat import Gap
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.protocol import JsonObject

#: Seconds: of a command that stops or starts a VM, until a beat, and between two looks for it. On a
#: host whose CPUs are busy the devices of QEMU's destination took 27 s to start.
STOP_TIMEOUT = 60.0
BEAT_TIMEOUT = 120.0
LOOK = 0.001


class StopFigures(NamedTuple):
    """One `stop` and the `cont` after it, in milliseconds.

    Attributes:
        stop_ms, cont_ms: from sending the QMP command until its response.
        gap_ms: the longest time between two beats meanwhile.
    """

    stop_ms: float
    cont_ms: float
    gap_ms: float


class MigrationFigures(NamedTuple):
    """One migration, in milliseconds.

    Attributes:
        gap_ms: from the last beat at the source to the first one at the destination.
        downtime_ms: what the program itself reports: QEMU's query-migrate, or the accounted
            downtime of `emu migrate`.
    """

    gap_ms: float
    downtime_ms: float


class Side(Protocol):
    """The process of a running VM."""

    @property
    def beats(self) -> memoryview:
        """The heartbeat, as `HeartbeatWatcher` takes it."""

    def execute(
        self, command: str, arguments: JsonObject | None = None, timeout: float = STOP_TIMEOUT
    ) -> JsonObject:
        """Execute a QMP command."""


class MeasuredVm(Protocol):
    """A VM with two sides."""

    def boot(self) -> None:
        """Start the back-ends and the VM of the first side; return when its guest runs."""

    def stop_and_cont(self) -> StopFigures:
        """Stop it and start it again."""

    def migrate(self) -> dict[str, MigrationFigures]:
        """Migrate it once by each of its strategies."""


def stop_and_cont(side: Side, watcher: SignalWatcher) -> StopFigures:
    """Stop a VM and start it again.

    Raises:
        EmuError: a command failed, or the guest does not run afterwards.
    """
    with HeartbeatWatcher([side.beats]) as heartbeat:
        _await_beat(heartbeat, watcher)
        begin = time.monotonic_ns()
        side.execute("stop", timeout=STOP_TIMEOUT)
        stopped = time.monotonic_ns()
        side.execute("cont", timeout=STOP_TIMEOUT)
        running = time.monotonic_ns()
        _await_beat(heartbeat, watcher)
    gap = longest_between(heartbeat.gaps, begin, running)
    return StopFigures((stopped - begin) / 1e6, (running - stopped) / 1e6, _known(gap).ms)


def gap_of_migration(
    source: Side, destination: Side, migrate: Callable[[], None], watcher: SignalWatcher
) -> float:
    """Milliseconds without a beat in a migration.

    Args:
        source, destination: the two sides.
        migrate: returns when the migration has completed.
        watcher: interrupts the waits.

    Raises:
        EmuError: the migration failed, or the guest does not run at the destination.
    """
    with HeartbeatWatcher([source.beats, destination.beats]) as heartbeat:
        _await_beat(heartbeat, watcher)
        migrate()
        _await_beat(heartbeat, watcher)
    return _known(of_the_move(heartbeat.gaps)).ms


def _await_beat(heartbeat: HeartbeatWatcher, watcher: SignalWatcher) -> None:
    """Return when there was a beat from now on."""
    now = time.monotonic_ns()
    look_until(
        lambda: heartbeat.has_beaten_since(now), "a beat of the guest", BEAT_TIMEOUT, watcher
    )


def look_until(
    holds: Callable[[], bool], what: str, timeout: float, watcher: SignalWatcher
) -> None:
    """Return when a condition holds of which no event tells.

    Args:
        holds: the condition.
        what: is waited for, for the error.
        timeout: seconds.
        watcher: interrupts the wait for signals, and for programs that end.

    Raises:
        EmuError: it does not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise EmuError(f"waited {timeout:g} s for {what}")
        watcher.wait((), LOOK)


def _known(gap: Gap | None) -> Gap:
    if gap is None:
        raise EmuError("the heartbeat shows no gap")
    return gap
