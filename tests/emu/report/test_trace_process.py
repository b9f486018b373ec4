"""The process that writes a trace: the order of records, and its ends."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emu.report import trace_process
from emu.report.trace_process import END, Order, TraceFile
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from vhost_user import tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user.tracing import Record


def packet(*times: int, text: str = "") -> bytes:
    """Records of commits."""
    lines = (json.dumps([at, 1, 1, "VM-process-A", "memory_commit", {"x": text}]) for at in times)
    return "".join(f"{line}\n" for line in lines).encode()


def times_of(path: Path, *, ended: bool = True) -> list[float]:
    """Those of the counter's values, in the order of the file."""
    text = path.read_text() if ended else path.read_text().rstrip(",\n") + "]"
    events: list[dict[str, Any]] = json.loads(text)
    return [event["ts"] * 1000 for event in events if event["ph"] == "C"]


def test_records_come_out_in_the_order_of_time() -> None:
    """As far as it is known; what is not a record is left out."""
    taken: list[Record] = []
    order = Order(taken.append)
    order.put(packet(30, 10))
    order.put(b"nonsense\n[20, 1]\n[]\n" + packet(20))
    order.pass_on(25)
    assert [record.time_ns for record in taken] == [10, 20]
    order.put(packet(5))
    order.pass_on()
    assert [record.time_ns for record in taken] == [10, 20, 5, 30]


def test_the_records_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_process, "MAX_WAITING", 50)
    taken: list[Record] = []
    order = Order(taken.append)
    for number in range(100):
        order.put(packet(*range(10 * number, 10 * number + 10)))
        order.pass_on(0)
        assert 10 * number + 10 - len(taken) <= 50
    assert [record.time_ns for record in taken] == list(range(950))


def test_a_record_of_another_program_is_left_out(tmp_path: Path) -> None:
    """It has inherited the socket, and has written what it likes."""
    path = tmp_path / "t"
    file = TraceFile(path, "emu run")
    order = Order(file.take)
    order.put(b'[1, 1, 1, "x", "migration_phase_end", {}]\n[2, 1, 1, 5, 5, 5]\n' + packet(3))
    order.pass_on()
    assert file.close() == ""
    assert times_of(path) == [3]


class Writing:
    """The process, and the socket of those who write to it."""

    def __init__(self, path: Path) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(TIMEOUT)
        with theirs:
            command = [sys.executable, "-m", "emu.report.trace_process", str(path), "emu run"]
            self.process = subprocess.Popen(command, stdin=theirs.fileno())

    def end(self) -> Any:
        """The answer to the end."""
        self.sock.send(END)
        answer = json.loads(self.sock.recv(1 << 16))
        assert self.process.wait(PROGRAM_TIMEOUT) == 0
        return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has an old trace."""
    path = tmp_path / "trace.json"
    path.write_text("old")
    return path


@pytest.fixture
def writing(path: Path) -> Iterator[Writing]:
    made = Writing(path)
    yield made
    made.sock.close()
    made.process.kill()
    made.process.wait(TIMEOUT)


def test_it_ends_when_it_is_told_to(path: Path, writing: Writing) -> None:
    writing.sock.send(packet(2000, 1000))
    assert writing.end() == ""
    assert times_of(path) == [1000, 2000]


def test_it_writes_what_has_come_when_all_writers_have_ended(path: Path, writing: Writing) -> None:
    writing.sock.send(packet(2000))
    writing.sock.close()
    assert writing.process.wait(PROGRAM_TIMEOUT) == 0
    assert times_of(path) == [2000]


def test_a_command_that_did_nothing_leaves_the_file(path: Path, writing: Writing) -> None:
    """As after a usage error."""
    assert writing.end() == ""
    assert path.read_text() == "old"


def test_events_are_in_the_file_before_the_end(path: Path, writing: Writing) -> None:
    """And a process that is killed leaves what it has written: an array without its end."""
    writing.sock.send(packet(time.monotonic_ns() - trace_process.DELAY_NS, 1 << 62))
    deadline = time.monotonic() + TIMEOUT
    while '"ph":"C"' not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writing.process.kill()
    writing.process.wait(TIMEOUT)
    assert len(times_of(path, ended=False)) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [("/dev/full", "No space left on device: the log is incomplete"), ("/none/t", "No such file")],
)
def test_a_file_that_cannot_be_written_is_one_line(name: str, reason: str) -> None:
    """The rest is read all the same, and no process waits for it."""
    writing = Writing(Path(name))
    for _ in range(100):
        writing.sock.send(packet(1, text="x" * 50_000))
    answer = writing.end()
    assert answer.startswith(f"{name}: {reason}")
    assert "\n" not in answer


def test_a_process_that_could_not_write_all_is_reported(path: Path, writing: Writing) -> None:
    writing.sock.send(packet(2000))
    writing.sock.send(tracing.LOST)
    assert writing.end() == (
        f"{path}: records are missing: they came faster than they were written"
    )
    assert times_of(path) == [2000]


def test_memory_does_not_grow_with_the_trace(path: Path, writing: Writing) -> None:
    """Of 100 MB of records it holds none for long."""
    page = os.sysconf("SC_PAGE_SIZE")
    statm = Path(f"/proc/{writing.process.pid}/statm")

    def megabytes(packets: int) -> float:
        for number in range(packets):
            writing.sock.send(packet(number, text="x" * 100_000))
        return int(statm.read_text().split()[1]) * page / 1e6

    first = megabytes(100)
    assert megabytes(1000) < first + 20
    assert writing.end() == ""
