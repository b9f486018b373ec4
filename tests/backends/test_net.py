"""``vhost-emu-net``: its options, and what is between its NICs."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.backends.programs import NET, fails, rig_at
from tests.backends.served import FRAME, NET_HEADER, program
from tests.timeouts import TIMEOUT
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.rig import Rig

TWO_MACS = ["--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:02"]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--uplink-peer", "/x"], "--uplink-peer needs an --uplink"),
        (TWO_MACS, "each NIC needs a --mac, or none"),
        (["--mac", "1:2"], "'--mac': 1:2"),
        (["--mtu", "67"], "'--mtu': 67"),
        (["--mode", "hub"], "'hub' is not one of"),
    ],
)
def test_options_that_do_not_fit(extra: list[str], text: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert text in fails([*NET, "--socket-path", str(path), *extra], status=2)
    assert not path.exists()


def started(rig: Rig) -> Rig:
    """With a receive buffer."""
    rig.start()
    gpa, data = rig.alloc(2048)
    rig.buffers[0, rig.rings[0].add([], [(gpa, 2048)])] = (gpa, data)
    return rig


def transmit(rig: Rig, frame: bytes) -> None:
    gpa, data = rig.alloc(len(NET_HEADER) + len(frame))
    data[:] = NET_HEADER + frame
    rig.rings[1].add([(gpa, len(data))], [])
    rig.rings[1].wait()


def received(rig: Rig) -> bytes:
    done = rig.rings[0].wait()
    _, data = rig.buffers[0, done.head]
    return bytes(data[len(NET_HEADER) : done.written])


@pytest.mark.parametrize(("mode", "receiver"), [("loopback", 0), ("switch", 1)])
def test_frames_go_back_or_to_the_other_nics(tmp_path: Path, mode: str, receiver: int) -> None:
    paths = [str(tmp_path / f"{number}.sock") for number in range(2)]
    arguments = [*NET, "--mode", mode]
    for path in paths:
        arguments += ["--socket-path", path]
    with program(arguments), rig_at(paths[0], 2) as first, rig_at(paths[1], 2) as second:
        rigs = [started(first), started(second)]
        transmit(first, FRAME + b"hello" * 10)
        assert received(rigs[receiver]) == FRAME + b"hello" * 10
        assert rigs[1 - receiver].rings[0].idle()


def test_an_uplink_is_one_more_port(tmp_path: Path) -> None:
    """Broadcasts go to its peer, and what comes from there reaches the NIC."""
    path, uplink, peer = (str(tmp_path / name) for name in ("s", "uplink", "peer"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(peer)
        arguments = [*NET, "--socket-path", path, "--mode", "switch"]
        arguments += ["--uplink", uplink, "--uplink-peer", peer]
        with program(arguments), rig_at(path, 2) as rig:
            started(rig)
            frame = b"\xff" * 6 + FRAME[6:] + bytes(46)
            transmit(rig, frame)
            assert readable([outside.fileno()], TIMEOUT)
            assert outside.recv(2048) == frame
            answer = FRAME[6:12] + FRAME[:6] + FRAME[12:] + bytes(46)
            outside.sendto(answer, uplink)
            assert received(rig) == answer
