"""A recording of a session, as the cases ask it."""

from __future__ import annotations

import pytest

from tests.vhost_user_conformance.front_end.recordings import (
    enable,
    features,
    kick,
    log_base,
    parts,
    recorded,
    sent,
    stop,
)
from vhost_user.codec import NEED_REPLY
from vhost_user.payloads import U64, VRING_NO_FD, MemoryRegion
from vhost_user_conformance.front_end.acts import CONT, RESET, START, STOP
from vhost_user_conformance.front_end.recording import F, MemoryTable, Received
from vhost_user_conformance.model.verdict import Unsupported


def test_what_a_message_has() -> None:
    """A payload that is too short is filled with zeroes."""
    first, second = recorded(kick(3), sent(F.SET_VRING_ADDR, b"\2")).messages
    assert (first.name, first.ring, first.u64) == ("SET_VRING_KICK", 3, 3)
    assert not first.need_reply
    assert first._replace(flags=first.flags | NEED_REPLY).need_reply
    assert (second.ring, second.address.desc) == (2, 0)
    assert repr(second) == "SET_VRING_ADDR (message 2, at start)"
    assert first._replace(id=999).name == "id 999"
    assert first._replace(id=999).ring is None


def test_the_flag_of_a_notifier_is_no_part_of_its_ring() -> None:
    """Bit 8 says that there is no descriptor."""
    (message,) = recorded(sent(F.SET_VRING_KICK, U64(VRING_NO_FD | 2).pack())).messages
    assert message.ring == 2


def test_messages_by_id_and_act() -> None:
    """In order; `some` and `first` need one."""
    recording = recorded(kick(0), stop(0, STOP), kick(0, CONT), sent(F.SET_OWNER, act=CONT))
    assert [each.at for each in recording.of(F.SET_VRING_KICK)] == [0, 2]
    assert [each.at for each in recording.of(F.SET_VRING_KICK, F.SET_OWNER, act=CONT)] == [2, 3]
    assert recording.first(F.SET_VRING_KICK).at == 0
    assert [each.at for each in recording.after(recording.first(F.GET_VRING_BASE))] == [2, 3]
    with pytest.raises(Unsupported, match="sent no GET_VRING_BASE or SET_OWNER at start"):
        recording.some(F.GET_VRING_BASE, F.SET_OWNER, act=START)


def test_messages_after_a_reaction() -> None:
    """Without the reaction there was no occasion."""
    recording = recorded(kick(0), stop(0), kick(0))
    recording.marks.append((1, "a refusal"))
    assert [each.at for each in recording.since("a refusal")] == [1, 2]
    with pytest.raises(Unsupported, match="no occasion for it: an answer"):
        recording.since("an answer")


def test_an_act_that_was_not_done_has_its_reason() -> None:
    """Or the session did not reach it."""
    recording = recorded(kick(0))
    recording.started()
    recording.undone[STOP] = "no QMP"
    with pytest.raises(Unsupported, match="no QMP"):
        recording.did(STOP)
    with pytest.raises(Unsupported, match="did not reach 'reset'"):
        recording.did(RESET)


def test_rings_that_run_when_a_message_comes() -> None:
    """GET_VRING_BASE stops one, a reset all; another status changes nothing."""
    messages = (
        *(kick(0), kick(1), stop(0), sent(F.SET_STATUS, U64(1).pack())),
        *(sent(F.RESET_DEVICE), kick(1), sent(F.SET_STATUS, U64(0).pack()), kick(0)),
    )
    recording = recorded(*messages)
    assert [recording.running(at) for at in range(9)] == [
        *(set(), {0}, {0, 1}, {1}, {1}),
        *(set(), {1}, set(), {0}),
    ]


def test_the_messages_of_each_start() -> None:
    """Those since the ring was stopped."""
    recording = recorded(enable(0, 1), kick(0), kick(1), stop(0), parts(0, 0, 0), kick(0))
    found = [(ring, [each.at for each in messages]) for ring, messages in recording.starts()]
    assert found == [(0, [0, 1]), (0, [4, 5]), (1, [2])]
    assert {ring: len(each) for ring, each in recording.rings().items()} == {0: 5, 1: 1}


def test_guest_memory_when_a_message_comes() -> None:
    """The last table counts."""
    small, large = MemoryRegion(0, 4096, 0, 0), MemoryRegion(0, 8192, 0, 0)
    recording = recorded(features(0), log_base(1), kick(0))
    recording.tables += [MemoryTable(0, (small,), ()), MemoryTable(2, (small, large), ())]
    assert [recording.table_at(at) for at in (-1, 0, 1, 2)] == [
        *((), (small,), (small,)),
        (small, large),
    ]


def test_kicks_by_act() -> None:
    """Of all acts by default."""
    recording = recorded(kick(0))
    recording.kicks |= {(START, 0), (CONT, 1)}
    assert (recording.kicked(), recording.kicked(CONT), recording.kicked(RESET)) == (
        {0, 1},
        {1},
        set(),
    )


def test_what_was_acknowledged_before_a_message() -> None:
    """Not by the message itself."""
    first, second = recorded(features(5), kick(0), protocol=8).messages
    assert isinstance(first, Received)
    assert (first.features, second.features, second.protocol) == (None, 5, 8)
