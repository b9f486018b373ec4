"""The command of `make qemu-baseline`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from bench.qemu_baseline.__main__ import run as run_command
from tests.peers.programs import need
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
SMALLEST = (
    "--blk",
    "1x1",
    "--net",
    "1x2",
    "--rounds",
    "1",
    "--stops",
    "1",
    "--memory",
    "64M",
    "--vcpus",
    "2",
)
QEMU = ("qemu-system-x86_64", "qemu-system-x86")


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Nothing of it is left at the end."""
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="emu-test-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.qemu_baseline", *arguments],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            yield process
        assert list(Path(folder).iterdir()) == []


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Its status, stdout and stderr."""
    with started(*arguments, **environment) as process:
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--blk", "4"], "'4' is not a shape"),
        (["--blk", "0", "--net", "0"], "at least one device"),
        (["--vcpus", "256"], "starts 255 at most"),
        (["--vcpus", "0"], "0 vCPUs"),
        (["--blk", "241x1", "--net", "0"], "has room for 240"),
        (["--strategy", "handover"], "the devices keep their back-ends"),
        (["--strategy", "none"], "none"),
        (["--rounds", "0"], "'--rounds'"),
        (["--qemu", "'"], "is not a command"),
        (["--qemu", ""], "needs a command"),
    ],
)
def test_a_usage_error_is_one_line(
    arguments: list[str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["qemu-baseline", *arguments])
    assert run_command() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qemu-baseline: ")
    assert text in err
    assert err.count("\n") == 1


def test_without_qemu_it_is_skipped_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    status, out, err = run("--json", str(file), PATH=str(tmp_path))
    assert (status, out) == (0, "")
    assert err.startswith("qemu-baseline: skipped: ")
    assert json.loads(file.read_text())["skipped"] in err


@pytest.mark.peer
@pytest.mark.parametrize("accel", ["auto", "emulated"])
def test_the_smallest_vm(tmp_path: Path, accel: str) -> None:
    """Each VM stops, starts and migrates; no figure is asserted."""
    need(*QEMU)
    file = tmp_path / "result.json"
    status, out, err = run(*SMALLEST, "--back-ends", "own", "--accel", accel, "--json", str(file))
    assert status == 0, err
    document = json.loads(file.read_text())
    assert document["failures"] == []
    assert out.startswith("1 NIC x 2 rings, 1 disk x 1 rings; 2 vCPUs, 64 MiB, no I/O\n")
    qemu, ours = document["series"]
    assert list(qemu["migrations"]) == ["qemu"]
    assert list(ours["migrations"]) == ["qemu-2021", "prewired"]
    for series in (qemu, ours):
        figures = [
            *series["stops"],
            *(each for one in series["migrations"].values() for each in one),
        ]
        assert len(figures) == 1 + len(series["migrations"])
        assert all(value > 0 for each in figures for value in each.values())


@pytest.mark.peer
@pytest.mark.parametrize("stage", ["qemu on", "vhost-emu on"])
def test_ctrl_c_ends_all_programs(stage: str) -> None:
    need(*QEMU)
    with started(*SMALLEST, "--back-ends", "own", "--rounds", "1000") as process:
        assert process.stderr is not None
        me = psutil.Process(process.pid)
        next(line for line in iter(process.stderr.readline, "") if stage in line)
        wait_until(me.children, "programs are started")
        programs = me.children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PROGRAM_TIMEOUT)
    assert process.returncode == 130
    assert running(programs) == []
