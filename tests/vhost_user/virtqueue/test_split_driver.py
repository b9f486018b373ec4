"""The driver's side: misuse by its caller, a device that breaks the ring, and a live pair."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.vhost_user.rings import Ring, guest_memory
from vhost_user import eventfd
from vhost_user.errors import BackendError, UsageError
from vhost_user.readiness import readable
from vhost_user.virtqueue import DriverQueue, QueueFull
from vhost_user.virtqueue.layout import USED_NO_NOTIFY

RAM = 1 << 20
BUFFER = 0x10000
SIZE = 8


@pytest.fixture
def ring() -> Ring:
    made = Ring(guest_memory(RAM), SIZE, event_idx=False)
    made.driver().reset()
    return made


def test_a_full_ring(ring: Ring) -> None:
    driver = ring.driver()
    for _ in range(SIZE // 2):
        driver.add([(BUFFER, 1)], [(BUFFER, 1)])
    assert (driver.free, driver.in_flight) == (0, SIZE // 2)
    with pytest.raises(QueueFull, match="1 descriptors are needed, 0 are free"):
        driver.add([(BUFFER, 1)], [])
    with pytest.raises(QueueFull):
        driver.add([(BUFFER, 1)], [], (BUFFER, memoryview(bytearray(16))))


@pytest.mark.parametrize(
    ("readable", "writable", "table"),
    [
        ([], [], None),
        ([(BUFFER, 0)], [], None),
        ([(BUFFER, 1)], [(BUFFER, 0)], None),
        ([(BUFFER, 1 << 32)], [], None),
        ([(BUFFER, 1)], [(BUFFER, 1)], 31),
    ],
)
def test_misuse_changes_nothing(
    ring: Ring,
    readable: list[tuple[int, int]],
    writable: list[tuple[int, int]],
    table: int | None,
) -> None:
    driver = ring.driver()
    before = bytes(ring.memory.view(0, BUFFER))
    indirect = None if table is None else (BUFFER, memoryview(bytearray(table)))
    with pytest.raises(UsageError):
        driver.add(readable, writable, indirect)
    assert bytes(ring.memory.view(0, BUFFER)) == before


def complete(ring: Ring, head: int, *, index: int) -> None:
    ring.used[4 : 4 + 8 * SIZE].cast("I")[2 * ((index - 1) % SIZE)] = head
    ring.used.cast("H")[1] = index


@pytest.mark.parametrize("head", [SIZE, 0xFFFFFFFF, 5])
def test_a_completion_of_what_is_not_in_flight(ring: Ring, head: int) -> None:
    driver = ring.driver()
    driver.add([(BUFFER, 1)], [])
    driver.publish()
    complete(ring, head, index=1)
    with pytest.raises(BackendError, match="not in flight"):
        driver.pop()


@pytest.mark.parametrize("again", [0, 1])
def test_a_completion_twice(ring: Ring, again: int) -> None:
    """By its head, or by the other descriptor that the chain had."""
    driver = ring.driver()
    head = driver.add([(BUFFER, 1)], [(BUFFER, 4)])
    driver.add([(BUFFER, 1)], [])
    driver.publish()
    complete(ring, head, index=1)
    assert driver.pop() == (head, 0)
    complete(ring, head + again, index=2)
    with pytest.raises(BackendError, match="not in flight"):
        driver.pop()


def test_a_chain_that_the_device_made_a_loop_of(ring: Ring) -> None:
    driver = ring.driver()
    head = driver.add([(BUFFER, 1)], [(BUFFER, 4)])
    driver.publish()
    ring.desc.cast("H")[8 * (head + 1) + 6] |= 1
    ring.desc.cast("H")[8 * (head + 1) + 7] = head
    complete(ring, head, index=1)
    with pytest.raises(BackendError, match="loop"):
        driver.pop()


@pytest.mark.parametrize("index", [2, 9, 0xFFFF])
def test_a_used_index_that_jumps(ring: Ring, index: int) -> None:
    driver = ring.driver()
    driver.add([(BUFFER, 1)], [])
    driver.publish()
    ring.used.cast("H")[1] = index
    with pytest.raises(BackendError, match="with 1 in flight"):
        driver.pop()


def test_invalid_sizes(ring: Ring) -> None:
    for size in (0, 3, 16):
        with pytest.raises(UsageError, match="does not fit a ring"):
            DriverQueue(size, ring.desc, ring.avail, ring.used, ring.state, event_idx=False)


def test_no_interrupt_and_no_notify(ring: Ring) -> None:
    driver, device = ring.driver(), ring.device()
    driver.add([(BUFFER, 1)], [])
    assert driver.publish()
    assert not driver.publish()
    ring.used.cast("H")[0] = USED_NO_NOTIFY  # as other devices do while they poll
    driver.add([(BUFFER, 1)], [])
    assert not driver.publish()
    for _ in range(2):
        chain = device.pop()
        assert chain is not None
        device.push(chain.head, 0)
    assert device.publish()
    driver.disarm()
    assert not device.arm()
    driver.add([(BUFFER, 1)], [])
    assert driver.publish()
    assert device.arm()
    chain = device.pop()
    assert chain is not None
    device.push(chain.head, 0)
    assert not device.publish()
    assert driver.arm()


DEVICE = """
import os, sys
from tests.vhost_user.rings import Ring, guest_memory
from vhost_user.readiness import readable
from vhost_user.virtqueue.layout import USED_NO_NOTIFY
ram, kick, call, size, event_idx, total, timeout = map(int, sys.argv[1:])
ring = Ring(guest_memory(1 << 20, fd=ram), size, event_idx=bool(event_idx))
device = ring.device()
served = 0
while served < total:
    while (chain := device.pop()) is not None:
        chain.writable[0][:8] = chain.readable[0]
        device.push(chain.head, 8)
        served += 1
        if device.publish():
            os.eventfd_write(call, 1)
    if served < total and not device.arm():
        if not readable([kick], timeout):
            sys.exit(f"no kick, {served} of {total} served")
        os.eventfd_read(kick)
        if not event_idx:
            ring.used.cast("H")[0] = USED_NO_NOTIFY
