"""The messages that stop rings: what their replies wait for, and for how long."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from backends.control import Control, ControlOptions
from backends.stop_policy import StopPolicy
from backends.virtio_device import VirtioDevice
from tests.timeouts import TIMEOUT
from vhost_user.errors import Disconnected, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop
    from backends.ring import Ring
    from tests.backends.rig import Rig
    from vhost_user.messages import RequestRun
    from vhost_user.virtqueue import DeviceQueue

MS = 1_000_000
DEFAULT = StopPolicy()


class Held(VirtioDevice):
    """A device whose requests stay in flight until the test completes them."""

    def __init__(self, loop: Loop) -> None:
        super().__init__("device", loop, 2)
        self.taken: list[tuple[Ring, int]] = []

    def process(self, ring: Ring, queue: DeviceQueue) -> bool:
        while (chain := queue.pop()) is not None:
            ring.begin_async()
            self.taken.append((ring, chain.head))
        return queue.arm()

    def complete_all(self) -> None:
        """As a thread of a pool: the loop completes them when it comes to it."""
        taken, self.taken = self.taken, []
        for ring, head in taken:
            self.loop.post(lambda ring=ring, head=head: ring.complete(head, 1))  # type: ignore[misc]


class Stopped:
    """A front-end of such a device."""

    def __init__(self, device: Held, rig: Rig) -> None:
        self.device = device
        self.rig = rig.start()

    def settle(self) -> None:
        """Return when the loop has handled all kicks and messages that were sent before."""
        done = threading.Event()
        loop = self.device.loop
        loop.post(lambda: loop.again(lambda: loop.again(done.set)))
        assert done.wait(TIMEOUT)

    def begin(self, *rings: int) -> None:
        """Have the device take one request of each of these rings."""
        had = len(self.device.taken)
        for ring in rings:
            gpa, _ = self.rig.alloc(1)
            self.rig.rings[ring].add([], [(gpa, 1)])
            self.settle()  # after each, so that the device takes them in this order
        assert len(self.device.taken) == had + len(rings)

    def stop(self, *rings: int) -> None:
        """Send GET_VRING_BASE for each of these rings."""
        requests = [Request(F.GET_VRING_BASE, VringState(ring, 0)) for ring in rings]
        self.rig.connection.submit(requests)
        self.settle()

    def replies(self, count: int) -> list[object]:
        """The payloads of the next replies."""
        found: list[object] = []
        while len(found) < count:
            assert readable([self.rig.connection.fileno()], TIMEOUT)
            found += [reply.payload for reply in self.rig.connection.receive()]
        return found

    @property
    def answered(self) -> bool:
        """Whether anything has come: a reply, or the end of the connection."""
        return bool(readable([self.rig.connection.fileno()], 0))


@pytest.fixture
def make(loop: Loop, attach: Callable[..., Rig]) -> Callable[..., Stopped]:
    def made(policy: StopPolicy = DEFAULT) -> Stopped:
        device = Held(loop)
        return Stopped(device, attach(device, ControlOptions(policy)))

    return made


def test_replies_wait_for_the_requests_in_flight(make: Callable[..., Stopped]) -> None:
    """In the order of the stops, also of a ring that has none in flight."""
    given = make()
    given.begin(0)
    given.stop(0, 1)
    assert not given.answered
    given.device.complete_all()
    assert given.replies(2) == [VringState(0, 1), VringState(1, 0)]
    assert given.rig.rings[0].driver.pop() is not None, "completed before the reply"


def test_a_run_of_stops_is_answered_at_once_where_nothing_is_in_flight(
    make: Callable[..., Stopped], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And waits where one of its rings has a request in flight."""
    runs: list[bool] = []
    served = Control._serve_run

    def serve_run(control: Control, run: RequestRun) -> bool:
        runs.append(served(control, run))
        return runs[-1]

    monkeypatch.setattr(Control, "_serve_run", serve_run)
    given = make()
    given.stop(0, 1)
    assert given.replies(2) == [VringState(0, 0), VringState(1, 0)]
    given.rig.start()
    given.begin(1)
    given.stop(0, 1)
    assert given.replies(1) == [VringState(0, 0)]
    assert not given.answered
    given.device.complete_all()
    assert given.replies(1) == [VringState(1, 1)]
    assert runs[0]
    assert False in runs


