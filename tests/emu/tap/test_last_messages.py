"""The last messages are held, and passed on for a cause."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.tap.connection import Closed, Opened, Sender, Unreadable
from emu.tap.last_messages import Cause, LastMessages, cause_of
from emu.tap.message import Message
from tests.emu.tap.talk import F, Talk
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Collection

    from emu.tap.reader import Record


class Rig:
    """A conversation whose last messages are held."""

    def __init__(self, count: int, causes: Collection[Cause]) -> None:
        self.passed: list[Record] = []
        self.last = LastMessages([self.passed.append], count, causes)
        self.talk = Talk([self.last.take])

    @property
    def ids(self) -> list[int]:
        """Of the messages that were passed on."""
        return [record.id for record in self.passed if isinstance(record, Message)]


def test_an_error_passes_on_what_came_before_once() -> None:
    """Here a message whose feature, MQ, was not negotiated."""
    rig = Rig(3, [Cause.ERROR])
    for number in (F.SET_OWNER, F.GET_FEATURES, F.GET_FEATURES):
        rig.talk.ask(number)
    assert rig.ids == []
    rig.talk.ask(F.GET_QUEUE_NUM)
    assert rig.ids == [F.GET_FEATURES, F.GET_FEATURES, F.GET_QUEUE_NUM]
    rig.talk.ask(F.GET_FEATURES)
    rig.talk.close()
    rig.last.finish()
    assert len(rig.ids) == 3


@pytest.mark.parametrize(("cause", "at_close"), [(Cause.DISCONNECT, True), (Cause.END, False)])
def test_the_end_of_a_connection_and_of_the_tap(cause: Cause, at_close: bool) -> None:
    rig = Rig(2, [cause])
    for number in (F.SET_OWNER, F.GET_FEATURES, 99):
        rig.talk.ask(number)
    assert rig.ids == []
    rig.talk.close()
    assert rig.ids == ([99] if at_close else [])
    rig.last.finish()
    assert rig.ids == [99]


def test_causes() -> None:
    talk = Talk()
    talk.negotiate(ProtocolFeature.REPLY_ACK)
    talk.ask(F.SET_OWNER, flags=VERSION | NEED_REPLY)
    talk.answer(F.SET_OWNER, U64(0))
    talk.ask(F.GET_FEATURES, flags=VERSION | NEED_REPLY)
    talk.answer(F.GET_FEATURES, U64(1 << 30))
    assert {cause_of(record) for record in talk.records} == {None}
    talk.ask(F.SET_OWNER, flags=VERSION | NEED_REPLY)
    talk.answer(F.SET_OWNER, U64(1))
    assert [cause_of(record) for record in talk.records[-2:]] == [None, Cause.ERROR]
    talk.ask(F.SET_VRING_NUM, b"abc")
    assert cause_of(talk.records[-1]) is Cause.ERROR
    assert cause_of(Opened(talk.connection, 0)) is None
    assert cause_of(Closed(talk.connection, 0, "", Sender.BACK_END)) is Cause.DISCONNECT
    assert cause_of(Unreadable(talk.connection, Sender.BACK_END, False, 0, "")) is Cause.ERROR
