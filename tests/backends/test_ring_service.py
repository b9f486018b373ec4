"""How a ring is served, by a compiled function and without one."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from backends.limits import BUDGET
from backends.ring_service import NOTIFY, NOTIFY_OTHER, Served, serve_ring
from tests.vhost_user.rings import Ring as Memory
from tests.vhost_user.rings import guest_memory
from vhost_user import native

if TYPE_CHECKING:
    from backends.ring import Ring
    from vhost_user.virtqueue import Chain, DeviceQueue

SIZE = 64


class Interrupted:
    """A ring that counts its interrupts."""

    def __init__(self) -> None:
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


class Service:
    """A ring with requests, and who has served them."""

    def __init__(self, requests: int) -> None:
        memory = Memory(guest_memory(1 << 16), SIZE, event_idx=False)
        self.driver = memory.driver()
        self.driver.reset()
        for _ in range(requests):
            self.driver.add([(memory.buffers, 16)], [])
        self.driver.publish()
        self.queue = memory.device()
        self.ring = Interrupted()
        #: What the compiled function answers, and how many requests it has served before.
        self.answers: list[tuple[Served, int]] = []
        self.served: list[str] = []

    def compiled(self, _ring: Ring) -> Served:
        served, count = self.answers.pop(0) if self.answers else (Served.UNUSUAL, 0)
        for _ in range(count):
            chain = self.queue.pop()
            assert chain is not None
            self.queue.push(chain.head, 0)
            self.served.append("compiled")
        self.queue.publish()
        return served

    def one(self, _ring: Ring, queue: DeviceQueue, chain: Chain) -> None:
        queue.push(chain.head, 0)
        self.served.append("python")

    def run(self) -> bool:
        return serve_ring(cast("Ring", self.ring), self.queue, self.compiled, self.one)


def test_results_are_those_of_the_compiled_functions() -> None:
    if not native.available:
        pytest.skip("the compiled extension was not built")
    lib = native.lib
    assert (Served.ALL, Served.SOME) == (lib.VU_SERVED_ALL, lib.VU_SERVED_SOME)
    assert (NOTIFY, NOTIFY_OTHER) == (lib.VU_SERVED_NOTIFY, lib.VU_SERVED_NOTIFY_OTHER)


def test_without_a_compiled_function_a_poll_serves_its_budget() -> None:
    service = Service(BUDGET + 1)
    assert service.run()
    assert service.served == ["python"] * BUDGET
    assert service.ring.interrupts == 1
    assert not service.run()
    assert service.ring.interrupts == 2


@pytest.mark.parametrize(("served", "more"), [(Served.ALL, False), (Served.SOME, True)])
def test_the_compiled_function_may_serve_all(served: Served, more: bool) -> None:
    service = Service(5)
    service.answers = [(served, 5)]
    assert service.run() is more
    assert service.served == ["compiled"] * 5


def test_after_an_unusual_request_the_compiled_function_goes_on() -> None:
    service = Service(6)
    service.answers = [(Served.UNUSUAL, 2), (Served.ALL, 3)]
    assert not service.run()
    assert service.served == ["compiled"] * 2 + ["python"] + ["compiled"] * 3


def test_where_the_first_request_is_unusual_python_serves_the_next_ones_too() -> None:
    """One interrupt is for all of them."""
    service = Service(6)
    service.answers = [(Served.UNUSUAL, 0), (Served.ALL, 0)]
    assert not service.run()
    assert service.served == ["python"] * 6
    assert service.ring.interrupts == 1


def test_what_was_pushed_before_an_error_is_published() -> None:
    service = Service(3)

    def one(ring: Ring, queue: DeviceQueue, chain: Chain) -> None:
        if len(service.served) == 2:
            raise KeyError("request")
        service.one(ring, queue, chain)

    with pytest.raises(KeyError):
        serve_ring(cast("Ring", service.ring), service.queue, service.compiled, one)
    assert service.ring.interrupts == 1
    assert service.driver.pop() is not None
    assert service.driver.pop() is not None
    assert service.driver.pop() is None
