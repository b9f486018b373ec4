"""Waits for the end of a migration, at the source, the destination or both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from emu.errors import MigrationError, Operation
from emu.report.cells import rough_time, size
from emu.report.progress import SilentProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.orchestrator.signals import SignalWatcher
    from emu.orchestrator.vm_host import VmHost
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress

Role = Literal["source", "destination"]
#: QMP's states of a migration that has ended.
ENDED = ("completed", "failed", "cancelled")
#: Seconds without an event after which a migration is cancelled; after as many more the wait fails.
SILENCE = 60.0
#: Seconds of one wait without an ``idle`` function.
_LONG = 3600.0


class MigrationOutcome:
    """Waits for the end of one migration.

    Args:
        sides: the processes of this run that take part in it.
        watcher: interrupts the wait for signals and for programs that end.
        progress: shows the rounds of the source.
        may_be_silent: wait without a limit; by default `wait` sends migrate_cancel to the source
            after `SILENCE` seconds without an event.
        idle: called after each ``step`` seconds without an event.
        step: see ``idle``.

    Attributes:
        ended: data of the last MIGRATION event of each side that has ended its part.
    """

    def __init__(
        self,
        sides: Mapping[Role, VmHost],
        watcher: SignalWatcher,
        *,
        progress: Progress | None = None,
        may_be_silent: bool = False,
        idle: Callable[[], None] | None = None,
        step: float = 1.0,
    ) -> None:
        self.ended: dict[Role, JsonObject] = {}
        self._sides = sides
        self._watcher = watcher
        self._progress = SilentProgress() if progress is None else progress
        self._limit = None if may_be_silent else SILENCE
        self._idle = idle
        self._step = _LONG if idle is None else step
        self._last_event = time.monotonic()
        self._cancelled = False

    def wait(self) -> dict[Role, JsonObject]:
        """Return when all sides have ended their part; only the source's is awaited if it failed.

        Raises:
            ProgramError: a process has ended.
            SignalError: a signal arrived.
            MigrationError: there was no event for `SILENCE` seconds, twice; or a user has ended the
                VM by QMP's quit.
        """
        # The migration may have ended before the response to its command.
        self._take_events()
        while not self._over:
            fds = [side.monitor.fileno() for side in self._sides.values()]
            if self._watcher.wait(fds, self._timeout()):
                self._last_event = time.monotonic()
            elif self._silent:
                self._cancel()
            elif self._idle is not None and not self.ended:
                self._idle()
            # Commands that were executed meanwhile may have received events as well.
            self._take_events()
        return self.ended

    @property
    def _over(self) -> bool:
        source = self.ended.get("source")
        if source is not None and source.get("status") != "completed":
            return True
        return all(role in self.ended for role in self._sides)

    @property
    def _silent(self) -> bool:
        return self._limit is not None and time.monotonic() - self._last_event >= self._limit

    def _timeout(self) -> float:
        if self._limit is None:
            return self._step
        left = self._last_event + self._limit - time.monotonic()
        return max(0.0, min(self._step, left))

    def _cancel(self) -> None:
        if self._cancelled:
            raise MigrationError(Operation.WAIT, f"no event for {SILENCE:g} s, twice")
        self._cancelled = True
        self._last_event = time.monotonic()
        self._sides["source"].execute("migrate_cancel")

    def _take_events(self) -> None:
        for role, side in self._sides.items():
            for event in side.take_events():
                if event.name == "MIGRATION_PASS" and role == "source":
                    self._progress.detail(_after_round(event.data))
                elif event.name == "MIGRATION_ROUND" and role == "source":
                    self._show_round(event.data)
                elif event.name == "SHUTDOWN":
                    raise MigrationError(Operation.WAIT, "ended by QMP's quit")
                elif event.name == "MIGRATION" and event.data.get("status") in ENDED:
                    self.ended[role] = event.data

    def _show_round(self, data: JsonObject) -> None:
        """How far a round is, and how long the limit on the bandwidth makes it take."""
        sent, whole, rate = int(data["sent"]), int(data["size"]), int(data["max-bandwidth"])
        text = f"round {data['round']}: {size(sent)} of {size(whole)} sent"
        if rate:
            text += f", {rough_time((whole - sent) / rate)} left at {size(rate)} a second"
        if sent:
            self._progress.advance(text, sent, whole)
        else:
            self._progress.detail(text)


def _after_round(data: JsonObject) -> str:
    """MIGRATION_PASS as text."""
    sent, dirty = data.get("bytes", 0) / (1 << 20), data.get("remaining", 0) / (1 << 20)
    return f"round {data.get('pass')}: {sent:.1f} MiB sent, {dirty:.1f} MiB dirty"


def completed(outcome: JsonObject | None) -> bool:
    """Whether the migration has completed, by the last event of one side."""
    return outcome is not None and outcome.get("status") == "completed"


def reason(outcome: JsonObject) -> str:
    """Why the migration has not completed."""
    return str(outcome.get("error-desc") or outcome["status"])
