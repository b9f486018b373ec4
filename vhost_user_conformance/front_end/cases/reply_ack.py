"""VU-F-07xx: need_reply, and the reactions to acknowledgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.recording import REGARDLESS, F
from vhost_user_conformance.front_end.script import Script, refusing
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("reply_ack", FRONT_END, "VHOST_USER_PROTOCOL_F_REPLY_ACK")
ACK = ProtocolFeature.REPLY_ACK
WITHOUT = Script("without REPLY_ACK", protocol_without=int(ACK))
#: Messages of a ring's start for which a front-end may request an acknowledgement.
ACKED_AT_START = (F.SET_MEM_TABLE, F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ENABLE)


def _asking(recording: Recording) -> list[Received]:
    found = [each for each in recording.messages if each.need_reply]
    if not found:
        unsupported("the front-end requests no acknowledgement")
    return found


@area.case(701, "need_reply is set only after REPLY_ACK was acknowledged")
def after_acknowledging(fe: FrontEnd) -> None:
    all_of(
        (each for each in _asking(fe.plain()) if each.id not in REGARDLESS),
        lambda each: each.protocol & ACK,
        "REPLY_ACK acknowledged before",
    )


@area.case(702, "need_reply is not set where REPLY_ACK is not offered")
def never_without(fe: FrontEnd) -> None:
    _asking(fe.plain())
    all_of(
        (each for each in fe.session(WITHOUT).messages if each.id not in REGARDLESS),
        lambda each: not each.need_reply,
        "need_reply clear",
    )


@area.case(703, "Rings are started where REPLY_ACK is not offered")
def starts_without(fe: FrontEnd) -> None:
    fe.plain().started()
    recording = fe.session(WITHOUT)
    if recording.left and not recording.crashed:
        observed("the front-end leaves: it requires REPLY_ACK")
    check("start" in recording.acts, "a ring to be started", f"{recording.undone}")


@area.case(704, "need_reply is not set in a message that always has a reply")
def own_reply(fe: FrontEnd) -> None:
    redundant = [
        each
        for each in _asking(fe.plain())
        if each.id in F._value2member_map_
        and FRONTEND_MESSAGES[F(each.id)].reply is ReplyRule.ALWAYS
        and each.id not in REGARDLESS
    ]
    if redundant:
        observed(f"{redundant[0]} has it, which changes nothing")


@area.each(
    705,
    ACKED_AT_START,
    "The front-end reacts to an acknowledgement of {0.name} with 1",
    severity=Severity.SHOULD,
)
def refused(fe: FrontEnd, number: F) -> None:
    recording = fe.session(refusing(number))
    asking = [each for each in recording.some(number) if each.need_reply]
    if not asking:
        unsupported(f"the front-end requests no acknowledgement of {number.name}")
    first = asking[0]
    plain = [each.id for each in fe.plain().messages if each.act == START]
    usual = plain[first.at + 1 :]
    if recording.left or recording.ended:
        return
    if not usual:
        unsupported("no message follows, so the reaction cannot be observed")
    went_on = [each.id for each in recording.after(first)][: len(usual)]
    same = went_on and went_on == usual[: len(went_on)]
    expected = "messages other than after an acknowledgement with 0"
    check(not same, expected, f"{recording.after(first)[:3]}")


@area.case(709, "An acknowledgement that comes late is waited for")
def late(fe: FrontEnd) -> None:
    fe.plain().started()
    recording = fe.session(Script("replies after 50 ms", delay=0.05))
    check("start" in recording.acts, "a ring to be started", f"{recording.undone}")


@area.case(710, "An acknowledgement with another id is not accepted", spec="Header")
def ack_of_another(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("an acknowledgement with another id")
        session.reply(F.SET_OWNER, payload)

    asking = _asking(fe.plain())[0]
    recording = fe.reacting("an ack with another id", asking.id, react)
    since = recording.since("an acknowledgement with another id")
    again = [each.id for each in since[:1]] == [each.id for each in fe.plain().after(asking)[:1]]
    check(not again or recording.left, "messages other than after an acknowledgement", f"{since}")
