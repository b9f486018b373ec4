"""Cases for front-ends on handwritten recordings: what is a failure, and what is none."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.vhost_user_conformance.front_end.recordings import (
    LOG_ALL,
    Sent,
    asked,
    enable,
    features,
    kick,
    log_base,
    logged_ring,
    notifier,
    parts,
    recorded,
    region,
    sent,
    size,
    stop,
)
from vhost_user.codec import NEED_REPLY
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest
from vhost_user.payloads import (
    U64,
    VRING_NO_FD,
    Inflight,
    MemoryRegion,
    SingleRegion,
    VringState,
)
from vhost_user_conformance.front_end.acts import ASKED, CONT, LOG, LOGGING, RESET, START
from vhost_user_conformance.front_end.descriptors import (
    MEMFD,
    SOCKET,
    Descriptor,
)
from vhost_user_conformance.front_end.recording import (
    F,
    MemoryTable,
    Recording,
    RingStart,
)
from vhost_user_conformance.front_end.ring import Chain, Fault, FaultKind, Part
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.front_end.tester import FrontEnd
from vhost_user_conformance.model.case import FRONT_END
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.verdict import CaseEnd, Verdict
from vhost_user_conformance.peer.wire import Message
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Callable

PASS, FAIL, UNSUPPORTED = Verdict.PASS, Verdict.FAIL, Verdict.UNSUPPORTED
OBSERVED = Verdict.OBSERVED


def judge(number: int, play: Recording | Callable[[Script], Recording]) -> Verdict:
    """The case's verdict."""
    (case,) = [case for case in cases_of(FRONT_END) if case.id == f"VU-F-{number:04}"]
    try:
        case.run(FrontEnd(row_of("blk"), 1.0, play if callable(play) else lambda _script: play))
    except CaseEnd as end:
        return end.verdict
    return PASS


FILE, OTHER = Descriptor(MEMFD, "a", 4096), Descriptor(MEMFD, "b", 4096)
asked_at_reset = (RESET, *asked(1, 4)[1:])


#: A session in which logging is on, and a ring is started again with its log address and without.
LOGGED = (kick(0), log_base(1), features(LOG_ALL, LOG), sent(F.GET_FEATURES, act=LOGGING))
restart = parts(0, 64, 128, RESET)
restart_logged = (RESET, *logged_ring()[1:])


def changed(flags: int, offset: int = 32, size: int = 1) -> Sent:
    """SET_CONFIG."""
    return sent(F.SET_CONFIG, struct.pack("=III", offset, size, flags) + bytes(size))


BIT_30 = 1 << 30
on, off = features(LOG_ALL, LOG), features(0, LOG)
#: Ring 0 loses its kick descriptor.
POLLED = sent(F.SET_VRING_KICK, U64(VRING_NO_FD).pack())


