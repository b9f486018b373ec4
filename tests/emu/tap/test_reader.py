"""The reader passes everything on, in order, with the messages decoded."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from emu.tap.connection import Closed, Opened, Sender, Unreadable
from emu.tap.message import Message
from tests.emu.tap.talk import F, Talk
from vhost_user.messages import BackendRequest


def test_records_come_in_order() -> None:
    talk = Talk()
    talk.ask(F.GET_FEATURES)
    talk.reader.take(Unreadable(talk.connection, Sender.FRONT_END, False, 5, "why"))
    talk.close()
    assert [type(record) for record in talk.records] == [Opened, Message, Unreadable, Closed]


def test_a_session_lasts_as_long_as_its_connection() -> None:
    """What still comes on the back-end channel after it is left out."""
    talk = Talk()
    assert list(talk.reader.sessions) == ["dev"]
    talk.close()
    assert talk.reader.sessions == {}
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True)
    assert talk.messages == []
