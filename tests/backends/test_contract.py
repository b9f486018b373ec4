"""What every back-end device owes to a front-end; a class joins by adding a `Kind`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

import psutil
import pytest

from backends.control import ControlOptions
from backends.pacing import Costs
from backends.stop_policy import StopKind, StopPolicy
from tests.backends.rig import (
    DEADLINE,
    MIB,
    PREWIRED_ORDER,
    QEMU_ORDER,
    RING_SIZE,
    RamRegion,
    Rig,
    RigOptions,
    no_fd,
    readable,
)
from tests.backends.served import KINDS, Kind, Served, program
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import BackendError, Disconnected, Refused
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import ProtocolFeature, Reply, Request
from vhost_user.payloads import U64, LogArea, MemTable, VringAddr, VringState

MakeRig = Callable[..., Rig]
Serve = Callable[..., Served]
NATIVE = ControlOptions()


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture
def serve(kind: Kind, tmp_path: Path) -> Iterator[Serve]:
    served: list[Served] = []

    def make(options: ControlOptions = NATIVE) -> Served:
        served.append(Served(kind, tmp_path, options))
        return served[-1]

    yield make
    for one in served:
        one.close()


@pytest.fixture
def make_rig(kind: Kind) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(connection: FrontendConnection, **options: Unpack[RigOptions]) -> Rig:
        rigs.append(Rig(connection, kind.rings, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def device(serve: Serve) -> Served:
    return serve()


@pytest.fixture
def rig(device: Served, make_rig: MakeRig) -> Rig:
    return make_rig(device.connect())


@pytest.fixture
def running(kind: Kind, rig: Rig) -> Rig:
    rig.start()
    kind.prepare(rig)
    return rig


def stop_all(rig: Rig) -> list[Reply]:
    return rig.pipeline([Request(F.GET_VRING_BASE, VringState(r.index, 0)) for r in rig.rings])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """For what the back-end does without telling anybody."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.002)


# Agreement


def test_offers_what_it_serves(device: Served, rig: Rig, kind: Kind) -> None:
    offered = rig.connection.offered_features
    for bit in (26, 28, 29, 30, 32):
        assert offered >> bit & 1
    assert not offered >> 34 & 1, "packed rings are not served"
    wanted = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.RESET_DEVICE
    assert wanted in rig.connection.protocol_features
    slots = rig.call(Request(F.GET_MAX_MEM_SLOTS))
    assert slots is not None
    assert slots.payload == U64(509)


def test_refuses_features_it_did_not_offer(rig: Rig) -> None:
    with pytest.raises((Refused, Disconnected)):
        rig.ack(F.SET_FEATURES, U64(1 << 34 | 1 << 30))


def test_acknowledges_only_when_asked(rig: Rig) -> None:
    assert rig.call(Request(F.SET_VRING_NUM, VringState(0, 64))) is None
    reply = rig.call(Request(F.SET_VRING_NUM, VringState(0, 64), need_reply=True))
    assert reply is not None
    assert reply.payload == U64(0)


# Rings


@pytest.mark.parametrize("order", [QEMU_ORDER, PREWIRED_ORDER], ids=["qemu", "prewired"])
def test_works_in_either_order(kind: Kind, rig: Rig, order: tuple[F, ...]) -> None:
    rig.start(order=order)
    kind.prepare(rig)
    for number in range(5):
        kind.work(rig, number)


def test_kick_before_the_addresses(kind: Kind, rig: Rig) -> None:
    """The ring is started by it, and begins to work once it is configured and enabled."""
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


def test_goes_on_from_the_base(kind: Kind, rig: Rig) -> None:
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
    if kind.name == "blk":
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
    if kind.name == "blk":
        kind.submit(running, 1)
        assert running.rings[kind.ring].idle()
    for ring in running.rings:
        running.ack(F.SET_VRING_ENABLE, VringState(ring.index, 1))
    if kind.name == "blk":
        kind.finish(running, 1)
    kind.work(running, 2)


# Stop


def test_stop_tells_the_base(kind: Kind, running: Rig) -> None:
    for number in range(7):
        kind.work(running, number)
    assert running.rings[kind.ring].stop() == 7


