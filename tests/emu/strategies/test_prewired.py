"""`prewired` does all steps but those of the rings outside of the blackout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import Phase
from emu.strategies.prewired import Prewired
from tests.emu.strategies.test_contract import stage_of, starts, stops

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def test_the_blackout_has_the_rings_only(vm: Vm) -> None:
    """Notifiers and memory table change after it at the source, before it at the destination."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    strategy, stage = Prewired(), stage_of(vm)
    outside = {Phase.DISABLE_GUEST_NOTIFY, Phase.DISABLE_HOST_NOTIFY}

    def phases() -> set[Phase]:
        found = {span.phase for span in stage.timeline.spans}
        stage.timeline.spans.clear()
        return found

    tasks = stops(vm)
    strategy.stop(tasks, stage)
    assert phases() == {Phase.GET_VRING_BASE}
    strategy.finish(tasks, stage)
    assert phases() == outside
    tasks = starts(vm)
    strategy.prepare(tasks, stage)
    assert {Phase.ENABLE_HOST_NOTIFY, Phase.ENABLE_GUEST_NOTIFY, Phase.SET_MEM_TABLE} <= phases()
    assert not any(ring.started for device in vm.devices for ring in device.rings)
    strategy.start(tasks, stage)
    assert phases() == {Phase.START_VRINGS}
    assert all(ring.started for device in vm.devices for ring in device.rings)
