"""The front-end as cases use it: sessions that are played once, and their failures."""

from __future__ import annotations

import contextlib

import pytest

from tests.vhost_user_conformance.front_end.recordings import kick, recorded, sent
from vhost_user.codec import VERSION
from vhost_user_conformance.front_end.acts import ASKED, START
from vhost_user_conformance.front_end.recording import F, Recording
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.front_end.tester import FrontEnd, all_of
from vhost_user_conformance.model.case import FRONT_END
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.verdict import CaseEnd, Failed
from vhost_user_conformance.target import cases_of


def test_cases_with_the_same_request_share_a_session() -> None:
    """Starting a VM takes time."""
    played: list[Script] = []

    def play(script: Script) -> Recording:
        played.append(script)
        recording = recorded(kick(0), sent(F.GET_FEATURES, act=ASKED))
        recording.channel[script.name.removeprefix("asks: ")] = "no answer"
        return recording

    front_end = FrontEnd(row_of("blk"), 1.0, play)
    for case in cases_of(FRONT_END):
        if case.id in ("VU-F-1303", "VU-F-1310", "VU-F-1322", "VU-F-1323"):
            with contextlib.suppress(CaseEnd):
                case.run(front_end)
    assert len(played) == 1


def test_a_crash_fails_each_case_but_those_of_the_plain_session() -> None:
    """There cases about the end of the program judge it."""
    recording = recorded(kick(0))
    recording.crashed, recording.ended = True, "by SIGSEGV"
    front_end = FrontEnd(row_of("blk"), 1.0, lambda _script: recording)
    assert front_end.plain() is recording
    with pytest.raises(Failed, match="it ended by SIGSEGV"):
        front_end.session(Script("another"))


def test_the_transcript_of_the_session_that_was_read_last() -> None:
    """A failure shows it."""
    played = {PLAIN: Recording(transcript=["plain"])}
    front_end = FrontEnd(
        row_of("blk"), 1.0, lambda script: played.get(script, Recording(transcript=[script.name]))
    )
    front_end.session(Script("one"))
    assert front_end.shown == ["one"]
    front_end.plain()
    assert front_end.shown == ["plain"]


def test_a_reaction_makes_a_session_of_its_own() -> None:
    """It has the start only."""
    scripts: list[Script] = []

    def play(script: Script) -> Recording:
        scripts.append(script)
        return recorded(kick(0))

    def reaction(_session: object, _message: object) -> None:
        raise AssertionError("nothing is played here")

    FrontEnd(row_of("blk"), 1.0, play).reacting("no answer", F.GET_FEATURES, reaction)
    (script,) = scripts
    assert (script.name, script.acts, script.reactions) == (
        "no answer",
        (START,),
        ((F.GET_FEATURES, reaction),),
    )


def test_the_first_invalid_message_fails() -> None:
    """The text has its flags, size and contents."""
    messages = recorded(kick(0), sent(F.GET_FEATURES)).messages
    all_of(messages, lambda each: each.flags == VERSION, "version 1")
    with pytest.raises(Failed, match=r"GET_FEATURES \(message 2, at start\): flags 0x1, 0 bytes"):
        all_of(messages, lambda each: each.id != F.GET_FEATURES, "another")