def test_stopped_ring_is_left_alone(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    base = running.rings[kind.ring].stop()
    kind.submit(running, 1)
    running.rings[kind.ring].kick()
    assert running.rings[kind.ring].idle()
    assert running.rings[kind.ring].stop() == base, "a stopped ring answers with its base"


def test_stop_of_all_rings_in_flight(kind: Kind, running: Rig) -> None:
    for number in range(3):
        kind.work(running, number)
    replies = stop_all(running)
    states = [reply.payload for reply in replies]
    assert [s.index for s in states if isinstance(s, VringState)] == list(range(kind.rings))
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
    assert [s.index for s in states if isinstance(s, VringState)] == list(range(kind.rings))
    base = states[kind.ring]
    assert isinstance(base, VringState)
    if stop is StopKind.DRAIN:
        assert base.num == 2, "what was available when it was asked to stop has been served"
    if base.num == 2:
        assert rig.rings[kind.ring].wait()
    least = max(stop_time, 1_000_000 if stop is StopKind.TICK else 0) / 1e9
    assert least <= took < least + 0.2
    # The device as a whole takes that long, not each of its rings.
    begin = time.monotonic()
    assert rig.get_base(0) >= 0
    assert not stop_time or time.monotonic() - begin < stop_time / 1e9


def test_lock_step_stop_takes_the_stop_time_once(
    kind: Kind, serve: Serve, make_rig: MakeRig
) -> None:
    served = serve(ControlOptions(StopPolicy(StopKind.IMMEDIATE, 100_000_000)))
    rig = make_rig(served.connect())
    rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)
    begin = time.monotonic()
    bases = [ring.stop() for ring in rig.rings]
    took = time.monotonic() - begin
    assert bases[kind.ring] == 1
    assert 0.1 <= took < 0.1 * kind.rings


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
        Request(F.GET_VRING_BASE, VringState(1, 0)),
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


def status(rig: Rig) -> int:
    reply = rig.call(Request(F.GET_STATUS))
    assert reply is not None
    assert isinstance(reply.payload, U64)
    return reply.payload.value


def test_status_is_what_was_set(rig: Rig) -> None:
    assert status(rig) == 0
    for bits in (1, 3, 11, 15):
        rig.ack(F.SET_STATUS, U64(bits))
        assert status(rig) == bits
    with pytest.raises(Refused):
        rig.ack(F.SET_STATUS, U64(0x10F))
    assert status(rig) == 15


def test_status_begins_anew_with_each_front_end(
    device: Served, rig: Rig, make_rig: MakeRig
) -> None:
    rig.ack(F.SET_STATUS, U64(15))
    rig.connection.close()
    assert status(make_rig(device.connect())) == 0


def test_status_of_a_reset_that_waits(kind: Kind, serve: Serve, make_rig: MakeRig) -> None:
    """It is 0 when the rings have stopped; what is asked behind it waits for that."""
    policy = StopPolicy(StopKind.IMMEDIATE, 50_000_000)
    rig = make_rig(serve(ControlOptions(policy)).connect()).start()
    kind.prepare(rig)
    rig.ack(F.SET_STATUS, U64(15))
    kind.work(rig, 0)
    began = time.monotonic()
    replies = rig.pipeline(
        [
            Request(F.SET_STATUS, U64(0), need_reply=True),
            Request(F.GET_STATUS),
            Request(F.GET_VRING_BASE, VringState(kind.ring, 0)),
        ]
    )
    assert time.monotonic() - began >= 0.05
    assert [reply.payload for reply in replies] == [U64(0), U64(0), VringState(kind.ring, 1)]


# Memory


def test_memory_by_regions(kind: Kind, rig: Rig) -> None:
    rig.set_features()
    rig.add_mem_reg(rig.low)
    rig.add_mem_reg(rig.high)
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    kind.prepare(rig)
    kind.work(rig, 0)
    extra = RamRegion(512 * MIB, MIB, 0x7F20_0000_0000)
    rig.add_mem_reg(extra)
    kind.work(rig, 1)
    rig.rem_mem_reg(extra)
    kind.work(rig, 2)
    extra.close()
    with pytest.raises(Refused):
        rig.rem_mem_reg(extra)


