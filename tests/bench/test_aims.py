"""The aims: reached, missed, and not measured."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.aims import AIMS, Aim, Outcome, Point
from tests.bench.session_documents import (
    benchmark,
    dirty_log,
    disk,
    downtime,
    failed,
    nic,
    session,
    skipped,
    stream,
    tapped,
)
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from bench.session import Session

ROOT = Path(__file__).parents[2]
LEAST = Aim("a rate", 1.5, 2, lambda _: (), "test_x", {"b$": "it is b", "": "not b"}, at_least=True)
MOST = Aim("a time", 100, 0, lambda _: (), "test_x", {"": "it is slow"}, unit=" us")


def outcome(aim: Aim, *values: float, **changes: Any) -> Outcome:
    """Of points that are called a, b, c and so on."""
    points = [Point("abcdefgh"[index], value) for index, value in enumerate(values)]
    fields = {name: getattr(aim, name) for name in Aim.__slots__} | {"points": lambda _: points}
    return Outcome(Aim(**fields), session(**changes))


def of(title: str, measured: Session) -> Outcome:
    """The outcome of the aim whose title begins so."""
    (aim,) = [each for each in AIMS if each.title.startswith(title)]
    return Outcome(aim, measured)


def test_a_limit_in_words() -> None:
    assert (LEAST.goal, MOST.goal) == ("at least 1.5", "at most 100 us")


def test_one_point() -> None:
    assert outcome(LEAST, 1.5).verdict == "reached"
    assert outcome(LEAST, 1.2).verdict == "missed by 20%"
    assert outcome(MOST, 100).verdict == "reached"
    assert outcome(MOST, 150).verdict == "missed by 50%"
    assert outcome(MOST, 270).verdict == "missed by a factor of 2.7"
    assert outcome(MOST, 270).measured == "270 us"


def test_what_is_compared_is_what_is_shown() -> None:
    assert (outcome(LEAST, 1.496).measured, outcome(LEAST, 1.496).verdict) == ("1.50", "reached")
    assert outcome(LEAST, 1.494).verdict.startswith("missed")
    assert outcome(MOST, 100.4).verdict == "reached"


def test_several_points() -> None:
    """The range is from the best one to the worst one, and so are those that are missed."""
    assert outcome(LEAST, 2, 3).measured == "3.00 to 2.00"
    assert outcome(LEAST, 2, 3).verdict == "reached at 2 points"
    missed = outcome(LEAST, 2, 1.2, 0.75)
    assert missed.verdict == "missed at 2 of 3 points, by up to 50%"
    assert [point.name for point in missed.missed] == ["c", "b"]
    assert outcome(MOST, 99, 300).verdict == "missed at 1 of 2 points, by a factor of up to 3.0"
    assert outcome(MOST, 99, 99).measured == "99 us"


def test_the_reasons_are_those_of_the_missed_points() -> None:
    assert outcome(LEAST, 2, 1).reasons == ["it is b"]
    assert outcome(LEAST, 1, 2, 1).reasons == ["not b"]
    assert outcome(LEAST, 1, 0.5).reasons == ["it is b", "not b"]
    assert outcome(LEAST, 2, 2).reasons == []


def test_no_point_and_why() -> None:
    assert outcome(LEAST).verdict == "not in this run"
    assert outcome(LEAST).measured == "-"
    assert outcome(LEAST).why_not_measured == []
    names = ["a.py::test_x[1]", "a.py::test_x[2]", "a.py::test_x[3]"]
    missing = [skipped(names[0], "no program"), skipped(names[1], "no program"), failed(names[2])]
    made = outcome(LEAST, not_measured=missing)
    assert made.verdict == "not measured"
    assert made.why_not_measured == ["no program", "`a.py::test_x[3]` failed"]


def test_points_that_are_missing_are_not_reached() -> None:
    made = outcome(LEAST, 2, 3, not_measured=[failed("a.py::test_x")])
    assert made.verdict == "reached at 2 points; 1 not measured"
    assert made.why_not_measured == ["`a.py::test_x` failed"]


def test_the_blackout_is_that_of_prewired_and_the_vm_of_the_rfc() -> None:
    measured = session(
        downtime("rfc-native", "prewired", ratio_to_floor=8.84),
        downtime("rfc-native", "split", ratio_to_floor=30.0),
        downtime("small-native", "prewired", ratio_to_floor=3.0),
    )
    made = of("Blackout of the RFC's VM", measured)
    assert (made.measured, made.verdict) == ("8.8", "missed by a factor of 2.2")


def test_growth_needs_both_vms() -> None:
    few = downtime("4-devices", "prewired", stop_start_ms=2.0)
    many = downtime("128-devices", "prewired", stop_start_ms=15.0)
    assert of("Stop and start of 128", session(few, many)).verdict == "reached"
    assert of("Stop and start of 128", session(few, many)).measured == "7.5"
    assert of("Stop and start of 128", session(few)).verdict == "not in this run"


def test_streams_by_transport() -> None:
    made = [stream("plain", 512, 1, 0.75), stream("plain", 512, 2, 0.6), stream("TLS", 128, 1, 0.9)]
    plain = of("Rate of pre-copy, ", session(*made))
    assert (plain.measured, plain.verdict) == (
        "75% to 60%",
        "missed at 1 of 2 points, by up to 14%",
    )
    assert of("Rate of pre-copy with TLS", session(*made)).verdict == "reached"


def test_the_dirty_log() -> None:
    made = of(
        "CPU time", session(dirty_log("a page", 1, 0.0005), dirty_log("pages", 92160, 0.0137))
    )
    assert made.measured == "0.50 ms to 13.70 ms"
    assert [point.name for point in made.missed] == ["pages, 92160 runs"]


def test_disks_at_all_depths_and_at_depth_32() -> None:
    measured = session(
        disk("write", 64, 4, 1, 0.84), disk("read", 4, 1, 32, 3.9), disk("read", 64, 1, 128, 0.98)
    )
    every = of("Rate of a disk's", measured)
    assert [point.name for point in every.missed] == [
        "writes of 64 KiB, 4 rings, depth 1",
        "reads of 64 KiB, 1 ring, depth 128",
    ]
    assert [why.split()[0] for why in every.reasons] == ["A", "All"]
    assert of("The same rate", measured).verdict == "reached"


def test_nics() -> None:
    measured = session(nic(64, 0.58, 3.8), nic(1500, 0.2, 0.9))
    assert of("Rate of a NIC's", measured).verdict == "missed at 1 of 2 points, by up to 33%"
    assert of("Millions of frames", measured).measured == "3.80 to 0.90"


def test_the_tap() -> None:
    disk_with_a_tap = benchmark("bench_tap.py::test_data_path", "tap: data path", ratio=1.01)
    measured = session(tapped("tap", "GET_FEATURES", 80.0), disk_with_a_tap)
    assert of("Time that `emu tap`", measured).measured == "80 us"
    assert of("Time of a disk's request", measured).verdict == "reached"


def test_the_time_of_all_benchmarks_is_that_of_a_whole_run() -> None:
    assert of("Time of `make bench`", session(seconds=444.0)).measured == "7.4 minutes"
    assert of("Time of `make bench`", session(command="pytest x")).verdict == "not in this run"


def test_vcpus_by_what_grows_with_their_number() -> None:
    steps = ["pause", "save", "load the same", "resume"]

    def vcpus(count: int, ours: float, floor: float) -> list[dict[str, Any]]:
        return [
            benchmark(
                f"bench_kvm.py::test_vcpus[{count} vcpus-{step}]",
                f"kvm: vcpus, {count} vCPUs",
                seconds=ours / 4e3,
                units=count,
                floor_ms=floor / 4,
            )
            for step in steps
        ]

    one, all_of_them = vcpus(1, 1.0, 0.5), vcpus(224, 13.0, 10.5)
    made = of("Pause, save", session(*one, *vcpus(16, 2.0, 1.0), *all_of_them))
    assert (made.measured, made.verdict) == ("1.20", "reached")
    assert of("Pause, save", session(*one, *all_of_them[1:])).points == []
    for each in one:
        del each["extra_info"]["floor_ms"]  # there is no compiler
    assert of("Pause, save", session(*one, *all_of_them)).points == []


def test_a_stop_and_a_start_count_together_with_back_ends_of_others() -> None:
    def timed(name: str, setting: str, ours: float, floor: float, *, others: bool) -> Any:
        return benchmark(
            f"bench_front_end.py::{name}[{setting}]",
            "front end",
            seconds=ours / 1e3,
            floor_ms=floor,
            setting=setting,
            others=others,
        )

    measured = session(
        timed("test_stop", "storage daemon", 3.0, 1.0, others=True),
        timed("test_activate", "storage daemon", 1.0, 1.0, others=True),
        timed("test_stop", "ours", 9.0, 1.0, others=False),
    )
    made = of("Stop and start with back-ends", measured)
    assert made.points == [Point("storage daemon", 2.0)]


def test_each_aim_has_a_reason_for_any_point() -> None:
    for aim in AIMS:
        assert "" in aim.reasons, aim.title


@pytest.mark.slow
def test_each_pattern_is_of_benchmarks() -> None:
    """One that is renamed is found here."""
    argv = [sys.executable, "-m", "pytest", "bench", "-o", "addopts=", "--collect-only", "-q"]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=True
    )
    names = [line for line in done.stdout.splitlines() if "::" in line]
    for aim in AIMS:
        if aim.benchmarks:
            assert any(re.search(aim.benchmarks, name) for name in names), aim.title