@pytest.mark.parametrize(
    ("number", "messages", "verdict"),
    [
        # The same, with logging switched on.
        (273, (features(5), kick(0), features(5 | LOG_ALL), stop(0)), PASS),
        (273, (features(5), kick(0), features(7)), FAIL),
        (273, (features(5), kick(0), kick(1), stop(0), features(7)), FAIL),
        # Another driver, after the first one has stopped all rings.
        (273, (features(5), kick(0), stop(0), features(7), kick(0)), PASS),
        (273, (features(5), kick(0), sent(F.RESET_DEVICE), features(7)), PASS),
        (410, (features(BIT_30), enable(0, 1), kick(0)), PASS),
        (410, (features(BIT_30), enable(0, 1), kick(0), kick(1)), FAIL),
        (410, (features(BIT_30), enable(0, 0), kick(0)), FAIL),
        # A pair that the guest does not use.
        (410, (features(BIT_30), enable(0, 1), enable(1, 0), kick(0), kick(1)), OBSERVED),
        (510, (kick(0), kick(1)), PASS),
        (510, (kick(0), notifier(F.SET_VRING_KICK, 1, "kick 0")), FAIL),
        # The id of a closed eventfd.
        (510, (kick(0), kick(1), stop(0), stop(1), notifier(F.SET_VRING_KICK, 1, "kick 0")), PASS),
        (513, (kick(0), notifier(F.SET_VRING_CALL, 0, "call")), PASS),
        (513, (kick(0), notifier(F.SET_VRING_CALL, 0, "kick 0")), FAIL),
        (513, (kick(0), POLLED, notifier(F.SET_VRING_CALL, 0, "kick 0")), PASS),
        (607, (kick(0), stop(0), sent(F.SET_VRING_BASE, VringState(0, 0).pack())), PASS),
        (607, (kick(0), sent(F.SET_VRING_BASE, VringState(0, 0).pack())), FAIL),
        (224, (features(1 << 32), kick(0)), PASS),
        (224, (features(0), kick(0)), FAIL),
        # The layout of a legacy driver's ring of 4.
        (224, (features(0), size(4), parts(4096, 4160, 8192), kick(0)), OBSERVED),
        (224, (features(0), size(4), parts(4096, 4160, 4176), kick(0)), FAIL),
        (420, (kick(0), sent(F.SET_VRING_CALL, U64(VRING_NO_FD).pack())), PASS),
        (420, (notifier(F.SET_VRING_CALL, 0, "call"), kick(0), kick(1)), FAIL),
        (421, (enable(0, 1), kick(0), kick(0, CONT)), PASS),
        (421, (enable(0, 1), kick(0), enable(0, 0, CONT), kick(0, CONT)), FAIL),
        # It is not started again.
        (421, (enable(0, 1), kick(0), enable(0, 0, CONT)), PASS),
        (421, (enable(0, 0), enable(1, 1), kick(0), enable(0, 0, CONT), kick(0, CONT)), PASS),
        (422, (parts(0, 64, 128), kick(0), parts(0, 64, 128)), PASS),
        (422, (parts(0, 64, 128), kick(0), parts(64, 64, 128)), FAIL),
        (422, (parts(0, 64, 128), kick(0), stop(0), parts(64, 64, 128), kick(0)), PASS),
        (423, (size(4), parts(0, 64, 76)), PASS),
        (423, (size(4), parts(0, 64, 74)), FAIL),
        (423, (size(8), parts(0, 64, 128)), FAIL),
        (423, (size(4), parts(64, 64, 128)), FAIL),
        (803, (log_base(1),), FAIL),
        (808, (logged_ring(), log_base(1)), FAIL),
        (808, (log_base(1), logged_ring()), PASS),
        (809, (log_base(1), features(LOG_ALL, LOG)), FAIL),
        (809, (log_base(1), features(LOG_ALL, LOG), features(0, LOG)), PASS),
        (809, (features(0), log_base(1)), FAIL),
        (815, (kick(0), log_base(1), logged_ring(), on, off), FAIL),
        (815, (kick(0), log_base(1), on, logged_ring(), off, parts(0, 0, 0, LOG)), PASS),
        # Rings that were stopped for a migration.
        (815, (kick(0), log_base(1), logged_ring(), on, stop(0), off), UNSUPPORTED),
        (1406, (kick(0), kick(1), stop(0, RESET), stop(1, RESET)), PASS),
        (1406, (kick(0), kick(1), stop(0, RESET)), FAIL),
        (1406, (kick(0), kick(1), sent(F.RESET_DEVICE, act=RESET)), PASS),
        (1406, (kick(0), sent(F.SET_STATUS, U64(0).pack(), act=RESET)), PASS),
        (1406, (kick(0), sent(F.SET_STATUS, U64(1).pack(), act=RESET)), FAIL),
        (1209, (asked(2, 4), size(4), size(4, 1)), PASS),
        (1209, (asked(2, 4), size(8)), FAIL),
        (1209, (asked(1, 4), size(4), size(4, 1)), FAIL),
        (1205, (region(START, Descriptor(MEMFD, "a", 4096)), region(CONT)), FAIL),
        (276, (features(5), kick(0), features(5, CONT)), PASS),
        (276, (features(5), kick(0), features(5 | LOG_ALL, LOG), features(5, CONT)), PASS),
        (276, (features(5), kick(0), features(4, CONT)), FAIL),
        (520, (notifier(F.SET_VRING_CALL, 0, "a"), notifier(F.SET_VRING_ERR, 0, "b")), PASS),
        (520, (notifier(F.SET_VRING_CALL, 0, "a"), notifier(F.SET_VRING_ERR, 0, "a")), FAIL),
        (520, (notifier(F.SET_VRING_CALL, 0, "a"), notifier(F.SET_VRING_ERR, 1, "a")), PASS),
        (521, (kick(0), notifier(F.SET_VRING_ERR, 0, "kick 0")), FAIL),
        # The id of a closed eventfd.
        (521, (notifier(F.SET_VRING_ERR, 0, "kick 0"), stop(0), kick(0)), PASS),
        (817, (*LOGGED, restart, kick(0, RESET)), FAIL),
        (817, (*LOGGED, restart_logged, kick(0, RESET)), PASS),
        (817, (*LOGGED, off, restart, kick(0, RESET)), UNSUPPORTED),
        (908, (changed(0), kick(0)), PASS),
        (908, (changed(1), kick(0)), FAIL),
        (909, (changed(0), kick(0)), PASS),
        (909, (changed(0, offset=255, size=2), kick(0)), FAIL),
        (909, (changed(0, size=0), kick(0)), FAIL),
        (1211, (asked(1, 4), kick(0), asked_at_reset, kick(0, RESET)), PASS),
        (1211, (asked(1, 4), kick(0), kick(0, RESET)), FAIL),
        (1212, (region(START, FILE), kick(0), region(RESET, OTHER), kick(0, RESET)), PASS),
        (1212, (region(START, FILE), kick(0), region(RESET, FILE), kick(0, RESET)), FAIL),
        (1212, (kick(0), region(RESET, FILE), kick(0, RESET)), UNSUPPORTED),
        (1213, (asked(1, 4), region(START, FILE), kick(0)), PASS),
        (1213, (asked(1, 4), region(START, FILE), kick(0), asked_at_reset, kick(0, RESET)), FAIL),
        (105, (sent(F.GPU_SET_SOCKET, b"", Descriptor(SOCKET, "s", 0)),), PASS),
        (105, (sent(F.GPU_SET_SOCKET),), FAIL),
    ],
)
def test_a_session(number: int, messages: tuple[Sent, ...], verdict: Verdict) -> None:
    """The verdict for these messages."""
    assert judge(number, recorded(*messages)) is verdict


