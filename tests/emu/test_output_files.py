"""``--json`` and its like of every command: a FIFO, stdout, a full device, a directory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests import slow
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--vcpus", "1", "--memory", "256M", "--accel", "soft")
SHAPE = ("--net", "1x2", "--blk", "1x1", *SMALL)
CONFORM = (
    *("conform", "back-end", "--only", "VU-B-0101", "--exec"),
    f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}",
)
#: Every command with an output file, and the option.
COMMANDS = {
    "migrate": (("migrate", *SHAPE, "--strategy", "split"), "--json"),
    "sweep": (
        ("sweep", "--devices", "2", "--rings", "2", *SMALL, "-s", "split", "--repeat", "1"),
        "--json",
    ),
    "run": (("run", *SHAPE, "--for", "200ms"), "--json"),
    "conform": (CONFORM, "--json"),
    "conform-junit": (CONFORM, "--junitxml"),
    "migrate-metrics": (("migrate", *SHAPE, "--strategy", "split"), "--openmetrics"),
    "conform-metrics": (CONFORM, "--openmetrics"),
    "conform-report": (CONFORM, "--report"),
    "list": (("conform", "back-end", "--list"), "--json"),
    "list-front-end": (("conform", "front-end", "--list"), "--json"),
}
EVERY_COMMAND = pytest.mark.parametrize("command", slow.all_but({"conform"}, COMMANDS))


def _run(command: str, target: object) -> subprocess.CompletedProcess[str]:
    arguments, option = COMMANDS[command]
    return subprocess.run(
        [*EMU, *arguments, option, str(target)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


@EVERY_COMMAND
def test_a_fifo_gets_the_whole_document(command: str, tmp_path: Path) -> None:
    """It stays a FIFO, as with ``>(jq .)``."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor() as pool:
        text = pool.submit(fifo.read_text)
        done = _run(command, fifo)
        assert done.returncode == 0, done.stderr
        document = text.result(PROGRAM_TIMEOUT)
    if COMMANDS[command][1] == "--json":
        assert json.loads(document)["schema"] == 1
    elif COMMANDS[command][1] == "--openmetrics":
        assert document.endswith("# EOF\n")
    elif COMMANDS[command][1] == "--report":
        assert document.startswith("<!doctype html>")
    else:
        assert document.startswith("<?xml")
    assert fifo.is_fifo()


@EVERY_COMMAND
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_stdout_has_nothing_but_the_document(command: str, name: str) -> None:
    """The report goes to stderr."""
    if COMMANDS[command][1] != "--json":
        pytest.skip("it has no name for stdout")
    done = _run(command, name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == 1


@EVERY_COMMAND
def test_a_full_device_is_named_after_the_report(command: str) -> None:
    """What the run has found out is not lost."""
    done = _run(command, "/dev/full")
    arguments, option = COMMANDS[command]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"emu: {option} /dev/full: No space left on device"
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == ("--list" not in arguments)


@EVERY_COMMAND
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", " is neither a file nor a pipe"),
        ("none/out", ": there is no directory {folder}/none"),
        ("x" * 300, ": File name too long"),
    ],
    ids=["directory", "no directory", "long name"],
)
def test_what_cannot_be_written_is_refused_before_anything_starts(
    command: str, name: str, reason: str, tmp_path: Path
) -> None:
    """By one line."""
    target = tmp_path / name
    done = _run(command, target)
    assert (done.returncode, done.stdout) == (1, "")
    _, option = COMMANDS[command]
    assert done.stderr == f"emu: {option} {target}{reason.format(folder=tmp_path)}\n"
    assert list(tmp_path.iterdir()) == []
