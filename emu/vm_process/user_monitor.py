"""The monitor of `emu run --qmp`, in the VM's process, beside the one of `emu run` itself."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.migration.endpoint import StreamSecurity
from emu.migration.tls import Credentials
from emu.vm_process.control import Control

if TYPE_CHECKING:
    import threading

    from emu.qmp.listener import MonitorListener
    from emu.qmp.protocol import EventSink, JsonObject
    from emu.vm_process.commands import VmControl
    from emu.vm_process.monitor import Monitor


class UserMonitor:
    """Serves users once `open` was called.

    Args:
        control: of the process.
        executing: held while a command of any monitor is executed.
        report: sends SHUTDOWN to the process that started this one, when a user has sent ``quit``.
    """

    def __init__(self, control: VmControl, executing: threading.Lock, report: EventSink) -> None:
        self._control = control
        self._executing = executing
        self._report = report
        self._quit = False
        self._monitor: Monitor | None = None
        self._listener: MonitorListener | None = None

    def open(
        self,
        path: str,
        disks: JsonObject | None = None,
        incoming: JsonObject | None = None,
        stats: list[str] | None = None,
        tls: list[str] | None = None,
        *,
        insecure: bool = False,
    ) -> None:
        """The command x-monitor: serve QMP at ``path``.

        Args:
            path: of the socket.
            disks: see `Identity`.
            incoming: see `Identity`.
            stats: see `Identity`.
            tls: the fields of `emu.migration.tls.Credentials`, for TLS.
            insecure: see `StreamSecurity`.

        Raises:
            EmuError: no socket can be made there, or there is one already.
        """
        # A process of `emu migrate` needs none of this, and starts faster without it.
        from emu.vm_process.monitor import Monitor
        from emu.vm_process.qemu_commands import Identity

        if self._listener is not None or not isinstance(self._control, Control):
            raise EmuError("this process cannot serve a monitor at another path")
        credentials = None if tls is None else Credentials(*tls)
        self._monitor = Monitor(
            self._control,
            Identity(disks, incoming, stats),
            StreamSecurity(credentials, insecure),
        )
        self._listener = self._monitor.listen(
            Path(path), executing=self._executing, ended=self._ended
        )
        self._listener.start()

    def emit(self, name: str, data: JsonObject) -> None:
        """Send an event to the users."""
        if self._monitor is not None:
            self._monitor.emit(name, data)

    def _ended(self, failure: BaseException | None) -> None:
        if failure is not None:
            traceback.print_exception(failure)  # for the log of the process
            sys.stderr.flush()
            os._exit(1)
        self._quit = True
        self._report("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})

    def close(self) -> None:
        """Disconnect the users. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            if not self._quit:
                listener.emit("SHUTDOWN", {"guest": False, "reason": "host-signal"})
            listener.close()
