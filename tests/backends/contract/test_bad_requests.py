"""Invalid requests are refused, without an effect on others."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from vhost_user.errors import Disconnected, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, VringState
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.contract.given import MakeRig
    from tests.backends.rig import Rig
    from tests.backends.served import Kind, Served

pytestmark = pytest.mark.usefixtures("compiled")


def test_ring_index_out_of_range_closes(rig: Rig, kind: Kind, device: Served) -> None:
    with pytest.raises(Disconnected):
        rig.get_base(kind.rings)
    again = device.connect()
    again.negotiate(features=0, protocol_features=ProtocolFeature(0))
    again.close()


def test_an_invalid_message_closes_and_the_next_front_end_is_served(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(device.path)
        sock.send(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(100) == b""
    rig = make_rig(device.connect())
    rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)


def test_broken_ring_is_signalled(kind: Kind, running: Rig) -> None:
    kind.work(running, 0)
    ring = running.rings[kind.ring]
    ring.add([(0xDEAD_0000, 16)], [(0xDEAD_0000, 1)])
    assert readable([ring.err_fd], TIMEOUT)
    # The device still runs, and the ring can be stopped.
    assert ring.stop() == 1


def test_bad_size_is_refused(rig: Rig) -> None:
    for size in (0, 3, 65536):
        with pytest.raises(Refused):
            rig.ack(F.SET_VRING_NUM, VringState(0, size))


def test_kick_that_cannot_be_waited_for(rig: Rig, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(Refused):
        rig.ack(F.SET_VRING_KICK, U64(0), (file.fileno(),))
