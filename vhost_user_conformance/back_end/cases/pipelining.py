"""VU-B-19xx: requests that are sent before earlier ones are answered.

The specification does not require lock-step, and a stream socket preserves the order: a back-end
sees the same messages, only sooner. A front-end saves the round trips of a switchover. Descriptors
belong to the message whose first byte they are sent with, so that each message with descriptors is
a write of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user.payloads import Config, Inflight, VringState
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64, vring_state
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_F_RO,
    BLK_FLUSH,
    BLK_OUT,
    SECTOR,
)
from vhost_user_conformance.peer.memory import USER_OFFSET, TestRing
from vhost_user_conformance.peer.wire import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.peer.memory import Memory

area = Area("pipelining", BACK_END, "Communication")
#: Replies that exceed a socket's buffer, so that they queue up at the back-end.
_UNREAD = 12000
#: Slow requests at each stop.
_FLUSHES = 8
_Part = tuple[int, bytes, tuple[int, ...]]


def _bytes(number: int, payload: bytes = b"", *, need_reply: bool = False) -> bytes:
    flags = VERSION | (NEED_REPLY if need_reply else 0)
    return HEADER.pack(number, flags, len(payload)) + payload


def _parts(be: BackEnd, ring: TestRing) -> list[_Part]:
    """The messages that start a ring: id, payload and descriptors of each."""
    index = ring.index
    parts: list[_Part] = [
        (F.SET_VRING_NUM, vring_state(index, ring.size), ()),
        (F.SET_VRING_BASE, vring_state(index, ring.start), ()),
        (F.SET_VRING_ADDR, be.address(ring), ()),
        (F.SET_VRING_KICK, u64(index), (ring.kick_fd,)),
        (F.SET_VRING_CALL, u64(index), (ring.call_fd,)),
    ]
    if be.driver_features & PROTOCOL_BIT:
        parts.append((F.SET_VRING_ENABLE, vring_state(index, 1), ()))
    return parts


def _rings(be: BackEnd, memory: Memory) -> list[TestRing]:
    """The first rings, up to four, of any kind."""
    return [be.ring(memory, index) for index in range(min(be.rings, 4))]


def _started(be: BackEnd) -> list[TestRing]:
    """The same, started in one go."""
    rings = _rings(be, be.memory())
    for ring in rings:
        be.set_up(ring)
        be.enable(ring)
    be.barrier()
    return rings


def _working(be: BackEnd, rings: Sequence[TestRing]) -> list[TestRing]:
    """Those that take requests."""
    row = be.device_class
    step = row.rings_per_queue if row.joint else len(rings)
    return [ring for ring in rings if ring.index >= be.work.ring][::step]


@area.case(1901, "Rings that are set up without waiting for replies serve", works=True)
def start_all(be: BackEnd) -> None:
    be.negotiate()
    rings = _started(be)
    for ring in _working(be, rings):
        be.serve(ring)


@area.case(
    1902, "Each of many pipelined requests with need_reply is acknowledged", needs=("REPLY_ACK",)
)
def many_acknowledgements(be: BackEnd) -> None:
    be.negotiate()
    parts = [part for ring in _rings(be, be.memory()) for part in _parts(be, ring)]
    for number, payload, fds in parts:
        be.wire.send(number, payload, flags=VERSION | NEED_REPLY, fds=fds)
    for number, _, _ in parts:
        code = be.reply_to(number).u64
        check(code == 0, f"{F(number).name} acknowledged with 0", f"acknowledged with {code}")


@area.case(1903, "Rings serve that were set up with all acknowledgements in flight", works=True)
def serves_after_many_acknowledgements(be: BackEnd) -> None:
    be.negotiate()
    rings = _rings(be, be.memory())
    if not be.mask("REPLY_ACK") & be.acked:
        unsupported("REPLY_ACK is not offered")
    parts = [part for ring in rings for part in _parts(be, ring)]
    for number, payload, fds in parts:
        be.wire.send(number, payload, flags=VERSION | NEED_REPLY, fds=fds)
    for number, _, _ in parts:
        be.reply_to(number)
    for ring in _working(be, rings):
        be.serve(ring)


@area.case(1904, "Each of several GET_VRING_BASE in flight is answered, in order", works=True)
def bases_in_flight(be: BackEnd) -> None:
    be.negotiate()
    rings = _started(be)
    for ring in _working(be, rings)[:1]:
        be.serve(ring)
    for ring in rings:
        be.send(F.GET_VRING_BASE, vring_state(ring.index, 0))
    served = {ring.index: ring.used_index for ring in rings}
    for ring in rings:
        state = VringState.unpack(be.reply_to(F.GET_VRING_BASE).payload)
        check(state.ring == ring.index, f"ring {ring.index}", f"ring {state.ring}")
        wanted = served[ring.index]
        if ring.index in {one.index for one in _working(be, rings)}:
            check(state.num == wanted, f"base {wanted}", f"base {state.num}")


@area.case(1905, "Several GET_VRING_BASE in one write are each answered, in order", works=True)
def bases_in_one_write(be: BackEnd) -> None:
    be.negotiate()
    rings = _started(be)
    be.wire.send_bytes(b"".join(_bytes(F.GET_VRING_BASE, vring_state(r.index, 0)) for r in rings))
    for ring in rings:
        state = VringState.unpack(be.reply_to(F.GET_VRING_BASE).payload)
        check(state.ring == ring.index, f"ring {ring.index}", f"ring {state.ring}")


@area.case(1906, "Descriptors that are sent one after the other go to their own rings", works=True)
def fds_bound(be: BackEnd) -> None:
    be.negotiate()
    rings = _rings(be, be.memory())
    for ring in rings:
        for number, payload, fds in _parts(be, ring)[:3]:
            be.send(number, payload, fds=fds)
    # All of one kind in a row: only their order distinguishes them.
    for kind in (3, 4):
        for ring in rings:
            number, payload, fds = _parts(be, ring)[kind]
            be.send(number, payload, fds=fds)
    for ring in rings:
        be.enable(ring)
    be.barrier()
    working = _working(be, rings)
    for ring in working:
        for other in rings:
            other.calls()
        be.work.post(ring.memory, ring)
        ring.kick()
        check(ring.await_call(be.timeout), f"a call of ring {ring.index}", "none came")
        wrong = [other.index for other in working if other is not ring and other.calls()]
        check(not wrong, "no call of another ring", f"calls of rings {wrong}")


@area.case(1907, "A message between two that have descriptors changes nothing", works=True)
def between(be: BackEnd) -> None:
    be.negotiate()
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.stop(ring)
    asked = 0
    for number, payload, fds in _parts(be, ring):
        be.send(number, payload, fds=fds)
        be.send(F.GET_FEATURES)
        asked += 1
    for _ in range(asked):
        features = be.reply_to(F.GET_FEATURES).u64
        check(features == be.features, f"features {be.features:#x}", f"{features:#x}")
    be.serve(ring)


@area.each(1908, (2, 16, 200), "{} requests in one write get as many replies")
def many_in_one_write(be: BackEnd, count: int) -> None:
    be.read_features()
    be.wire.send_bytes(_bytes(F.GET_FEATURES) * count)
    for _ in range(count):
        features = be.reply_to(F.GET_FEATURES).u64
        check(features == be.features, f"features {be.features:#x}", f"{features:#x}")


@area.case(1911, "Different requests in one write are answered in their order")
def different(be: BackEnd) -> None:
    be.read_features()
    if not be.features & PROTOCOL_BIT:
        unsupported("protocol features are not offered")
    asked = [F.GET_FEATURES, F.GET_PROTOCOL_FEATURES, F.GET_FEATURES, F.GET_PROTOCOL_FEATURES]
    be.wire.send_bytes(b"".join(_bytes(number) for number in asked))
    for number in asked:
        wanted = be.features if number is F.GET_FEATURES else int(be.protocol)
        value = be.reply_to(number).u64
        check(value == wanted, f"{wanted:#x} from {number.name}", f"{value:#x}")


@area.case(1912, "A whole negotiation in one write is accepted", works=True)
def negotiation(be: BackEnd) -> None:
    be.negotiate(set_features=False)
    other = be.reconnect()
    acked = u64(int(be.acked))
    features = be.features & (1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT)
    messages = [_bytes(F.GET_FEATURES)]
    if be.features & PROTOCOL_BIT:
        messages += [_bytes(F.GET_PROTOCOL_FEATURES), _bytes(F.SET_PROTOCOL_FEATURES, acked)]
    messages += [_bytes(F.SET_OWNER), _bytes(F.SET_FEATURES, u64(features))]
    other.wire.send_bytes(b"".join(messages))
    other.reply_to(F.GET_FEATURES)
    if be.features & PROTOCOL_BIT:
        other.reply_to(F.GET_PROTOCOL_FEATURES)
    other.acked, other.rings, other.driver_features = be.acked, be.rings, features
    ring = other.ring(other.memory(), other.work.ring)
    other.start(ring)
    other.serve(ring)


@area.case(1913, "No reply is lost while the front-end does not read")
def unread(be: BackEnd) -> None:
    be.read_features()
    be.wire.send_bytes(_bytes(F.GET_FEATURES) * _UNREAD)
    for _ in range(_UNREAD):
        features = be.reply_to(F.GET_FEATURES).u64
        check(features == be.features, f"features {be.features:#x}", f"{features:#x}")


@area.case(1914, "A ring is stopped and started again without waiting for its base", works=True)
def restart(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.serve(ring)
    be.send(F.GET_VRING_BASE, vring_state(ring.index, 0))
    # Nothing is in flight, so that the base is known.
    be.set_up(ring, base=2)
    be.enable(ring)
    base = VringState.unpack(be.reply_to(F.GET_VRING_BASE).payload).num
    check(base == 2, "base 2", f"base {base}")
    be.barrier()
    be.serve(ring)


@area.case(
    1915, "Rings may be set up right after a memory table, without its acknowledgement", works=True
)
def behind_a_table(be: BackEnd) -> None:
    be.negotiate()
    memory = be.memory(share=False)
    be.send(F.SET_MEM_TABLE, memory.table, fds=memory.fds)
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    be.serve(ring)


@area.case(1916, "Of two memory tables in a row the last one applies", works=True)
def two_tables(be: BackEnd) -> None:
    be.negotiate()
    first, last = be.memory(share=False), be.memory(8 << 20, share=False)
    for memory in (first, last):
        be.send(F.SET_MEM_TABLE, memory.table, fds=memory.fds)
    ring = be.ring(last, be.work.ring)
    be.start(ring)
    be.serve(ring)


@area.case(1917, "Of several SET_VRING_ENABLE in one write the last one applies", works=True)
def last_enable(be: BackEnd) -> None:
    ring = be.working_ring()
    if not be.driver_features & PROTOCOL_BIT:
        unsupported("protocol features are not offered")
    states = (0, 1, 0, 1, 0, 1)
    be.wire.send_bytes(
        b"".join(_bytes(F.SET_VRING_ENABLE, vring_state(ring.index, s)) for s in states)
    )
    be.barrier()
    be.serve(ring)


@area.case(1918, "Of several SET_VRING_CALL in a row the last one applies", works=True)
def last_call(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    for fd in (be.spare_fd(), be.spare_fd(), ring.call_fd):
        be.send(F.SET_VRING_CALL, u64(ring.index), fds=(fd,))
    be.barrier()
    ring.calls()
    be.work.post(ring.memory, ring)
    ring.kick()
    check(ring.await_call(be.timeout), "a call on the last descriptor", "none came")


@area.case(1919, "Several GET_CONFIG in flight are answered in order", needs=("CONFIG",))
def configs(be: BackEnd) -> None:
    be.negotiate()
    offsets = (0, 8, 4, 16)
    for offset in offsets:
        be.send(F.GET_CONFIG, Config(offset, 0, bytes(4)).pack())
    for offset in offsets:
        reply = be.reply_to(F.GET_CONFIG)
        at = struct.unpack_from("<I", reply.payload)[0] if reply.payload else None
        check(at == offset, f"the answer about offset {offset}", f"about {at}")


@area.case(
    1920,
    "An acknowledgement of a request after GET_VRING_BASE follows its reply",
    needs=("REPLY_ACK",),
    works=True,
)
def ack_behind_base(be: BackEnd) -> None:
    ring = be.working_ring()
    for _ in range(4):
        be.work.post(ring.memory, ring)
    ring.kick()
    be.send(F.GET_VRING_BASE, vring_state(ring.index, 0))
    payload = vring_state(ring.index, ring.size)
    be.wire.send(F.SET_VRING_NUM, payload, flags=VERSION | NEED_REPLY)
    be.reply_to(F.GET_VRING_BASE)
    code = be.reply_to(F.SET_VRING_NUM).u64
    check(code == 0, "acknowledged with 0", f"acknowledged with {code}")


@area.case(1921, "A kick between requests in flight is served", works=True)
def kick_between(be: BackEnd) -> None:
    ring = be.working_ring()
    job = be.work.post(ring.memory, ring)
    be.wire.send_bytes(_bytes(F.GET_FEATURES) * 50)
    ring.kick()
    be.await_used(ring, 1)
    be.check_completed(ring, job)
    for _ in range(50):
        be.reply_to(F.GET_FEATURES)


@area.case(
    1922,
    "A front-end that disconnects with requests in flight does not affect later ones",
    works=True,
)
def leaves(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.wire.send_bytes(_bytes(F.GET_FEATURES) * 50 + _bytes(F.GET_VRING_BASE, vring_state(0, 0)))
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1923, "Of two SET_VRING_ADDR in a row the last one applies", works=True)
def last_address(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    base = be.stop(ring)
    other = be.ring(ring.memory, ring.index)
    be.set_up(ring, base=base)
    # The first ring is expected to be used: the place of the other one is empty and stays empty.
    be.send(F.SET_VRING_ADDR, be.address(other))
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.enable(ring)
    be.barrier()
    be.serve(ring)
    used = other.used + USER_OFFSET
    check(not other.used_index, f"nothing written at {used:#x}", "the other ring is used")


@area.case(
    1924,
    "A descriptor is sent with its own reply, also among other replies",
    needs=("INFLIGHT_SHMFD",),
)
def descriptor_of_a_reply(be: BackEnd) -> None:
    be.negotiate()
    asked = (F.GET_FEATURES, F.GET_INFLIGHT_FD, F.GET_FEATURES)
    payloads = (b"", Inflight(0, 0, 1, 64).pack(), b"")
    be.wire.send_bytes(b"".join(map(_bytes, asked, payloads)))
    for number in asked:
        reply = be.reply_to(number)
        wanted = int(number == F.GET_INFLIGHT_FD)
        came = len(reply.fds)
        check(came == wanted, f"{wanted} descriptors with {F(number).name}", f"{came}")


@area.case(
    1925,
    "A ring with requests in flight may be stopped and started without waiting for its base",
    device="blk",
)
def restart_in_flight(be: BackEnd) -> None:
    ring = be.working_ring()
    if be.features >> BLK_F_RO & 1 or not be.features >> BLK_F_FLUSH & 1:
        unsupported("it accepts no writes or has no flush, and reads may complete at once")
    for turn in range(1, 9):
        before, after = (turn - 1) * (_FLUSHES + 1), turn * (_FLUSHES + 1)
        be.disk.request(ring.memory, ring, BLK_OUT, turn, read=bytes(SECTOR))
        for _ in range(_FLUSHES):
            be.disk.request(ring.memory, ring, BLK_FLUSH, 0)
        ring.kick()
        # The first completion shows that the ring is being served.
        check(ring.await_progress(before, be.timeout), "a completion", "none came")
        be.send(F.GET_VRING_BASE, vring_state(ring.index, 0))
        be.set_up(ring, base=after)
        be.enable(ring)
        base = VringState.unpack(be.reply_to(F.GET_VRING_BASE).payload).num
        check(before < base <= after, f"a base of {before + 1} to {after}", f"{base}")
        be.barrier()
        if base != after:
            # It takes requests one by one, and had not taken all of them: the rest is served now.
            be.stop(ring)
            be.start(ring, base=base)
            ring.kick()
        be.await_used(ring, after)
        for _ in range(_FLUSHES + 1):
            ring.driver.pop()
    be.serve(ring)
