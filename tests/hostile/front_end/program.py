"""A back-end program with two devices: one is attacked, its neighbour has to go on."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from backends.line_limit import BURST
from tests.backends.served import KINDS
from tests.hostile.cell import ANSWER, Cell, ClosedByPeer, NotOk, Verdict
from tests.hostile.front_end.peer import HostileRing, Memory, Peer
from tests.hostile.neighbour import Neighbour, Worker
from tests.hostile.process import Process
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    import signal
    from pathlib import Path

#: Seconds that the program is watched for, while the hostile front-end does nothing.
WATCH = 0.05
#: The share of that time that it may compute.
BUSY = 0.6
#: Lines for each connection of a cell: how it ended, and the state of its ring.
LINES = 2
#: Lines at most: the program leaves out the rest, and prints that it does.
MOST_LINES = BURST + 2


class Attack:
    """What a cell has at its disposal: connections, memory, rings. All is closed at its end."""

    def __init__(self, program: BackEndProgram) -> None:
        self.program = program
        self.kind = program.kind
        self.owned = ExitStack()
        self.connections = 0

    def connect(self) -> Peer:
        """A connection on which nothing has been sent."""
        self.connections += 1
        return Peer(self.program.victim, self.owned)

    def negotiated(self, **wanted: int) -> Peer:
        """A connection after feature negotiation."""
        return self.connect().negotiate(**wanted)

    def memory_file(self, size: int) -> int:
        """A memfd of that size."""
        fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.owned.callback(os.close, fd)
        os.ftruncate(fd, size)
        return fd

    def grow(self) -> None:
        """Add a sector to what is behind the device, where that is a file."""
        if self.program.image is not None:
            os.truncate(self.program.image, self.program.image.stat().st_size + 512)

    def memory(self, peer: Peer) -> Memory:
        """Guest memory, which the device has been told of."""
        from vhost_user.messages import FrontendRequest

        memory = Memory(self.owned)
        peer.order(FrontendRequest.SET_MEM_TABLE, *memory.table())
        return memory

    def ring(self, peer: Peer, size: int = 16, index: int | None = None) -> HostileRing:
        """A ring in guest memory, not set up yet; by default one that takes requests."""
        memory = self.memory(peer)
        return HostileRing(peer, memory, self.kind.ring if index is None else index, size)


class BackEndProgram:
    """The program of one device kind; cells of that kind run on it one after another.

    Args:
        name: of the device kind.
        folder: for its files.
        neighbour_limit: seconds that a round of the neighbour may take; None to permit any time
            within which it answers at all.
    """

    def __init__(self, name: str, folder: Path, neighbour_limit: float | None) -> None:
        self.kind = KINDS[name]()
        self._limit = neighbour_limit
        self._folder = folder
        self.victim = str(folder / "victim.sock")
        other = str(folder / "neighbour.sock")
        command = [sys.executable, "-m", self.kind.module, "--num-queues", str(self.kind.rings)]
        for path, where in ((self.victim, "a"), (other, "b")):
            files = folder / where
            files.mkdir(exist_ok=True)
            command += ["--socket-path", path, *self.kind.options(files)]
        self.image = next((path for path in (folder / "a").glob("*.img")), None)
        self.process = Process(command, folder, ready=True)
        self._neighbour = Neighbour(self.kind, other, self.process)
        self._serve_again()  # starts threads and caches
        self._neighbour.check()
        self._before = self.process.footprint()

    def run(self, cell: Cell) -> Verdict:
        """Try a cell; see `Cell`."""
        start = time.monotonic()
        self._neighbour.take_longest()
        complaint, delay = "", 0.0
        try:
            delay = self._try(cell)
        except NotOk as reason:
            complaint = str(reason)
        except OSError as error:
            complaint = f"the attack cannot go on: {error}"
        if self.process.status is not None and not cell.sigterm:
            last = (self.process.new_lines() or [""])[-1]
            complaint = f"the program has ended, status {self.process.status}: {last}"
        return Verdict(cell, complaint, time.monotonic() - start, delay)

    def _try(self, cell: Cell) -> float:
        attack = Attack(self)
        with attack.owned:
            with suppress(ClosedByPeer):
                cell.attack(attack)
            if cell.sigterm:
                wrong = self.process.end()
                if wrong:
                    raise NotOk(wrong)
                return 0.0
            self._watch()
        delay = self._neighbour.take_longest()
        self._neighbour.check()
        delay = max(delay, self._neighbour.take_longest())
        if self._limit is not None and delay > self._limit:
            raise NotOk(f"a round of the neighbour took {delay * 1e3:.0f} ms")
        self._serve_again()
        self._compare_footprint()
        self._read_lines(attack.connections)
        return delay

    def _watch(self) -> None:
        """The hostile front-end is still connected: the program must not compute for nothing."""
        self._neighbour.rest(True)
        try:
            for _ in range(3):
                before, start = self.process.processor_time(), time.monotonic()
                time.sleep(WATCH)
                took = self.process.processor_time() - before
                if took < BUSY * (time.monotonic() - start):
                    return
        except OSError:
            return  # it has ended
        finally:
            self._neighbour.rest(False)
        raise NotOk("computes all the time although no front-end asks it for anything")

    def _serve_again(self) -> None:
        """The attacked device serves its next front-end."""
        try:
            worker = Worker(self.kind, self.victim)
            try:
                worker.round()
            finally:
                worker.close()
        except (VhostUserError, OSError, TimeoutError, AssertionError) as error:
            raise NotOk(f"its next front-end is not served: {error}") from error

    def _compare_footprint(self) -> None:
        end = time.monotonic() + ANSWER / 4
        while more := self.process.footprint().exceeds(self._before):
            if time.monotonic() > end:
                raise NotOk(more)
            time.sleep(0.005)

    def _read_lines(self, connections: int) -> None:
        lines = self.process.new_lines()
        if any("Traceback" in line for line in lines):
            raise NotOk(f"a traceback: {lines[-1]}")
        if len(lines) > max(LINES * connections, MOST_LINES):
            raise NotOk(f"{len(lines)} lines for {connections} connections: {lines[0]}")

    def end(self) -> str:
        """SIGTERM; what was wrong with the program's end, or ""."""
        self._neighbour.close()
        wrong = self.process.end()
        self.process.kill()
        return wrong

    def discard(self) -> None:
        """Kill the program, after a cell that was not ok."""
        self.process.kill()
        self._neighbour.close()

    def signal(self, signum: signal.Signals) -> None:
        """Send the program a signal."""
        self.process.signal(signum)