@pytest.mark.parametrize(
    ("base", "used", "available", "verdict"),
    [
        (5, 5, 5, PASS),
        (5, 5, 9, PASS),
        (9, 5, 9, PASS),
        (4, 5, 9, FAIL),
        (10, 5, 9, FAIL),
        # Across the wrap of the indices.
        (1, 0xFFFE, 3, PASS),
        (4, 0xFFFE, 3, FAIL),
    ],
)
def test_the_base_at_which_a_ring_starts(
    base: int, used: int, available: int, verdict: Verdict
) -> None:
    """It lies between the indices, after a stop and after the end of a back-end."""
    recording = recorded(kick(0))
    recording.ring_starts.append(RingStart(0, 0, base, used, available))
    assert judge(609, recording) is verdict
    first = recorded(kick(0), sent(F.SET_OWNER, act=ASKED))
    first.second = recording
    assert judge(1732, first) is verdict


def test_messages_that_are_sent_again() -> None:
    """After a reconnection, for each ring that the first session had."""
    first = recorded(sent(F.SET_OWNER), kick(0), kick(1), sent(F.GET_FEATURES, act=ASKED))
    assert judge(1720, first) is UNSUPPORTED
    first.second = recorded(sent(F.SET_OWNER), kick(0))
    assert judge(1720, first) is PASS
    assert judge(1728, first) is FAIL
    first.second = recorded(kick(0), kick(1))
    assert judge(1720, first) is FAIL
    assert judge(1728, first) is PASS


def restarted(*messages: Sent, protocol: int = 0) -> Recording:
    """A session whose back-end ends, and the next one with these messages."""
    first = recorded(features(LESS), kick(0), sent(F.GET_FEATURES, act=ASKED))
    first.ring_starts.append(RingStart(1, 0, 0, 0, 0))
    first.second = recorded(*messages, protocol=protocol)
    return first


LESS = 1 << 29
ACK = sent(F.SET_PROTOCOL_FEATURES, U64(int(ProtocolFeature.REPLY_ACK)).pack())


