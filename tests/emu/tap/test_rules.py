"""Rules that are checked on the wire: each is the suite's, and each violation is found."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.tap.rules import RULES
from tests.emu.tap.talk import F, Talk
from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import ProtocolFeature as P
from vhost_user.messages import FRONTEND_MESSAGES
from vhost_user.payloads import U64, MemoryRegion, MemTable, VringAddr, VringState
from vhost_user_conformance.back_end.cases import AREAS as BACK_END_AREAS
from vhost_user_conformance.front_end.cases import AREAS as FRONT_END_AREAS
from vhost_user_conformance.rules import CHAPTERS

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = P.REPLY_ACK | P.MQ | P.CONFIG | P.STATUS | P.CONFIGURE_MEM_SLOTS
ADDR = VringAddr(0, 0, 0x1000, 0x3000, 0x2000, 0)
TABLE = MemTable((MemoryRegion(0, 4096, 0, 0),))


def cases_of(talk: Talk) -> list[str]:
    """The cases that the conversation breaks, in order."""
    return [text.partition(":")[0] for message in talk.messages for text in message.violations]


def ready() -> Talk:
    """A connection that has negotiated."""
    talk = Talk()
    talk.negotiate(ALL)
    assert cases_of(talk) == []
    return talk


def set_up(talk: Talk, *leave_out: F) -> None:
    """Ring 0, up to its kick."""
    for number, payload in (
        (F.SET_VRING_NUM, VringState(0, 256)),
        (F.SET_VRING_BASE, VringState(0, 0)),
        (F.SET_VRING_ADDR, ADDR),
    ):
        if number not in leave_out:
            talk.ask(number, payload)
    talk.ask(F.SET_VRING_KICK, U64(0), fds=1)


def enable(talk: Talk) -> None:
    """Enable ring 0."""
    talk.ask(F.SET_VRING_ENABLE, VringState(0, 1))


def enabled_without_base(talk: Talk) -> None:
    """After its kick."""
    set_up(talk, F.SET_VRING_BASE)
    enable(talk)


def kicked_without_base(talk: Talk) -> None:
    """While it is enabled."""
    enable(talk)
    set_up(talk, F.SET_VRING_BASE)


def test_the_base_of_a_disabled_ring_may_come_after_its_kick() -> None:
    """As at the destination of a migration, where it is not known before."""
    talk = ready()
    set_up(talk, F.SET_VRING_BASE)
    talk.ask(F.SET_VRING_BASE, VringState(0, 5))
    enable(talk)
    assert cases_of(talk) == []


def test_the_sentences_are_those_of_the_suite() -> None:
    areas = (*BACK_END_AREAS, *FRONT_END_AREAS)
    known = {case.id: case.rule for area in areas for case in area.cases}
    known |= {rule.id: rule.text for chapter in CHAPTERS for rule in chapter.rules}
    assert {case: known.get(case) for case in RULES} == RULES


#: Requests that break one rule each, after the negotiation.
BROKEN: list[tuple[str, Callable[[Talk], None]]] = [
    ("VU-F-0102", lambda talk: talk.ask(F.SET_OWNER, flags=VERSION | REPLY)),
    ("VU-F-0103", lambda talk: talk.ask(F.SET_OWNER, flags=VERSION | 0x10)),
    ("VU-F-0104", lambda talk: talk.ask(99)),
    ("VU-F-0105", lambda talk: talk.ask(F.SET_OWNER, fds=1)),
    ("VU-F-0105", lambda talk: talk.ask(F.SET_MEM_TABLE, TABLE)),
    ("VU-F-0117", lambda talk: talk.ask(F.SET_VRING_NUM, b"abc")),
    ("VU-F-0154", lambda talk: talk.ask(F.GET_VRING_BASE_SKIP_DRAIN, b"abc")),
    ("VU-F-0213", lambda talk: talk.ask(F.SET_FEATURES, U64(1 << 40))),
    ("VU-F-0214", lambda talk: talk.ask(F.SET_PROTOCOL_FEATURES, U64(1 << 40))),
    ("VU-F-0231", lambda talk: talk.ask(F.SEND_RARP, U64(0))),
    ("VU-F-0401", lambda talk: set_up(talk, F.SET_VRING_NUM)),
    ("VU-F-0402", enabled_without_base),
    ("VU-F-0402", kicked_without_base),
    ("VU-F-0403", lambda talk: set_up(talk, F.SET_VRING_ADDR)),
    ("VU-F-0404", lambda talk: talk.ask(F.SET_VRING_NUM, VringState(0, 100))),
    ("VU-F-0404", lambda talk: talk.ask(F.SET_VRING_NUM, VringState(0, 0))),
    ("VU-F-0408", lambda talk: talk.ask(F.SET_VRING_ADDR, ADDR._replace(flags=2))),
    ("VU-F-0409", lambda talk: talk.ask(F.SET_VRING_ENABLE, VringState(0, 2))),
    ("VU-F-0413", lambda talk: talk.ask(F.GET_VRING_BASE, VringState(3, 0))),
    ("VU-F-0505", lambda talk: talk.ask(F.SET_VRING_CALL, U64(0))),
    ("VU-F-0506", lambda talk: talk.ask(F.SET_VRING_ERR, U64(0x100), fds=1)),
    ("VU-F-0508", lambda talk: talk.ask(F.SET_VRING_CALL, U64(0x200), fds=1)),
]


@pytest.mark.parametrize(("case", "breaks"), BROKEN)
def test_a_broken_rule_is_flagged(case: str, breaks: Callable[[Talk], None]) -> None:
    """And no other."""
    talk = ready()
    breaks(talk)
    assert cases_of(talk) == [case]


def test_features_before_they_were_asked_for() -> None:
    talk = Talk()
    talk.ask(F.SET_FEATURES, U64(0))
    assert cases_of(talk) == ["VU-F-0207"]


def test_without_bit_30() -> None:
    talk = Talk()
    talk.ask(F.GET_FEATURES)
    talk.answer(F.GET_FEATURES, U64(0))
    talk.ask(F.GET_PROTOCOL_FEATURES)
    talk.ask(F.SET_VRING_ENABLE, VringState(0, 1))
    assert cases_of(talk) == ["VU-F-0220", "VU-F-0221"]


def test_protocol_features_without_those_that_they_need() -> None:
    talk = Talk()
    talk.negotiate(P.INBAND_NOTIFICATIONS | P.GET_VRING_BASE_INFLIGHT)
    assert cases_of(talk) == ["VU-F-0270", "VU-F-0271"]


@pytest.mark.parametrize(
    ("case", "flags", "payload"),
    [
        ("VU-B-0101", VERSION, U64(1)),
        ("VU-B-0101", VERSION | REPLY | NEED_REPLY, U64(1)),
        ("header-06", VERSION | REPLY, b"abcd"),
        ("header-06", VERSION | REPLY, b""),
    ],
)
def test_a_reply_that_is_none(case: str, flags: int, payload: U64 | bytes) -> None:
    talk = ready()
    talk.ask(F.GET_QUEUE_NUM)
    talk.answer(F.GET_QUEUE_NUM, payload, flags=flags)
    assert cases_of(talk) == [case]


def test_replies_out_of_order_and_without_a_request() -> None:
    talk = ready()
    talk.ask(F.GET_QUEUE_NUM)
    talk.ask(F.GET_MAX_MEM_SLOTS)
    talk.answer(F.GET_MAX_MEM_SLOTS, U64(1))
    talk.answer(F.GET_QUEUE_NUM, U64(1))
    talk.answer(F.SET_OWNER, U64(0))
    assert cases_of(talk) == ["VU-B-0107", "VU-B-0103"]


def test_an_answer_that_changes() -> None:
    talk = ready()
    talk.ask(F.GET_FEATURES)
    talk.answer(F.GET_FEATURES, U64(7))
    assert cases_of(talk) == ["VU-B-0201"]


def test_a_correct_life_breaks_nothing() -> None:
    """Negotiation, a start, a stop, and a start again."""
    talk = ready()
    for _ in range(2):
        talk.ask(F.SET_MEM_TABLE, TABLE, fds=1, flags=VERSION | NEED_REPLY)
        talk.answer(F.SET_MEM_TABLE, U64(0))
        set_up(talk)
        talk.ask(F.SET_VRING_CALL, U64(0x100))
        talk.ask(F.SET_VRING_ENABLE, VringState(0, 1))
        talk.ask(F.GET_VRING_BASE, VringState(0, 0))
        talk.answer(F.GET_VRING_BASE, VringState(0, 7))
    assert cases_of(talk) == []


def test_every_message_has_a_size_rule() -> None:
    names = {text for case, text in RULES.items() if "specified size" in text}
    assert names == {
        f"The payload of {row.name} has the specified size" for row in FRONTEND_MESSAGES.values()
    }
