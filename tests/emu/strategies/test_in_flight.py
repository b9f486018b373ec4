"""Requests of many devices in flight."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import Ask, Phase
from emu.strategies.split import Split
from emu.strategies.task import Task
from tests.emu.strategies.test_contract import stage_of, stops
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from devices.device import VhostDevice
    from devices.procedure import Procedure
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host
    from vhost_user.messages import Reply

MIXED = [
    Request(FrontendRequest.GET_FEATURES),
    Request(FrontendRequest.SET_VRING_BASE, VringState(0, 0)),
    Request(FrontendRequest.GET_QUEUE_NUM),
]


@pytest.fixture(autouse=True)
def paused(vm: Vm) -> None:
    """No other thread uses the devices."""
    vm.reconnect.pause()
    vm.pause_vcpus()


def test_each_message_has_its_own_reply_or_none(vm: Vm) -> None:
    answers: list[list[Reply | None]] = []

    def ask(device: VhostDevice) -> Procedure:
        replies = yield Ask.of(Phase.PROBE, device.connection, MIXED)
        answers.append(list(replies or ()))

    tasks = [Task(d.name, d.device_class, ask(d)) for d in vm.devices]
    for task in tasks:
        task.begin()
    Split().drive(tasks, stage_of(vm))
    assert len(answers) == len(vm.devices)
    for features, base, rings in answers:
        assert features is not None
        assert base is None
        assert rings is not None
        assert isinstance(rings.payload, U64)


def test_replies_keep_their_order_if_all_are_due(vm: Vm) -> None:
    connection = vm.devices[0].connection
    step = Ask.of(Phase.PROBE, connection, [MIXED[0], MIXED[0]])
    replies = [connection.exchange(message, 5.0) for message in step.messages]
    received = [reply for reply in replies if reply is not None]
    assert step.messages.in_order(received) == received


def test_a_device_that_fails_does_not_stop_the_others(vm: Vm, hosts: tuple[Host, Host]) -> None:
    hosts[0].kill("blk0")
    strategy = Split(lenient=True)
    tasks = stops(vm)
    strategy.drive(tasks, stage_of(vm))
    assert list(strategy.failures) == ["blk0"]
    assert strategy.failures["blk0"].device == "blk0"
    assert all(task.step is None for task in tasks)
    started = {d.name: any(ring.started for ring in d.rings) for d in vm.devices}
    assert not started["net0"]
    assert not started["blk1"]
