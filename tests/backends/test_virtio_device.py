"""A device class that only serves requests: what is done for it."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backends import stats
from backends.limits import BUDGET
from backends.virtio_device import VirtioDevice
from tests.timeouts import TIMEOUT
from vhost_user.errors import FrontendError
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop
    from backends.ring import Ring
    from tests.backends.rig import Rig
    from vhost_user.virtqueue import Chain

WORD = b"served"


class Words(VirtioDevice):
    """Writes a word to each request; one without room for it is an error of the driver."""

    def serve(self, ring: Ring, chain: Chain) -> int:
        if not chain.writable:
            raise FrontendError("a request without room", ring=ring.index)
        chain.writable[0][: len(WORD)] = WORD
        return len(WORD)


@pytest.fixture
def rig(loop: Loop, attach: Callable[..., Rig]) -> Rig:
    return attach(Words("words", loop, 2)).start()


def test_requests_are_served_counted_and_completed(rig: Rig) -> None:
    """More of them than one poll serves, with one kick."""
    count = 2 * BUDGET + 1
    ring = rig.rings[1]
    buffers = {}
    for _ in range(count):
        gpa, memory = rig.alloc(16)
        buffers[ring.driver.add([], [(gpa, 16)])] = memory
    ring.driver.publish()
    ring.kick()
    for _ in range(count):
        done = ring.wait()
        assert done.written == len(WORD)
        assert bytes(buffers[done.head][: done.written]) == WORD
    assert rig.backend.counters[stats.REQUESTS] == count
    assert ring.stop() == count


def test_writable_buffers_are_logged(rig: Rig) -> None:
    log = rig.set_log()
    log.harvest()
    gpa, _ = rig.alloc(2 * 4096)
    rig.rings[0].add([], [(gpa, 2 * 4096)])
    rig.rings[0].wait()
    dirty = log.harvest()
    assert any(start <= gpa and gpa + 2 * 4096 <= start + length for start, length in dirty)
    log.close()


def test_requests_before_one_that_breaks_the_ring_are_completed(rig: Rig) -> None:
    ring = rig.rings[0]
    gpa, _ = rig.alloc(16)
    ring.driver.add([], [(gpa, 16)])
    ring.driver.add([(gpa, 16)], [])
    ring.driver.publish()
    ring.kick()
    assert ring.wait().written == len(WORD)
    assert readable([ring.err_fd], TIMEOUT)
    assert rig.rings[1].stop() == 0, "the other ring is not concerned"


def test_a_class_owes_serve_or_process(loop: Loop) -> None:
    with pytest.raises(NotImplementedError, match="VirtioDevice has neither"):
        VirtioDevice("none", loop, 1).serve(None, None)  # type: ignore[arg-type]


def test_the_defaults_of_a_class(loop: Loop) -> None:
    device = Words("words", loop, 3)
    assert device.queue_num == 3
    assert device.acquire() is None
    assert device.config() is None
    assert device.refresh() is False
    assert device.handlers() == {}
