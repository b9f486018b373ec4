"""calc-dirty-rate: how fast memory becomes dirty."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.migration.dirty_rate import DirtyRate
from tests.emu.migration.hosts import await_requests, check_request_log
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host

LONG = 60


def test_devices_log_while_the_dirty_rate_is_measured(vm: Vm) -> None:
    """`close` ends the measurement here, long before the requested time."""
    rate = DirtyRate()
    assert rate.query() == {"status": "unstarted"}
    rate.start(vm, LONG)
    assert rate.measuring
    assert rate.query()["calc-time"] == LONG
    assert all(device.logging for device in vm.devices)
    with pytest.raises(EmuError, match="being measured already"):
        rate.start(vm, LONG)
    await_requests(vm)
    rate.close()
    assert rate.query()["status"] == "measured"
    assert not any(device.logging for device in vm.devices)
    check_request_log(vm)


def test_the_dirty_rate_of_a_writing_guest_is_not_zero(vm: Vm) -> None:
    """Each page counts once, so the rate is below the bytes that are written."""
    vm.guest.set_dirty_rate(64 << 20)
    rate = DirtyRate()
    rate.start(vm, 1)
    thread = rate._thread
    assert thread is not None
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    answer = rate.query()
    assert answer["status"] == "measured"
    assert answer["dirty-rate"] > 0


def test_a_start_that_fails_leaves_no_device_logging(vm: Vm, hosts: tuple[Host, Host]) -> None:
    vm.reconnect.pause()
    hosts[0].kill("blk1")
    rate = DirtyRate()
    with pytest.raises(VhostUserError, match="blk1"):
        rate.start(vm, LONG)
    assert not rate.measuring
    assert not any(device.logging for device in vm.devices if device.name != "blk1")
    rate.close()