@pytest.mark.parametrize(
    ("number", "messages", "verdict"),
    [
        (1735, (sent(F.SET_PROTOCOL_FEATURES, U64(0).pack()),), PASS),
        (1735, (ACK,), FAIL),
        (1736, (sent(F.SET_OWNER),), PASS),
        (1737, (features(LESS),), PASS),
        (1737, (features(LESS | LOG_ALL),), PASS),
        (1737, (features(LESS | 1),), FAIL),
        (1738, (kick(0),), PASS),
        (1738, (kick(0), kick(1)), FAIL),
        (1742, (features(0),), PASS),
        (1742, (features(0), kick(0)), FAIL),
    ],
)
def test_the_next_back_end(number: int, messages: tuple[Sent, ...], verdict: Verdict) -> None:
    """It offers other features or queues than the one that ended."""
    assert judge(number, restarted(*messages)) is verdict


def test_an_acknowledgement_that_the_next_back_end_does_not_have() -> None:
    """need_reply is a failure there."""
    first = restarted(sent(F.SET_OWNER))
    assert first.second is not None
    (message,) = first.second.messages
    first.second.messages[0] = message._replace(flags=message.flags | NEED_REPLY)
    assert judge(1736, first) is FAIL


@pytest.mark.parametrize(
    ("number", "base", "used", "available", "verdict"),
    [
        (1739, 0, 0, 4, PASS),
        (1739, 4, 0, 4, FAIL),
        (1740, 70, 70, 72, PASS),
        (1740, 6, 70, 72, FAIL),
        # It has not passed its size yet, so that a slot and an index are the same.
        (1740, 6, 6, 8, UNSUPPORTED),
        (1741, 0, 0, 4, FAIL),
        (1741, 4, 0, 4, UNSUPPORTED),
    ],
)
def test_rings_after_the_end_of_a_back_end(
    number: int, base: int, used: int, available: int, verdict: Verdict
) -> None:
    """A ring of 64 descriptors that has not been kicked yet."""
    first = restarted(size(64), kick(0))
    assert first.second is not None
    assert judge(number, first) is UNSUPPORTED
    first.second.ring_starts.append(RingStart(1, 0, base, used, available))
    assert judge(number, first) is verdict
    first.second.kicks.add((START, 0))
    assert judge(number, first) is (PASS if number == 1741 and verdict is FAIL else verdict)


