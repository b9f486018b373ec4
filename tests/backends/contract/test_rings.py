"""Rings: set up in any order, enabled, disabled."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.rig import PREWIRED_ORDER, QEMU_ORDER, Rig, no_fd
from tests.waiting import wait_until
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from tests.backends.contract.given import MakeRig
    from tests.backends.served import Kind, Served

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.mark.parametrize("order", [QEMU_ORDER, PREWIRED_ORDER], ids=["qemu", "prewired"])
def test_works_in_either_order(kind: Kind, rig: Rig, order: tuple[F, ...]) -> None:
    rig.start(order=order)
    kind.prepare(rig)
    for number in range(5):
        kind.work(rig, number)


def test_kick_before_the_addresses(kind: Kind, rig: Rig) -> None:
    """The kick starts the ring, which is served once it is configured and enabled."""
    rig.set_features()
    rig.set_mem_table()
    for ring in rig.rings:
        ring.set_up((F.SET_VRING_NUM, F.SET_VRING_CALL, F.SET_VRING_KICK))
    kind.prepare(rig)
    kind.submit(rig, 3)
    for ring in rig.rings:
        ring.kick()
    assert rig.rings[kind.ring].idle()
    for ring in rig.rings:
        ring.set_up((F.SET_VRING_ADDR, F.SET_VRING_BASE, F.SET_VRING_ENABLE))
    kind.finish(rig, 3)


@pytest.mark.parametrize("last", [F.SET_VRING_NUM, F.SET_VRING_ADDR], ids=lambda last: last.name)
def test_a_kicked_ring_is_served_when_the_last_message_has_come(
    kind: Kind, rig: Rig, last: F
) -> None:
    rig.set_features()
    rig.set_mem_table()
    for ring in rig.rings:
        ring.set_up([message for message in QEMU_ORDER if message is not last])
    kind.prepare(rig)
    kind.submit(rig, 3)
    for ring in rig.rings:
        ring.kick()
    for ring in rig.rings:
        wait_until(lambda fd=ring.kick_fd: not readable([fd], 0), "the kick is taken")  # type: ignore[misc]
    for ring in rig.rings:
        ring.set_up([last])
    kind.finish(rig, 3)


def test_continues_from_the_base(kind: Kind, rig: Rig) -> None:
    for ring in rig.rings:
        ring.driver.reset(65530)
    rig.start(base=65530)
    kind.prepare(rig)
    for number in range(10):
        kind.work(rig, number)
    assert rig.rings[kind.ring].stop() == (65530 + 10) % 65536


def test_nothing_before_enable(kind: Kind, rig: Rig) -> None:
    rig.set_features()
    rig.set_mem_table()
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER[:-1])
    kind.prepare(rig)
    kind.submit(rig, 1)
    assert rig.rings[0].idle()
    if kind.keeps_disabled:
        assert rig.rings[kind.ring].idle()


def test_without_protocol_features_rings_are_enabled(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    rig = make_rig(device.connect())
    rig.features &= ~(1 << 30)
    rig.set_features()
    rig.set_mem_table()
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER[:-1])
        ring.kick()
    kind.prepare(rig)
    kind.work(rig, 2)


def test_without_event_index_or_acks(kind: Kind, device: Served, make_rig: MakeRig) -> None:
    features = 1 << 30 | 1 << 32
    rig = make_rig(device.connect(), features=features, protocol_features=ProtocolFeature.MQ)
    rig.start()
    kind.prepare(rig)
    for number in range(3):
        kind.work(rig, number)


def test_polled_ring(kind: Kind, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.start()
    kind.prepare(rig)
    rig.call(no_fd(F.SET_VRING_KICK, kind.ring))
    monkeypatch.setattr(rig.rings[kind.ring], "kick", lambda: None)
    kind.work(rig, 4)
    assert rig.rings[kind.ring].stop() == 1


def test_disable_and_enable(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    for ring in running.rings:
        running.ack(F.SET_VRING_ENABLE, VringState(ring.index, 0))
    if kind.keeps_disabled:
        kind.submit(running, 1)
        assert running.rings[kind.ring].idle()
    for ring in running.rings:
        running.ack(F.SET_VRING_ENABLE, VringState(ring.index, 1))
    if kind.keeps_disabled:
        kind.finish(running, 1)
    kind.work(running, 2)


#: What a driver does with the rings that it does not use.
_OTHERS: dict[str, tuple[F, ...]] = {
    "not set up": (),
    "set up and never started": (F.SET_VRING_NUM, F.SET_VRING_ADDR, F.SET_VRING_CALL),
    "started and disabled": QEMU_ORDER[:-1],
}


@pytest.mark.parametrize("last", [False, True], ids=["first rings", "last rings"])
@pytest.mark.parametrize("others", _OTHERS.values(), ids=_OTHERS)
def test_a_driver_need_not_use_all_rings(
    kind: Kind, rig: Rig, others: tuple[F, ...], *, last: bool
) -> None:
    """Those in use work, stop, and start again at their bases; the others change nothing."""
    if last:
        apart = kind.ring - kind.written_ring
        kind.ring, kind.written_ring = kind.rings - 1, kind.rings - 1 - apart
    used = [rig.rings[index] for index in sorted({kind.ring, kind.written_ring})]
    rig.set_features()
    rig.set_mem_table()
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER if ring in used else others)
    kind.prepare(rig)
    for number in range(5):
        kind.work(rig, number)
    bases = [ring.stop() for ring in used]
    assert bases[-1] == 5
    for ring, base in zip(used, bases, strict=True):
        ring.set_up(QEMU_ORDER, base=base)
        ring.kick()
    for number in range(5, 8):
        kind.work(rig, number)


def test_a_driver_that_uses_no_ring(kind: Kind, device: Served, make_rig: MakeRig) -> None:
    """Its device is set up, and the next driver's rings work."""
    idle = make_rig(device.connect())
    idle.set_features()
    idle.set_mem_table()
    idle.connection.close()
    rig = make_rig(device.connect()).start()
    kind.prepare(rig)
    kind.work(rig, 1)


@pytest.mark.parametrize(("size", "count"), [(1024, 1024), (2048, 1100), (2048, 2048)])
def test_a_chain_may_have_as_many_descriptors_as_its_ring(
    kind: Kind, device: Served, make_rig: MakeRig, size: int, count: int
) -> None:
    """More than the system reads or writes with one call (1024), and its head comes back."""
    rig = make_rig(device.connect(), ring_size=size).start()
    for _ in range(2):
        kind.scattered(rig, count)
    kind.prepare(rig)
    kind.work(rig, 1)
