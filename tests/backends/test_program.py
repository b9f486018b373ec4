"""The programs: their options, their errors, their signals, their end."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from backends.stats import StatsReader
from tests.backends.programs import BLK, NET, SERVE, fails, rig_at
from tests.backends.rig import Rig
from tests.backends.served import Blk, Net, pair, program
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import VringState
from vhost_user.readiness import readable

#: The programs, by their installed names.
PROGRAMS = {"vhost-emu-blk": BLK, "vhost-emu-net": NET, "vhost-emu-serve": SERVE}


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(Blk().image(tmp_path))


# Capabilities, version, help


@pytest.mark.parametrize(("arguments", "kind"), [(BLK, "block"), (NET, "net")])
def test_capabilities(arguments: list[str], kind: str) -> None:
    for extra in ([], ["--nonsense", "--socket-path", "/x"]):
        done = subprocess.run(
            [*arguments, "--print-capabilities", *extra],
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT,
            check=True,
        )
        capabilities = json.loads(done.stdout)
        assert capabilities["type"] == kind
        assert isinstance(capabilities["features"], list)
        assert done.stderr == ""


def test_installed_under_their_names() -> None:
    for name in PROGRAMS:
        path = Path(sys.executable).with_name(name)
        done = subprocess.run([path, "--version"], capture_output=True, check=True)
        assert done.stdout.decode().startswith(f"{name}, ")


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(name: str) -> None:
    done = subprocess.run(
        [*PROGRAMS[name], "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{name}, version {version('vhost-emu')}\n"


@pytest.mark.parametrize("arguments", PROGRAMS.values())
@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_help(arguments: list[str], asked: str) -> None:
    done = subprocess.run([*arguments, asked], capture_output=True, text=True, check=True)
    for option in ("--socket-path", "--stop-policy", "--control", "--ready-fd"):
        assert option in done.stdout
    assert ("--blk-file" in done.stdout) == (arguments is BLK)


# Bad input


def test_socket_paths_that_cannot_be_used(image: str, tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 120))
    assert "107" in fails([*BLK, "--socket-path", long, "--blk-file", image], status=1)
    nowhere = str(tmp_path / "no" / "such" / "folder")
    line = fails([*BLK, "--socket-path", nowhere, "--blk-file", image], status=1)
    assert f"there is no directory {tmp_path / 'no' / 'such'}" in line
    line = fails([*BLK, "--socket-path", image, "--blk-file", image], status=1)
    assert "not a socket" in line
    assert Path(image).exists()


def test_socket_in_use_and_left_behind(image: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    arguments = [*BLK, "--socket-path", path, "--blk-file", image]
    with program(arguments) as process:
        assert "in use" in fails(arguments, status=1)
        process.kill()
        process.wait(TIMEOUT)
        assert Path(path).exists()
        with program(arguments), rig_at(path, 1):
            pass
        process.returncode = 0


def test_options_that_exclude_each_other(image: str, tmp_path: Path) -> None:
    sock = ["--socket-path", str(tmp_path / "s")]
    disk = ["--blk-file", image]
    assert "--socket-path or --fd" in fails([*BLK, *disk])
    assert "--socket-path or --fd" in fails([*BLK, *sock, "--fd", "3", *disk])
    assert "its own" in fails([*BLK, *sock, *sock, *disk, *disk])
    assert "not a duration" in fails([*BLK, *sock, *disk, "--stop-time", "20"])
    assert "fd 99" in fails([*BLK, "--fd", "99", *disk], status=1)
    assert "stats" in fails([*NET, *sock, "--stats-file", str(tmp_path / "no" / "stats")], status=1)
    assert not (tmp_path / "s").exists()


# Service


@pytest.mark.parametrize("control", ["per-device", "shared"])
def test_several_devices_in_one_program(tmp_path: Path, control: str) -> None:
    kind = Blk()
    files = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(str(kind.image(folder)))
    paths = [str(tmp_path / f"{number}.sock") for number in range(3)]
    arguments = [*BLK, "--num-queues", str(kind.rings), "--control", control]
    for path, file in zip(paths, files, strict=True):
        arguments += ["--socket-path", path, "--blk-file", file]
    stats_file = str(tmp_path / "stats")
    with program(arguments, "--stats-file", stats_file):
        reader = StatsReader(stats_file)
        for number, path in enumerate(paths):
            with rig_at(path, kind.rings) as rig:
                rig.start()
                for sector in range(number + 1):
                    kind.work(rig, sector)
                rows = reader.per_device()
                assert rows[number]["requests"] == number + 1
                assert rows[number]["bytes_read"] == 512 * (number + 1)
                assert rows[number]["ring_starts"] >= 1
        assert reader.totals()["requests"] == 6
        reader.close()
    assert not any(Path(path).exists() for path in paths)


@pytest.mark.parametrize("listening", [False, True], ids=["connected", "listening"])
def test_inherited_socket(tmp_path: Path, listening: bool) -> None:
    kind = Net()
    if listening:
        path = str(tmp_path / "s")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
    else:
        connection, sock = pair()
    with program(kind.arguments(tmp_path), "--fd", str(sock.fileno())) as process:
        sock.close()
        if listening:
            connection = FrontendConnection.connect(path, name="inherited")
        with closing(Rig(connection, kind.rings)) as rig:
            rig.start()
            kind.prepare(rig)
            kind.work(rig)
        if listening:  # another front-end may come
            process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0, "it ends when its only front-end disconnects"


def test_latency_is_injected(tmp_path: Path) -> None:
    kind = Blk()
    path = str(tmp_path / "s")
    latency = ["--cost-get-vring-base", "5ms", "--cost-set-mem-table", "20ms"]
    with (
        program([*kind.arguments(tmp_path), *latency], "--socket-path", path),
        rig_at(path, kind.rings) as rig,
    ):
        rig.set_features()
        begin = time.monotonic()
        rig.set_mem_table()
        # A unit's latency includes the front-end's own part, for which a little is credited.
        assert time.monotonic() - begin >= 0.02 - 0.001
        time.sleep(0.005)  # a gap that is longer than what is credited to the next unit
        begin = time.monotonic()
        for number in range(kind.rings):
            rig.get_base(number)
        least = 0.005 * kind.rings
        assert time.monotonic() - begin >= least - 0.001


@pytest.mark.parametrize(("control", "stop_time"), [("per-device", "1000s"), ("shared", "200ms")])
def test_a_stop_that_waits_delays_other_devices_where_control_is_shared(
    tmp_path: Path, control: str, stop_time: str
) -> None:
    kind = Net()
    paths = [str(tmp_path / f"{number}.sock") for number in range(2)]
    arguments = [*kind.arguments(tmp_path), "--control", control, "--stop-time", stop_time]
    for path in paths:
        arguments += ["--socket-path", path]
    with program(arguments), rig_at(paths[0], kind.rings) as first, rig_at(paths[1], 1) as second:
        first.start()
        kind.prepare(first)
        kind.work(first)
        connection = first.connection
        # The reply to the first request is sent when the stop that comes with it has begun.
        connection.submit([Request(F.GET_FEATURES), Request(F.GET_VRING_BASE, VringState(0, 0))])
        assert readable([connection.fileno()], TIMEOUT)
        connection.receive()
        second.call(Request(F.GET_FEATURES))
        stopped = bool(readable([connection.fileno()], 0))
        assert stopped == (control == "shared"), "the second device was answered before the stop"
