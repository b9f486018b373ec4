"""Where a blackout's time goes: the CPU time of a stop and a restart, by step and by layer.

    python -m bench.blackout_profile [--rounds N]

Eight devices, whose back-ends are one process, are started, kicked and stopped as `prewired` does
it: all in flight, with one ring each and with 32. The CPU times of both processes give what each
ring costs, and what each device costs whatever its rings. CPU time depends on what else the machine
does by its caches only; of all rounds the smallest time counts.

What the back-end's decoder and session take is measured with the same bytes, one more time. The
rest of its time is in `backends`: the loop, system calls, the rings themselves.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import select
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

from backends import stats
from backends.control import ControlOptions
from backends.loop import Loop
from backends.server import DeviceServer
from backends.virtio_device import VirtioDevice
from bench import floor_program
from devices.device import COMMON_FEATURES, COMMON_PROTOCOL_FEATURES
from emu.config.vm_spec import DeviceGroup, VmSpec
from vhost_user import eventfd
from vhost_user.backend_session import BackendSession
from vhost_user.channel import READ_SIZE
from vhost_user.codec import REQUEST_FLAGS, VERSION, Decoder, encode, request_forms
from vhost_user.errors import FrontendError
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest, Request
from vhost_user.payloads import U64, MemoryRegion, MemTable, VringAddr, VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.ring import Ring
    from vhost_user.prepared import Batch
    from vhost_user.virtqueue import Chain

F = FrontendRequest
#: The VM of the RFC, for the sum.
RFC = VmSpec(1, 180 << 30, (DeviceGroup("net", 16, 32), DeviceGroup("blk", 24, 4)))
DEVICES = 8
RINGS = 32
ROUNDS = 200
SIZE = 256
MEMORY = 64 << 20
USER = 1 << 52
TIMEOUT = 10.0
#: Seconds after which a thread that has replied has ended its turn.
_SETTLED = 0.001


class Idle(VirtioDevice):
    """A device with no requests to serve."""

    def serve(self, ring: Ring, chain: Chain) -> int:
        del ring, chain
        return 0


class Cpu(NamedTuple):
    """Nanoseconds of CPU that the front-end took, and the back-end."""

    front: int
    back: int


class Rig:
    """Devices with some rings each: their back-ends in a process, and their front-ends."""

    def __init__(self, rings: int) -> None:
        self.rings = rings
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
            size = len(stats.StatsWriter(1).device(0))
            self.counters = [shared[at * size : (at + 1) * size] for at in range(DEVICES)]
            pairs = [socket.socketpair() for _ in range(DEVICES)]
            pid = self._fork(pairs)
            stack.callback(os.waitpid, pid, 0)
            self._clock = ~pid << 3 | 2  # the CPU time of a process, see clock_getcpuclockid(3)
            self.connections = [
                stack.enter_context(FrontendConnection(mine, name="profile")) for mine, _ in pairs
            ]
            fds = eventfd.default()
            count = DEVICES * self.rings
            self.kicks, self.calls = fds.create(count), fds.create(count)
            stack.callback(fds.close, self.kicks + self.calls)
            self._kick = fds.prepare(self.kicks)
            memory = os.memfd_create("profile")
            stack.callback(os.close, memory)
            os.ftruncate(memory, MEMORY)
            for connection in self.connections:
                connection.negotiate(
                    features=COMMON_FEATURES,
                    protocol_features=COMMON_PROTOCOL_FEATURES,
                    timeout=TIMEOUT,
                )
            table = MemTable((MemoryRegion(0, MEMORY, USER, 0),))
            self._exchange(
                lambda _: [
                    Request(F.SET_FEATURES, U64(COMMON_FEATURES)),
                    Request(F.SET_MEM_TABLE, table, (memory,), need_reply=True),
                ]
            )
            self._stack = stack.pop_all()
        return self

    def _fork(self, pairs: Sequence[tuple[socket.socket, socket.socket]]) -> int:
        """Start the back-ends' process, which ends when their front-ends have disconnected."""
        pid = os.fork()
        if pid:
            for _, theirs in pairs:
                theirs.close()
            return pid
        try:
            gc.disable()
            loop = Loop("profile")
            ended = threading.Semaphore(0)
            for (mine, theirs), counters in zip(pairs, self.counters, strict=True):
                mine.close()
                device = Idle("profile", loop, self.rings, counters)
                DeviceServer(device, theirs, ControlOptions(), on_end=ended.release)
            loop.start()
            for _ in pairs:
                ended.acquire()
        finally:
            os._exit(0)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def timed(self, act: Callable[[], object]) -> Cpu:
        """What this takes, until the back-end waits again."""
        time.sleep(_SETTLED)
        back, front = time.clock_gettime_ns(self._clock), time.thread_time_ns()
        act()
        front = time.thread_time_ns() - front
        time.sleep(_SETTLED)
        return Cpu(front, time.clock_gettime_ns(self._clock) - back)

    def set_up_ahead(self) -> None:
        """What is sent before the switchover, see `devices.lifecycle.start_ahead`."""

        def requests(device: int) -> list[Request]:
            made = []
            for ring in range(self.rings):
                number = device * self.rings + ring
                made += [
                    Request(F.SET_VRING_NUM, VringState(ring, SIZE)),
                    Request(F.SET_VRING_CALL, U64(ring), (self.calls[number],)),
                    Request(F.SET_VRING_ADDR, _addr(number)._replace(ring=ring)),
                    Request(F.SET_VRING_KICK, U64(ring), (self.kicks[number],)),
                ]
            return [*made, Request(F.GET_FEATURES)]

        self._exchange(requests)

    def start_requests(self, device: int) -> list[Request]:
        """What is sent after it."""
        rings = range(self.rings)
        requests = [Request(F.SET_VRING_BASE, VringState(ring, 0)) for ring in rings]
        requests += [
            Request(F.SET_VRING_ADDR, _addr(device * self.rings + ring)._replace(ring=ring))
            for ring in rings
        ]
        requests += [Request(F.SET_VRING_ENABLE, VringState(ring, 1)) for ring in rings]
        return [*requests[:-1], requests[-1]._replace(need_reply=True)]

    def stop_requests(self, _device: int) -> list[Request]:
        return [Request(F.GET_VRING_BASE, VringState(ring, 0)) for ring in range(self.rings)]

    def prepare(self, requests: Callable[[int], Sequence[Request]]) -> list[Batch]:
        """Encode the requests of each device."""
        made = [requests(device) for device in range(DEVICES)]
        pairs = zip(self.connections, made, strict=True)
        return [connection.prepare(each) for connection, each in pairs]

    def start(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.set_nums([0] * self.rings)
        self.send(batches)

    def kick(self) -> None:
        """The first kick of each ring; returns when all have been started."""
        wanted = self._started() + DEVICES * self.rings
        self._kick.signal()
        deadline = time.monotonic() + TIMEOUT
        while self._started() < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError("the rings have not been started")
            time.sleep(_SETTLED)

    def _started(self) -> int:
        return sum(counters[stats.RING_STARTS] for counters in self.counters)

    def _exchange(self, requests: Callable[[int], Sequence[Request]]) -> None:
        self.send(self.prepare(requests))

    def send(self, batches: Sequence[Batch]) -> None:
        """Send all in flight, and receive the replies."""
        waiting = {each.fileno(): each for each in self.connections}
        with select.epoll() as epoll:
            for connection, batch in zip(self.connections, batches, strict=True):
                connection.post(batch)
                epoll.register(connection.fileno(), select.EPOLLIN)
            while waiting:
                for connection in waiting.values():
                    if connection.wants_write:
                        connection.flush()
                sending = any(connection.wants_write for connection in waiting.values())
                ready = epoll.poll(_SETTLED if sending else TIMEOUT)
                if not ready and not sending:
                    raise TimeoutError("the back-end does not reply")
                for fd, _ in ready:
                    connection = waiting[fd]
                    connection.receive()
                    if not connection.outstanding:
                        del waiting[fd]


def _addr(ring: int) -> VringAddr:
    at = USER + ring * 65536
    return VringAddr(ring, 0, desc=at, used=at + 16384, avail=at + 8192, log=0)


def _session(rings: int) -> BackendSession:
    session = BackendSession(
        "profile",
        features=COMMON_FEATURES,
        protocol_features=COMMON_PROTOCOL_FEATURES,
        num_queues=rings,
    )
    features = int(COMMON_PROTOCOL_FEATURES)
    session.feed(encode(F.SET_PROTOCOL_FEATURES, VERSION, U64(features)))
    session.feed(encode(F.SET_FEATURES, VERSION, U64(COMMON_FEATURES)))
    return session


def measure(rings: int, rounds: int) -> dict[str, float]:
    """The smallest CPU time of each step, in nanoseconds, for a device with that many rings."""
    least: dict[str, int] = {}

    def note(step: str, took: int) -> None:
        least[step] = min(took, least.get(step, took))

    forms = request_forms(FRONTEND_MESSAGES)
    decoder = Decoder(forms, REQUEST_FLAGS, FrontendError, "profile")
    session = _session(rings)
    with Rig(rings) as rig:
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                rig.set_up_ahead()
                for name, requests, act in (
                    ("restart", rig.start_requests, rig.start),
                    ("stop", rig.stop_requests, rig.send),
                ):
                    if name == "stop":
                        note("first kick, back-end", rig.timed(rig.kick).back)
                    batches = rig.prepare(requests)
                    took = rig.timed(partial(act, batches))
                    note(f"{name}, front-end", took.front)
                    note(f"{name}, back-end", took.back)
                    # Of one device each, times their number.
                    wanted, connection = requests(0), rig.connections[0]
                    data = batches[0].writes[0][0]
                    assert len(data) <= READ_SIZE
                    for step, call in (
                        ("encode", partial(connection.prepare, wanted)),
                        ("decode", partial(decoder.feed_runs, data)),
                        ("decode and check", partial(session.feed_runs, data)),
                    ):
                        begun = time.thread_time_ns()
                        call()
                        note(f"{name}, {step}", DEVICES * (time.thread_time_ns() - begun))
        finally:
            gc.enable()
    return {step: took / DEVICES for step, took in least.items()}


class Row(NamedTuple):
    """A line of the table, in nanoseconds."""

    step: str
    end: str
    ring: float
    device: float


def rows(one: dict[str, float], many: dict[str, float], rings: int) -> list[Row]:
    """The table, from the times with one ring and with ``rings``."""
    made = []

    def add(step: str, end: str, key: str, without: str = "") -> None:
        single = one[key] - one.get(without, 0)
        each = (many[key] - many.get(without, 0) - single) / (rings - 1)
        made.append(Row(step, end, each, single - each))

    for name, title in (("stop", "GET_VRING_BASE"), ("restart", "BASE, ADDR, ENABLE")):
        add(f"{title}: encode, before the blackout", "front-end", f"{name}, encode")
        add(f"{title}: send, receive, parse", "front-end", f"{name}, front-end")
        add(f"{title}: decode", "back-end", f"{name}, decode")
        add(
            f"{title}: check, ring states",
            "back-end",
            f"{name}, decode and check",
            f"{name}, decode",
        )
        add(
            f"{title}: receive, dispatch, rings, reply",
            "back-end",
            f"{name}, back-end",
            f"{name}, decode and check",
        )
    add("first kick: read it, make the queue, serve", "back-end", "first kick, back-end")
    return made


def table(made: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| step | end | us per ring | us per device |", "|---|---|---:|---:|"]
    lines += [
        f"| {row.step} | {row.end} | {row.ring / 1e3:.2f} | {row.device / 1e3:.1f} |"
        for row in made
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.blackout_profile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args(argv).rounds
    made = rows(measure(1, rounds), measure(RINGS, rounds), RINGS)
    print(table(made))
    devices, rings = sum(group.count for group in RFC.groups), RFC.rings
    during = [row for row in made if "before the blackout" not in row.step]
    total = sum(row.ring * rings + row.device * devices for row in during)
    print(
        f"\n{rings} rings of {devices} devices: {total / 1e6:.1f} ms of CPU, first kicks included"
    )
    try:
        floor = floor_program.measure(floor_program.shape_of(RFC))
    except floor_program.NoCompilerError as error:
        print(f"no floor: {error}")
    else:
        stop, restart = floor.inflight_ns / 1e6, floor.activate_ns / 1e6
        print(
            f"floor, on two processes: stop {stop:.2f} ms, BASE, ADDR and ENABLE {restart:.2f} ms, "
            f"BASE and first kicks {floor.start_ns / 1e6:.2f} ms"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
