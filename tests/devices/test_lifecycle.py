"""Procedures without a back-end: what they request, and in which order."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from devices import lifecycle
from devices.blk import VhostUserBlk
from devices.device import USER_ADDRESS_BASE, SharedMemory, VhostDevice
from devices.procedure import Answer, Ask, AwaitSwitchover, Change, Phase, Procedure, Step
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import BackendError, UsageError
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import U64, VringAddr, VringState
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F = FrontendRequest
RINGS = 2
FEATURES = 1 << 30 | 1 << 32 | 1 << 26
PROTOCOL = 0b1011  # MQ, LOG_SHMFD, REPLY_ACK


@pytest.fixture
def device() -> Iterator[VhostDevice]:
    """A disk with two rings that the driver has set up; the other end never answers."""
    made = VhostUserBlk("blk0", [0x1000, 0x1004], [5, 6])
    ours, theirs = socket.socketpair()
    made._connection = FrontendConnection(ours, name="blk0")
    agree(made)
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


def agree(device: VhostDevice, *, features: int = FEATURES, protocol: int = PROTOCOL) -> None:
    """Negotiate anew."""
    connection = device.connection
    connection.session.offered_features = connection.features = features
    if features >> 30 & 1:
        connection.session.encode(Request(F.SET_PROTOCOL_FEATURES, U64(protocol)))
    connection.session.encode(Request(F.SET_FEATURES, U64(features)))
    device.acked_features = features


def test_a_plain_start_gives_all_of_a_ring_before_its_kick(device: VhostDevice) -> None:
    """A kick starts a ring, so later messages would change a started one."""
    for ring in device.rings:
        ring.base = 40 + ring.index
    steps = run(lifecycle.start(device))
    assert [type(step) for step in steps] == [Change, Change, Ask, Ask]
    assert names(steps[2]) == ["SET_FEATURES", "SET_MEM_TABLE"]
    assert names(steps[3]) == RINGS * [
        "SET_VRING_NUM",
        "SET_VRING_BASE",
        "SET_VRING_ADDR",
        "SET_VRING_CALL",
        "SET_VRING_KICK",
        "SET_VRING_ENABLE",
    ]
    bases = [r.payload for r in requests(steps[3]) if r.id is F.SET_VRING_BASE]
    assert bases == [VringState(0, 40), VringState(1, 41)]
    assert [r.need_reply for r in requests(steps[3])] == [False] * 11 + [True]
    assert run(lifecycle.start(device)) == []


@pytest.mark.parametrize("procedure", [lifecycle.start, lifecycle.start_ahead])
def test_without_reply_ack_a_question_vouches_for_what_went_before(
    device: VhostDevice, procedure: Callable[[VhostDevice], Procedure]
) -> None:
    """As QEMU does it."""
    agree(device, protocol=PROTOCOL & ~0b1000)
    asks = [step for step in run(procedure(device)) if isinstance(step, Ask)]
    assert names(asks[0]) == ["SET_FEATURES", "SET_MEM_TABLE", "GET_FEATURES"]
    assert names(asks[-1])[-2:] == ["SET_VRING_ENABLE", "GET_FEATURES"]
    assert not any(r.need_reply for ask in asks for r in requests(ask))
    log = DirtyLog.create(1024)
    assert names(run(lifecycle.set_logging(device, log))[0])[-2:] == [
        "SET_VRING_ADDR",
        "GET_FEATURES",
    ]
    log.close()


def test_without_bit_30_rings_are_not_enabled(device: VhostDevice) -> None:
    """They are started already."""
    connection, device._connection = device.connection, None
    connection.close()
    ours, theirs = socket.socketpair()
    device._connection = FrontendConnection(ours, name="blk0")
    agree(device, features=FEATURES & ~(1 << 30))
    last = run(lifecycle.start(device))[-1]
    assert "SET_VRING_ENABLE" not in names(last)
    assert names(last)[-1] == "GET_FEATURES"
    theirs.close()


@pytest.mark.parametrize(
    ("features", "protocol", "lacks"),
    [
        (FEATURES & ~(1 << 26), PROTOCOL, "VHOST_F_LOG_ALL:"),
        (FEATURES, PROTOCOL & ~0b10, "LOG_SHMFD:"),
        (FEATURES & ~(1 << 26), PROTOCOL & ~0b10, "VHOST_F_LOG_ALL and LOG_SHMFD:"),
    ],
)
def test_a_back_end_that_does_not_log_is_not_asked_to(
    device: VhostDevice, features: int, protocol: int, lacks: str
) -> None:
    """Nothing is sent, neither then nor when the log is disabled."""
    agree(device, features=features, protocol=protocol)
    run(lifecycle.start(device))
    log = DirtyLog.create(1024)
    with pytest.raises(BackendError, match=f"^blk0: the back-end does not offer {lacks}"):
        run(lifecycle.set_logging(device, log))
    log.close()
    assert run(lifecycle.set_logging(device, None)) == []


def test_start_sends_what_depends_on_memory_after_the_switch_over(device: VhostDevice) -> None:
    """Bases and enables, and addresses again: a back-end may read the used index with them."""
    steps = run(lifecycle.start_ahead(device))
    assert [type(step) for step in steps] == [Change, Change, Ask, Ask, AwaitSwitchover, Ask]
    assert [step.phase for step in steps if not isinstance(step, AwaitSwitchover)] == [
        Phase.ENABLE_HOST_NOTIFY,
        Phase.ENABLE_GUEST_NOTIFY,
        Phase.SET_MEM_TABLE,
        Phase.START_VRINGS,
        Phase.START_VRINGS,
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
    late = ["SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_ENABLE"]
    assert names(steps[5]) == [name for name in late for _ in range(RINGS)]


def test_only_the_last_message_asks_for_an_acknowledgement(device: VhostDevice) -> None:
    """Messages are handled in order, so one answer confirms all."""
    last = run(lifecycle.start_ahead(device))[-1]
    assert isinstance(last, Ask)
    assert [request.need_reply for request in requests(last)] == [False] * 5 + [True]


def test_addresses_are_user_addresses(device: VhostDevice) -> None:
    """A back-end that does not translate them must fail at once."""
    last = run(lifecycle.start_ahead(device))[-1]
    assert isinstance(last, Ask)
    addr = requests(last)[RINGS].payload
    desc, used, avail = (USER_ADDRESS_BASE + (1 << bit) for bit in (16, 18, 17))
    assert addr == VringAddr(0, 0, desc, used, avail, log=1 << 18)


def test_start_again_does_nothing(device: VhostDevice) -> None:
    """A started ring is not changed."""
    run(lifecycle.start_ahead(device))
    assert [type(step) for step in run(lifecycle.start_ahead(device))] == [AwaitSwitchover]


def test_stop_keeps_the_bases(device: VhostDevice) -> None:
    """The rings start again from the replies to GET_VRING_BASE."""
    run(lifecycle.start_ahead(device))
    replies = [Reply(F.GET_VRING_BASE, VringState(n, 40 + n)) for n in range(RINGS)]
    steps = run(lifecycle.stop(device), {Ask: replies})
    assert [type(step) for step in steps] == [Ask, Change, Change]
    assert names(steps[0]) == ["GET_VRING_BASE"] * RINGS
    assert [ring.base for ring in device.rings] == [40, 41]
    assert not any(ring.started for ring in device.rings)
    assert run(lifecycle.stop(device)) == []


def test_rings_that_stop_for_a_while_keep_the_notifiers(device: VhostDevice) -> None:
    """A start changes nothing of the machine then; a stop deassigns them later, too."""
    run(lifecycle.start(device))
    replies = [Reply(F.GET_VRING_BASE, VringState(n, 40 + n)) for n in range(RINGS)]
    assert [type(step) for step in run(lifecycle.stop_rings(device), {Ask: replies})] == [Ask]
    assert {type(step) for step in run(lifecycle.start(device))} == {Ask}
    run(lifecycle.stop_rings(device), {Ask: replies})
    assert [type(step) for step in run(lifecycle.stop(device))] == [Change, Change]


def test_a_restarted_ring_gets_its_kick_after_its_base(device: VhostDevice) -> None:
    """The back-end still knows the old addresses: a pending kick would start from a stale base."""
    run(lifecycle.start_ahead(device))
    run(
        lifecycle.stop(device),
        {Ask: [Reply(F.GET_VRING_BASE, VringState(n, 7)) for n in range(RINGS)]},
    )
    steps = run(lifecycle.start_ahead(device))
    configuration, activation = steps[3], steps[5]
    assert "SET_VRING_KICK" not in names(configuration)
    late = ["SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK", "SET_VRING_ENABLE"]
    assert names(activation) == [name for name in late for _ in range(RINGS)]


def test_after_a_reconnect_the_kick_waits_for_the_base_too(device: VhostDevice) -> None:
    """The guest has kicked meanwhile, and the new back-end gets the addresses early."""
    run(lifecycle.start_ahead(device))
    connection = device._connection
    device._connection = None
    device.disconnect()
    device._connection = connection
    steps = run(lifecycle.start_ahead(device))
    asks = [step for step in steps if isinstance(step, Ask)]
    assert "SET_VRING_KICK" not in names(asks[1])
    late = ["SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK", "SET_VRING_ENABLE"]
    assert names(asks[2]) == [name for name in late for _ in range(RINGS)]


@pytest.mark.parametrize("payload", [None, U64(3), VringState(0, 0x10000)])
def test_no_base_is_the_back_end_s_fault(
    device: VhostDevice, payload: U64 | VringState | None
) -> None:
    """The error names device, ring and message."""
    run(lifecycle.start_ahead(device))
    replies = [Reply(F.GET_VRING_BASE, payload) for _ in range(RINGS)]
    with pytest.raises(BackendError, match=r"blk0, ring 0, GET_VRING_BASE: sent .* as the base"):
        run(lifecycle.stop(device), {Ask: replies})
    reason = device.connection.broken_reason
    assert reason is not None
    assert reason.endswith("as the base of a split ring")


def test_log_goes_on_in_qemu_s_order(device: VhostDevice) -> None:
    """Log base, LOG_ALL, then the flag of every started ring; off again without a base."""
    run(lifecycle.start_ahead(device))
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
    """A driver may use fewer rings than there are."""
    device = VhostUserBlk("blk0", [0x1000, 0x1004], [5, 6])
    steps = run(lifecycle.start_ahead(device))
    assert [type(step) for step in steps] == [Change, Change, AwaitSwitchover]
    with pytest.raises(UsageError, match="blk0: is not connected"):
        _ = device.connection
    device.close()


@pytest.mark.parametrize("procedure", [lifecycle.start, lifecycle.start_ahead])
def test_a_ring_that_the_driver_disables_is_set_up_and_disabled(
    device: VhostDevice, procedure: Callable[[VhostDevice], Procedure]
) -> None:
    """Each time that it is started."""
    device.disable_rings([1])
    for _ in range(2):
        sent = [
            r for step in run(procedure(device)) if isinstance(step, Ask) for r in requests(step)
        ]
        states = [r.payload for r in sent if r.id is F.SET_VRING_ENABLE]
        assert states == [VringState(0, 1), VringState(1, 0)]
        assert [r.payload for r in sent if r.id is F.SET_VRING_KICK] == [U64(0), U64(1)]
        for ring in device.rings:
            ring.mark_stopped(0)


@pytest.mark.parametrize("procedure", [lifecycle.start, lifecycle.start_ahead])
def test_a_back_end_without_ring_states_cannot_disable_a_ring(
    device: VhostDevice, procedure: Callable[[VhostDevice], Procedure]
) -> None:
    """Without bit 30 each ring is enabled when it is started."""
    agree(device, features=FEATURES & ~(1 << 30))
    device.disable_rings([1])
    with pytest.raises(BackendError, match="a ring cannot be disabled") as caught:
        run(procedure(device))
    assert (caught.value.device, caught.value.ring) == ("blk0", 1)


@pytest.mark.parametrize("procedure", [lifecycle.start, lifecycle.start_ahead])
@pytest.mark.parametrize("used", [(0,), (1,), ()], ids=str)
def test_only_the_rings_that_the_driver_has_set_up_are_started_and_stopped(
    device: VhostDevice, procedure: Callable[[VhostDevice], Procedure], used: tuple[int, ...]
) -> None:
    """A device without any sends no message; its notifiers are those of all rings."""
    where = [RingAddresses(8, n << 16, n << 17, n << 18) for n in (1, 2)]
    device.set_up_rings([where[ring] if ring in used else None for ring in range(RINGS)])
    steps = run(procedure(device))
    sent = [r for step in steps if isinstance(step, Ask) for r in requests(step)]
    assert [r.payload for r in sent if r.id is F.SET_VRING_KICK] == [U64(ring) for ring in used]
    assert bool(sent) == bool(used)
    assert [len(step.edits) for step in steps if isinstance(step, Change)] == [RINGS, RINGS]
    assert tuple(ring.index for ring in device.rings if ring.started) == used
    replies = [Reply(F.GET_VRING_BASE, VringState(ring, 7)) for ring in used]
    asked = [s for s in run(lifecycle.stop(device), {Ask: replies}) if isinstance(s, Ask)]
    assert [r.payload for s in asked for r in requests(s)] == [VringState(r, 0) for r in used]