def test_memory_table_again_while_running(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    running.set_mem_table()
    kind.work(running, 1)
    assert running.rings[kind.ring].stop() == 2


def test_ring_rests_while_its_memory_is_gone(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    running.rem_mem_reg(running.low)
    kind.submit(running, 1)
    running.rings[kind.ring].kick()
    assert running.rings[kind.ring].idle()
    running.add_mem_reg(running.low)
    kind.finish(running, 1)


def test_overlapping_regions_are_refused(rig: Rig) -> None:
    rig.add_mem_reg(rig.low)
    with pytest.raises(Refused):
        rig.add_mem_reg(rig.low)


def test_ring_outside_of_memory_is_refused(rig: Rig) -> None:
    rig.set_features()
    rig.set_mem_table()
    rig.ack(F.SET_VRING_NUM, VringState(0, 64))
    with pytest.raises(Refused):
        rig.ack(F.SET_VRING_ADDR, VringAddr(0, 0, 0x1000, 0x2000, 0x3000, 0))


# Dirty log


def test_logs_buffers_and_used_ring(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    log = running.set_log()
    log.harvest()
    wrote = kind.work(running, 1)
    dirty = {
        page for gpa, length in log.harvest() for page in range(gpa >> 12, (gpa + length) >> 12)
    }
    expected = {gpa >> 12 for gpa in wrote}
    ring = running.rings[kind.ring]
    expected.add((ring.gpa + ring.offsets.used) >> 12)
    assert expected <= dirty
    running.set_features(running.features & ~(1 << 26))
    for each in running.rings:
        running.ack(F.SET_VRING_ADDR, each.addr())
    log.harvest()
    kind.work(running, 2)
    assert log.harvest() == []
    log.close()


def test_log_that_is_too_small_is_told(rig: Rig) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 4096)
    with pytest.raises((Disconnected, BackendError)):
        rig.call(Request(F.SET_LOG_BASE, LogArea(1 << 20, 0), (fd,)))
    os.close(fd)


def test_log_must_cover_memory(running: Rig) -> None:
    """64 pages have a bit in 8 bytes; the rig's memory ends at 66 MiB."""
    log = DirtyLog.create(64)
    with pytest.raises(Disconnected):
        running.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    log.close()


def test_log_must_cover_used_rings(kind: Kind, running: Rig) -> None:
    enough = running.set_log()
    ring = running.rings[kind.ring]
    log = DirtyLog.create(2 * enough.size * 8)
    end, room = log.size * 8 * 4096, 4 + 8 * RING_SIZE + 2
    running.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    for gpa in (end - room + 1, end, (1 << 64) - 8):
        with pytest.raises(Refused):
            running.ack(F.SET_VRING_ADDR, ring.addr(log=True)._replace(log=gpa))
    running.ack(F.SET_VRING_ADDR, ring.addr(log=True)._replace(log=end - room))
    kind.work(running, 0)
    assert end - 4096 in {gpa for gpa, _ in log.harvest()}
    with pytest.raises(Disconnected):
        running.call(Request(F.SET_LOG_BASE, LogArea(enough.size, 0), (enough.fd,)))
    for each in (enough, log):
        each.close()


def test_memory_beyond_a_log_in_use_is_refused(kind: Kind, running: Rig) -> None:
    log = running.set_log()
    extra = RamRegion(512 * MIB, MIB, 0x7F20_0000_0000)
    with pytest.raises(Refused):
        running.add_mem_reg(extra)
    regions = (running.low, running.high, extra)
    with pytest.raises(Refused):
        running.ack(
            F.SET_MEM_TABLE,
            MemTable(tuple(ram.region for ram in regions)),
            tuple(ram.fd for ram in regions),
        )
    kind.work(running, 0)
    running.set_features(running.features & ~(1 << 26))
    running.add_mem_reg(extra)
    with pytest.raises(Refused):
        running.set_features(running.features | 1 << 26)
    for each in (log, extra):
        each.close()


@pytest.mark.parametrize("used", [False, True], ids=["buffers", "used-ring"])
def test_what_a_log_cannot_hold_breaks_the_ring_and_no_more(
    kind: Kind, rig: Rig, used: bool
) -> None:
    """Nobody could tell when the log came, for it came before the memory."""
    log = DirtyLog.create(64)
    rig.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    rig.set_features(rig.features | (0 if used else 1 << 26))
    rig.set_mem_table()
    written = rig.rings[0 if kind.name == "net" else kind.ring]
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER)
        if ring is written:
            rig.ack(F.SET_VRING_ADDR, ring.addr(log=used))
        ring.kick()
    kind.prepare(rig)
    kind.submit(rig, 0)
    assert readable(written.err_fd, DEADLINE)
    assert [readable(ring.err_fd, 0) for ring in rig.rings] == [r is written for r in rig.rings]
    assert [rig.get_base(ring.index) for ring in rig.rings]
    log.close()


def test_refusal_is_acknowledged_where_there_is_no_other_reply(
    device: Served, make_rig: MakeRig
) -> None:
    """Without LOG_SHMFD a log has no reply of its own, so there is a way to say no."""
    agreed = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
    rig = make_rig(device.connect(), protocol_features=agreed)
    with pytest.raises(Refused):
        rig.ack(F.SET_LOG_BASE, U64(0))
    rig.set_features()


# What front-ends and guests do wrong, and how they go


def test_ring_index_out_of_range_closes(rig: Rig, kind: Kind, device: Served) -> None:
    with pytest.raises(Disconnected):
        rig.get_base(kind.rings)
    again = device.connect()
    again.negotiate(features=0, protocol_features=ProtocolFeature(0))
    again.close()


def test_garbage_closes_and_the_next_one_is_served(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(device.path)
        sock.send(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(100) == b""
    rig = make_rig(device.connect())
    rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)


def test_broken_ring_is_signalled(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    ring = running.rings[kind.ring]
    ring.add([(0xDEAD_0000, 16)], [(0xDEAD_0000, 1)])
    assert readable(ring.err_fd, DEADLINE)
    # The device lives on, and the ring can still be stopped.
    assert ring.stop() == 1


def test_bad_size_is_refused(rig: Rig) -> None:
    for size in (0, 3, 65536):
        with pytest.raises(Refused):
            rig.ack(F.SET_VRING_NUM, VringState(0, size))


def test_kick_that_cannot_be_waited_for(rig: Rig, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(Refused):
        rig.ack(F.SET_VRING_KICK, U64(0), (file.fileno(),))


def test_front_end_vanishes_and_another_comes(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    for _ in range(3):
        rig = make_rig(device.connect())
        rig.start()
        kind.prepare(rig)
        for number in range(3):
            kind.work(rig, number)
        kind.submit(rig, 3)
        rig.connection.close()


def test_one_front_end_at_a_time(kind: Kind, running: Rig, device: Served) -> None:
    second = device.connect()
    second.submit([Request(F.GET_FEATURES)])
    assert not readable(second.fileno(), 0.05)
    running.connection.close()
    assert readable(second.fileno(), DEADLINE)
    second.close()


def test_vanishes_in_the_middle_of_a_message(device: Served) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(device.path)
        sock.send(b"\x01\0\0\0\x01\0\0\0")
    connection = device.connect()
    connection.negotiate(features=0, protocol_features=ProtocolFeature(0))
    connection.close()


def test_vanishes_while_its_memory_table_is_paid_for(
    serve: Serve, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's descriptors are closed once: their numbers may be somebody else's by then."""
    served = serve(ControlOptions(costs=Costs(set_mem_table=1)))
    rig = make_rig(served.connect())
    rig.set_features()
    closed: list[int] = []
    gone = threading.Event()
    retire = served.device.retire_fds

    def note(fds: Sequence[int]) -> None:
        closed.extend(fd for fd in fds if not Path(f"/proc/self/fd/{fd}").exists())
        retire(fds)

    def hold() -> None:
        gone.wait(DEADLINE)

    monkeypatch.setattr(served.device, "retire_fds", note)
    table = MemTable((rig.low.region,))
    served.loop.post(hold)
    rig.connection.submit([Request(F.GET_FEATURES), Request(F.SET_MEM_TABLE, table, (rig.low.fd,))])
    rig.connection.close()
    gone.set()
    generation = served.device.memory.generation
    wait_until(lambda: served.device.memory.generation > generation, "the table came")
    served.on_loop(lambda: None)
    assert not served.device.memory.regions
    assert closed == []


def test_does_not_leak(kind: Kind, device: Served) -> None:
    process = psutil.Process()

    def visit() -> None:
        rig = Rig(device.connect(), kind.rings)
        rig.start()
        kind.prepare(rig)
        kind.work(rig, 0)
        log = rig.set_log()
        kind.work(rig, 1)
        for request in (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR):
            rig.call(rig.rings[0].requests()[request])
        log.close()
        rig.close()

    def settled() -> int:
        connection = device.connect()
        connection.negotiate(features=0, protocol_features=ProtocolFeature(0))
        connection.close()
        wait_until(lambda: not device.device.memory.regions, "the last front-end has gone")
        for _ in range(2):  # a turn for what has come, and one more for its end
            device.on_loop(lambda: None)
        gc.collect()  # the test's own guest memory: rings and rigs know each other
        return int(process.num_fds())

    visit()
    before, threads = settled(), process.num_threads()
    for _ in range(5):
        visit()
    assert settled() <= before
    assert process.num_threads() <= threads


# The real program


@pytest.mark.parametrize("control", ["per-device", "shared"])
def test_program_serves(kind: Kind, tmp_path: Path, make_rig: MakeRig, control: str) -> None:
    path = str(tmp_path / "s.sock")
    with program(kind.arguments(tmp_path), "--socket-path", path, "--control", control) as process:
        for _ in range(2):
            rig = make_rig(FrontendConnection.connect(path, name="program"))
            rig.start()
            kind.prepare(rig)
            for number in range(5):
                kind.work(rig, number)
            replies = stop_all(rig)
            assert replies[kind.ring].payload == VringState(kind.ring, 5)
            rig.connection.close()
        process.terminate()
        assert process.wait(5) == 0
    assert not Path(path).exists()


def test_program_ends_at_sigterm_under_load(kind: Kind, tmp_path: Path, make_rig: MakeRig) -> None:
    path = str(tmp_path / "s.sock")
    with program(kind.arguments(tmp_path), "--socket-path", path) as process:
        rig = make_rig(FrontendConnection.connect(path, name="program"))
        rig.start()
        kind.prepare(rig)
        for number in range(RING_SIZE // 8):
            kind.submit(rig, number)
        process.terminate()
        assert process.wait(5) == 0
    assert not Path(path).exists()
