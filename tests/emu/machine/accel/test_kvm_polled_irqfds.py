"""Eventfds that a thread polls: which signals it reads, and which stay pending."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING

import pytest

from emu.machine.accel.kvm_polled_irqfds import BATCH, PolledIrqfds
from tests.timeouts import TIMEOUT
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fds() -> Iterator[list[int]]:
    made = eventfd.default().create(3 * BATCH)
    yield made
    eventfd.default().close(made)


@pytest.fixture
def raised() -> queue.SimpleQueue[int]:
    """The eventfds whose interrupts were raised."""
    return queue.SimpleQueue()


@pytest.fixture
def polled(fds: list[int], raised: queue.SimpleQueue[int]) -> Iterator[PolledIrqfds]:
    made = PolledIrqfds(fds[:-1], raised.put, paused=False)
    yield made
    made.close()


def test_each_signal_raises_one_interrupt(
    polled: PolledIrqfds, fds: list[int], raised: queue.SimpleQueue[int]
) -> None:
    """More signals than one batch at once."""
    polled.pause()
    for fd in fds[:-1]:
        os.eventfd_write(fd, 2)
    polled.resume()
    found = [raised.get(timeout=TIMEOUT) for _ in fds[:-1]]
    assert sorted(found) == sorted(fds[:-1])
    assert raised.empty()
    assert eventfd.default().drain(fds[:-1]) == [0] * (len(fds) - 1)


def test_signals_stay_in_their_eventfds_while_it_is_paused(
    polled: PolledIrqfds, fds: list[int], raised: queue.SimpleQueue[int]
) -> None:
    """Another machine may read them."""
    polled.pause()
    os.eventfd_write(fds[0], 3)
    os.eventfd_write(fds[1], 1)
    with pytest.raises(queue.Empty):
        raised.get(timeout=0.05)
    assert os.eventfd_read(fds[0]) == 3
    polled.resume()
    assert raised.get(timeout=TIMEOUT) == fds[1]
    assert raised.empty()


def test_after_a_pause_no_interrupt_is_being_raised(fds: list[int]) -> None:
    """The pause waits for the interrupt that is being raised."""
    entered: queue.SimpleQueue[int] = queue.SimpleQueue()
    go_on: queue.SimpleQueue[None] = queue.SimpleQueue()
    done: list[int] = []

    def slow(fd: int) -> None:
        entered.put(fd)
        go_on.get(timeout=TIMEOUT)
        done.append(fd)

    polled = PolledIrqfds(fds[:1], slow, paused=False)
    os.eventfd_write(fds[0], 1)
    assert entered.get(timeout=TIMEOUT) == fds[0]
    go_on.put(None)
    polled.pause()
    assert done == fds[:1]
    polled.close()


def test_eventfds_can_be_added_and_removed(
    polled: PolledIrqfds, fds: list[int], raised: queue.SimpleQueue[int]
) -> None:
    """Removing a closed eventfd is not an error."""
    polled.remove([fds[0]])
    polled.add([fds[-1]])
    os.eventfd_write(fds[0], 1)
    os.eventfd_write(fds[-1], 1)
    assert raised.get(timeout=TIMEOUT) == fds[-1]
    assert os.eventfd_read(fds[0]) == 1
    gone = os.eventfd(0)
    polled.add([gone])
    os.close(gone)
    polled.remove([gone])


def test_signals_that_were_not_read_stay_pending_after_close(fds: list[int]) -> None:
    polled = PolledIrqfds(fds[:1], lambda fd: None, paused=True)
    os.eventfd_write(fds[0], 5)
    polled.close()
    assert os.eventfd_read(fds[0]) == 5
