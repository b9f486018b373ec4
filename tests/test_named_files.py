"""Descriptors and files that a user names: one line for nonsense, and no link is followed."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import re
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.backends.programs import BLK, NET, RNG, SERVE, fails
from tests.backends.served import Blk, program
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLUGIN = """
from backends.virtio_device import VirtioDevice
class Nothing(VirtioDevice):
    def serve(self, ring, chain):
        return 0
"""
#: Each program with what it needs besides a socket.
PROGRAMS = {
    "blk": [*BLK, "--blk-file", "{folder}/disk.img"],
    "net": NET,
    "rng": RNG,
    "serve": [*SERVE, "--plugin", "{folder}/plugin.py"],
}


@pytest.fixture(params=list(PROGRAMS))
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    Blk().image(tmp_path)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return [word.format(folder=tmp_path) for word in PROGRAMS[request.param]]


# Descriptors


@contextmanager
def _descriptor(kind: str) -> Iterator[int]:
    """A descriptor that a program inherits under the same number."""
    if kind == "closed":
        yield 99
        return
    if kind == "unconnected":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.set_inheritable(True)
            yield sock.fileno()
        return
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("closed", "Bad file descriptor"),
        ("a device", "Socket operation on non-socket"),
        ("unconnected", "neither listening nor connected"),
    ],
)
def test_a_descriptor_that_is_no_connection(arguments: list[str], kind: str, text: str) -> None:
    with _descriptor(kind) as fd:
        done = subprocess.run(
            [*arguments, "--fd", str(fd)],
            capture_output=True,
            text=True,
            close_fds=False,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"--fd {fd}: " in done.stderr
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--fd", "--ready-fd"])
@pytest.mark.parametrize("number", ["-1", str(1 << 31), "²"])
def test_a_number_that_is_no_descriptor(option: str, number: str) -> None:
    assert option in fails([*RNG, f"{option}={number}"], status=2)


def test_a_closed_descriptor_for_readiness(arguments: list[str], tmp_path: Path) -> None:
    """The number would soon be that of the program's own image or socket: nothing is written."""
    path = tmp_path / "s"
    before = (tmp_path / "disk.img").read_bytes()
    for number in (3, 6, 9) if arguments[-1].endswith("disk.img") else (5,):
        options = ["--socket-path", str(path), "--ready-fd", str(number)]
        line = fails([*arguments, *options], status=1)
        # A library of the interpreter may have a file of its own at that number.
        reason = "(Bad file descriptor|is not open for writing)"
        assert re.search(f"--ready-fd {number}: {reason}", line)
    assert (tmp_path / "disk.img").read_bytes() == before
    assert not path.exists()


def test_a_descriptor_for_readiness_that_is_not_for_writing(tmp_path: Path) -> None:
    with _descriptor("a device") as fd:
        done = subprocess.run(
            [*RNG, "--socket-path", str(tmp_path / "s"), "--ready-fd", str(fd)],
            capture_output=True,
            text=True,
            close_fds=False,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
    assert done.stderr == f"vhost-emu-rng: --ready-fd {fd}: is not open for writing\n"
    assert done.returncode == 1


# Images


def _make(kind: str, path: Path) -> Path:
    if kind == "a device":
        return path.__class__("/dev/null")
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif kind == "a file of /proc":
        return path.__class__("/proc/self/status")
    elif kind == "a loop of links":
        path.symlink_to(path)
    return path


IMAGES = {
    "a FIFO": "neither a file nor a block device",
    "a directory": "neither a file nor a block device",
    "a socket": "neither a file nor a block device",
    "a device": "neither a file nor a block device",
    "a file of /proc": "has no size",
    "a loop of links": "Too many levels of symbolic links",
    "nothing": "No such file or directory",
}


@pytest.mark.parametrize(
    ("kind", "access"), [*((kind, ["--read-only"]) for kind in IMAGES), ("a FIFO", [])]
)
def test_an_image_that_is_no_disk(kind: str, access: list[str], tmp_path: Path) -> None:
    """The program neither waits for it nor opens a device."""
    image = str(_make(kind, tmp_path / "image"))
    line = fails(
        [*BLK, "--socket-path", str(tmp_path / "s"), "--blk-file", image, *access], status=1
    )
    assert line.startswith(f"vhost-emu-blk: {image}: ")
    assert IMAGES[kind] in line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a file of /proc"])
def test_an_image_of_emu_that_is_no_disk(kind: str, tmp_path: Path) -> None:
    image = str(_make(kind, tmp_path / "image"))
    shape = ("--blk", "1x1", "--vcpus", "1", "--memory", "256M", "--accel", "soft")
    line = fails([*EMU, "run", *shape, "--for", "1s", "--disk", image], status=1)
    assert image in line


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a socket", "nothing"])
def test_a_source_of_random_bytes_that_is_none(kind: str, tmp_path: Path) -> None:
    source = str(_make(kind, tmp_path / "source"))
    line = fails([*RNG, "--socket-path", str(tmp_path / "s"), "--rng-source", source], status=1)
    assert line.startswith(f"vhost-emu-rng: --rng-source {source}: ")


# Output


def test_counters_are_not_written_through_a_link(arguments: list[str], tmp_path: Path) -> None:
    """Another user may have made it, in a directory that all may write to."""
    victim, link = tmp_path / "victim", tmp_path / "stats"
    victim.write_text("precious")
    link.symlink_to(victim)
    options = ["--socket-path", str(tmp_path / "s"), "--stats-file", str(link)]
    with program([*arguments, *options]):
        assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_bytes().startswith(b"VUSTATS") or link.stat().st_size > 64


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a socket"])
def test_counters_replace_nothing_but_files(kind: str, tmp_path: Path) -> None:
    path = _make(kind, tmp_path / "stats")
    options = ["--socket-path", str(tmp_path / "s"), "--stats-file", str(path)]
    before = path.lstat()
    assert fails([*RNG, *options], status=1) == f"vhost-emu-rng: {path}: is not a regular file\n"
    assert os.path.samestat(path.lstat(), before)


def test_a_trace_is_not_written_through_a_link(arguments: list[str], tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "trace"
    victim.write_text("precious")
    link.symlink_to(victim)
    options = ["--socket-path", str(tmp_path / "s"), "--trace-events", "*"]
    line = fails([*arguments, *options, "--trace-file", str(link)], status=2)
    assert f"--trace-file {link}: is a symbolic link" in line
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("option", ["--json", "--junitxml"])
def test_results_are_not_written_through_a_link(option: str, tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    link.symlink_to(victim)
    conform = [*EMU, "conform", "back-end", "--only", "VU-B-0101", "--exec"]
    command = " ".join([*RNG, "--socket-path", "{socket}"])
    done = subprocess.run(
        [*conform, command, option, str(link)],
        capture_output=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
