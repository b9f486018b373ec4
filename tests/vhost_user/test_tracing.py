"""Trace events: switched on by patterns, written as lines, passed on to processes."""
# ruff: noqa: D103 - the name of a test, or of a part of one, says what it is

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
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


class Recording:
    """Events are recorded, and come out of a socket.

    Attributes:
        sock: it takes as much as a test writes.
        packets: the sizes of those that have been read.
    """

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.theirs = theirs
        self.packets: list[int] = []

    def read(self, *, wait: bool = False) -> list[tracing.Record]:
        """Those that have come since the last time."""
        found: list[tracing.Record] = []
        self.sock.settimeout(TIMEOUT if wait else 0)
        with suppress(BlockingIOError):
            while packet := self.sock.recv(1 << 20):
                self.packets.append(len(packet))
                found += tracing.read_records(packet.decode().splitlines())
                self.sock.settimeout(0)
        return found


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """Of events that begin with ``kept``; they are written only when a test says so."""
    monkeypatch.setattr(tracing, "LONGEST_NS", 1 << 62)
    monkeypatch.setattr(tracing, "PAUSE_NS", 1 << 40)
    made = Recording()
    tracing.enable_records("kept*", fd=made.theirs.fileno(), process="a program")
    yield made
    tracing.disable()
    made.sock.close()
    made.theirs.close()


def test_records_are_kept_until_they_are_written(recording: Recording) -> None:
    kept = tracing.event("kept", "number", "text", "nothing", help="")
    other = tracing.event("other", help="")
    assert kept.enabled
    assert not other.enabled
    assert tracing.is_recording()
    kept.emit(number=3, text="a b", nothing=None)
    assert recording.read() == []
    tracing.write_records()
    tracing.write_records()
    (record,) = recording.read()
    assert record.fields == {"number": 3, "text": "a b"}
    assert (record.pid, record.process, record.event) == (os.getpid(), "a program", "kept")
    assert record.tid == threading.get_native_id()
    assert 0 < record.time_ns <= time.monotonic_ns()


def test_records_are_written_in_a_pause(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or when the first is old; each time anew."""
    kept = tracing.event("kept", "number", help="")
    for number, name in enumerate(("PAUSE_NS", "LONGEST_NS", "PAUSE_NS")):
        monkeypatch.setattr(tracing, "PAUSE_NS", 1000)
        monkeypatch.setattr(tracing, "LONGEST_NS", 1 << 62)
        if name == "LONGEST_NS":
            monkeypatch.setattr(tracing, "LONGEST_NS", 0)
        kept.emit(number=number)
        (record,) = recording.read(wait=True)
        assert record.fields == {"number": number}


def test_many_records_are_written_at_once(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost or written twice, also when several threads emit; what is kept is bounded."""
    monkeypatch.setattr(tracing, "KEPT_RECORDS", 100)
    kept = tracing.event("kept", "number", help="")

    def emit(first: int) -> None:
        for number in range(first, first + 1000):
            kept.emit(number=number)

    threads = [threading.Thread(target=emit, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    found = recording.read()
    assert len(found) > 3000
    tracing.write_records()
    found += recording.read()
    assert sorted(int(r.fields["number"]) for r in found) == list(range(4000))
    assert max(recording.packets) < 1 << 17


def test_a_reader_that_hangs_costs_the_records(recording: Recording) -> None:
    """The program waits for it once."""
    seconds = struct.pack("ll", 0, 1000)
    recording.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
    kept = tracing.event("kept", "text", help="")
    for _ in range(40):
        kept.emit(text="x" * 60_000)
    tracing.write_records()
    failure = tracing.failure()
    assert isinstance(failure, BlockingIOError)
    kept.emit(text="after")
    tracing.write_records()
    texts = {record.fields["text"] for record in recording.read()}
    assert texts == {"x" * 60_000}
    assert tracing.failure() is failure
    tracing.end_records()
    assert recording.sock.recv(1 << 20) == tracing.LOST


def test_a_process_that_is_started_records_until_its_end(recording: Recording) -> None:
    code = (
        "from vhost_user import tracing; made = tracing.event('kept', 'number', help=''); "
        "tracing.configure_from_environment('x'); made.emit(number=7)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **tracing.environment("a child")},
        pass_fds=tracing.inherited_fds(),
        timeout=PROGRAM_TIMEOUT,
        check=True,
    )
    (record,) = recording.read()
    assert (record.process, record.fields) == ("a child", {"number": 7})
    assert record.pid != os.getpid()


def test_a_process_that_ends_while_a_thread_writes_loses_nothing(recording: Recording) -> None:
    code = (
        "from vhost_user import tracing; made = tracing.event('kept', 'number', help='')\n"
        "tracing.configure_from_environment('x')\n"
        "for number in range(20_000): made.emit(number=number)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **tracing.environment("a child")},
        pass_fds=tracing.inherited_fds(),
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        records = recording.read(wait=True)  # the thread has begun
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        while len(records) < 20_000 and (more := recording.read(wait=True)):
            records += more
        assert process.wait(PROGRAM_TIMEOUT) == 0
    assert [record.fields["number"] for record in records] == list(range(20_000))


def test_nothing_is_written_after_the_end(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor may be that of another file then."""
    monkeypatch.setattr(tracing, "PAUSE_NS", 50_000_000)
    kept = tracing.event("kept", "number", help="")
    for number in range(4000):
        kept.emit(number=number)
    records = recording.read(wait=True)  # a thread has begun to write them
    tracing.disable()
    records += recording.read()
    assert len(records) == 4000


def test_a_forked_child_does_not_write_its_parents_records(recording: Recording) -> None:
    kept = tracing.event("kept", "number", help="")
    kept.emit(number=1)
    child = os.fork()
    if not child:
        tracing.write_records()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tracing.write_records()
    assert len(recording.read()) == 1


def test_a_reader_that_has_gone_is_reported(recording: Recording) -> None:
    recording.sock.close()
    tracing.event("kept", help="").emit()
    tracing.write_records()
    failure = tracing.failure()
    tracing.disable()
    assert isinstance(failure, BrokenPipeError)
    assert not tracing.is_recording()


def test_a_line_that_is_not_a_record_is_left_out() -> None:
    whole = '[1, 2, 3, "p", "e", {}]'
    assert len(list(tracing.read_records([whole, whole[:9], "", "[1]", "7"]))) == 1


@pytest.mark.parametrize(("time_ns", "text"), [(0, "0.000000"), (12_000_345_999, "12.000345")])
def test_the_time_of_a_line(time_ns: int, text: str) -> None:
    assert tracing.stamp(time_ns) == text
