"""How fast a VM's memory becomes dirty, by the guest and by the back-ends: calc-dirty-rate."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from devices import lifecycle
from emu.errors import EmuError
from emu.migration.ram_sync import RamSync, total
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject
    from emu.vm.vm import Vm

_MIB = 1 << 20


class DirtyRate:
    """Measures the dirty rate of a VM in the background: calc-dirty-rate and query-dirty-rate."""

    def __init__(self) -> None:
        self._answer: JsonObject = {"status": "unstarted"}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def measuring(self) -> bool:
        """Whether a measurement runs."""
        return bool(self._answer["status"] == "measuring")

    def query(self) -> JsonObject:
        """What query-dirty-rate returns."""
        return self._answer

    def start(self, vm: Vm, seconds: int) -> None:
        """Enable the dirty log of all devices, and begin to measure; returns when they log.

        A back-end that disconnects meanwhile is reconnected only afterwards: the new one would have
        no log.

        Args:
            vm: the VM to measure.
            seconds: how long.

        Raises:
            EmuError: a measurement runs already.
            VhostUserError: a back-end does not log.
            OSError: there is no memory for the log.
        """
        if self.measuring:
            raise EmuError("the dirty rate is being measured already")
        self._stop.clear()
        with ExitStack() as undo:
            log = DirtyLog.create(vm.log_pages)
            undo.callback(log.close)
            undo.enter_context(vm.reconnect.paused())
            undo.callback(vm.stop_logging)
            vm.drive(lifecycle.set_logging(device, log) for device in vm.devices)
            sync = RamSync(vm.machine.ram, log)
            self._answer = {
                "status": "measuring",
                "start-time": int(time.time()),
                "calc-time": seconds,
                "mode": "dirty-bitmap",
            }
            self._thread = threading.Thread(
                target=self._measure, args=(undo.pop_all(), sync, seconds), name="dirty-rate"
            )
            self._thread.start()

    def _measure(self, undo: ExitStack, sync: RamSync, seconds: int) -> None:
        rate = None
        with undo:
            self._stop.wait(seconds)
            # A back-end may have marked an address that is not memory; QMP has no status for that.
            with suppress(VhostUserError):
                rate = total(sync.dirty()) // seconds // _MIB
        if rate is None:
            self._answer = {**self._answer, "status": "unstarted"}
        else:
            self._answer = {**self._answer, "status": "measured", "dirty-rate": rate}

    def close(self) -> None:
        """End the measurement, if one runs, and wait until no device logs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
