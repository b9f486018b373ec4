"""Descriptors that a front-end sends and keeps: what they permit; no device waits for them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.backends.contract.neighbours import neighbours
from tests.backends.served import KINDS, Kind
from tests.slow import all_but
from vhost_user.errors import Disconnected, Refused
from vhost_user.features import ProtocolFeature
from vhost_user.mapping import O_PATH
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, Inflight, LogArea, MemTable, SingleRegion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.backends.contract.given import MakeRig
    from tests.backends.rig import Rig


@pytest.fixture(params=all_but({"blk"}, KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """A disk takes all kinds of descriptors; the other devices are tried in the long run only."""
    return KINDS[request.param]()


def send_table(rig: Rig, fd: int) -> None:
    rig.ack(F.SET_MEM_TABLE, MemTable((rig.low.region,)), (fd,))


def send_region(rig: Rig, fd: int) -> None:
    rig.ack(F.ADD_MEM_REG, SingleRegion(rig.low.region), (fd,))


def send_log(rig: Rig, fd: int) -> None:
    rig.ack(F.SET_LOG_BASE, LogArea(4096, 0), (fd,))


def send_inflight(rig: Rig, fd: int) -> None:
    rig.ack(F.SET_INFLIGHT_FD, Inflight(4096, 0, 1, 64), (fd,))


@pytest.mark.parametrize("send", [send_table, send_region, send_log, send_inflight])
def test_a_neighbours_memory_is_not_had_by_a_descriptor_that_does_not_allow_it(
    kind: Kind, tmp_path: Path, make_rig: MakeRig, send: Callable[[Rig, int], None]
) -> None:
    """The neighbour has the same file mapped, for reading and writing."""
    with neighbours(kind, tmp_path, make_rig) as pair:
        for flags in (O_PATH, os.O_RDONLY, os.O_WRONLY):
            rig = pair.front_end(0)
            rig.set_features()
            offered = rig.connection.protocol_features
            if send is send_inflight and not offered & ProtocolFeature.INFLIGHT_SHMFD:
                pytest.skip("the device has no inflight region")
            weak = os.open(f"/proc/self/fd/{pair.second.low.fd}", flags | os.O_CLOEXEC)
            with pytest.raises((Refused, Disconnected)):  # a log is answered, not acknowledged
                send(rig, weak)
            os.close(weak)
            rig.connection.close()
            pair.check()


def test_notifiers_that_block_keep_nobody_waiting(
    kind: Kind, tmp_path: Path, make_rig: MakeRig
) -> None:
    """Call and error counters are full, and O_NONBLOCK is cleared."""
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0).start()
        kind.prepare(rig)
        full = os.eventfd(0, os.EFD_CLOEXEC)
        os.eventfd_write(full, (1 << 64) - 2)
        for ring in rig.rings:
            for message in (F.SET_VRING_CALL, F.SET_VRING_ERR):
                rig.ack(message, U64(ring.index), (full,))
        assert os.get_blocking(full)
        for number in range(8):
            kind.submit(rig, number)
            pair.check()
        for ring in rig.rings:
            assert ring.stop() >= 0
        pair.check()
        os.close(full)