def test_regions_after_a_reconnection() -> None:
    """Those that were added are added again before a ring is started."""
    slots = int(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    first = recorded(sent(F.ADD_MEM_REG), kick(0), sent(F.GET_FEATURES, act=ASKED), protocol=slots)
    first.tables.append(MemoryTable(0, (MemoryRegion(0, 4096, 0, 0),), ()))
    first.second = recorded(sent(F.ADD_MEM_REG), kick(0), protocol=slots)
    assert judge(1743, first) is FAIL
    first.second.tables.append(MemoryTable(0, (MemoryRegion(0, 4096, 0, 0),), ()))
    assert judge(1743, first) is PASS


@pytest.mark.parametrize(
    ("number", "new", "verdict"),
    [
        (1012, MemoryRegion(0, 4096, 0, 0), PASS),
        (1012, MemoryRegion(0, 4096, 4096, 0), FAIL),
        (1015, MemoryRegion(8192, 4096, 8192, 0), PASS),
        (1015, MemoryRegion(8192, 4096, 4096, 0), FAIL),
        (1016, MemoryRegion(0, 4096, 0, 0), PASS),
        (1017, MemoryRegion(8192, 4096, 8192, 0), PASS),
        (1017, MemoryRegion(0, 4096, 0, 0), FAIL),
    ],
)
def test_memory_slots(number: int, new: MemoryRegion, verdict: Verdict) -> None:
    """A region that is added, or removed, where a ring has its parts at user address 0."""
    what = SingleRegion(new).pack()
    number_of = F.REM_MEM_REG if number in (1016, 1017) else F.ADD_MEM_REG
    slots = int(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    recording = recorded(
        sent(F.GET_FEATURES), parts(0, 0, 0), kick(0), sent(number_of, what), protocol=slots
    )
    before = MemoryRegion(4096, 4096, 4096, 0)
    recording.tables.append(MemoryTable(0, (new if number == 1012 else before,), ()))
    assert judge(number, recording) is verdict
    fd = Descriptor(MEMFD, "a", 4096)
    with_fd = recorded(sent(number_of, what, fd), protocol=slots)
    if number == 1016:
        assert judge(number, with_fd) is FAIL


UNKNOWN_OBJECT = "SHARED_OBJECT_LOOKUP of an object that does not exist"
OBJECT = bytes(range(16, 32))


@pytest.mark.parametrize(
    ("number", "change", "verdict"),
    [
        *((number, {}, PASS) for number in (1338, 1339, 1340, 1341, 1392)),
        (1338, {"asked": bytes(16)}, FAIL),
        (1339, {"files": []}, FAIL),
        (1339, {"files": ["other"]}, FAIL),
        (1339, {"found": 1}, FAIL),
        (1340, {"after": 0}, FAIL),
        (1341, {"removed": 1}, FAIL),
        (1392, {"added": 1}, FAIL),
    ],
)
def test_a_shared_object(number: int, change: dict[str, Any], verdict: Verdict) -> None:
    """It is added, found, removed, and not found any more."""
    case: dict[str, Any] = {"added": 0, "found": 0, "removed": 0, "after": 1}
    case |= {"asked": OBJECT, "files": ["a"]} | change
    protocol = int(ProtocolFeature.SHARED_OBJECT | ProtocolFeature.REPLY_ACK)
    recording = recorded(
        kick(0), (ASKED, *sent(F.GET_SHARED_OBJECT, case["asked"])[1:]), protocol=protocol
    )
    recording.marks.append((2, "a"))
    for name, key in (
        ("added", "added"),
        ("found", "found"),
        ("removed", "removed"),
        ("looked up again", "after"),
    ):
        recording.channel[name] = Message(8, 5, U64(case[key]).pack())
    recording.channel_files["found"] = case["files"]
    assert judge(number, recording) is verdict


@pytest.mark.parametrize(
    ("number", "answer", "verdict"),
    [
        (1325, 1, PASS),
        (1325, None, FAIL),
        (1337, 1, PASS),
        (1337, 0, FAIL),
        (1342, 1, PASS),
    ],
)
def test_an_unknown_object(number: int, answer: int | None, verdict: Verdict) -> None:
    """Its lookup is always answered, and not with 0."""
    protocol = int(ProtocolFeature.SHARED_OBJECT)
    recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED), protocol=protocol)
    recording.channel[UNKNOWN_OBJECT] = (
        "no answer" if answer is None else Message(8, 5, U64(answer).pack())
    )
    assert judge(number, recording) is verdict
    asked_for = recorded(kick(0), (ASKED, *sent(F.GET_SHARED_OBJECT)[1:]), protocol=protocol)
    asked_for.channel[UNKNOWN_OBJECT] = "no answer"
    if number == 1342:
        assert judge(number, asked_for) is FAIL
    assert judge(number, recorded(kick(0), sent(F.GET_FEATURES, act=ASKED))) is UNSUPPORTED


def test_the_region_after_a_reconnection() -> None:
    """It has the same file, and is sent before rings start."""
    file, another = Descriptor(MEMFD, "a", 4096), Descriptor(MEMFD, "b", 4096)
    first = recorded(region(START, file), kick(0), sent(F.GET_FEATURES, act=ASKED))
    for second, verdict in (
        ((region(START, file), kick(0)), PASS),
        ((region(START, another), kick(0)), FAIL),
        ((kick(0), region(START, file)), FAIL),
        ((kick(0),), FAIL),
    ):
        first.second = recorded(*second)
        assert judge(1731, first) is verdict


def test_a_region_is_sent_back_unchanged() -> None:
    """A change of the file or the size is a failure."""
    file = Descriptor(MEMFD, "a", 4096)
    recording = recorded(asked(1, 64), region(START, file), kick(0))
    recording.regions.append((Inflight(4096, 0, 1, 64), file))
    assert judge(1208, recording) is PASS
    recording.regions[0] = (Inflight(8192, 0, 1, 64), file)
    assert judge(1208, recording) is FAIL
    recording.regions[0] = (Inflight(4096, 0, 1, 64), Descriptor(MEMFD, "b", 4096))
    assert judge(1208, recording) is FAIL


