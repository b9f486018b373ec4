"""One migration of a VM's process, as QMP's query-migrate reports it."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING

from emu.errors import CancelledError
from emu.locking.deadlock_detector import Watchdog
from emu.migration.source import FAILURES
from emu.strategies.timeline import now
from emu.trace_events import ROUND, STATUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.migration.side import MigrationSide
    from emu.qmp.protocol import EventSink, JsonObject

#: Seconds for a migration to end when the process ends.
TIMEOUT = 20.0
_MS = 1_000_000


class Job:
    """A migration, which `start` runs in a thread of its own, and its outcome.

    Args:
        emit: called at every change of `status`, and with the events of the migration itself.

    Attributes:
        status: QMP's: ``setup``, ``active``, ``device``, ``cancelling``; then ``completed``,
            ``failed`` or ``cancelled``.
        side: the source or the destination, once it has been started.
    """

    def __init__(self, emit: EventSink) -> None:
        self.status = "setup"
        self.side: MigrationSide | None = None
        self._error = ""
        self._emit = emit
        self._started = now()
        self._ended = 0
        self._active = 0
        self._remaining = 0
        self._cancel: Callable[[], bool] = bool
        self._abort: Callable[[], object] = bool
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(
        self,
        side: MigrationSide,
        work: Callable[[], None],
        *,
        cancel: Callable[[], bool],
        abort: Callable[[], object] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            side: the source or the destination.
            work: runs the migration.
            cancel: makes ``work`` end early; False when it is too late for that.
            abort: the same, when the process ends; ``cancel`` by default.
        """
        self.side = side
        self._cancel = cancel
        self._abort = abort or cancel
        self._report({"status": self.status})
        self._thread = threading.Thread(
            target=self._run, args=(work,), name="migration", daemon=True
        )
        self._thread.start()

    def observe(self, name: str, data: JsonObject) -> None:
        """Forward an event of the migration."""
        if name == "MIGRATION":
            with self._lock:
                # After a cancel only the final status is reported.
                if self.status == "cancelling":
                    return
                self.status = str(data["status"])
            if self.status == "active":
                self._active = now()
            self._report(data)
            return
        if name == "MIGRATION_PASS":
            self._remaining = int(data["remaining"])
            if ROUND.enabled:
                ROUND.emit(round=data["pass"], remaining=self._remaining, sent=data["bytes"])
        self._emit(name, data)

    def cancel(self) -> None:
        """Cancel the migration if it is not too late; the VM stays where it is."""
        if not self.running or not self._cancel():
            return
        with self._lock:
            if self._ended:
                return  # it has ended since, and no status follows the final one
            self.status = "cancelling"
        self._report({"status": "cancelling"})

    def _run(self, work: Callable[[], None]) -> None:
        status, why = "failed", "the migration thread ended unexpectedly"
        try:
            with Watchdog():
                work()
            status, why = "completed", ""
        except FAILURES as error:
            if isinstance(error, CancelledError):
                status = "cancelled"
            lost = {} if self.side is None else self.side.lost
            parts = [str(error), *(f"{name} is left without a back-end" for name in lost)]
            why = "; ".join(parts)
        except Exception as error:  # noqa: BLE001  a strategy of a plug-in may raise anything
            traceback.print_exc()  # for the log of the process
            why = f"{type(error).__name__}: {error}"
        finally:
            self._end(status, why)

    def _end(self, status: str, why: str) -> None:
        with self._lock:
            self._ended = now()
            self._error = why  # who reads the final status reads the reason after it
            self.status = status
        data: JsonObject = {"status": status}
        if self._error:
            data["error-desc"] = self._error
        self._report(data)

    def _report(self, data: JsonObject) -> None:
        """Emit a change of the status."""
        if STATUS.enabled:
            STATUS.emit(status=data["status"], error=data.get("error-desc"))
        self._emit("MIGRATION", data)

    @property
    def running(self) -> bool:
        """Whether the migration still runs; not any more when its final status is reported."""
        return self._thread is not None and self._thread.is_alive() and not self._ended

    def describe(self) -> JsonObject:
        """QMP's query-migrate; times are milliseconds."""
        answer: JsonObject = {
            "status": self.status,
            "total-time": ((self._ended or now()) - self._started) // _MS,
        }
        if self._active:
            answer["setup-time"] = (self._active - self._started) // _MS
        if self._error:
            answer["error-desc"] = self._error
        if self.side is not None:
            answer |= self.side.query(self.status, self._remaining)
        return answer

    def close(self) -> None:
        """Abort the migration if it still runs, and wait for its end."""
        if self._thread is not None and self._thread.is_alive():
            self._abort()
            self._thread.join(TIMEOUT)
