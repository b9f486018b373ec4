"""A program under test: its start, its end, and files that are not its own."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.peer.program import PeerProgram

if TYPE_CHECKING:
    from pathlib import Path


class Struck(Exception):
    """The signal's handler ran."""


def test_what_is_no_socket_is_left_where_it_was(tmp_path: Path) -> None:
    """The path may be that of a disk, given by mistake."""
    precious = tmp_path / "disk.img"
    precious.write_bytes(b"data")
    program = PeerProgram("true {socket}", precious, tmp_path / "log")
    program.start()
    assert program.ends_within(10.0)
    program.stop()
    assert precious.read_bytes() == b"data"


def test_a_signal_while_it_is_started_is_not_lost(tmp_path: Path) -> None:
    """An exception of a handler around a fork would be dropped, and the suite would continue."""
    armed = [True]

    def strike() -> None:
        if armed:
            armed.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    def handle(_signum: int, _frame: object) -> None:
        raise Struck

    os.register_at_fork(before=strike)
    before = signal.signal(signal.SIGTERM, handle)
    program = PeerProgram("sh -c 'sleep 60' {socket}", tmp_path / "s", tmp_path / "log")
    try:
        with pytest.raises(Struck):
            program.start()
        assert program.pid
    finally:
        signal.signal(signal.SIGTERM, before)
        program.stop()


def test_a_file_that_it_maps_may_have_any_name(tmp_path: Path) -> None:
    """Also one that is no text."""
    name = tmp_path / os.fsdecode(b"sh\xff")
    shutil.copy("/bin/sh", name)
    program = PeerProgram(f"{name} -c 'sleep 60; :' {{socket}}", tmp_path / "s", tmp_path / "log")
    program.start()
    try:
        assert program.mappings == 0
    finally:
        program.stop()


def test_the_last_line_of_much(tmp_path: Path) -> None:
    """It is found at the end of a large output."""
    log = tmp_path / "log"
    program = PeerProgram("true {socket}", tmp_path / "s", log)
    assert program.last_line == ""
    with log.open("wb") as file:
        file.seek(1 << 33)
        file.write(b"\nthe end\n")
    assert program.last_line == "the end"
    log.write_bytes(b"a\n\x1b[31mred\x1b[0m\n")
    assert program.last_line == r"\x1b[31mred\x1b[0m"
