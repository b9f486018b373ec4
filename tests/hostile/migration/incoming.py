"""A VM's process that waits for a migration, anew for each cell."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from tests.hostile.cell import ANSWER, Cell, ClosedByPeer, NotOk, Verdict
from tests.hostile.migration.sections import Section, parse
from tests.hostile.migration.vm import DEADLINE, VmProcess

if TYPE_CHECKING:
    from pathlib import Path

    from emu.migration.tls import Credentials

#: Characters of the reason that a side may report for the end of a migration.
REASON = 1000
ENDED = ("completed", "failed", "cancelled")
_CHUNK = 1 << 20


class Incoming:
    """The process; cells run on it one after another.

    Attributes:
        folder: of its files.
        owned: of the cell that runs.
        uri: where it waits.
        credentials: of the destination's TLS in this cell, before it waits.
        disks: what the destination compares the source's disks with, likewise.
    """

    #: The stream of a migration that succeeded, for all of them.
    recorded: ClassVar[list[Section]] = []

    def __init__(self, folder: Path, _neighbour_limit: float | None) -> None:
        self.folder = folder
        self.owned = ExitStack()
        self.uri = ""
        self.credentials: Credentials | None = None
        self.disks: dict[str, object] | None = None
        self._vm = VmProcess(folder, "destination")
        with ExitStack() as started:
            started.callback(self._vm.close)
            self.listen()
            if Incoming.recorded:
                self.play(*(s.raw() for s in Incoming.recorded), close=False)
            else:
                Incoming.recorded = self._record()
            self.outcome()
            self.release()
            self._before = self._vm.process.footprint()
            started.pop_all()

    def listen(self) -> None:
        """Have the process create its VM, and wait for a source."""
        tls = None if self.credentials is None else list(self.credentials)
        path = self.folder / "stream"
        uri = f"unix:{path}" if tls is None else "tcp:127.0.0.1:0"
        self._vm.create()
        self._vm.qmp.forget_events()
        self.uri = self._vm.ask("migrate-incoming", uri=uri, tls=tls, disks=self.disks)["uri"]

    def _record(self) -> list[Section]:
        """Have a real source migrate to the process, through a relay that keeps what it sends."""
        listener = socket.socket(socket.AF_UNIX)
        path = str(self.folder / "relay")
        listener.bind(path)
        listener.listen()
        listener.settimeout(ANSWER)
        source = VmProcess(self.folder, "source")
        with closing(listener), closing(source):
            source.create()
            source.ask("x-start")
            source.ask(
                "migrate",
                uri=f"unix:{path}",
                strategy="prewired",
                options={},
                between={"stats": []},
            )
            there, _ = listener.accept()
            with there, self.connect() as here:
                back = threading.Thread(target=_copy, args=(here, there), daemon=True)
                back.start()
                data = _copy(there, here)
                back.join(ANSWER)
            ended = source.qmp.migration_end(ENDED, ANSWER)
            if ended["status"] != "completed":
                raise NotOk(f"the recorded migration has failed: {ended}")
        return parse(data)

    def run(self, cell: Cell) -> Verdict:
        """Try a cell; see `Cell`."""
        start = time.monotonic()
        complaint = ""
        try:
            self._try(cell)
        except ClosedByPeer:
            complaint = "the process has closed its monitor"
        except (NotOk, OSError) as reason:
            complaint = str(reason)
        complaint = self._vm.complaint() or complaint
        return Verdict(cell, complaint, time.monotonic() - start, 0.0)

    def _try(self, cell: Cell) -> None:
        self.credentials = self.disks = None
        with self.owned:
            cell.attack(self)
            if self.uri:
                self.outcome()
        self.release()
        self._compare_footprint()

    def connect(self) -> socket.socket:
        """A connection as a source makes it."""
        kind, _, address = self.uri.partition(":")
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(ANSWER)
            sock.connect(address)
        else:
            host, _, port = address.rpartition(":")
            sock = socket.create_connection((host, int(port)), ANSWER)
        self.owned.callback(sock.close)
        return sock

    def play(self, *parts: bytes, close: bool = True) -> socket.socket:
        """Send the parts on a new connection as far as they are read, and perhaps close it."""
        sock = self.connect()
        with suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        if close:
            sock.close()
        return sock

    def outcome(self, *expected: str, timeout: float = 2 * ANSWER) -> Any:
        """What the process reports of the migration, once.

        Raises:
            NotOk: it reports nothing in time, something else than expected, or no clear reason.
        """
        self.uri = ""
        try:
            ended = self._vm.qmp.migration_end(ENDED, timeout)
        except TimeoutError:
            raise NotOk(f"the migration has not ended after {timeout:g} s") from None
        reason = ended.get("error-desc", "")
        if expected and ended["status"] not in expected:
            raise NotOk(f"the migration has {ended['status']}: {reason[:200]}")
        check_reason(ended)
        return ended

    def release(self) -> None:
        """Have the process end the migration and close its VM, whatever state it is in."""
        self._vm.ask("x-release")

    def await_guest(self) -> None:
        """Let a VM that has arrived run for a moment, and have its process answer.

        A guest whose memory is wrong may fail; its process may not.
        """
        for _ in range(5):
            time.sleep(0.01)
            self._vm.ask("query-status")
            self._vm.qmp.ask("x-stats")

    def _compare_footprint(self) -> None:
        end = time.monotonic() + ANSWER / 4
        while more := self._vm.process.footprint().exceeds(self._before):
            if time.monotonic() > end:
                raise NotOk(more)
            time.sleep(0.01)

    def end(self) -> str:
        """SIGTERM; the process of a VM has no handler for it."""
        self._vm.close()
        return ""

    def discard(self) -> None:
        """Kill everything."""
        self._vm.close()


def check_reason(ended: dict[str, Any]) -> None:
    """Check that a migration that has not completed has a reason, which is one clear line.

    Raises:
        NotOk: it has none, or it is long, or has characters that do not print.
    """
    reason = ended.get("error-desc", "")
    if ended["status"] == "failed" and not reason:
        raise NotOk("the migration has failed without a reason")
    if len(reason) > REASON:
        raise NotOk(f"the reason has {len(reason)} characters: {reason[:80]}")
    if not reason.isprintable():
        raise NotOk(f"the reason does not print: {reason[:200]!r}")


def _copy(source: socket.socket, target: socket.socket) -> bytes:
    """Relay until the end; what was relayed."""
    data = bytearray()
    with suppress(OSError):
        while part := source.recv(_CHUNK):
            data += part
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    return bytes(data)


#: Seconds after which a side that hears nothing has to have given up: the memory has a limit of one
#: deadline for each device, and one more.
SILENCE = 8 * DEADLINE + ANSWER
