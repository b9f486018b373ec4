"""Each benchmark file runs, its cheapest case once and untimed; and the floor does what it says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import floor_program
from bench.figures import Figure, duration, table
from devices.procedure import Ask, Phase
from emu.machine.accel.registry import resolve
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64

#: Seconds for the cheapest case of each file, migrations of a VM among them.
LIMIT = 3 * PROGRAM_TIMEOUT
ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "bench").glob("bench_*.py"))


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "bench", f"--basetemp={folder / 'base'}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Outcomes of the cheapest cases, by file; the other cases are only collected."""
    folder = tmp_path_factory.mktemp("bench")
    report = folder / "report.xml"
    done = _run(folder, "-m", "smoke", "--benchmark-disable", f"--junitxml={report}")
    assert done.returncode == 0, done.stdout + done.stderr
    by_file: dict[str, list[str]] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  our own
        skipped = case.find("skipped")
        verdict = "passed" if skipped is None else f"skipped: {skipped.get('message')}"
        by_file.setdefault(case.attrib["classname"].split(".")[-1], []).append(verdict)
    return by_file


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", FILES)
def test_the_cheapest_case_of_each_file_runs(name: str, outcomes: dict[str, list[str]]) -> None:
    """A file without such a case, or one whose case is skipped, is not looked after."""
    if name == "bench_kvm" and resolve("auto") != "kvm":
        pytest.skip(outcomes[name][0])
    assert set(outcomes[name]) == {"passed"}


@pytest.mark.slow
def test_without_a_compiler_what_needs_the_floor_is_skipped(tmp_path: Path) -> None:
    """And the reason says so; what does not need it runs."""
    done = _run(
        tmp_path,
        *("-m", "smoke", "--benchmark-disable", "-rs"),
        *("-k", "encode or lock_step"),
        CC=str(tmp_path / "none"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped" in done.stdout
    assert f"the floor cannot be built: {tmp_path}/none: no such C compiler" in done.stdout


def test_the_floor_measures_a_shape() -> None:
    """As many sockets and rings as were asked for; its figures are of one run, and none is 0."""
    floor = floor_program.measure(("2x8", "1x1"))
    assert (floor.sockets, floor.rings) == (3, 17)
    assert min(floor.inflight_ns, floor.lockstep_ns, floor.start_ns) > 0
    assert floor.downtime_ns == floor.inflight_ns + floor.start_ns
    assert floor.activate_ns > 0


def test_the_floor_measures_vcpus() -> None:
    """All four steps of as many as were asked for."""
    if resolve("auto") != "kvm":
        pytest.skip("KVM does not work here")
    floor = floor_program.measure_vcpus(3)
    assert floor.vcpus == 3
    assert min(floor.pause_ns, floor.save_ns, floor.resume_ns) > 0


def test_the_front_ends_floor_sends_and_receives() -> None:
    """All bytes and descriptors of each device; the replies may come in pieces."""
    mine, theirs = socket.socketpair()
    with FrontendConnection(mine, name="floor") as connection, theirs:
        requests = [
            Request(FrontendRequest.SET_VRING_KICK, U64(0), (theirs.fileno(),)),
            *(Request(FrontendRequest.GET_FEATURES) for _ in range(2)),
        ]
        step = Ask.of(Phase.START_VRINGS, connection, requests)
        theirs.sendall(bytes(floor_program.REPLY_BYTES))
        threading.Timer(0.05, theirs.sendall, [bytes(floor_program.REPLY_BYTES)]).start()
        assert floor_program.exchange([step]) > 0
        data, fds, _, _ = socket.recv_fds(theirs, 1 << 16, 8)
        assert data == b"".join(message.data for message in step.messages)
        assert len(fds) == 1
        os.close(fds[0])


def test_the_front_ends_floor_says_that_a_back_end_has_gone() -> None:
    """Instead of waiting for its replies."""
    mine, theirs = socket.socketpair()
    with FrontendConnection(mine, name="floor") as connection:
        step = Ask.of(Phase.GET_VRING_BASE, connection, [Request(FrontendRequest.GET_FEATURES)])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(RuntimeError, match="the back-end has disconnected"):
            floor_program.exchange([step])
        theirs.close()


@pytest.mark.parametrize("count", ["", "0", "1025", "x"])
def test_the_floor_of_vcpus_says_what_is_no_number(count: str) -> None:
    """In one line, and with a status of its own."""
    program = floor_program.build(floor_program.KVM_SOURCE)
    done = subprocess.run(
        [str(program), count], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "usage: kvm_floor VCPUS (1 to 1024)\n"


@pytest.mark.parametrize("shape", ["x", "0x3", "3x0", "3x257", "1025x1", "2x2x2", ""])
def test_the_floor_says_what_is_no_shape(shape: str) -> None:
    """In one line, and with a status of its own."""
    done = subprocess.run(
        [str(floor_program.build()), shape],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"floor: {shape} is not a shape")
    assert done.stderr.count("\n") == 1


def test_a_figure_is_compared_with_the_floor() -> None:
    """Both ratios go into the JSON and into the summary's line."""
    figure = Figure("stop", {}, unit="ring", units=10, floor_ns=2_000_000)
    figure.lockstep_floor_ns = 20_000_000
    figure.finish(0.05)
    assert figure.info["ratio_to_floor"] == pytest.approx(25)
    assert figure.info["ratio_to_lockstep_floor"] == pytest.approx(2.5)
    assert figure.info["unit_us"] == pytest.approx(5000)
    assert figure.cells()["x floor"] == "25.0"
    assert "50.0 ms, 25.0 times the floor of 2.00 ms" in figure.line()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.7394, "5.74 s"),
        (0.0291, "29.1 ms"),
        (1e-3, "1.00 ms"),
        (497e-9, "497 ns"),
        (0.0, "0.00 ns"),
    ],
)
def test_three_digits_of_a_time(seconds: float, text: str) -> None:
    """In the unit that suits."""
    assert duration(seconds) == text


def test_a_table_has_a_column_for_whatever_some_row_has() -> None:
    """Names to the left, figures to the right."""
    lines = table([{"name": "a", "x": "1"}, {"name": "bcd", "y": "22"}])
    assert lines == ["name  x   y", "a     1   -", "bcd   -  22"]