def test_a_ring_that_stops_takes_no_further_request(make: Callable[..., Stopped]) -> None:
    given = make()
    given.begin(0)
    given.stop(0)
    gpa, _ = given.rig.alloc(1)
    given.rig.rings[0].add([], [(gpa, 1)])
    given.settle()
    assert len(given.device.taken) == 1
    given.device.complete_all()
    assert given.replies(1) == [VringState(0, 1)]


@pytest.mark.parametrize("request_", ["RESET_DEVICE", "SET_STATUS"])
def test_a_reset_waits_for_all_rings(make: Callable[..., Stopped], request_: str) -> None:
    given = make()
    given.begin(0, 1)
    payload = U64(0) if request_ == "SET_STATUS" else None
    given.rig.connection.submit([Request(F[request_], payload, need_reply=True)])
    given.settle()
    first, second = given.device.taken
    given.device.taken = [first]
    given.device.complete_all()
    given.settle()
    assert not given.answered
    given.device.taken = [second]
    given.device.complete_all()
    assert given.replies(1) == [U64(0)]
    # A reset of QEMU's kind keeps the bases, RESET_DEVICE does not.
    given.stop(0)
    assert given.replies(1) == [VringState(0, 1 if request_ == "SET_STATUS" else 0)]


def test_a_status_has_eight_bits(make: Callable[..., Stopped]) -> None:
    given = make()
    with pytest.raises(Refused):
        given.rig.ack(F.SET_STATUS, U64(0x100))
    assert ProtocolFeature.STATUS in given.rig.connection.protocol_features


def test_the_limit_ends_a_stop_that_takes_too_long(
    make: Callable[..., Stopped], caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed, as the memory of the request may not be released."""
    given = make(StopPolicy(drain_limit=20 * MS))
    given.begin(0)
    given.stop(0)
    assert readable([given.rig.connection.fileno()], TIMEOUT)
    with pytest.raises(Disconnected):
        given.rig.connection.receive()
    assert "requests in flight did not end in time" in caplog.text
    given.device.complete_all()
    given.settle()


def test_the_limit_counts_from_the_stop_and_not_from_an_earlier_one(
    make: Callable[..., Stopped],
) -> None:
    """Ring 1 runs on for a while after ring 0 was stopped."""
    limit = round(TIMEOUT * 1e9)
    given = make(StopPolicy(drain_limit=limit))
    given.begin(0, 1)
    ended, runs_on = given.device.taken
    given.stop(0)
    given.device.taken = [ended]
    given.device.complete_all()
    assert given.replies(1) == [VringState(0, 1)]
    before = time.monotonic_ns()
    given.stop(1)
    due = [at for at, _, timer in given.device.loop.base._timers if timer.callback is not None]
    assert max(due) > before + limit
    given.device.taken = [runs_on]
    given.device.complete_all()
    assert given.replies(1) == [VringState(1, 1)]


def test_completions_that_have_come_count_before_the_limit(make: Callable[..., Stopped]) -> None:
    """The loop was kept from running for longer than the limit, with a reset of two rings."""
    limit = 20 * MS
    given = make(StopPolicy(drain_limit=limit))
    given.begin(0, 1)
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert go_on.wait(TIMEOUT)

    given.rig.connection.submit([Request(F.RESET_DEVICE, need_reply=True)])
    given.device.loop.post(lambda: given.device.loop.again(block))
    assert blocked.wait(TIMEOUT)
    given.device.complete_all()
    threading.Event().wait(2 * limit / 1e9)
    go_on.set()
    assert given.replies(1) == [U64(0)]
