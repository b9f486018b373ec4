"""A front-end's connection: the order of requests and replies, and how it ends."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from backends.limits import REPLIES
from backends.pacing import InjectedLatency
from backends.virtio_device import VirtioDevice
from tests.timeouts import TIMEOUT
from vhost_user.backend import BackendConnection
from vhost_user.errors import Disconnected, FrontendError, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop
    from tests.backends.rig import Rig


class Own(VirtioDevice):
    """A device that serves a message of its class, and refuses another."""

    def handlers(self) -> dict[int, Callable[[Request], bool | None]]:
        return {F.NET_SET_MTU: self._refuse}

    def _refuse(self, request: Request) -> None:
        raise FrontendError("is not a NIC")


@pytest.fixture
def rig(loop: Loop, attach: Callable[..., Rig]) -> Rig:
    return attach(Own("device", loop, 2))


def test_replies_come_in_the_order_of_the_requests(rig: Rig) -> None:
    numbers = [F.GET_QUEUE_NUM, F.GET_FEATURES, F.GET_VRING_BASE, F.GET_QUEUE_NUM]
    requests = [
        Request(number, VringState(1, 0) if number is F.GET_VRING_BASE else None)
        for number in numbers
    ]
    assert [reply.id for reply in rig.pipeline(requests)] == numbers


def test_only_what_asks_for_an_acknowledgement_gets_one(rig: Rig) -> None:
    requests = [
        Request(F.SET_VRING_NUM, VringState(0, 16), need_reply=True),
        Request(F.SET_VRING_NUM, VringState(1, 16)),
        Request(F.GET_QUEUE_NUM),
    ]
    replies = rig.pipeline(requests)
    assert [(reply.id, reply.payload) for reply in replies] == [
        (F.SET_VRING_NUM, U64(0)),
        (F.GET_QUEUE_NUM, U64(2)),
    ]


def test_a_refusal_is_an_acknowledgement_and_the_connection_continues(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with the device and the message."""
    with pytest.raises(Refused):
        rig.ack(F.SET_VRING_NUM, VringState(0, 3))
    assert "device" in caplog.text
    assert "SET_VRING_NUM" in caplog.text
    assert rig.call(Request(F.GET_QUEUE_NUM)) is not None


def test_an_error_without_an_acknowledgement_closes_the_connection(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.connection.submit([Request(F.SET_VRING_NUM, VringState(0, 3))])
    rig.connection.flush()
    assert readable([rig.connection.fileno()], TIMEOUT)
    with pytest.raises(Disconnected):
        rig.connection.receive()
    assert "connection closed" in caplog.text


def test_messages_of_the_class_are_the_devices(loop: Loop, attach: Callable[..., Rig]) -> None:
    """Its error is a refusal as any other."""
    device = Own("device", loop, 2)
    device.protocol_features |= ProtocolFeature.NET_MTU
    rig = attach(device)
    with pytest.raises(Refused):
        rig.ack(F.NET_SET_MTU, U64(1500))


def test_latency_is_injected_before_the_reply(loop: Loop, attach: Callable[..., Rig]) -> None:
    """Replies that are ready are sent before it."""
    options = ControlOptions(latency=InjectedLatency(get_vring_base=10**12))
    rig = attach(Own("device", loop, 2), options)
    began, go_on = threading.Event(), threading.Event()

    def inject(arrival: int, latency: int) -> None:
        assert latency == 10**12
        began.set()
        assert go_on.wait(TIMEOUT)

    loop.pacer.inject = inject  # type: ignore[method-assign]
    requests = [Request(F.GET_QUEUE_NUM), Request(F.GET_VRING_BASE, VringState(0, 0))]
    rig.connection.submit(requests)
    assert began.wait(TIMEOUT)
    assert [reply.id for reply in rig.connection.receive()] == [F.GET_QUEUE_NUM]
    assert not readable([rig.connection.fileno()], 0)
    go_on.set()
    assert readable([rig.connection.fileno()], TIMEOUT)
    assert [reply.id for reply in rig.connection.receive()] == [F.GET_VRING_BASE]


def test_messages_are_served_on_after_the_front_end_has_read_late(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies could not be sent, and then they could, before the socket was waited for."""
    flush = BackendConnection.flush
    tries = 0

    def late(connection: BackendConnection) -> bool:
        nonlocal tries
        tries += 1
        return tries != 1 and flush(connection)

    monkeypatch.setattr(BackendConnection, "flush", late)
    requests = [Request(F.GET_QUEUE_NUM)] * (2 * REPLIES)
    assert len(rig.pipeline(requests)) == len(requests)
    assert tries > 2


def test_a_device_is_ready_for_another_front_end(rig: Rig) -> None:
    """When the first has disconnected it has no features, memory and rings any more."""
    rig.start()
    rig.connection.close()
    done = threading.Event()
    loop = rig.backend.loop
    loop.post(lambda: loop.again(lambda: loop.again(done.set)))
    assert done.wait(TIMEOUT)
    device = rig.backend
    assert (device.guest.acked, len(device.memory.regions), device.running) == (0, 0, False)
