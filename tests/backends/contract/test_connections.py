"""Front-ends that connect and disconnect, and leave nothing behind."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from backends.control import ControlOptions
from backends.limits import IO_THREADS
from backends.pacing import InjectedLatency
from tests.backends.rig import Rig
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import MemTable
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from tests.backends.contract.given import MakeRig, Serve
    from tests.backends.served import Kind, Served


def test_front_end_disconnects_and_another_connects(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    for _ in range(3):
        rig = make_rig(device.connect())
        rig.start()
        kind.prepare(rig)
        for number in range(3):
            kind.work(rig, number)
        kind.submit(rig, 3)
        rig.connection.close()


def test_one_front_end_at_a_time(kind: Kind, running: Rig, device: Served) -> None:
    second = device.connect()
    second.submit([Request(F.GET_FEATURES)])
    assert not readable([second.fileno()], 0.05)
    running.connection.close()
    assert readable([second.fileno()], TIMEOUT)
    second.close()


def test_disconnects_in_the_middle_of_a_message(device: Served) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(device.path)
        sock.send(b"\x01\0\0\0\x01\0\0\0")
    connection = device.connect()
    connection.negotiate(features=0, protocol_features=ProtocolFeature(0))
    connection.close()


def test_disconnects_while_latency_is_injected(
    serve: Serve, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's descriptors are closed once: their numbers may be in use again by then."""
    served = serve(ControlOptions(latency=InjectedLatency(set_mem_table=1)))
    rig = make_rig(served.connect())
    rig.set_features()
    closed: list[int] = []
    gone = threading.Event()
    retire = served.device.close_later

    def note(fds: Sequence[int]) -> None:
        closed.extend(fd for fd in fds if not Path(f"/proc/self/fd/{fd}").exists())
        retire(fds)

    def hold() -> None:
        gone.wait(TIMEOUT)

    monkeypatch.setattr(served.device, "close_later", note)
    table = MemTable((rig.low.region,))
    served.loop.post(hold)
    rig.connection.submit([Request(F.GET_FEATURES), Request(F.SET_MEM_TABLE, table, (rig.low.fd,))])
    rig.connection.close()
    gone.set()
    generation = served.device.guest.generation
    wait_until(lambda: served.device.guest.generation > generation, "the table came")
    served.on_loop(lambda: None)
    assert not served.device.memory.regions
    assert closed == []


def test_does_not_leak(kind: Kind, device: Served) -> None:
    process = psutil.Process()

    def visit() -> None:
        rig = Rig(device.connect(), kind.rings)
        rig.start()
        kind.prepare(rig)
        kind.work(rig, 0)
        log = rig.set_log()
        kind.work(rig, 1)
        for request in (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR):
            rig.call(rig.rings[0].requests()[request])
        log.close()
        rig.close()

    def settled() -> int:
        connection = device.connect()
        connection.negotiate(features=0, protocol_features=ProtocolFeature(0))
        connection.close()
        wait_until(lambda: not device.device.memory.regions, "the last front-end has disconnected")
        for _ in range(2):  # a turn for the messages that have come, one for the end
            device.on_loop(lambda: None)
        return len(open_fds())

    visit()
    before, threads = settled(), process.num_threads()
    for _ in range(IO_THREADS + 1):
        visit()
    assert settled() <= before
    # A disk may have started threads for reads that would have waited.
    assert process.num_threads() <= threads + IO_THREADS
