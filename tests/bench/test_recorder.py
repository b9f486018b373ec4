"""What a session's JSON has besides the benchmarks."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.recorder import without_directories
from bench.session import Session
from tests.timeouts import PROGRAM_TIMEOUT

ROOT = Path(__file__).parents[2]
_FILE = """
import pytest

def test_measured(benchmark, figure):
    figure.notes["a note"] = "7"
    benchmark(int)

def test_skipped(benchmark, figure):
    pytest.skip("no /opt/somewhere/program here")

@pytest.fixture
def broken():
    assert not "this one"

def test_broken(benchmark, figure, broken):
    benchmark(int)

def test_fails_afterwards(benchmark, figure):
    benchmark(int)
    assert not "measured well"
"""
_SETTINGS = "[pytest]\npython_files = bench_*.py\naddopts = --benchmark-max-time=0.001\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmarks are run."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    """The JSON of benchmarks with the project's hooks, all of which are run once."""
    (folder / "bench_small.py").write_text(_FILE)
    (folder / "pytest.ini").write_text(_SETTINGS)
    file = folder / "result.json"
    options = ["-p", "bench.conftest", "bench_small.py", "-k", "small"]
    outputs = ["--basetemp", str(folder / "base"), f"--benchmark-json={file}"]
    # Where pytest-xdist has started this process, pytest-benchmark would measure nothing.
    environment = {name: value for name, value in os.environ.items() if name[:12] != "PYTEST_XDIST"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *outputs],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert file.exists(), done.stdout + done.stderr
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def test_what_was_run_is_recorded_without_the_files_that_it_writes(
    document: dict[str, Any], folder: Path
) -> None:
    recorded = document["session"]
    assert recorded["command"] == "pytest -p bench.conftest bench_small.py -k small"
    assert recorded["seconds"] > 0
    assert len(recorded["load_averages"]) == 2
    assert str(folder) not in json.dumps(recorded)


def test_what_was_not_measured_is_recorded(document: dict[str, Any]) -> None:
    name = "bench_small.py::test_"
    assert document["session"]["not_measured"] == [
        {"fullname": f"{name}skipped", "outcome": "skipped", "reason": "no program here"},
        {"fullname": f"{name}broken", "outcome": "failed", "reason": ""},
        {"fullname": f"{name}fails_afterwards", "outcome": "failed", "reason": ""},
    ]


def test_the_host_is_recorded_without_its_name(document: dict[str, Any]) -> None:
    machine = document["machine_info"]
    assert machine["cpus"] == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] > 1 << 20
    assert "node" not in machine


def test_a_session_is_read_from_it(document: dict[str, Any]) -> None:
    session = Session(document)
    (measured,) = session.benchmarks  # the one that has failed afterwards has a time, too
    assert measured.function == "bench_small.test_measured"
    assert list(measured.cells) == ["benchmark", "median", "a note"]
    assert measured.cells["a note"] == "7"
    assert measured.seconds > 0


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/usr/lib/x86_64/thing.so: no such file", "thing.so: no such file"),
        ("--out=/home/user/a.json", "--out=a.json"),
        ("100 MiB/s and/or bench/results", "100 MiB/s and/or bench/results"),
        ("apt-get install qemu-system-common, or make peers-install",) * 2,
        ("cannot open '/dev/kvm'", "cannot open 'kvm'"),
        ("../other/bench", "../other/bench"),
    ],
)
def test_directories_of_this_host_are_left_out(text: str, left: str) -> None:
    assert without_directories(text) == left
