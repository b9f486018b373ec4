"""What the trials of bounds have in common: programs, front-ends, and what a program holds.

A trial is a function of a `Lab` and of the row's number. It goes beyond the bound, as a front-end
or its guest could, and asserts what the row says about that.
"""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

from tests.backends.rig import QEMU_ORDER, RamRegion, Rig, RigRing
from tests.backends.served import program
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.codec import VERSION, encode
from vhost_user.frontend import FrontendConnection
from vhost_user.memory import PAGE_SIZE
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.readiness import readable
from vhost_user.virtqueue import split_offsets

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from tests.backends.rig import RigOptions
    from tests.backends.served import Kind

GIB = 1 << 30

Trial = Callable[["Lab", int], None]
#: The trial of each row, by what the row bounds.
TRIALS: dict[str, Trial] = {}


def tries(what: str) -> Callable[[Trial], Trial]:
    """The function tries this row of the table."""

    def add(trial: Trial) -> Trial:
        assert what not in TRIALS, what
        TRIALS[what] = trial
        return trial

    return add


class Traced(NamedTuple):
    """A line of a program's trace: the time in nanoseconds, the event, and its fields."""

    time: int
    event: str
    device: str
    message: str


class Running:
    """A program with some devices of a kind.

    Attributes:
        process: the program.
        kind: what it serves.
        paths: the sockets of its devices.
        stats: the file of its counters.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        kind: Kind,
        devices: int,
        options: Sequence[str],
        pass_fds: Sequence[int],
    ) -> None:
        self.kind = kind
        self.paths = [str(folder / f"{n}.sock") for n in range(devices)]
        self.stats = str(folder / "stats")
        self._trace = folder / "trace"
        arguments = [sys.executable, "-m", kind.module, "--stats-file", self.stats]
        arguments += ["--trace-file", str(self._trace), "--trace-events", "vhost_user_backend_*"]
        if "--num-queues" not in options:
            arguments += ["--num-queues", str(kind.rings)]
        for number, path in enumerate(self.paths):
            own = folder / str(number)
            own.mkdir()
            arguments += ["--socket-path", path, *kind.options(own)]
        self.process: subprocess.Popen[bytes] = stack.enter_context(
            program(arguments, *options, pass_fds=pass_fds)
        )
        self._log = b""
        self._mark = 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The program does not run meanwhile; what waits for it is there at once afterwards."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        self.mark()
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def mark(self) -> None:
        """`traced` returns what comes from now on."""
        self._mark = self._trace.stat().st_size

    def traced(self) -> list[Traced]:
        with self._trace.open("rb") as file:
            file.seek(self._mark)
            lines = file.read().decode().splitlines()
        events = []
        for time, _, event, *fields in map(str.split, lines):
            values = dict(field.partition("=")[::2] for field in fields)
            seconds, micros = time.split(".")
            nanoseconds = (int(seconds) * 1_000_000 + int(micros)) * 1000
            events.append(Traced(nanoseconds, event, values["device"], values["message"]))
        return events

    def reads_before(self, message: F, last: F) -> int:
        """How many messages of one kind were read before the first of another kind."""
        reads = [each.message for each in self.traced() if each.event == "vhost_user_backend_read"]
        return reads[: reads.index(last.name)].count(message.name)

    def logs(self, text: str) -> None:
        """Wait until standard error has this text."""
        assert self.process.stderr is not None
        fd = self.process.stderr.fileno()

        def found() -> bool:
            if readable([fd], 0):
                self._log += os.read(fd, 65536)
            return text in self._log.decode()

        wait_until(found, f"{text!r} is reported")

    def resident(self) -> int:
        """Bytes of memory, without that of guests."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
        return int(fields["RssAnon"].split()[0]) * 1024

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


class Lab:
    """Where one trial runs."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.folder = folder
        self._programs = 0

    def run(
        self, kind: Kind, *options: str, devices: int = 1, pass_fds: Sequence[int] = ()
    ) -> Running:
        """Start a program."""
        self._programs += 1
        folder = self.folder / str(self._programs)
        folder.mkdir()
        return Running(self.stack, folder, kind, devices, options, pass_fds)

    def attach(
        self, running: Running, device: int = 0, rings: int = 0, **options: Unpack[RigOptions]
    ) -> Rig:
        """A front-end that has negotiated."""
        path = running.paths[device]
        connection = FrontendConnection.connect(path, name=path, timeout=TIMEOUT)
        rig = Rig(connection, rings or running.kind.rings, **options)
        self.stack.callback(rig.close)
        return rig

    def raw(self, running: Running, device: int = 0) -> socket.socket:
        """A socket that the program has accepted."""
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(TIMEOUT)
        sock.connect(running.paths[device])
        sock.sendall(encode(F.GET_FEATURES, VERSION, None))
        assert len(sock.recv(64)) == 20
        return sock

    def ram(self, rig: Rig, gpa: int, size: int) -> RamRegion:
        """One more region of guest memory."""
        ram = RamRegion(gpa, size, 0x7D00_0000_0000 + gpa)
        self.stack.callback(ram.close)
        rig.add_mem_reg(ram)
        return ram

    def ring(self, rig: Rig, index: int, size: int) -> RigRing:
        """A started ring of any size, in a region of its own, instead of the rig's."""
        gpa = (8 + index) * GIB
        end = split_offsets(size).end
        ram = self.ram(rig, gpa, -(-end // PAGE_SIZE) * PAGE_SIZE)
        ring = RigRing(rig, index, event_idx=bool(rig.features >> 29 & 1), size=size, ram=ram)
        self.stack.callback(ring.close)
        ring.set_up(QEMU_ORDER)
        return ring


def signals(rig: Rig, ring: RigRing, completions: int) -> int:
    """How often the driver is interrupted for the chains that it has added."""
    with suppress(BlockingIOError):
        os.eventfd_read(ring.call_fd)
    assert ring.driver.publish()
    ring.kick()
    return interrupts(rig, ring, completions)


def interrupts(rig: Rig, ring: RigRing, completions: int) -> int:
    """How often the driver is interrupted for that many completions; without event index."""
    done = 0

    def all_done() -> bool:
        nonlocal done
        while ring.driver.pop() is not None:
            done += 1
        return done >= completions

    wait_until(all_done, f"{completions} chains are completed")
    rig.call(Request(F.GET_FEATURES))  # the turn of the last interrupt has ended
    return os.eventfd_read(ring.call_fd)
