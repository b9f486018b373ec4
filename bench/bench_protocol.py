"""The protocol: a message in memory, a round trip, and all rings of a VM against real back-ends."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import pytest

from bench.fleet import Fleet
from bench.floor_program import shape_of
from devices.device import COMMON_FEATURES, COMMON_PROTOCOL_FEATURES
from devices.procedure import Change
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import PreflightError
from emu.strategies.registry import make
from vhost_user.backend_session import BackendSession
from vhost_user.frontend_session import FrontendSession
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, MemoryRegion, MemTable, VringAddr, VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Figure
    from bench.floor_program import Floor
    from emu.strategies.base import Halt
    from emu.strategies.task import Task
    from vhost_user.frontend import FrontendConnection

GIB = 1 << 30
SMALL = VmSpec(1, GIB, (DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2)))
DISKS = VmSpec(1, GIB, (DeviceGroup("blk", 24, 4),))
RFC = VmSpec(1, 180 * GIB, (DeviceGroup("net", 16, 32), DeviceGroup("blk", 24, 4)))
ONE_DISK = VmSpec(1, GIB, (DeviceGroup("blk", 1, 256),))
SHAPES = {"small": SMALL, "disks": DISKS, "rfc": RFC}
NAMES = {spec: name for name, spec in SHAPES.items()}
SCHEDULERS = {"lockstep": "qemu-2021", "inflight": "split"}
#: As many as a message can index.
RINGS = 256
ROUNDS = 15

_F = FrontendRequest
BASES = [Request(_F.GET_VRING_BASE, VringState(ring, 0)) for ring in range(RINGS)]
ADDRS = [
    Request(_F.SET_VRING_ADDR, VringAddr(ring, 1, ring << 12, ring << 13, ring << 14, ring << 13))
    for ring in range(RINGS)
]
_NO_FD = -1  # it is not read, and closing it by mistake has no effect
_REGION = MemoryRegion(1 << 32, 177 * GIB, (1 << 52) + (1 << 32), 0)
TABLES = [Request(_F.SET_MEM_TABLE, MemTable((_REGION,)), (_NO_FD,))] * RINGS
MESSAGES = {"get-vring-base": BASES, "set-vring-addr": ADDRS, "set-mem-table": TABLES}
_KINDS = [
    pytest.param(name, marks=[pytest.mark.smoke] if name == "get-vring-base" else [])
    for name in MESSAGES
]


def sessions() -> tuple[FrontendSession, BackendSession]:
    """Both ends of a connection, with the features that devices of this project negotiate."""
    front = FrontendSession("bench", rings=RINGS)
    back = BackendSession(
        "bench",
        features=COMMON_FEATURES,
        protocol_features=COMMON_PROTOCOL_FEATURES,
        num_queues=RINGS,
    )
    for request in (
        Request(_F.GET_FEATURES),
        Request(_F.GET_PROTOCOL_FEATURES),
        Request(_F.SET_PROTOCOL_FEATURES, U64(int(COMMON_PROTOCOL_FEATURES))),
        Request(_F.SET_FEATURES, U64(COMMON_FEATURES)),
    ):
        for heard in back.feed(front.encode(request)):
            if heard.need_reply:
                front.feed(back.answer(heard, back.answer_from_state(heard)))
    return front, back


@pytest.mark.parametrize("kind", _KINDS)
def test_encode(benchmark: Any, figure: Figure, kind: str) -> None:
    """Encode requests; the session checks each, and records the reply that is due."""
    front, _back = sessions()
    requests, encode = MESSAGES[kind], front.encode

    def run() -> None:
        for request in requests:
            encode(request)
        front.abandon()  # no answer will come

    figure.unit, figure.units = "message", len(requests)
    benchmark(run)


@pytest.mark.parametrize("kind", _KINDS)
def test_decode(benchmark: Any, figure: Figure, kind: str) -> None:
    """Decode requests; one read has all of them, descriptors are passed separately."""
    front, back = sessions()
    requests = MESSAGES[kind]
    reads = [(front.encode(request), request.fds) for request in requests]
    if not requests[0].fds:
        reads = [(b"".join(data for data, _fds in reads), ())]
    feed = back.feed

    def run() -> int:
        return sum(len(feed(data, fds)) for data, fds in reads)

    figure.unit, figure.units = "message", len(requests)
    assert benchmark(run) == len(requests)


def test_replies(benchmark: Any, figure: Figure) -> None:
    """All of GET_VRING_BASE but the sockets: both ends encode, and both decode."""
    front, back = sessions()

    def run() -> int:
        asked = b"".join([front.encode(request) for request in BASES])
        heard = back.feed(asked)
        answers = [back.answer(request, request.payload) for request in heard]
        return len(front.feed(b"".join(answers)))

    figure.unit, figure.units = "message", RINGS
    assert benchmark(run) == RINGS


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.smoke] if name == "small" else []) for name in SHAPES
    ],
)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The devices of a VM, with the programs that are their back-ends."""
    try:
        with Fleet(SHAPES[request.param]) as fleet:
            yield fleet
    except PreflightError as error:
        pytest.skip(str(error))


