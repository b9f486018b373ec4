"""Notifications where they are most fragile: at the fence, and at the wrap of the indices."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user.rings import Ring, guest_memory
from vhost_user.virtqueue import split_device, split_driver
from vhost_user.virtqueue.layout import USED_NO_NOTIFY

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 8
BUFFER = [(0x10000, 1)]
Meanwhile = tuple[Ring, list["Callable[[], None]"]]


@pytest.fixture(params=[False, True], ids=["flags", "event_idx"])
def meanwhile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """A ring, and an action of its other side at the next fence.

    The action sees what was stored before the fence, and what it stores is seen after it.
    """
    actions: list[Callable[[], None]] = []

    def fence() -> None:
        while actions:
            actions.pop()()

    monkeypatch.setattr(split_device, "barrier", fence)
    monkeypatch.setattr(split_driver, "barrier", fence)
    ring = Ring(guest_memory(1 << 20), SIZE, event_idx=request.param)
    ring.driver().reset()
    return ring, actions


def test_a_driver_that_goes_to_sleep_as_the_device_publishes(meanwhile: Meanwhile) -> None:
    ring, actions = meanwhile
    driver, device = ring.driver(), ring.device()
    seen: list[bool] = []
    for _ in range(2):
        driver.add(BUFFER, [])
        driver.publish()
        driver.disarm()
        chain = device.pop()
        assert chain is not None
        device.push(chain.head, 0)
        actions.append(lambda: seen.append(driver.arm()))
        called = device.publish()
        assert seen.pop() or called
        assert driver.pop() is not None
    assert not actions


def test_a_device_that_goes_to_sleep_as_the_driver_publishes(meanwhile: Meanwhile) -> None:
    ring, actions = meanwhile
    driver, device = ring.driver(), ring.device()
    seen: list[bool] = []
    if not ring.event_idx:
        ring.used.cast("H")[0] = USED_NO_NOTIFY
    driver.add(BUFFER, [])
    actions.append(lambda: seen.append(device.arm()))
    kicked = driver.publish()
    assert seen == [True]
    assert kicked or seen.pop()


def test_a_wish_that_is_made_at_the_fence_counts(meanwhile: Meanwhile) -> None:
    """Each side reads what the other side wants after the fence, not before it."""
    ring, actions = meanwhile
    driver, device = ring.driver(), ring.device()
    avail, used = ring.avail.cast("H"), ring.used.cast("H")
    kick_event, call_event = 2 + 4 * SIZE, 2 + SIZE

    def wish(part: memoryview, event: int, index: int) -> None:
        part[event if ring.event_idx else 0] = index if ring.event_idx else 0

    for index in range(2):  # the first publish of the device sends an interrupt in any case
        driver.disarm()
        if ring.event_idx:
            used[kick_event] = avail[call_event] = 0x4000
        else:
            used[0] = USED_NO_NOTIFY
        driver.add(BUFFER, [])
        actions.append(partial(wish, used, kick_event, index))
        assert driver.publish()
        chain = device.pop()
        assert chain is not None
        device.push(chain.head, 0)
        actions.append(partial(wish, avail, call_event, index))
        assert device.publish()
        assert driver.pop() is not None


def test_what_comes_at_the_fence_of_arm_is_found(meanwhile: Meanwhile) -> None:
    ring, actions = meanwhile
    driver, device = ring.driver(), ring.device()
    driver.add(BUFFER, [])
    actions.append(lambda: ring.avail.cast("H").__setitem__(1, 1))
    assert device.arm()
    chain = device.pop()
    assert chain is not None
    device.push(chain.head, 0)
    actions.append(lambda: ring.used.cast("H").__setitem__(1, 1))
    assert driver.arm()


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("step", [1, 3])
def test_each_waiting_side_is_notified_across_the_wrap(event_idx: bool, step: int) -> None:
    ring = Ring(guest_memory(1 << 20), SIZE, event_idx=event_idx)
    driver = ring.driver()
    driver.reset(65_525)
    device = ring.device(65_525)
    for _ in range(20):
        assert not device.arm()
        assert not driver.arm()
        for _ in range(step):
            driver.add(BUFFER, [])
        assert driver.publish()
        while (chain := device.pop()) is not None:
            device.push(chain.head, 0)
        assert device.publish()
        while driver.pop() is not None:
            pass
    assert device.last_avail == (65_525 + 20 * step) & 0xFFFF


def test_with_event_index_a_side_that_does_not_wait_is_not_notified() -> None:
    ring = Ring(guest_memory(1 << 20), SIZE, event_idx=True)
    driver = ring.driver()
    driver.reset(65_533)
    device = ring.device(65_533)
    kicks = calls = 0
    for _ in range(6):
        driver.add(BUFFER, [])
        kicks += driver.publish()
    while (chain := device.pop()) is not None:
        device.push(chain.head, 0)
        calls += device.publish()
    assert (kicks, calls) == (1, 1)  # for the first ones, which both had enabled at the reset
