"""`split`: all devices in flight, and one commit."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.strategies.base import DeviceCost
from emu.strategies.split import Split
from tests.emu.migration.hosts import SPEC
from tests.emu.strategies.test_contract import stage_of, stops
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host


@pytest.fixture(autouse=True)
def paused(vm: Vm) -> None:
    """No other thread uses the devices."""
    vm.reconnect.pause()
    vm.pause_vcpus()


def test_one_commit_for_all_devices_and_a_span_for_each_class(vm: Vm) -> None:
    stage = stage_of(vm)
    before = vm.machine.commits
    Split().drive(stops(vm), stage)
    phases = (Phase.DISABLE_GUEST_NOTIFY, Phase.DISABLE_HOST_NOTIFY)
    assert vm.machine.commits - before == Split().commits(len(SPEC.devices), SPEC.rings) == 1
    for phase in phases:
        spans = [span for span in stage.timeline.spans if span.phase == phase]
        assert {span.device_class: span.units for span in spans} == {"net": 4, "blk": 4}
        assert len({(span.start, span.end) for span in spans}) == 1
        assert sum(span.units for span in spans) == SPEC.rings


@pytest.mark.parametrize("lenient", [False, True])
def test_a_device_that_fails_ends_the_drive_unless_it_is_lenient(
    vm: Vm, hosts: tuple[Host, Host], *, lenient: bool
) -> None:
    hosts[0].kill("net0")
    strategy = Split(lenient=lenient)
    tasks = stops(vm)
    if lenient:
        strategy.drive(tasks, stage_of(vm))
        assert {d.name for d in vm.devices if d.host_notifiers} == {"net0"}
    else:
        with pytest.raises(VhostUserError) as caught:
            strategy.drive(tasks, stage_of(vm))
        assert caught.value.device == "net0"
        assert {d.name for d in vm.devices if d.host_notifiers} == {d.name for d in vm.devices}
    assert list(strategy.failures) == ["net0"]


def test_the_estimate_has_the_slowest_round_trip_once() -> None:
    costs = [DeviceCost(asked=2, round_trip=ns, share=3) for ns in (100, 700)]
    assert Split().estimate(costs) == 700 + 2 * 2 * 3
    assert Split().estimate([]) == 0