def _in_flight(connection: FrontendConnection, requests: Sequence[Request]) -> int:
    """Send all requests, then receive all replies."""
    due = connection.submit(requests)
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    came = 0
    while came < due:
        if not connection.flush():
            continue
        assert poll.poll(5000)
        came += len(connection.receive())
    return came


@pytest.fixture(scope="module")
def connection() -> Iterator[FrontendConnection]:
    """A connection to the back-end process of a disk all of whose rings are stopped."""
    with Fleet(ONE_DISK) as fleet:
        yield fleet.vm.devices[0].connection


@pytest.mark.smoke
def test_lock_step(
    benchmark: Any,
    figure: Figure,
    connection: FrontendConnection,
    floor: Callable[[Sequence[str]], Floor],
) -> None:
    """One GET_VRING_BASE after the other, each with its reply, with one back-end process."""

    def run() -> None:
        call = connection.call
        for request in BASES:
            call(request)

    figure.unit, figure.units = "message", RINGS
    figure.floor_ns = floor(shape_of(ONE_DISK)).lockstep_ns
    benchmark(run)


def test_in_flight(
    benchmark: Any,
    figure: Figure,
    connection: FrontendConnection,
    floor: Callable[[Sequence[str]], Floor],
) -> None:
    """The same messages, all of them in flight."""
    figure.unit, figure.units = "message", RINGS
    figure.floor_ns = floor(shape_of(ONE_DISK)).inflight_ns
    assert benchmark(_in_flight, connection, BASES) == RINGS


class Bench:
    """What the benchmarks of whole fleets have in common.

    Each round works on new connections, as a migration does: what a back-end still knows of a
    ring that it has had before would change the procedure.
    """

    def __init__(
        self,
        benchmark: Any,
        figure: Figure,
        fleet: Fleet,
        floor: Callable[[Sequence[str]], Floor],
    ) -> None:
        self.fleet = fleet
        self.floor = floor(shape_of(fleet.spec))
        self._benchmark = benchmark
        self._figure = figure
        figure.unit, figure.units = "ring", fleet.spec.rings

    def time(
        self, scheduler: str, tasks: Callable[[], list[Task]], floor_ns: int, halt: Halt = None
    ) -> None:
        """Drive the tasks; making them is not timed."""
        strategy = make(SCHEDULERS[scheduler])
        stage = self.fleet.stage()
        self._benchmark.group = f"stop and start: {NAMES[self.fleet.spec]}"
        self._figure.name = f"{self._figure.name.partition('[')[0]}, {scheduler}"
        self._figure.floor_ns = floor_ns
        self._benchmark.pedantic(
            lambda tasks: strategy.drive(tasks, stage, halt=halt),
            setup=lambda: ((tasks(),), {}),
            rounds=ROUNDS,
            warmup_rounds=1,
        )


@pytest.fixture
def bench(
    benchmark: Any, figure: Figure, fleet: Fleet, floor: Callable[[Sequence[str]], Floor]
) -> Bench:
    """Whatever times a whole fleet."""
    return Bench(benchmark, figure, fleet, floor)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_stop(bench: Bench, scheduler: str) -> None:
    """GET_VRING_BASE of all rings of all devices, all of them running."""

    def running() -> list[Task]:
        bench.fleet.run()
        return bench.fleet.stopping()

    floor = bench.floor
    least = floor.lockstep_ns if scheduler == "lockstep" else floor.inflight_ns
    bench.time(scheduler, running, least, halt=Change)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_start(bench: Bench, scheduler: str) -> None:
    """Memory table, and all messages that set a ring up: what `split` has in the blackout."""
    bench.time(scheduler, bench.fleet.starting, bench.floor.activate_ns)


def test_activate(bench: Bench) -> None:
    """BASE, ADDR and ENABLE of all rings: what `prewired` has left in the blackout."""
    bench.time("inflight", bench.fleet.activating, bench.floor.activate_ns)
