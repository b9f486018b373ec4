"""`handover` sends no message to a device; it changes notifiers as `prewired` does."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

from devices import lifecycle
from devices.procedure import Phase
from emu.strategies.base import DeviceCost
from emu.strategies.handover import Handover
from emu.strategies.prewired import Prewired
from emu.strategies.task import begin_tasks
from tests.emu.strategies.test_contract import stage_of

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def test_no_device_is_expected_to_take_any_time() -> None:
    costs = [DeviceCost(asked=4, posted=8, round_trip=100, share=10, besides=7)] * 24
    assert Handover().estimate(costs) == 0
    assert Prewired().estimate(costs) > 0


def test_it_keeps_the_devices_and_changes_notifiers_outside_of_the_blackout() -> None:
    """`emu.migration.handover` relies on both."""
    assert Handover.hands_over
    assert Handover.prepares_ahead
    assert not Prewired.hands_over


def test_all_notifiers_change_in_one_commit(vm: Vm) -> None:
    """The rings stay started."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    stage, before = stage_of(vm), vm.machine.commits
    tasks = begin_tasks(vm.devices, lifecycle.disable_host_notify)
    Handover().drive(tasks, stage)
    assert vm.machine.commits == before + 1
    assert {span.phase for span in stage.timeline.spans} == {Phase.DISABLE_HOST_NOTIFY}
    assert all(ring.started for device in vm.devices for ring in device.rings)
    assert not any(device.host_notifiers for device in vm.devices)
