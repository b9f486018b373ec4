"""A front-end's connection: the order of requests and replies, and how it ends."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from backends.limits import REPLIES
from backends.loop import Loop
from backends.pacing import InjectedLatency
from backends.virtio_device import VirtioDevice
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.backend import BackendConnection
from vhost_user.codec import MAX_RUN
from vhost_user.errors import Disconnected, FrontendError, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.backends.rig import Rig
    from vhost_user.messages import Reply, RequestRun


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


def _settle(rig: Rig) -> None:
    """Return when the loop has handled all kicks and messages that were sent before."""
    done = threading.Event()
    loop = rig.backend.loop
    loop.post(lambda: loop.again(lambda: loop.again(done.set)))
    assert done.wait(TIMEOUT)


def test_a_device_is_ready_for_another_front_end(rig: Rig) -> None:
    """When the first has disconnected it has no features, memory and rings any more."""
    rig.start()
    rig.connection.close()
    _settle(rig)
    device = rig.backend
    assert (device.guest.acked, len(device.memory.regions), device.running) == (0, 0, False)


RINGS = 5


class Twins:
    """Two devices with the same front-end; only the first one is given runs of messages."""

    def __init__(self, loops: Sequence[Loop], attach: Callable[..., Rig]) -> None:
        self.rigs = [attach(Own("device", loop, RINGS)).start() for loop in loops]

    def send(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """The replies of each to these requests, and to one behind them that is always answered."""
        return [rig.pipeline([*requests, Request(F.GET_QUEUE_NUM)]) for rig in self.rigs]

    def states(self) -> list[list[tuple[object, ...]]]:
        """What each knows of its rings."""
        return [
            [
                (ring.started, ring.enabled, ring.active, ring.base, ring.memory.addr)
                for ring in rig.backend.rings
            ]
            for rig in self.rigs
        ]


@pytest.fixture
def other_loop() -> Iterator[Loop]:
    """As `loop`: closed after everything that uses it."""
    with Loop("other") as other:
        yield other


@pytest.fixture
def twins(
    loop: Loop, other_loop: Loop, attach: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> Twins:
    runs = BackendConnection.receive_runs

    def receive(connection: BackendConnection) -> Sequence[Request | RequestRun]:
        alone = threading.current_thread().name == other_loop.name
        return connection.receive() if alone else runs(connection)

    monkeypatch.setattr(BackendConnection, "receive_runs", receive)
    return Twins([loop, other_loop], attach)


def _run(rig: Rig, random: random.Random) -> list[Request]:
    """The same message for some rings, with or without an acknowledgement."""
    need_reply = random.random() < 0.2
    rings = [random.randrange(RINGS) for _ in range(random.randrange(1, 8))]
    number = random.choice(
        [F.GET_VRING_BASE, F.SET_VRING_BASE, F.SET_VRING_ADDR, F.SET_VRING_ENABLE, F.SET_VRING_NUM]
    )
    requests = []
    for ring in rings:
        payload = rig.rings[ring].addr() if number is F.SET_VRING_ADDR else None
        num = random.choice([0, 1, 2, 3, 256, 0xFFFF])
        if number is F.SET_VRING_NUM:
            num = rig.rings[ring].size
        requests.append(Request(number, payload or VringState(ring, num), need_reply=need_reply))
    return requests


@pytest.mark.parametrize("seed", range(12))
def test_runs_of_messages_have_the_effects_of_the_messages(twins: Twins, seed: int) -> None:
    """Whatever comes in runs: the replies and the states of the rings are the same."""
    rolls = random.Random(seed)
    for _ in range(10):
        for rig in twins.rigs:
            for ring in rig.rings:
                ring.kick()
            _settle(rig)
        requests = [each for _ in range(4) for each in _run(twins.rigs[0], rolls)]
        first, second = twins.send(requests)
        assert first == second
        if rolls.random() < 0.3:  # stopped rings are set up again
            for rig in twins.rigs:
                rig.start()
        wait_until(lambda: len(set(map(repr, twins.states()))) == 1)


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_an_error_in_a_run_closes_the_connection(
    twins: Twins, bad: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same line on stderr as for a single message."""
    requests = [
        Request(F.SET_VRING_BASE, VringState(ring, 0x10000 if ring == bad else 7))
        for ring in range(RINGS)
    ]
    for rig in twins.rigs:
        rig.connection.submit(requests)
        assert readable([rig.connection.fileno()], TIMEOUT)
        with pytest.raises(Disconnected):
            rig.connection.receive()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "SET_VRING_BASE: base 0x10000 is not an index" in lines[0]


def test_a_run_that_is_to_be_acknowledged_is_acknowledged(twins: Twins) -> None:
    """Each of its messages; a refusal is one of that message."""
    enable = [
        Request(F.SET_VRING_ENABLE, VringState(ring, 1), need_reply=True) for ring in range(RINGS)
    ]
    first, second = twins.send(enable)
    assert first == second
    assert [reply.payload for reply in first] == [U64(0)] * RINGS + [U64(RINGS)]


def test_a_run_has_no_more_messages_than_replies_may_wait() -> None:
    assert MAX_RUN <= REPLIES


def test_a_message_that_the_class_handles_comes_one_by_one(
    loop: Loop, attach: Callable[..., Rig]
) -> None:
    taken = []

    class Based(Own):
        def handlers(self) -> dict[int, Callable[[Request], bool | None]]:
            return {F.SET_VRING_BASE: lambda request: taken.append(request.payload)}

    rig = attach(Based("device", loop, RINGS))
    states = [VringState(ring, 1) for ring in range(RINGS)]
    rig.pipeline([*(Request(F.SET_VRING_BASE, each) for each in states), Request(F.GET_QUEUE_NUM)])
    assert taken == states
