"""Cases on a front-end: which are run, and how each one ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.vhost_user_conformance.front_end.front_end import PlayedFrontEnd
from vhost_user.features import SPEC, ProtocolFeature
from vhost_user.payloads import U64
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.recording import F, Received, Recording
from vhost_user_conformance.front_end.runner import FrontEndRunner
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Failed, Verdict
from vhost_user_conformance.peer.program import PeerProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Wire


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[FrontEndRunner]:
    """For a front-end that runs already."""
    made = FrontEndRunner(
        tmp_path / "s", None, qmp=None, device="blk", dialect=SPEC, timeout=TIMEOUT / 10
    )
    yield made
    made.close()


def negotiates(wire: Wire) -> None:
    """A front-end that acknowledges what it is offered, and disconnects."""
    wire.send(F.GET_FEATURES)
    features = wire.receive().payload
    wire.send(F.SET_FEATURES, features)
    wire.send(F.SET_PROTOCOL_FEATURES, U64(8).pack())
    wire.send(F.SET_OWNER)


def test_what_a_front_end_acknowledges_is_read_from_the_plain_session(
    runner: FrontEndRunner, tmp_path: Path
) -> None:
    """It has started no ring."""
    front_end = PlayedFrontEnd(tmp_path / "s", negotiates)
    offered = runner.probe()
    front_end.finish()
    assert (offered.protocol_features, offered.rings) == (8, 0)
    assert offered.features >> 30 & 1


@pytest.mark.parametrize(
    ("visit", "text"),
    [
        (lambda wire: None, "is not a vhost-user front-end"),
        (lambda wire: wire.send(F.GET_FEATURES), r"stops after GET_FEATURES \(message 1"),
    ],
)
def test_what_is_not_a_front_end_is_an_error(
    runner: FrontEndRunner, tmp_path: Path, visit: Callable[[Wire], None], text: str
) -> None:
    """With what it sent."""
    front_end = PlayedFrontEnd(tmp_path / "s", visit)
    with pytest.raises(PeerError, match=text):
        runner.probe()
    front_end.finish()


@pytest.mark.parametrize("helps", [True, False])
def test_a_front_end_that_needs_memory_slots_is_offered_them(tmp_path: Path, helps: bool) -> None:
    """In all sessions, if it then starts a ring; else the first plain session counts."""
    program = PeerProgram("true {socket}", tmp_path / "s", tmp_path / "log", listens=False)
    runner = FrontEndRunner(
        tmp_path / "s", program, qmp=None, device="blk", dialect=SPEC, timeout=TIMEOUT
    )
    played: list[Recording] = []

    def play(script: Script) -> Recording:
        offered = script.protocol(runner._player.row)
        assert offered == script.protocol(runner._tester.device_class)
        starts = helps and bool(offered & ProtocolFeature.CONFIGURE_MEM_SLOTS)
        owner = Received(0, START, F.SET_OWNER, 1, b"", (), 0, offered, followed=False, line=0)
        undone = {} if starts else {START: "it left"}
        played.append(Recording(messages=[owner], undone=undone, left=not starts))
        return played[-1]

    runner._tester._play = play
    slots = runner.probe().protocol_features & ProtocolFeature.CONFIGURE_MEM_SLOTS
    assert bool(slots) == helps
    assert len(played) == 2
    assert runner._tester.plain() is played[helps]
    later = runner.record(Script("another")).messages[0].protocol
    assert bool(later & ProtocolFeature.CONFIGURE_MEM_SLOTS) == helps
    runner.close()


def fails(_front_end: FrontEnd) -> None:
    """A rule that is not kept."""
    raise Failed("this", "that")


def has_a_mistake(_front_end: FrontEnd) -> None:
    """A case with a mistake of its own."""
    raise ZeroDivisionError("by zero")


def plays(front_end: FrontEnd) -> None:
    """A case with a session of its own."""
    front_end.session(Script("another"))


def test_each_case_has_its_verdict(runner: FrontEndRunner, tmp_path: Path) -> None:
    """Once the front-end is away, the cases that need it are errors, and the reason is kept."""
    area = Area("a", FRONT_END, "s")
    area.case(1, "one")(lambda _front_end: None)
    area.case(2, "two")(fails)
    area.case(3, "three")(has_a_mistake)
    area.case(4, "four", needs=("MQ",))(fails)
    area.case(5, "five", device="net")(fails)
    front_end = PlayedFrontEnd(tmp_path / "s", negotiates)
    runner.probe()
    front_end.finish()
    runner.guard(area.cases)
    results = runner.run(area.cases, lambda _result: None)
    assert [result.verdict for result in results] == [
        *(Verdict.PASS, Verdict.FAIL, Verdict.ERROR),
        *(Verdict.UNSUPPORTED, Verdict.UNSUPPORTED),
    ]
    assert (results[1].expected, results[1].seen.splitlines()[0]) == ("this", "that")
    assert "ZeroDivisionError: by zero" in results[2].seen
    assert (
        results[3].seen == "the front-end does not acknowledge MQ: it is not offered or not wanted"
    )
    assert results[4].seen == "is about net: use --device net"
    assert not runner.gone


def test_a_front_end_that_is_away_is_reported_with_the_case(
    tmp_path: Path,
) -> None:
    """No further case waits for it."""
    runner = FrontEndRunner(tmp_path / "s", None, qmp=None, device="", dialect=SPEC, timeout=0.01)
    area = Area("a", FRONT_END, "s")
    area.case(1, "one")(plays)
    area.case(2, "two")(plays)
    results = runner.run(area.cases, lambda _result: None)
    runner.close()
    assert [result.verdict for result in results] == [Verdict.ERROR] * 2
    assert runner.gone.startswith("at VU-F-0001: no front-end connects to ")
