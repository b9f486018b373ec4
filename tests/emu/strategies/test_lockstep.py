"""Lock-step: each message is sent after the reply to the one before."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from devices.procedure import Ask, Phase
from emu.strategies.lockstep import answer_in_lockstep
from emu.strategies.task import Task
from tests.emu.strategies.test_contract import stage_of
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    import pytest

    from emu.vm.vm import Vm
    from vhost_user.messages import Reply
    from vhost_user.prepared import Message


def test_each_message_is_sent_after_the_reply_to_the_one_before(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message has a span, with the ring if the message has one."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    device = vm.devices[1]
    connection = device.connection
    outstanding: list[int] = []
    exchange = connection.exchange

    def watched(message: Message, timeout: float) -> Reply | None:
        outstanding.append(connection.outstanding)
        return exchange(message, timeout)

    monkeypatch.setattr(connection, "exchange", watched)
    requests = [
        Request(FrontendRequest.GET_FEATURES),
        Request(FrontendRequest.SET_VRING_BASE, VringState(1, 0)),
        Request(FrontendRequest.GET_QUEUE_NUM),
    ]
    step = Ask.of(Phase.PROBE, connection, requests)
    stage = stage_of(vm)
    task = Task(device.name, device.device_class, iter(()))  # type: ignore[arg-type]
    replies = answer_in_lockstep(task, step, stage, units=3)
    assert [reply is None for reply in replies] == [False, True, False]
    assert outstanding == [0, 0, 0]
    spans = stage.timeline.spans
    assert [(span.ring, span.units) for span in spans] == [(None, 3), (1, 3), (None, 3)]
    assert {(span.device, span.device_class) for span in spans} == {("blk0", "blk")}
    assert all(one.end <= two.start for one, two in pairwise(spans))