"""


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("size", [2, 64])
def test_two_processes_never_miss_a_notification(event_idx: bool, size: int) -> None:
    """A lost kick or call is a timeout here; each answer must be that of its request."""
    total = 15_000
    ram = os.memfd_create("ram")
    os.ftruncate(ram, RAM)
    ring = Ring(guest_memory(RAM, fd=os.dup(ram)), size, event_idx=event_idx)
    driver = ring.driver()
    driver.reset()
    batch = eventfd.default()
    kick, call = batch.create(2)
    arguments = map(str, (ram, kick, call, size, int(event_idx), total, int(TIMEOUT)))
    device = subprocess.Popen(
        [sys.executable, "-c", DEVICE, *arguments], pass_fds=[ram, kick, call]
    )
    words = ring.memory.view(BUFFER, 16 * size).cast("Q")
    asked: dict[int, tuple[int, int]] = {}  # head -> (buffer, serial number)
    places = list(range(size))
    sent = done = 0
    deadline = time.monotonic() + PROGRAM_TIMEOUT
    try:
        while done < total:
            while sent < total and driver.free >= 2:
                place, sent = places.pop(), sent + 1
                words[2 * place], words[2 * place + 1] = sent, 0
                at = BUFFER + 16 * place
                asked[driver.add([(at, 8)], [(at + 8, 8)])] = place, sent
                if driver.publish():
                    os.eventfd_write(kick, 1)
            while (completion := driver.pop()) is not None:
                place, serial = asked.pop(completion[0])
                places.append(place)
                assert words[2 * place + 1] == serial
                assert completion[1] == 8
                done += 1
            assert time.monotonic() < deadline
            if done < total and (driver.free < 2 or sent == total) and not driver.arm():
                assert readable([call], TIMEOUT), f"no call, {done} of {total} done"
                os.eventfd_read(call)
                driver.disarm()
        assert device.wait(TIMEOUT) == 0
    finally:
        if device.poll() is None:
            device.kill()
            device.wait(TIMEOUT)
        batch.close([kick, call, ram])
