"""The monitor of a VM that another command runs, as `emu top` watches it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from emu.errors import CommandError, HangUpError, MonitorError
from emu.json_input import Each, JsonInputError, Members, check
from emu.qmp.client import MonitorClient
from emu.report.top_view import TopSample

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.protocol import JsonObject

#: Seconds for a response: another client's command may be executed first.
TIMEOUT = 20.0
_DEVICE = Members(
    {
        "id": str,
        "state": str,
        "completed": int,
        "outstanding": int,
        "kicks": int,
        "calls": int,
        "host-notifiers": bool,
        "guest-notifiers": bool,
        "rings": Each(Members({"state": str})),
    }
)
_DEVICES = Members({"now-ns": int, "devices": Each(_DEVICE)})
_STATUS = Members({"status": str})
_MIGRATION = Members(
    {},
    {
        "status": str,
        "ram": Members({"transferred": int, "remaining": int}),
        "expected-downtime": int,
        "downtime": int,
        "error-desc": str,
    },
)


class WatchedMonitor:
    """A connection to a monitor, as a context manager.

    Args:
        path: socket of the monitor.
        watcher: waits for responses.

    Raises:
        MonitorError: no monitor listens there, or it is not QMP's.
    """

    def __init__(self, path: Path, watcher: SignalWatcher) -> None:
        self._path = path
        self._watcher = watcher
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise MonitorError(f"{path}: no monitor listens there: {error.strerror}") from None
        self._client = MonitorClient(sock, str(path), watcher)
        try:
            self._client.negotiate(TIMEOUT)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def sample(self) -> TopSample:
        """What the VM does now.

        Raises:
            MonitorError: the monitor has gone, does not answer, or is not this project's.
        """
        try:
            status = self._execute("query-status", _STATUS)["status"]
            migration = self._execute("query-migrate", _MIGRATION)
            try:
                found = self._execute("x-query-devices", _DEVICES)
            except CommandError as error:
                if error.error_class == "CommandNotFound":
                    raise
                found = {"now-ns": 0, "devices": []}  # the VM is not built yet
        except HangUpError:
            raise MonitorError(f"{self._path}: the monitor has gone: its VM has ended") from None
        return TopSample(status, migration, found["now-ns"], tuple(found["devices"]))

    def _execute(self, command: str, shape: Members) -> JsonObject:
        answer = self._client.execute(command, timeout=TIMEOUT)
        self._client.events.clear()
        try:
            check(answer, shape, command)
        except JsonInputError as error:
            raise MonitorError(f"{self._path}: an invalid response: {error}") from None
        return answer

    def pause(self, seconds: float) -> None:
        """Wait; raises as `sample` when the monitor has gone meanwhile."""
        self._watcher.pause(seconds)
