"""QEMU's strategies: one request at a time, and a commit for each notifier or for each device."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.strategies.qemu import Qemu2021, QemuNow
from tests.emu.migration.hosts import SPEC
from tests.emu.strategies.test_contract import stage_of, starts, stops
from vhost_user.messages import FrontendRequest

if TYPE_CHECKING:
    from emu.vm.vm import Vm
    from vhost_user.messages import Reply
    from vhost_user.prepared import Message

Sent = list[tuple[str, FrontendRequest, bool]]


@pytest.fixture
def sent(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Every message that a device exchanges, by the device's name, and whether it is answered."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    messages: Sent = []
    for device in vm.devices:
        exchange = device.connection.exchange

        def watched(
            message: Message,
            timeout: float,
            *,
            name: str = device.name,
            exchange: object = exchange,
        ) -> Reply | None:
            messages.append((name, FrontendRequest(message.request.id), message.answered))
            return exchange(message, timeout)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(device.connection, "exchange", watched)
    return messages


def test_one_device_after_the_other(vm: Vm, sent: Sent) -> None:
    Qemu2021().drive(stops(vm), stage_of(vm))
    assert [(name, kind) for name, kind, _ in sent] == [
        (device.name, FrontendRequest.GET_VRING_BASE) for device in vm.devices for _ in device.rings
    ]


def test_qemu_now_disables_a_disks_rings_before_it_stops_them(vm: Vm, sent: Sent) -> None:
    QemuNow().drive(stops(vm), stage_of(vm))
    disable, stop = FrontendRequest.SET_VRING_ENABLE, FrontendRequest.GET_VRING_BASE
    for device in vm.devices:
        rings = len(device.rings)
        expected = [disable] * rings if device.device_class == "blk" else []
        assert [kind for name, kind, _ in sent if name == device.name] == expected + [stop] * rings
    assert all(answered for _, _, answered in sent)


@pytest.mark.parametrize(("strategy", "acknowledged"), [(Qemu2021, False), (QemuNow, True)])
def test_qemu_now_has_a_rings_kick_and_call_acknowledged(
    vm: Vm, sent: Sent, strategy: type[Qemu2021], *, acknowledged: bool
) -> None:
    vm.stop_devices()
    strategy().drive(starts(vm), stage_of(vm))
    answers = {
        kind: [answered for name, other, answered in sent if (name, other) == ("blk0", kind)]
        for kind in (FrontendRequest.SET_VRING_KICK, FrontendRequest.SET_VRING_CALL)
    }
    assert all(len(found) == len(vm.devices[1].rings) for found in answers.values())
    assert all(answered is acknowledged for found in answers.values() for answered in found)


@pytest.mark.parametrize("strategy", [Qemu2021(), QemuNow()], ids=lambda strategy: strategy.NAME)
def test_the_predicted_commits_are_those_that_a_stop_makes(vm: Vm, strategy: Qemu2021) -> None:
    vm.reconnect.pause()
    vm.pause_vcpus()
    before = vm.machine.commits
    strategy.drive(stops(vm), stage_of(vm))
    predicted = strategy.commits(len(SPEC.devices), SPEC.rings)
    assert vm.machine.commits - before == predicted
