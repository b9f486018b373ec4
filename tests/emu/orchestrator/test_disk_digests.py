"""How far the guest's disk reader may read, and when."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from emu.config.plan import DiskFile
from emu.errors import EmuError, SignalError
from emu.orchestrator import disk_digests
from emu.orchestrator.disk_digests import (
    HELD_BACK,
    STEPS,
    DiskReader,
    host_digest,
)
from emu.orchestrator.signals import SignalWatcher
from emu.report.progress import LineProgress, SilentProgress
from tests.emu.fake_runs import disk_file

if TYPE_CHECKING:
    from pathlib import Path

    from emu.orchestrator.vm_host import VmHost

MIB = 1 << 20


class Reading:
    """A side whose guest reads an eighth of the disk between two queries."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def execute(self, _command: str, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Advance the position."""
        self._position = min(self._position + self._size // 8, self._size)
        done = self._position == self._size
        return {"position": self._position, "done": done, "sha256": "ab12"}


class Stalled(Reading):
    """A side whose guest stops to read at a half of the disk."""

    def execute(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Advance the position, up to there."""
        if 2 * self._position < self._size:
            return super().execute(command, arguments)
        return {"position": self._position, "done": False}


class LimitRecorder:
    """A side that records the limits."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def execute(self, _command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Record the limit."""
        self.limits.append(arguments["limit"])
        return {}


def test_the_limit_advances_step_by_step_but_not_to_the_end(tmp_path: Path) -> None:
    """So the guest reads before, during and after the blackout."""
    side = LimitRecorder()
    disk = DiskFile(tmp_path / "disk", 40 * MIB, writable=False)
    reader = DiskReader(disk, cast("VmHost", side))
    for _ in range(3 * STEPS):
        reader.advance()
    assert side.limits[0] == MIB
    assert side.limits == sorted(side.limits)
    assert side.limits[-1] == (40 - HELD_BACK) * MIB
    assert len(side.limits) == STEPS - HELD_BACK


def test_a_disk_smaller_than_a_step_waits_for_the_end_of_the_blackout(tmp_path: Path) -> None:
    """A limit is not beyond the disk, nor below 0."""
    side = LimitRecorder()
    DiskReader(DiskFile(tmp_path / "disk", 512, writable=False), cast("VmHost", side)).advance()
    assert side.limits == [0]


def test_the_position_of_the_reader_is_shown_with_the_total_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each quarter of the disk."""
    monkeypatch.setattr(disk_digests, "_POLL", 0.001)
    side = cast("VmHost", Reading(64 * MIB))
    reader = DiskReader(DiskFile(tmp_path / "disk", 64 * MIB, writable=False), side)
    out = io.StringIO()
    with SignalWatcher() as watcher:
        assert reader.finish(side, watcher, LineProgress(out)) == "ab12"
    expected = [f"  the guest has read {done} of 64 MiB of blk0" for done in (16, 32, 48)]
    assert out.getvalue().splitlines() == expected


@pytest.mark.parametrize(("side", "ends"), [(Reading, True), (Stalled, False)])
def test_a_guest_may_read_slowly_but_not_stop(
    side: type[Reading], ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two queries it has three quarters of the time that it may be without progress."""
    now, reading = [0.0], side(64 * MIB)
    execute = reading.execute

    def later(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        now[0] += 0.75 * disk_digests.STALL
        return execute(command, arguments)

    monkeypatch.setattr(reading, "execute", later)
    monkeypatch.setattr(disk_digests, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(disk_digests, "_POLL", 0.0)
    vm = cast("VmHost", reading)
    reader = DiskReader(DiskFile(tmp_path / "disk", 64 * MIB, writable=False), vm)
    with SignalWatcher() as watcher:
        if ends:
            assert reader.finish(vm, watcher, SilentProgress()) == "ab12"
            return
        with pytest.raises(EmuError, match=f"the guest's read of blk0 stopped at {32 * MIB} bytes"):
            reader.finish(vm, watcher, SilentProgress())


def test_the_hosts_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    """Of a file that needs more than one read."""
    content = os.urandom(3 * MIB + 512)
    disk = disk_file(tmp_path / "disk", content)
    out = io.StringIO()
    with SignalWatcher() as watcher:
        assert host_digest(disk, watcher, LineProgress(out)) == hashlib.sha256(content).hexdigest()
    assert out.getvalue() == f"read {tmp_path / 'disk'} on the host, 3 MiB\n"


def test_a_long_digest_reports_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first piece on, not only when it is nearly done."""
    monkeypatch.setattr(disk_digests, "_REPORT", MIB)
    disk = disk_file(tmp_path / "disk", bytes(4 * MIB))
    out = io.StringIO()
    with SignalWatcher() as watcher:
        host_digest(disk, watcher, LineProgress(out))
    lines = [re.sub(r"\d+ s left", "x left", line) for line in out.getvalue().splitlines()[1:]]
    assert lines == [f"  {done} MiB of 4 MiB, x left" for done in (1, 2, 3, 4)]


def test_a_long_digest_can_be_interrupted(tmp_path: Path) -> None:
    """It checks for signals between two reads."""
    disk = disk_file(tmp_path / "disk", bytes(4 * MIB))
    with SignalWatcher() as watcher:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SignalError):
            host_digest(disk, watcher, SilentProgress())
