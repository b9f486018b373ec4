"""`emu attach` with a disk behind a relay, a NIC that has to go on, and its QMP socket."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from tests.hostile.cell import ANSWER, Cell, ClosedByPeer, NotOk, Verdict
from tests.hostile.process import Process
from tests.hostile.vm.qmp import QmpClient
from tests.hostile.vm.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path

#: Lines that a cell may have the command print: a device is lost, and has a back-end again.
LINES = 8
_IMAGE_BYTES = 16 << 20


class Attached:
    """The command; cells run on it one after another.

    Attributes:
        folder: of its files.
        relay: the disk's back-end, whose replies a cell may change.
        owned: of the cell that runs.
    """

    def __init__(self, folder: Path, _neighbour_limit: float | None) -> None:
        disk, nic, back = (str(folder / name) for name in ("disk.sock", "nic.sock", "back.sock"))
        self.folder = folder
        image = folder / "disk.img"
        image.touch()
        os.truncate(image, _IMAGE_BYTES)
        self._owned = ExitStack()
        self.owned = ExitStack()
        blk = ("backends.blk", "--socket-path", back, "--blk-file", str(image), "--num-queues", "2")
        net = ("backends.net", "--socket-path", nic, "--num-queues", "2")
        for argv in (blk, net):
            process = Process([sys.executable, "-m", *argv], folder, ready=True)
            self._owned.callback(process.kill)
        self.relay = Relay(disk, back)
        self._owned.callback(self.relay.close)
        self.qmp = str(folder / "qmp.sock")
        self._command = ("emu.cli", "attach", "--blk", disk, "--net", nic, "--scratch", "-q")
        self._start()

    def _start(self) -> None:
        argv = [sys.executable, "-m", *self._command, "--qmp", self.qmp]
        self.process = Process(argv, self.folder)
        self._owned.callback(self.process.kill)
        self._await_progress("")
        self._before = self.process.footprint()

    def run(self, cell: Cell) -> Verdict:
        """Try a cell; see `Cell`."""
        start = time.monotonic()
        complaint = ""
        try:
            self._try(cell)
        except (NotOk, OSError) as reason:
            complaint = str(reason)
        if self.process.status is not None:
            last = (self.process.new_lines() or [""])[-1]
            complaint = f"the command has ended, status {self.process.status}: {last}"
        return Verdict(cell, complaint, time.monotonic() - start, 0.0)

    def _try(self, cell: Cell) -> None:
        with self.owned, suppress(ClosedByPeer):
            cell.attack(self)
        if self._status() == "postmigrate":
            # It has migrated, and must not go on here, too.
            wrong = self.process.end(statuses=(0, 1))
            if wrong:
                raise NotOk(wrong)
            self._start()
            return
        self._await_progress("the VM does not go on: ")
        self._compare_footprint()
        lines = self.process.new_lines()
        if any("Traceback" in line for line in lines):
            raise NotOk(f"a traceback: {lines[-1]}")
        if len(lines) > LINES:
            raise NotOk(f"{len(lines)} lines: {lines[0]}")

    def _compare_footprint(self) -> None:
        end = time.monotonic() + ANSWER / 4
        while more := self.process.footprint().exceeds(self._before):
            if time.monotonic() > end:
                raise NotOk(more)
            time.sleep(0.01)

    def _await_progress(self, what: str) -> None:
        """Both devices complete more requests, as a healthy QMP client sees it."""
        end = time.monotonic() + 2 * ANSWER
        before: tuple[int, int] | None = None
        while time.monotonic() < end and self.process.status is None:
            try:
                now = self._counters()
            except (OSError, ClosedByPeer, KeyError):
                time.sleep(0.05)
                continue
            before = before or now
            if now[0] > before[0] and now[1] > before[1]:
                return
            time.sleep(0.01)
        text = "; ".join(self.process.new_lines()) or f"{before} requests and packets"
        raise NotOk(f"{what}{text}")

    def _status(self) -> str | None:
        """As query-status has it, or None if QMP is not served at this moment."""
        try:
            client = QmpClient.connect(self.qmp)
            try:
                client.ask("qmp_capabilities")
                status: str = client.ask("query-status")["return"]["status"]
            finally:
                client.close()
        except (OSError, ClosedByPeer, KeyError):
            return None
        return status

    def _counters(self) -> tuple[int, int]:
        client = QmpClient.connect(self.qmp)
        try:
            client.ask("qmp_capabilities")
            client.ask("cont")  # a cell may have stopped it
            classes = client.ask("x-stats")["return"]["classes"]
        finally:
            client.close()
        return classes["blk"]["requests"], classes["net"]["packets"]

    def client(self) -> QmpClient:
        """A QMP client of the cell, which has read the greeting."""
        client = QmpClient.connect(self.qmp)
        self.owned.callback(client.close)
        return client

    def end(self) -> str:
        """SIGTERM; what was wrong with the command's end, or ""."""
        # Status 1: the disk has no back-end at that moment, or has failed a request.
        wrong = self.process.end(statuses=(0, 1))
        self._owned.close()
        return wrong

    def discard(self) -> None:
        """Kill everything."""
        self._owned.close()