def test_a_front_end_that_starts_no_ring() -> None:
    """It has shared its memory, and then sends nothing and keeps the connection."""
    table = sent(F.SET_MEM_TABLE)
    assert judge(1716, recorded(table, kick(0))) is PASS
    stuck = recorded(table)
    stuck.acts.clear()
    stuck.undone[START] = "no guest started a ring"
    assert judge(1716, stuck) is FAIL
    idle = recorded(sent(F.SET_OWNER))
    assert judge(1716, idle) is UNSUPPORTED


SKIP_DRAIN = ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN


@pytest.mark.parametrize(
    ("number", "protocol", "num", "verdict"),
    [
        (246, SKIP_DRAIN, 0, PASS),
        (246, ProtocolFeature.GET_VRING_BASE_INFLIGHT, 0, FAIL),
        (610, SKIP_DRAIN, 0, PASS),
        (610, SKIP_DRAIN, 1, FAIL),
    ],
)
def test_a_stop_that_suspends_requests(
    number: int, protocol: ProtocolFeature, num: int, verdict: Verdict
) -> None:
    """GET_VRING_BASE_SKIP_DRAIN needs its feature, and its number is reserved."""
    stop = sent(F.GET_VRING_BASE_SKIP_DRAIN, VringState(0, num).pack())
    recording = recorded(kick(0), stop, protocol=int(protocol))
    assert judge(number, recording) is verdict
    assert not recording.running(2)


def test_what_a_stop_that_suspends_requests_needs() -> None:
    """Its feature is not acknowledged without the two others."""
    acked = sent(F.SET_PROTOCOL_FEATURES, U64(int(SKIP_DRAIN)).pack())
    for number in (274, 275):
        assert judge(number, recorded(acked)) is FAIL
        assert judge(number, recorded(sent(F.SET_PROTOCOL_FEATURES, U64(0).pack()))) is PASS


@pytest.mark.parametrize(
    ("number", "user", "desc", "verdict"),
    [
        (321, 4096, 4096, PASS),
        (321, 0, 4096, FAIL),
        (322, 0, 4096, PASS),
        (322, 0, 0, FAIL),
    ],
)
def test_guest_addresses(number: int, user: int, desc: int, verdict: Verdict) -> None:
    """With GPA_ADDRESSES both addresses of a region are equal, and a ring has guest addresses."""
    recording = recorded(
        sent(F.SET_MEM_TABLE), parts(desc, 4096, 4096), protocol=int(ProtocolFeature.GPA_ADDRESSES)
    )
    recording.tables.append(MemoryTable(0, (MemoryRegion(4096, 4096, user, 0),), ()))
    assert judge(number, recording) is verdict
    assert judge(number, recorded(sent(F.SET_MEM_TABLE), parts(0, 0, 0))) is UNSUPPORTED


HEADER = struct.Struct("<IIQ")


@pytest.mark.parametrize(
    ("number", "kind", "sector", "sizes", "verdict"),
    [
        (2113, 0, 2047, (16, 513), PASS),
        (2113, 0, 2048, (16, 513), FAIL),
        (2113, 1, 2047, (16, 1024, 1), FAIL),
        (2113, 8, 1 << 40, (16, 21), PASS),
        (2114, 0, 0, (16, 513), PASS),
        (2114, 0, 0, (16, 512), FAIL),
        (2114, 0, 0, (16, 1), FAIL),
        (2114, 1, 0, (16, 512, 1), PASS),
        (2114, 1, 0, (16, 1), FAIL),
        (2114, 8, 0, (16, 21), PASS),
        (2115, 0, 0, (16, 513), PASS),
        (2115, 4, 0, (16, 1), PASS),
        (2115, 11, 0, (16, 16, 1), FAIL),
        (2115, 13, 0, (16, 16, 1), FAIL),
        (2115, 99, 0, (16, 1), FAIL),
        (2116, 4, 0, (16, 1), PASS),
        (2116, 4, 1, (16, 1), FAIL),
        (2116, 0, 1, (16, 513), PASS),
        (2119, 4, 0, (16, 1), FAIL),
        (2119, 0, 0, (16, 513), PASS),
    ],
)
def test_requests_of_a_disk(
    number: int, kind: int, sector: int, sizes: tuple[int, ...], verdict: Verdict
) -> None:
    """The last part is device-writable, and FLUSH is negotiated."""
    *readable, last = sizes
    parts = (*(Part(0, size, False) for size in readable), Part(0, last, True))
    recording = recorded(features(1 << 9), sent(F.GET_CONFIG), kick(0))
    header = HEADER.pack(kind, 0, sector)
    recording.chains.append(Chain(0, 0, parts, False, (), (0,), header))
    assert judge(number, recording) is verdict


