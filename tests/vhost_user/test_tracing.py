"""Trace events: switched on by patterns, written as lines, passed on to processes."""
# ruff: noqa: D103 - the name of a test, or of a part of one, says what it is

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user import tracing
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Lines = Callable[[], list[str]]

_LINE = re.compile(r"\d+\.\d{6} (\S+) (\S+)((?: \w+=\S+)*)")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The table of events is as it was; nothing is traced."""
    before = dict(tracing.EVENTS)
    yield
    tracing.enable("")
    tracing.EVENTS.clear()
    tracing.EVENTS.update(before)


@pytest.fixture
def lines() -> Iterator[tuple[int, Lines]]:
    """A descriptor to trace to, and what has been written there."""
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def read() -> list[str]:
        try:
            return os.read(ours, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    yield theirs, read
    os.close(ours)
    os.close(theirs)


def test_an_event_is_off_until_a_pattern_names_it(lines: tuple[int, Lines]) -> None:
    fd, read = lines
    made = tracing.event("test_sent", "device", "ring", help="A test.")
    other = tracing.event("other_sent", "device", help="Another.")
    assert [made.enabled, other.enabled] == [False, False]
    tracing.enable("test_*", fd=fd, process="A")
    assert [made.enabled, other.enabled] == [True, False]
    made.emit(device="blk0", ring=2)
    made.emit(device="blk0", ring=None)
    made.emit(device="it has gone", ring="")
    first, second, third = read()
    match = _LINE.fullmatch(first)
    assert match
    assert match.groups() == ("A", "test_sent", " device=blk0 ring=2")
    assert second.endswith("test_sent device=blk0")
    assert third.endswith('test_sent device="it has gone" ring=""')


def test_a_pattern_holds_for_events_that_are_defined_later() -> None:
    tracing.enable("late_*")
    assert tracing.unmatched() == ["late_*"]
    assert tracing.event("late_one", help="Late.").enabled
    assert tracing.unmatched() == []


def test_two_events_of_one_name_are_an_error() -> None:
    tracing.event("twice", help="Once.")
    with pytest.raises(UsageError, match="defined twice"):
        tracing.event("twice", help="Twice.")


def test_a_reader_that_has_gone_does_not_end_the_program() -> None:
    made = tracing.event("test_gone", help="Gone.")
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.close(ours)
    tracing.enable("*", fd=theirs)
    made.emit()
    os.close(theirs)


def test_a_process_that_is_started_traces_to_the_same_descriptor(
    lines: tuple[int, Lines],
) -> None:
    fd, read = lines
    tracing.enable("test_*", fd=fd, process="parent")
    program = (
        "from vhost_user import tracing\n"
        "tracing.configure_from_environment('unnamed')\n"
        "tracing.event('test_child', 'number', help='x').emit(number=7)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **tracing.environment("child")},
        pass_fds=tracing.inherited_fds(),
        check=True,
        timeout=PROGRAM_TIMEOUT,
    )
    (line,) = read()
    assert line.endswith(" child test_child number=7")


def test_nothing_is_passed_on_where_nothing_is_traced() -> None:
    assert not tracing.environment("child")
    assert not tracing.inherited_fds()
