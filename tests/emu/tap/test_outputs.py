"""What a tap writes and draws."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from emu.errors import EmuError
from emu.tap import outputs as module
from emu.tap.last_messages import Cause
from emu.tap.outputs import Last, Logs, Outputs
from emu.tap.proxy import Pair
from emu.tap.transition_finder import QUIET, SETTLED
from tests.emu.tap.talk import F, Talk
from tests.emu.tap.test_pcapng import blocks_of
from tests.waiting import wait_until
from vhost_user.payloads import U64, VringAddr, VringState

PAIRS = [Pair("dev", "/a", "/b")]


def test_both_logs_and_the_counts(tmp_path: Path) -> None:
    notices: list[str] = []
    logs = Logs(tmp_path / "t", tmp_path / "j", tmp_path / "p")
    with Outputs(logs, PAIRS, None, None, notices.append) as outputs:
        talk = Talk(reader=outputs.reader)
        talk.ask(F.GET_FEATURES)
        talk.answer(F.GET_FEATURES, U64(0))
        assert outputs.next_look is None
        outputs.look()
    assert notices == []
    assert (tmp_path / "t").read_text().count("VHOST_USER_GET_FEATURES") == 2
    events = [json.loads(line)["event"] for line in (tmp_path / "j").read_text().splitlines()]
    assert events == ["tap", "connected", "request", "reply"]
    assert [block.kind for block in blocks_of((tmp_path / "p").read_bytes())][1:] == [1, 6, 6]
    assert outputs.traffic.summary() == "1 connection, 2 messages"


def test_stdout_is_an_empty_path(capfd: pytest.CaptureFixture[str]) -> None:
    with Outputs(Logs(text=module.STDOUT), PAIRS, None, None, print) as outputs:
        Talk(reader=outputs.reader).ask(F.SET_OWNER)
    assert "VHOST_USER_SET_OWNER" in capfd.readouterr().out


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match="No such file"):
        Outputs(Logs(tmp_path / "t", tmp_path / "no" / "j"), PAIRS, None, None, print)


def test_what_is_missing_is_reported_at_once(tmp_path: Path) -> None:
    """And once; a tap may run for weeks."""
    notices: list[str] = []
    with Outputs(Logs(text=Path("/dev/full")), PAIRS, None, None, notices.append) as outputs:
        talk = Talk(reader=outputs.reader)

        def reported() -> bool:
            talk.ask(F.SET_OWNER)
            return bool(notices)

        wait_until(reported, "a line about the log")
        talk.ask(F.SET_OWNER)
        assert outputs.failures == []
    text = "--text /dev/full: No space left on device: the log is incomplete"
    assert notices == outputs.failures == [text]


def test_the_table_is_drawn_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        (tmp_path / "screen").open("w+") as stream,
        Outputs(Logs(), PAIRS, stream, None, print) as outputs,
    ):
        due = outputs.next_look
        assert due is not None
        outputs.look()
        assert stream.tell() == 0
        monkeypatch.setattr(time, "monotonic", lambda: due)
        outputs.look()
        assert outputs.next_look == due + module.INTERVAL


def test_a_stop_is_reported_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a table and in JSON; and one that is not over when the tap ends is, too."""
    with (tmp_path / "report").open("w+") as stream:
        logs = Logs(json=tmp_path / "j")
        with Outputs(logs, PAIRS, None, stream, print) as outputs:
            talk = Talk(reader=outputs.reader)
            talk.ask(F.GET_VRING_BASE, VringState(0, 0))
            due = outputs.next_look
            assert due == (talk.clock.now + SETTLED) / 1e9
            monkeypatch.setattr(time, "monotonic_ns", lambda: talk.clock.now)
            outputs.look()
            assert stream.tell() == 0
            talk.clock.now += QUIET
            outputs.look()
            assert "stop of 1 device, 1 ring" in (tmp_path / "report").read_text()
            talk.ask(F.SET_VRING_ADDR, VringAddr(0, 0, 0, 0, 0, 0))
            talk.ask(F.SET_VRING_BASE, VringState(0, 0))
            talk.ask(F.SET_VRING_KICK, U64(0), fds=1)
        assert "start of 1 device, 1 ring" in (tmp_path / "report").read_text()
    events = [json.loads(line)["event"] for line in (tmp_path / "j").read_text().splitlines()]
    assert events == ["tap", "connected", "request", "stop", *["request"] * 3, "start"]


def test_the_first_violation_of_a_rule_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each device; and not without end."""
    monkeypatch.setattr(module, "MAX_FLAGGED", 2)
    notices: list[str] = []
    with Outputs(Logs(), PAIRS, None, None, notices.append) as outputs:
        for device in ("a", "b", "c"):
            talk = Talk(device=device, reader=outputs.reader)
            for number in (99, 99, 100):
                talk.ask(number)
    assert notices == [
        f"{device}: VU-F-0104: Each request has a defined id (message 99)" for device in ("a", "b")
    ]


def test_the_last_messages_are_written_for_a_cause(tmp_path: Path) -> None:
    """In all logs; the stops are in the JSON log in any case."""
    logs = Logs(tmp_path / "t", tmp_path / "j")
    last = Last(2, [Cause.ERROR])
    with Outputs(logs, PAIRS, None, None, print, last) as outputs:
        talk = Talk(reader=outputs.reader)
        for number in (F.SET_OWNER, F.GET_FEATURES, 99, F.GET_FEATURES):
            talk.ask(number)
        talk.ask(F.SET_VRING_BASE, VringState(0, 0))
    lines = (tmp_path / "t").read_text().splitlines()
    assert [line.split()[3] for line in lines] == ["VHOST_USER_GET_FEATURES", "VHOST_USER_message"]
    events = [json.loads(line)["event"] for line in (tmp_path / "j").read_text().splitlines()]
    assert events == ["tap", "request", "request", "start"]