@pytest.mark.parametrize(
    ("number", "parts", "header", "verdict"),
    [
        (2117, (Part(0, 76, False),), bytes(16), PASS),
        (2117, (Part(0, 76, False),), b"\1" + bytes(15), FAIL),
        (2117, (Part(0, 76, False),), b"\0\1" + bytes(14), FAIL),
        (2118, (Part(0, 12, True), Part(0, 1500, True)), b"", PASS),
        (2118, (Part(0, 1500, False),), b"", FAIL),
        (2118, (Part(0, 8, True),), b"", FAIL),
    ],
)
def test_frames(number: int, parts: tuple[Part, ...], header: bytes, verdict: Verdict) -> None:
    """Transmitted frames, and receive buffers."""
    recording = recorded(kick(0))
    chain = Chain(0, 0, parts, False, (), (0,), header)
    recording.chains.append(chain)
    recording.offered.append(chain)
    assert judge(number, recording) is verdict


def test_flags_of_an_available_ring() -> None:
    """They are reported whether there was a request or not."""
    recording = recorded(kick(0))
    assert judge(2108, recording) is PASS
    recording.flag_faults.add("the available ring has flags 0x1")
    assert judge(2108, recording) is FAIL


@pytest.mark.parametrize("number", [514, 515])
def test_a_request_without_a_kick(number: int) -> None:
    """It is a failure; without any request the case is UNSUPPORTED."""
    recording = recorded(features(1 << 29), kick(0), sent(F.GET_FEATURES, act=ASKED))
    assert judge(number, recording) is UNSUPPORTED
    recording.chains.append(Chain(0, 0, (), False, ()))
    assert judge(number, recording) is PASS
    recording.unkicked.add(0)
    assert judge(number, recording) is FAIL


def test_a_driver_that_is_called_on_request() -> None:
    """It makes about as many requests as with a call for each."""

    def play(script: Script, made: int) -> Recording:
        recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED))
        count = made if script.calls_as_asked else 100
        recording.chains += [Chain(0, 0, (), False, ())] * count
        return recording

    for number in (516, 517):
        assert judge(number, lambda script: play(script, 100)) is PASS
        assert judge(number, lambda script: play(script, 50)) is PASS
        assert judge(number, lambda script: play(script, 8)) is FAIL


@pytest.mark.parametrize(("indirect", "verdict"), [(False, UNSUPPORTED), (True, PASS)])
def test_indirect_tables(indirect: bool, verdict: Verdict) -> None:
    """The case is UNSUPPORTED for a driver that uses none."""
    recording = recorded(kick(0))
    recording.chains.append(Chain(0, 0, (Part(0, 16, False),), indirect, ()))
    assert judge(2105, recording) is verdict
    fault = Fault(FaultKind.INDIRECT, "an indirect table of 24 bytes")
    recording.chains.append(Chain(0, 0, (), False, (fault,)))
    assert judge(2105, recording) is FAIL


#: The cases that find each fault of a chain.
FOUND_BY = {
    FaultKind.BUFFER_OUTSIDE: {2101},
    FaultKind.TABLE_OUTSIDE: {2101, 2105},
    FaultKind.ORDER: {2102},
    FaultKind.INDEX: {2103},
    FaultKind.LOOP: {2103},
    FaultKind.AVAILABLE: {2104},
    FaultKind.INDIRECT: {2105},
    FaultKind.IN_FLIGHT: {2109},
}


