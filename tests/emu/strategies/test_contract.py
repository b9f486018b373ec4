"""The contract of strategies, tested with every strategy in STRATEGIES."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices import lifecycle
from devices.procedure import Ask, AwaitSwitchover, Change, Phase
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import Timeline
from tests import slow
from tests.emu.migration.hosts import (
    PARTLY_USED,
    SPEC,
    Host,
    await_requests,
    check_request_log,
    check_started,
)
from vhost_user.errors import BackendError, VhostUserError
from vhost_user.messages import FrontendRequest, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devices.device import VhostDevice
    from devices.procedure import Procedure
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm


#: All rings of the VM, or some, are used by its guest.
EVERY_USE = pytest.mark.parametrize(
    "spec",
    slow.all_but([SPEC, PARTLY_USED["some"]], [SPEC, *PARTLY_USED.values()]),
    ids=["all", *PARTLY_USED],
    indirect=True,
)


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Iterator[Strategy]:
    """Each strategy."""
    made = make(request.param, StrategyOptions(threads=3))
    made.open()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def alone(vm: Vm) -> None:
    """The reconnect manager is paused: the tests use the devices."""
    vm.reconnect.pause()


def stage_of(vm: Vm) -> Stage:
    return Stage(vm.machine, Timeline(), 5.0)


def stops(vm: Vm) -> list[Task]:
    return begin_tasks(vm.devices, lifecycle.stop)


def starts(vm: Vm) -> list[Task]:
    return begin_tasks(vm.devices, lifecycle.start_ahead)


@EVERY_USE
def test_a_strategy_stops_and_starts_all_devices(vm: Vm, strategy: Strategy) -> None:
    """After a stop no ring is started and no notifier assigned; after a start all are.

    "All" rings are those that the guest has set up; each ring has notifiers.
    """
    vm.pause_vcpus()
    stage = stage_of(vm)
    tasks = stops(vm)
    strategy.stop(tasks, stage)
    assert not any(ring.started for device in vm.devices for ring in device.rings)
    strategy.finish(tasks, stage)
    assert all(task.step is None for task in tasks)
    assert not any(device.host_notifiers or device.guest_notifiers for device in vm.devices)

    tasks = starts(vm)
    strategy.prepare(tasks, stage)
    strategy.start(tasks, stage)
    assert all(task.step is None for task in tasks)
    check_started(vm)
    assert all(device.host_notifiers and device.guest_notifiers for device in vm.devices)

    vm.signal_all_rings()
    vm.resume_vcpus()
    await_requests(vm)
    check_request_log(vm)


@EVERY_USE
def test_a_second_stop_does_nothing(vm: Vm, strategy: Strategy) -> None:
    """Procedures are idempotent: the second time they have no steps."""
    vm.pause_vcpus()
    stage = stage_of(vm)
    tasks = stops(vm)
    strategy.stop(tasks, stage)
    strategy.finish(tasks, stage)
    commits = vm.machine.commits
    spans = len(stage.timeline.spans)
    again = stops(vm)
    assert all(task.step is None for task in again)
    strategy.stop(again, stage)
    assert (vm.machine.commits, len(stage.timeline.spans)) == (commits, spans)


@EVERY_USE
def test_steps_are_left_for_later_only_by_a_strategy_that_prepares_ahead(
    vm: Vm, strategy: Strategy
) -> None:
    """The source's edits after the blackout, and the destination's rings until the blackout."""
    vm.pause_vcpus()
    stage = stage_of(vm)
    tasks = stops(vm)
    strategy.stop(tasks, stage)
    left = [isinstance(task.step, Change) for task in tasks]
    assert left == [strategy.prepares_ahead] * len(tasks)
    strategy.finish(tasks, stage)
    tasks = starts(vm)
    before = vm.machine.commits
    strategy.prepare(tasks, stage)
    ahead = [isinstance(task.step, AwaitSwitchover) for task in tasks]
    assert ahead == [strategy.prepares_ahead] * len(tasks)
    assert (vm.machine.commits > before) is strategy.prepares_ahead


@EVERY_USE
def test_spans_name_phase_device_and_class(vm: Vm, strategy: Strategy) -> None:
    """The GET_VRING_BASE of every ring that was set up, and every notifier, by class."""
    vm.pause_vcpus()
    stage = stage_of(vm)
    tasks = stops(vm)
    strategy.stop(tasks, stage)
    strategy.finish(tasks, stage)
    units: dict[tuple[str, str], int] = {}
    for span in stage.timeline.spans:
        assert span.start <= span.end
        key = (span.phase, span.device_class)
        units[key] = units.get(key, 0) + span.units
    for kind in ("net", "blk"):
        devices = [device for device in vm.spec.devices if device.device_class == kind]
        stopped = sum(len(device.rings_set_up) for device in devices)
        assert units.get((Phase.GET_VRING_BASE, kind), 0) == stopped
        for phase in (Phase.DISABLE_GUEST_NOTIFY, Phase.DISABLE_HOST_NOTIFY):
            assert units[phase, kind] == sum(device.rings for device in devices)


def test_the_number_of_commits(vm: Vm, strategy: Strategy) -> None:
    """`qemu-2021` commits once for each notifier, `split` once for all of them."""
    vm.pause_vcpus()
    before = vm.machine.commits
    tasks = stops(vm)
    strategy.stop(tasks, stage_of(vm))
    strategy.finish(tasks, stage_of(vm))
    commits = vm.machine.commits - before
    expected = {
        "qemu-2021": {SPEC.rings},
        "threads": set(range(1, len(SPEC.devices) + 1)),
        "split": {1},
        "prewired": {1},
    }
    assert commits in expected.get(strategy.NAME, range(1, SPEC.rings + 1))


@pytest.mark.parametrize("victim", ["net0", "blk1"])
def test_a_back_end_that_has_disconnected_is_named(
    vm: Vm, hosts: tuple[Host, Host], strategy: Strategy, victim: str
) -> None:
    """The strategy raises the error of that device."""
    vm.pause_vcpus()
    hosts[0].kill(victim)
    tasks = stops(vm)
    with pytest.raises(VhostUserError) as caught:
        strategy.stop(tasks, stage_of(vm))
    assert caught.value.device == victim


def rejects_its_reply(device: VhostDevice) -> Procedure:
    """A procedure that rejects the reply to its message."""
    yield Ask.of(Phase.GET_VRING_BASE, device.connection, [Request(FrontendRequest.GET_QUEUE_NUM)])
    raise BackendError("sent an invalid reply", device=device.name)


def test_an_invalid_reply_fails_its_device(vm: Vm, strategy: Strategy) -> None:
    """The strategy raises the error of that device."""
    vm.pause_vcpus()
    tasks = stops(vm)
    victim = vm.devices[1]
    tasks[1] = Task(victim.name, victim.device_class, rejects_its_reply(victim))
    tasks[1].begin()
    with pytest.raises(BackendError, match="sent an invalid reply") as caught:
        strategy.stop(tasks, stage_of(vm))
    assert caught.value.device == victim.name


def test_the_error_of_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown strategy 'warp': use one of qemu-2021, .*prewired"
    ):
        make("warp")
