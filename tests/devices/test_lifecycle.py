"""Procedures by themselves: what they ask for, in which order, with nobody behind them."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from devices import lifecycle
from devices.blk import VhostUserBlk
from devices.device import USER_ADDRESS_BASE, RingAddresses, SharedMemory, VhostDevice
from devices.procedure import Answer, Ask, AwaitSwitchover, Change, Procedure, Step
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import BackendError, UsageError
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64, VringAddr, VringState

if TYPE_CHECKING:
    from collections.abc import Iterator

F = FrontendRequest
RINGS = 2
FEATURES = 1 << 30 | 1 << 32 | 1 << 26
PROTOCOL = 0b1011  # MQ, LOG_SHMFD, REPLY_ACK


@pytest.fixture
def device() -> Iterator[VhostDevice]:
    """A disk with two rings that the driver has set up, connected to nobody who answers."""
    made = VhostUserBlk("blk0", [0x1000, 0x1004], [5, 6])
    ours, theirs = socket.socketpair()
    made._connection = FrontendConnection(ours, name="blk0")
    made._connection.session.offered_features = FEATURES
    for request, value in ((F.SET_PROTOCOL_FEATURES, PROTOCOL), (F.SET_FEATURES, FEATURES)):
        made._connection.session.encode(Request(request, U64(value)))
    made.acked_features = FEATURES
    made.memory = [SharedMemory(0, 1 << 30, ours.fileno())]
    made.set_up_rings([RingAddresses(8, n << 16, n << 17, n << 18) for n in (1, 2)])
    yield made
    made.close()
    theirs.close()


def run(procedure: Procedure, answers: dict[type[Step], Answer] | None = None) -> list[Step]:
    """All steps, each answered."""
    steps: list[Step] = []
    try:
        step = procedure.send(None)
        while True:
            steps.append(step)
            step = procedure.send((answers or {}).get(type(step)))
    except StopIteration:
        return steps


def requests(step: Step) -> list[Request]:
    assert isinstance(step, Ask)
    return [message.request for message in step.messages]


def names(step: Step) -> list[str]:
    return [request.id.name for request in requests(step)]


def test_start_says_what_memory_decides_after_the_switch_over(device: VhostDevice) -> None:
    """Addresses, bases and enables depend on what guest memory will hold; the rest does not."""
    steps = run(lifecycle.start(device))
    assert [type(step) for step in steps] == [Change, Change, Ask, Ask, AwaitSwitchover, Ask]
    assert [step.phase for step in steps if not isinstance(step, AwaitSwitchover)] == [
        "dst.enable_host_notify",
        "dst.enable_guest_notify",
        "dst.set_mem_table",
        "dst.start_vrings",
        "dst.start_vrings",
    ]
    assert names(steps[2]) == ["SET_FEATURES", "SET_MEM_TABLE"]
    assert (
        names(steps[3])
        == [
            "SET_VRING_NUM",
            "SET_VRING_CALL",
            "SET_VRING_ADDR",
            "SET_VRING_KICK",
        ]
        * RINGS
    )
    assert names(steps[5]) == ["SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_ENABLE"] * RINGS


def test_only_the_last_message_asks_for_an_acknowledgement(device: VhostDevice) -> None:
    """Messages are handled in order, so one answer vouches for all."""
    last = run(lifecycle.start(device))[-1]
    assert isinstance(last, Ask)
    assert [request.need_reply for request in requests(last)] == [False] * 5 + [True]


def test_addresses_are_user_addresses(device: VhostDevice) -> None:
    """A back-end that does not translate them must fail at once."""
    last = run(lifecycle.start(device))[-1]
    assert isinstance(last, Ask)
    addr = requests(last)[1].payload
    assert addr == VringAddr(
        0, 0, *(USER_ADDRESS_BASE + (1 << bit) for bit in (16, 18, 17)), log=1 << 18
    )


def test_start_again_does_nothing(device: VhostDevice) -> None:
    """What runs is left alone."""
    run(lifecycle.start(device))
    assert [type(step) for step in run(lifecycle.start(device))] == [AwaitSwitchover]


def test_stop_keeps_the_bases(device: VhostDevice) -> None:
    """The answers to GET_VRING_BASE are what the rings start from again."""
    run(lifecycle.start(device))
    replies = [Reply(F.GET_VRING_BASE, VringState(n, 40 + n)) for n in range(RINGS)]
    steps = run(lifecycle.stop(device), {Ask: replies})
    assert [type(step) for step in steps] == [Ask, Change, Change]
    assert names(steps[0]) == ["GET_VRING_BASE"] * RINGS
    assert [ring.base for ring in device.rings] == [40, 41]
    assert not any(ring.started for ring in device.rings)
    assert run(lifecycle.stop(device)) == []


def test_a_restarted_ring_gets_its_kick_after_its_base(device: VhostDevice) -> None:
    """The back-end still knows the old addresses: a pending kick would start from a stale base."""
    run(lifecycle.start(device))
    run(
        lifecycle.stop(device),
        {Ask: [Reply(F.GET_VRING_BASE, VringState(n, 7)) for n in range(RINGS)]},
    )
    steps = run(lifecycle.start(device))
    wiring, activation = steps[3], steps[5]
    assert "SET_VRING_KICK" not in names(wiring)
    assert names(activation)[:4] == [
        "SET_VRING_BASE",
        "SET_VRING_ADDR",
        "SET_VRING_KICK",
        "SET_VRING_ENABLE",
    ]


def test_after_a_reconnect_the_kick_waits_for_the_base_too(device: VhostDevice) -> None:
    """The guest has gone on kicking, and the new back-end is given the addresses ahead."""
    run(lifecycle.start(device))
    connection = device._connection
    device._connection = None
    device.disconnect()
    device._connection = connection
    steps = run(lifecycle.start(device))
    asks = [step for step in steps if isinstance(step, Ask)]
    assert "SET_VRING_KICK" not in names(asks[1])
    assert names(asks[2])[:3] == ["SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK"]


@pytest.mark.parametrize("payload", [None, U64(3), VringState(0, 0x10000)])
def test_no_base_is_the_back_end_s_fault(
    device: VhostDevice, payload: U64 | VringState | None
) -> None:
    """The error names device, ring and message."""
    run(lifecycle.start(device))
    replies = [Reply(F.GET_VRING_BASE, payload) for _ in range(RINGS)]
    with pytest.raises(BackendError, match=r"blk0, ring 0, GET_VRING_BASE: gave .* as the base"):
        run(lifecycle.stop(device), {Ask: replies})
    assert device.connection.broken


def test_log_goes_on_in_qemu_s_order(device: VhostDevice) -> None:
    """Log base, LOG_ALL, then the flag of every started ring; off again without a base."""
    run(lifecycle.start(device))
    log = DirtyLog.create(1024)
    on = run(lifecycle.set_logging(device, log))[0]
    assert names(on) == ["SET_LOG_BASE", "SET_FEATURES", "SET_VRING_ADDR", "SET_VRING_ADDR"]
    assert isinstance(on, Ask)
    flags = [r.payload.flags for r in requests(on) if isinstance(r.payload, VringAddr)]
    assert flags == [1, 1]
    features = requests(on)[1].payload
    assert isinstance(features, U64)
    assert features.value >> 26 & 1
    off = run(lifecycle.set_logging(device, None))[0]
    assert names(off) == ["SET_FEATURES", "SET_VRING_ADDR", "SET_VRING_ADDR"]
    assert isinstance(off, Ask)
    assert [r.payload.flags for r in requests(off) if isinstance(r.payload, VringAddr)] == [0, 0]
    log.close()


def test_rings_that_are_not_set_up_are_not_started() -> None:
    """A driver that uses fewer rings than there are is an ordinary driver."""
    device = VhostUserBlk("blk0", [0x1000, 0x1004], [5, 6])
    steps = run(lifecycle.start(device))
    assert [type(step) for step in steps] == [Change, Change, AwaitSwitchover]
    with pytest.raises(UsageError, match="blk0: is not connected"):
        _ = device.connection
    device.close()
