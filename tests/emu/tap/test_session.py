"""The session of an observer: replies that are due, ring states, and that nothing is refused."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from emu.tap import session as module
from tests.emu.tap.talk import F, Talk
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import ProtocolFeature as P
from vhost_user.messages import BackendRequest
from vhost_user.payloads import U64, Inflight, MemoryRegion, MemTable, SharedUuid, VringState

if TYPE_CHECKING:
    from emu.tap.session import RingCount


def counts(talk: Talk) -> RingCount:
    return talk.reader.sessions["dev"].ring_count


def test_a_reply_finds_its_request() -> None:
    talk = Talk()
    talk.ask(F.GET_FEATURES)
    talk.ask(F.GET_QUEUE_NUM)
    talk.answer(F.GET_FEATURES, U64(1))
    talk.answer(F.GET_QUEUE_NUM, U64(2))
    first, second, third, fourth = talk.messages
    assert third.request is first
    assert fourth.request is second
    assert talk.reader.sessions["dev"].outstanding == 0


def test_replies_out_of_order_find_theirs_all_the_same() -> None:
    talk = Talk()
    talk.ask(F.GET_FEATURES)
    talk.ask(F.GET_QUEUE_NUM)
    talk.answer(F.GET_QUEUE_NUM, U64(2))
    talk.answer(F.GET_FEATURES, U64(1))
    assert [message.request for message in talk.messages[2:]] == talk.messages[1::-1]


def test_a_reply_without_a_request_has_none() -> None:
    talk = Talk()
    talk.answer(F.GET_FEATURES, U64(1))
    assert talk.messages[0].request is None
    assert talk.messages[0].latency is None


@pytest.mark.parametrize(
    ("features", "number", "flags", "due"),
    [
        (P(0), F.SET_OWNER, VERSION, False),
        (P(0), F.SET_OWNER, VERSION | NEED_REPLY, False),
        (P.REPLY_ACK, F.SET_OWNER, VERSION | NEED_REPLY, True),
        (P.REPLY_ACK, F.SET_OWNER, VERSION, False),
        (P(0), F.GET_QUEUE_NUM, VERSION, True),
        (P.REPLY_ACK, 99, VERSION | NEED_REPLY, True),
        (P.REPLY_ACK, 99, VERSION, False),
    ],
)
def test_what_is_due(features: P, number: int, flags: int, due: bool) -> None:
    talk = Talk()
    talk.negotiate(features)
    talk.ask(number, flags=flags)
    assert talk.messages[-1].reply_due == due


def test_a_memory_table_is_answered_in_postcopy_only() -> None:
    """Its go-ahead is not."""
    talk = Talk()
    talk.negotiate(P.PAGEFAULT)
    table = MemTable((MemoryRegion(0, 4096, 0, 0),))
    talk.ask(F.SET_MEM_TABLE, table)
    talk.ask(F.POSTCOPY_LISTEN)
    talk.answer(F.POSTCOPY_LISTEN, U64(0))
    talk.ask(F.SET_MEM_TABLE, table)
    talk.ask(F.SET_MEM_TABLE, U64(0))
    asked = [m.reply_due for m in talk.messages if m.id == F.SET_MEM_TABLE]
    assert asked == [False, True, False]


def test_the_channels_are_apart() -> None:
    talk = Talk()
    talk.negotiate(P.REPLY_ACK)
    talk.ask(F.GET_FEATURES)
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True, flags=VERSION | NEED_REPLY)
    talk.ask(BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid(bytes(16)), on_channel=True)
    talk.answer(BackendRequest.CONFIG_CHANGE_MSG, U64(0), on_channel=True)
    asked, told, wanted, answered = talk.messages[-4:]
    assert answered.request is told
    assert (asked.reply_due, told.reply_due, wanted.reply_due) == (True, True, True)


def test_ring_states_follow_the_messages() -> None:
    talk = Talk()
    talk.negotiate(P(0))
    for ring in range(4):
        talk.ask(F.SET_VRING_NUM, VringState(ring, 256))
    assert counts(talk) == (4, 0, 0)
    for ring in range(3):
        talk.ask(F.SET_VRING_KICK, U64(ring), fds=1)
        talk.ask(F.SET_VRING_ENABLE, VringState(ring, 1))
    assert counts(talk) == (4, 3, 3)
    talk.ask(F.GET_VRING_BASE, VringState(0, 0))
    assert counts(talk) == (4, 3, 3)
    talk.answer(F.GET_VRING_BASE, VringState(0, 7))
    talk.ask(F.SET_VRING_ENABLE, VringState(1, 0))
    assert counts(talk) == (4, 2, 2)


def test_a_payload_that_does_not_fit_is_reported_and_has_no_effect() -> None:
    talk = Talk()
    talk.ask(F.SET_VRING_NUM, b"abc")
    talk.ask(F.SET_VRING_ENABLE, VringState(1000, 1))
    talk.answer(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 1).pack() + b"x")
    errors = [message.error for message in talk.messages]
    assert errors == ["has no payload of 3 bytes", "", "has no payload of 25 bytes"]
    assert counts(talk) == (0, 0, 0)


def test_what_is_outstanding_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A back-end that never answers costs no memory without end."""
    monkeypatch.setattr(module, "MAX_OUTSTANDING", 10)
    talk = Talk()
    for _ in range(50):
        talk.ask(F.GET_FEATURES)
    assert talk.reader.sessions["dev"].outstanding == 10


def test_nothing_that_arrives_raises() -> None:
    """Messages of random numbers, flags and payloads, in both directions."""
    generator = random.Random(13)
    talk = Talk()
    for _ in range(3000):
        number = generator.choice([generator.randrange(50), generator.randrange(1 << 32)])
        size = generator.choice([0, 4, 8, 16, 24, 32, 40, generator.randrange(300)])
        payload = generator.randbytes(size) if generator.random() < 0.5 else bytes(size)
        say = generator.choice([talk.ask, talk.answer])
        say(
            number,
            payload,
            flags=generator.choice([1, 5, 9, 13, generator.randrange(1 << 32)]),
            fds=generator.randrange(3),
            on_channel=generator.random() < 0.3,
        )
    assert len(talk.messages) == 3000