@pytest.mark.parametrize("kind", FaultKind)
def test_each_fault_of_a_chain_is_found(kind: FaultKind) -> None:
    """By its cases, and by no other."""
    recording = recorded(kick(0))
    sound = Chain(0, 0, (Part(0, 16, False),), True, ())
    recording.chains += [sound, sound._replace(faults=(Fault(kind, "as the ring has it"),))]
    verdicts = {number: judge(number, recording) for found in FOUND_BY.values() for number in found}
    assert {number for number, verdict in verdicts.items() if verdict is FAIL} == FOUND_BY[kind]
    assert set(verdicts.values()) == {PASS, FAIL}


CHANGE = int(BackendRequest.CONFIG_CHANGE_MSG)


@pytest.mark.parametrize(
    ("number", "name", "answers", "verdict"),
    [
        (1333, "CONFIG_CHANGE_MSG twice", (CHANGE, CHANGE), PASS),
        (1333, "CONFIG_CHANGE_MSG twice", (CHANGE,), FAIL),
        (1333, "CONFIG_CHANGE_MSG twice", (CHANGE, CHANGE, CHANGE), FAIL),
        (1336, "an unknown id, and CONFIG_CHANGE_MSG", (99, CHANGE), PASS),
        (1336, "an unknown id, and CONFIG_CHANGE_MSG", (CHANGE, 99), FAIL),
        (1336, "an unknown id, and CONFIG_CHANGE_MSG", (99,), FAIL),
        (1336, "an unknown id, and CONFIG_CHANGE_MSG", (-1,), OBSERVED),
    ],
)
def test_several_requests_on_the_channel(
    number: int, name: str, answers: tuple[int, ...], verdict: Verdict
) -> None:
    """Each is answered once and in order."""
    recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED))
    for at, answer in enumerate(answers):
        message = Message(answer, 5, bytes(8))
        recording.channel[f"{name} {at}"] = "closed" if answer < 0 else message
    assert judge(number, recording) is verdict


def test_a_log_that_is_too_small() -> None:
    """It is a failure if guest memory has one page more than the log has bits."""
    recording = recorded(log_base(1))
    recording.tables.append(MemoryTable(-1, (MemoryRegion(0, 8 * 4096, 0, 0),), ()))
    assert judge(803, recording) is PASS
    recording.tables.append(MemoryTable(0, (MemoryRegion(0, 9 * 4096, 0, 0),), ()))
    assert judge(803, recording) is FAIL


def test_an_empty_chain() -> None:
    """It has no status byte."""
    recording = recorded(kick(0))
    recording.chains.append(Chain(0, 0, (), False, ()))
    assert judge(2111, recording) is FAIL


@pytest.mark.parametrize("on", [True, False])
def test_a_reply_to_set_log_base_of_any_size(on: bool) -> None:
    """The specification is contradictory, so a refusal is not a failure."""

    def play(script: Script) -> Recording:
        after = (features(LOG_ALL, LOG),) if on or script == PLAIN else ()
        recording = recorded(kick(0), log_base(1), *after)
        recording.marks.append((2, "a reply to SET_LOG_BASE"))
        return recording

    assert judge(812, play) is (PASS if on else OBSERVED)


@pytest.mark.parametrize(
    ("number", "protocol", "answer", "verdict"),
    [
        (1303, ProtocolFeature.REPLY_ACK, "no answer", FAIL),
        # The reaction to an unknown id is not specified, but need_reply requires an answer.
        (1303, ProtocolFeature.REPLY_ACK, "closed", OBSERVED),
        (1304, ProtocolFeature.REPLY_ACK, "closed", FAIL),
        # Without REPLY_ACK no answer is required.
        (1303, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
        (1320, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
        (1322, ProtocolFeature.BACKEND_REQ, "no answer", UNSUPPORTED),
    ],
)
def test_replies_on_the_channel(number: int, protocol: int, answer: str, verdict: Verdict) -> None:
    """The verdict depends on the negotiated features."""

    def play(script: Script) -> Recording:
        recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED), protocol=int(protocol))
        recording.channel[script.name.removeprefix("asks: ")] = answer
        return recording

    assert judge(number, play) is verdict
