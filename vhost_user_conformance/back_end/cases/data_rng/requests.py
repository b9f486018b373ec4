"""VU-B-2601 to 2617: requests for random bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.data_rng import area
from vhost_user_conformance.model.verdict import Failed, Severity, check
from vhost_user_conformance.peer.device_work import MARK, Job, check_random
from vhost_user_conformance.peer.memory import MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import TestRing

_OPERATION = "virtio 1.3, 5.4.6.1"
#: A prefix of this size is the same in two requests with a probability of 2^-64.
_DISTINCT = 8


def _taken(be: BackEnd, ring: TestRing, jobs: Iterable[Job]) -> list[bytes]:
    """The random bytes of these requests, all of which must be completed, once and in any order."""
    waiting = {job.head: job for job in jobs}
    be.await_used(ring, ring.avail_index)
    found = []
    while waiting:
        done = ring.driver.pop()
        if done is None:
            raise Failed(f"completions of chains {sorted(waiting)}", "there are none")
        head, written = done
        check(head in waiting, f"one of chains {sorted(waiting)}", f"chain {head}")
        found.append(check_random(ring.memory, waiting.pop(head), written))
    return found


def _random(be: BackEnd, ring: TestRing, *sizes: int) -> bytes:
    """The random bytes that one request gets."""
    job = be.entropy.request(ring.memory, ring, sizes)
    ring.kick()
    return _taken(be, ring, (job,))[0]


@area.each(
    2601,
    (1, 2, 63, 4096, 65536),
    "A request of {} bytes gets at least one",
    device="rng",
    spec=_OPERATION,
)
def sizes(be: BackEnd, size: int) -> None:
    ring = be.working_ring()
    for _ in range(3):
        _random(be, ring, size)


@area.each(
    2606,
    (2, 3, 16, 64),
    "A request of {} buffers is filled in their order",
    device="rng",
    spec=_OPERATION,
)
def several(be: BackEnd, count: int) -> None:
    ring = be.working_ring()
    _random(be, ring, *(48 + number for number in range(count)))


@area.case(2610, "A request of 1 MiB gets at least one byte", device="rng", spec=_OPERATION)
def large(be: BackEnd) -> None:
    _random(be, be.working_ring(), MIB)


@area.case(
    2611,
    "The bytes around the buffer are not written",
    device="rng",
    spec=_OPERATION,
)
def around(be: BackEnd) -> None:
    ring = be.working_ring()
    memory = ring.memory
    page = memory.allocate(PAGE, align=PAGE)
    job = Job(ring.driver.add([], [(page + 100, 200)]), None, None, ((page + 100, 200),))
    memory.write(page + 100, bytes([MARK]) * 200)
    ring.driver.publish()
    ring.kick()
    _taken(be, ring, (job,))
    for gpa, size in ((page, 100), (page + 300, PAGE - 300)):
        untouched = memory.read(gpa, size) == bytes(size)
        check(untouched, f"zeroes in {size} bytes beside the buffer", "bytes were written there")


@area.case(
    2612,
    "Requests in indirect tables are filled",
    device="rng",
    spec="virtio 1.3, 2.7.5.3",
)
def indirect(be: BackEnd) -> None:
    work = be.entropy
    be.negotiate_bits(VIRTIO_RING_F_INDIRECT_DESC)
    ring = be.ring(be.memory(), work.ring)
    be.start(ring)
    for count in (1, 2, 5):
        job = work.request(ring.memory, ring, (40,) * count, indirect=True)
        ring.kick()
        _taken(be, ring, (job,))


@area.case(2613, "The buffers of a request may lie in different regions", device="rng")
def regions(be: BackEnd) -> None:
    work = be.entropy
    be.negotiate()
    memory = be.memory(MIB, MIB, MIB)
    ring = be.ring(memory, work.ring)
    be.start(ring)
    job = work.request(memory, ring, (64, 64, 64), regions=(2, 0, 1))
    ring.kick()
    _taken(be, ring, (job,))


def _distinct(parts: Iterable[bytes]) -> None:
    """Raises `Failed` if two begin alike; those that are too short to compare are ignored."""
    heads = [part[:_DISTINCT] for part in parts if len(part) >= _DISTINCT]
    check(len(set(heads)) == len(heads), "different bytes in each request", "two begin alike")


@area.case(2614, "Two requests do not get the same bytes", device="rng", spec="virtio 1.3, 5.4")
def distinct(be: BackEnd) -> None:
    ring = be.working_ring()
    _distinct(_random(be, ring, 64) for _ in range(32))


@area.case(
    2615,
    "Requests of a next front-end do not get the bytes of an earlier one",
    device="rng",
    spec="virtio 1.3, 5.4",
    severity=Severity.SHOULD,
)
def distinct_connections(be: BackEnd) -> None:
    ring = be.working_ring()
    before = [_random(be, ring, 64) for _ in range(4)]
    other = be.reconnect()
    ring = other.working_ring()
    _distinct((*before, *(_random(other, ring, 64) for _ in range(4))))


@area.case(2616, "A full ring of requests is completed after one kick, each once", device="rng")
def full(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(3):
        jobs = [be.entropy.request(ring.memory, ring, (256,)) for _ in range(ring.size)]
        ring.kick()
        _distinct(_taken(be, ring, jobs))


@area.case(
    2617,
    "A stop with requests in flight returns a base from which the ring continues",
    device="rng",
    spec="Ring states",
)
def stopped(be: BackEnd) -> None:
    ring = be.working_ring()
    for turn in range(1, 9):
        jobs = [be.entropy.request(ring.memory, ring, (4096,)) for _ in range(32)]
        ring.kick()
        base = be.stop(ring)
        before = 32 * (turn - 1)
        check(before <= base <= 32 * turn, f"a base of {before} to {32 * turn}", f"{base}")
        used = ring.used_index
        check(used == base, f"{base} completions, as the base", f"{used}")
        be.check_idle(ring, index=used)
        ring.unkick()
        be.start(ring, base=base)
        ring.kick()
        _distinct(_taken(be, ring, jobs))
