"""The aims for speed: what a session of benchmarks shows of each, and why one is missed."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bench.figures import OURS
from emu.report.cells import counted, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.session import Benchmark, Session

DOWNTIME = "bench_downtime.test_downtime"
STOP, ACTIVATE = "bench_front_end.test_stop", "bench_front_end.test_activate"
VCPUS = "bench_kvm.test_vcpus"
#: Of a blackout: pause, save, load, resume.
STEPS = 4
STREAMS = "bench_streams.test_streams"
DIRTY_LOG = "bench_dirty_log.test_dirty_log"
DISK = "bench_data_path.test_disk"
NIC = "bench_data_path.test_nic"
ROUND_TRIP = "bench_tap.test_round_trip"
TAPPED_DISK = "bench_tap.test_data_path"


class Point(NamedTuple):
    """One measured value.

    Attributes:
        name: of what was measured, where an aim has several points.
        value: in the aim's unit.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Aim:
    """A limit that each point of a session reaches or misses.

    Attributes:
        title: what is measured.
        limit: what each point has to reach.
        digits: of a value, after the decimal point. What is shown is what is compared.
        points: the values that a session has of it.
        benchmarks: a pattern of the names of the benchmarks that have them.
        reasons: why it is missed, by a pattern: of a missed point, the first one whose pattern is
            in the point's name.
        unit: of a value, as it stands behind it.
        at_least: the limit is the least value, and not the largest one.
    """

    title: str
    limit: float
    digits: int
    points: Callable[[Session], Iterable[Point]]
    benchmarks: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    unit: str = ""
    at_least: bool = False

    @property
    def goal(self) -> str:
        """The limit in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}"

    def show(self, value: float) -> str:
        """The value with its unit."""
        return f"{value:.{self.digits}f}{self.unit}"

    def reached(self, value: float) -> bool:
        """Whether a value is within the limit."""
        shown = round(value, self.digits)
        return shown >= self.limit if self.at_least else shown <= self.limit

    def missed_by(self, value: float) -> str:
        """``16%``, or ``a factor of 2.7``: how far a value is from the limit."""
        if not self.at_least and value >= 2 * self.limit:
            return f"a factor of {value / self.limit:.1f}"
        return f"{100 * abs(1 - value / self.limit):.2g}%"


class Outcome:
    """What a session shows of an aim.

    Attributes:
        points: all of them, the best one first.
        missed: those that are outside of the limit, the worst one first.
        missing: the benchmarks that have no result.
    """

    def __init__(self, aim: Aim, session: Session) -> None:
        self.aim = aim
        self.missing = session.missing(aim.benchmarks) if aim.benchmarks else []
        self.points = sorted(
            aim.points(session), key=lambda point: point.value, reverse=aim.at_least
        )
        self.missed = [point for point in reversed(self.points) if not aim.reached(point.value)]

    @property
    def measured(self) -> str:
        """The value, or the range of all."""
        shown = [self.aim.show(point.value) for point in self.points]
        return " to ".join(dict.fromkeys([shown[0], shown[-1]])) if shown else "-"

    @property
    def verdict(self) -> str:
        """Whether the aim is reached, and by how much it is missed."""
        if not self.points:
            return "not measured" if self.why_not_measured else "not in this run"
        if self.missing:
            return f"{self._verdict}; {len(self.missing)} not measured"
        return self._verdict

    @property
    def _verdict(self) -> str:
        if not self.missed:
            return "reached" + (f" at {len(self.points)} points" if len(self.points) > 1 else "")
        far = self.aim.missed_by(self.missed[0].value)
        if len(self.points) == 1:
            return f"missed by {far}"
        most = far.replace("factor of", "factor of up to") if "factor" in far else f"up to {far}"
        return f"missed at {len(self.missed)} of {len(self.points)} points, by {most}"

    @property
    def reasons(self) -> list[str]:
        """Why it was missed."""
        found = [
            next(why for part, why in self.aim.reasons.items() if re.search(part, point.name))
            for point in self.missed
        ]
        return list(dict.fromkeys(found))

    @property
    def why_not_measured(self) -> list[str]:
        """Why points are missing; empty if the run did not select their benchmarks."""
        found = [each.reason or f"`{each.fullname}` {each.outcome}" for each in self.missing]
        return list(dict.fromkeys(found))


def _blackout(session: Session) -> Iterable[Point]:
    for each in session.of(DOWNTIME):
        if each.group == "downtime: rfc-native" and each.info["strategy"] == "prewired":
            yield Point("", each.info["ratio_to_floor"])


def _front_end(session: Session) -> Iterable[Point]:
    """Stop and start together, of the back-ends of other projects."""
    ours, floors = defaultdict[str, float](float), defaultdict[str, float](float)
    for each in (*session.of(STOP), *session.of(ACTIVATE)):
        if each.info["others"]:
            ours[each.info["setting"]] += each.info["median_ms"]
            floors[each.info["setting"]] += each.info["floor_ms"]
    for name, total in ours.items():
        yield Point(name, total / floors[name])


def _growth(session: Session) -> Iterable[Point]:
    times = {each.group: each.info["stop_start_ms"] for each in session.of(DOWNTIME)}
    few, many = (times.get(f"downtime: {count}-devices") for count in (4, 128))
    if few and many:
        yield Point("", many / few)


def _vcpus(session: Session) -> Iterable[Point]:
    """The growth from 1 vCPU to 224: the rest does not depend on their number."""
    ours, floors = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
    for each in session.of(VCPUS):
        if "floor_ms" in each.info:
            ours[each.info["units"]].append(each.info["median_ms"])
            floors[each.info["units"]].append(each.info["floor_ms"])
    if len(ours[1]) == len(ours[224]) == STEPS:
        yield Point("", (sum(ours[224]) - sum(ours[1])) / (sum(floors[224]) - sum(floors[1])))


def _streams(transport: str) -> Callable[[Session], Iterable[Point]]:
    def points(session: Session) -> Iterable[Point]:
        for each in session.of(STREAMS):
            if each.params["transport"] == transport:
                yield Point(each.name, 100 * each.info["ratio"])

    return points


def _dirty_log(session: Session) -> Iterable[Point]:
    for each in session.of(DIRTY_LOG):
        yield Point(f"{each.name}, {each.cells['runs']} runs", each.seconds * 1e3)


def disk_point(each: Benchmark) -> str:
    """``reads of 4 KiB, 1 ring, depth 32``."""
    kind, block = each.params["kind"], size(each.params["block"])
    rings = counted(each.params["rings"], "ring")
    return f"{kind}s of {block}, {rings}, depth {each.params['depth']}"


def _disk(depths: Iterable[int]) -> Callable[[Session], Iterable[Point]]:
    def points(session: Session) -> Iterable[Point]:
        for each in session.of(DISK):
            if each.params["depth"] in depths:
                yield Point(disk_point(each), each.info["ratio"])

    return points


def _nic(session: Session) -> Iterable[Point]:
    for each in session.of(NIC):
        yield Point(f"{each.params['size']} B", each.info["ratio"])


def _frames(session: Session) -> Iterable[Point]:
    for each in session.of(NIC):
        rate = each.info["frames_per_us"][OURS]
        yield Point(f"{each.params['size']} B", rate)


def _round_trips(session: Session) -> Iterable[Point]:
    for each in session.of(ROUND_TRIP):
        yield Point(f"{each.params['kind']}, {each.params['name']}", each.info["more_us"])


def _tapped_disk(session: Session) -> Iterable[Point]:
    for each in session.of(TAPPED_DISK):
        yield Point("", each.info["ratio"])


def _minutes(session: Session) -> Iterable[Point]:
    if session.is_whole:
        yield Point("", session.seconds / 60)


_UNKNOWN = "Not analysed: this point was reached in earlier runs, which differ by up to a third"
_COPY = "All programs copy the data once, and with 64 KiB that takes most of a request's time"
_ALONE = (
    "A request that is alone on its ring costs a turn of the Python loop, which requests in flight "
    "share"
)

AIMS = (
    Aim(
        "Blackout of the RFC's VM with `prewired`, divided by the C floor of its 608 rings",
        4,
        1,
        _blackout,
        r"test_downtime\[rfc-native-prewired\]",
        {
            "": "Each ring costs Python code in the stop and in the restart, and each device "
            "wake-ups and system calls ([Blackout](performance.md#blackout)). The blackout also "
            "has the vCPUs' pause, the last dirty pages and the devices' state, and the floor has "
            "none of these; but it has the first kick of each ring, which comes after the blackout"
        },
    ),
    Aim(
        "Stop and start with back-ends of other projects, divided by the C floor on the same ones",
        1.5,
        1,
        _front_end,
        r"bench_front_end\.py::test_\w+\[(qemu-storage-daemon|testpmd)",
        {
            "": "The front-end encodes, checks and decodes each message in Python, and the floor "
            "program does none of this"
        },
    ),
    Aim(
        "Pause, save, load and resume of 223 more vCPUs of KVM, divided by the C floor",
        1.3,
        2,
        _vcpus,
        r"bench_kvm\.py::test_vcpus\[(1|224) vcpus-",
        {
            "": "Each vCPU is saved and loaded by a call of Python, which makes an object; "
            "and the process has other threads, which need the cores meanwhile"
        },
    ),
    Aim(
        "Stop and start of 128 devices with 8 rings, divided by those of 4 devices",
        8,
        1,
        _growth,
        r"test_downtime\[\d+-devices-prewired\]",
        {
            "": "Most of the time is each device's and each ring's own (wake-ups, system calls, "
            "code and objects that are not in the caches any more), and there is 32 times as much "
            "of it; only what is constant is shared"
        },
    ),
    Aim(
        "Rate of pre-copy, divided by that of `sendfile` into `recv_into`",
        70,
        0,
        _streams("plain"),
        r"test_streams\[plain-",
        {
            "": "Both have the same system calls and page faults, and their CPU times differ less "
            "than their rates, which depend on where the scheduler places the threads"
        },
        at_least=True,
        unit="%",
    ),
    Aim(
        "Rate of pre-copy with TLS, divided by that of Python's TLS sockets",
        70,
        0,
        _streams("TLS"),
        r"test_streams\[TLS-",
        {
            "": "A stream is limited by the end that decrypts, with a call of OpenSSL and two "
            "system calls for each record, and its threads compete for the cores"
        },
        at_least=True,
        unit="%",
    ),
    Aim(
        "CPU time of the search in the dirty log of 180 GiB",
        5,
        2,
        _dirty_log,
        r"test_dirty_log\[",
        {
            "": "Each run of dirty pages costs the same again, however long it is; to send as many "
            "runs takes several times as long"
        },
        unit=" ms",
    ),
    Aim(
        "Rate of a disk's requests, divided by that of qemu-storage-daemon",
        1,
        2,
        _disk((1, 32, 128)),
        r"test_disk\[",
        {"depth 1$": _ALONE, "64 KiB": _COPY, "": _UNKNOWN},
        at_least=True,
    ),
    Aim(
        "The same rate with 32 requests in flight on each ring",
        1.5,
        2,
        _disk((32,)),
        r"test_disk\[.*-32\]$",
        {"64 KiB": _COPY, "": _UNKNOWN},
        at_least=True,
    ),
    Aim(
        "Rate of a NIC's frames, divided by that of dpdk-testpmd",
        0.3,
        2,
        _nic,
        r"test_nic\[",
        {
            "": "testpmd polls the rings in C, on a core of its own; ours handles each batch of "
            "frames in a turn of the Python loop"
        },
        at_least=True,
    ),
    Aim(
        "Millions of frames there and back in a second",
        1,
        2,
        _frames,
        r"test_nic\[",
        {
            "": "Each batch of frames is a turn of the Python loop, and the rate is that of the "
            "slower one of the driver and the back-end, which have a core each"
        },
        at_least=True,
    ),
    Aim(
        "Time that `emu tap` adds to a round trip",
        100,
        0,
        _round_trips,
        r"test_round_trip\[",
        {
            "": "The tap polls for 0.2 ms before it sleeps, which needs a CPU that has nothing "
            "else to do"
        },
        unit=" us",
    ),
    Aim(
        "Time of a disk's request with `emu tap`, divided by the time without it",
        1.05,
        2,
        _tapped_disk,
        r"bench_tap\.py::test_data_path$",
        {
            "": "Requests go through shared memory and not through the tap, which has no work "
            "meanwhile: the difference is noise"
        },
    ),
    Aim(
        "Time of `make bench`",
        10,
        1,
        _minutes,
        reasons={"": "Most of it are real migrations, which take longer on a host that is busy"},
        unit=" minutes",
    ),
)
