"""Rings stop, return their base, and continue from it; with every policy."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from backends.isolation import GuardedLoop
from backends.stop_policy import StopKind, StopPolicy
from backends.stops import Stops
from tests.backends.contract.given import MakeRig, Serve, status, stop_all
from tests.backends.rig import QEMU_ORDER, Rig
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, VringState

if TYPE_CHECKING:
    from backends.loop import Callback, Timer
    from tests.backends.served import Kind


def test_stop_returns_the_base(kind: Kind, running: Rig) -> None:
    for number in range(7):
        kind.work(running, number)
    assert running.rings[kind.ring].stop() == 7


def test_stopped_ring_is_not_served(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    base = running.rings[kind.ring].stop()
    kind.submit(running, 1)
    running.rings[kind.ring].kick()
    assert running.rings[kind.ring].idle()
    assert running.rings[kind.ring].stop() == base, "a stopped ring still returns its base"


def test_stop_of_all_rings_in_flight(kind: Kind, running: Rig) -> None:
    for number in range(3):
        kind.work(running, number)
    replies = stop_all(running)
    states = [reply.payload for reply in replies]
    assert [s.ring for s in states if isinstance(s, VringState)] == list(range(kind.rings))
    assert states[kind.ring] == VringState(kind.ring, 3)


def test_ring_that_was_never_started(rig: Rig) -> None:
    rig.set_features()
    assert rig.get_base(0) == 0
    rig.ack(F.SET_VRING_BASE, VringState(0, 17))
    assert rig.get_base(0) == 17


def test_starts_again_where_it_stopped(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    bases = [r.payload.num for r in stop_all(running) if isinstance(r.payload, VringState)]
    kind.submit(running, 1)
    for ring, base in zip(running.rings, bases, strict=True):
        ring.set_up(QEMU_ORDER, base)
        ring.kick()
    kind.finish(running, 1)
    assert running.rings[kind.ring].stop() == 2


@pytest.mark.parametrize("stop", list(StopKind), ids=[k.value for k in StopKind])
@pytest.mark.parametrize("stop_time", [0, 50_000_000], ids=["at-once", "50ms"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_stop_policies(
    kind: Kind, serve: Serve, make_rig: MakeRig, stop: StopKind, stop_time: int, shared: bool
) -> None:
    served = serve(ControlOptions(StopPolicy(stop, stop_time), shared=shared))
    rig = make_rig(served.connect())
    rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)
    begin = time.monotonic()
    kind.submit(rig, 1)
    replies = stop_all(rig)
    took = time.monotonic() - begin
    states = [reply.payload for reply in replies]
    assert [s.ring for s in states if isinstance(s, VringState)] == list(range(kind.rings))
    base = states[kind.ring]
    assert isinstance(base, VringState)
    if stop is StopKind.DRAIN:
        assert base.num == 2, "requests that were available when it was to stop have been served"
    if base.num == 2:
        assert rig.rings[kind.ring].wait()
    least = max(stop_time, 1_000_000 if stop is StopKind.TICK else 0) / 1e9
    assert took >= least
    assert rig.get_base(0) >= 0


def test_a_device_takes_its_stop_time_once(
    kind: Kind, serve: Serve, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each ring, nor for a ring that is stopped already."""
    stop_time = 50_000_000
    served = serve(ControlOptions(StopPolicy(StopKind.IMMEDIATE, stop_time)))
    rig = make_rig(served.connect())
    rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)
    waits: list[int] = []
    at = GuardedLoop.at

    def recorded(loop: GuardedLoop, due: int, callback: Callback) -> Timer:
        if isinstance(getattr(callback, "__self__", None), Stops):
            waits.append(due)
        return at(loop, due, callback)

    monkeypatch.setattr(GuardedLoop, "at", recorded)
    begin = time.monotonic_ns()
    bases = [ring.stop() for ring in rig.rings]
    assert time.monotonic_ns() - begin >= stop_time
    for _ in range(4):
        assert rig.get_base(kind.ring) == bases[kind.ring]
    assert bases[kind.ring] == 1
    assert len(waits) == 1, "one wait for all rings"


def test_replies_keep_their_order_behind_a_slow_stop(
    kind: Kind, serve: Serve, make_rig: MakeRig
) -> None:
    served = serve(ControlOptions(StopPolicy(StopKind.IMMEDIATE, 20_000_000)))
    rig = make_rig(served.connect())
    rig.start()
    kind.prepare(rig)
    requests = [
        Request(F.GET_FEATURES),
        Request(F.GET_VRING_BASE, VringState(0, 0)),
        Request(F.GET_QUEUE_NUM),
        Request(F.GET_VRING_BASE, VringState(kind.rings - 1, 0)),
        Request(F.SET_VRING_NUM, VringState(0, 32), need_reply=True),
        Request(F.GET_FEATURES),
    ]
    replies = rig.pipeline(requests)
    assert [reply.id for reply in replies] == [request.id for request in requests]
    assert replies[4].payload == U64(0), "the ring had stopped before it was resized"


@pytest.mark.parametrize("how", ["RESET_DEVICE", "SET_STATUS 0"])
def test_reset(kind: Kind, running: Rig, how: str) -> None:
    running.ack(F.SET_STATUS, U64(15))
    kind.work(running, 0)
    if how == "RESET_DEVICE":
        running.ack(F.RESET_DEVICE)
    else:
        running.ack(F.SET_STATUS, U64(0))
    assert status(running) == 0
    kind.submit(running, 1)
    assert running.rings[kind.ring].idle()
    # Back in the initial state: disabled, without size and addresses.
    assert running.rings[kind.ring].stop() == (0 if how == "RESET_DEVICE" else 1)
    for ring in running.rings:
        ring.set_up(QEMU_ORDER[1:3], base=0)
    for ring in running.rings:
        ring.driver.reset()
        ring.set_up(QEMU_ORDER)
        ring.kick()
    kind.prepare(running)
    kind.work(running, 5)
