"""The bound of what front-ends can have a program print."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from backends.line_limit import BURST, SECONDS, LineLimit
from tests.backends.programs import RNG, rig_at
from tests.backends.served import program
from vhost_user.errors import Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from pathlib import Path


class Printed:
    """What passes the filter, at moments that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self._limit = LineLimit(lambda: self.now)

    def log(self, text: str) -> None:
        """Log a line."""
        record = logging.LogRecord("backends", logging.ERROR, "", 0, "%s", (text,), None)
        if self._limit.filter(record):
            self.lines.append(record.getMessage())


@pytest.mark.parametrize("line", ["disk: ring 1: bad", "disk, SET_VRING_NUM: bad", "disk; closed"])
def test_a_burst_passes_and_what_is_left_out_is_reported_once(line: str) -> None:
    printed = Printed()
    for _ in range(50):
        printed.log(line)
    assert printed.lines[:BURST] == [line] * BURST
    assert printed.lines[BURST:] == ["disk: more lines than one in 10 s are left out"]


def test_devices_do_not_use_up_each_others_lines() -> None:
    printed = Printed()
    for _ in range(50):
        printed.log("a: bad")
    printed.log("b: bad")
    assert printed.lines[-1] == "b: bad"


def test_lines_pass_again_with_time() -> None:
    printed = Printed()
    for _ in range(50):
        printed.log("a: bad")
    del printed.lines[:]
    printed.now = 2 * SECONDS
    for _ in range(50):
        printed.log("a: bad")
    assert printed.lines == ["a: bad"] * 2 + ["a: more lines than one in 10 s are left out"]


def test_a_program_limits_what_a_front_end_has_it_print(tmp_path: Path) -> None:
    path = str(tmp_path / "rng.sock")
    with program([*RNG, "--socket-path", path]) as process:
        with rig_at(path, 1) as rig:
            for _ in range(200):
                with pytest.raises(Refused):
                    rig.ack(F.SET_VRING_NUM, VringState(0, 3))
        process.terminate()
        process.wait()
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) <= BURST + 2
