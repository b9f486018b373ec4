"""How fast a VM's memory becomes dirty, by the guest and by the back-ends: calc-dirty-rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from devices import lifecycle
from emu.migration.ram_sync import RamSync, total
from vhost_user.dirty_log import DirtyLog

if TYPE_CHECKING:
    from emu.monitor.protocol import JsonObject
    from emu.vm import Vm

_MIB = 1 << 20


def measure(vm: Vm, seconds: int) -> JsonObject:
    """Have all devices log for so long; the answer of QMP's ``query-dirty-rate``.

    Raises:
        VhostUserError: a back-end does not log.
        OSError: there is no memory for the log.
    """
    log = DirtyLog.create(vm.log_pages)
    start = time.time()
    try:
        vm.drive(lifecycle.set_logging(device, log) for device in vm.devices)
        sync = RamSync(vm.machine.ram, log)
        time.sleep(seconds)  # the time is what was asked for
        dirty = total(sync.dirty())
    finally:
        vm.stop_logging()
        log.close()
    return {
        "status": "measured",
        "dirty-rate": dirty // seconds // _MIB,
        "start-time": int(start),
        "calc-time": seconds,
        "mode": "dirty-bitmap",
    }
