"""A real back-end program that serves two devices: one that faults, and its neighbour."""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import json
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.backends.rig import Rig
from tests.backends.served import program
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import VhostUserError
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends.served import Kind

VICTIM, NEIGHBOUR = "victim", "neighbour"


class Neighbour:
    """Works on its device all the time, in a thread."""

    def __init__(self, kind: Kind, path: str) -> None:
        self.done = 0
        self.failure: Exception | None = None
        self._kind = kind
        self._path = path
        self._ending = False
        self._stop_next = False
        self._stops = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def goes_on(self) -> None:
        """Wait until it has done two more pieces of work, the second of which began after this."""
        before = self.done

        def did() -> bool:
            if self.failure is not None:
                raise self.failure
            return self.done >= before + 2

        wait_until(did, "the neighbour is served")

    def stops(self) -> None:
        """Wait until the stops of its rings have been answered, and it has gone on."""
        before, self._stop_next = self._stops, True
        wait_until(lambda: self.failure or self._stops > before, "the neighbour stops")
        self.goes_on()

    def close(self) -> None:
        self._ending = True
        self._thread.join(TIMEOUT)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._ending:
                # A rig has memory for some 200 pieces of work.
                rig = connect(self._path, self._kind)
                try:
                    self._work(rig)
                finally:
                    rig.close()
        except (AssertionError, TimeoutError, VhostUserError) as error:
            self.failure = error

    def _work(self, rig: Rig) -> None:
        rig.start()
        for number in range(150):
            if self._ending:
                return
            if self._stop_next:
                self._stop_next = False
                for ring in rig.rings:
                    ring.stop()
                self._stops += 1
                return
            if not number % 16:  # a NIC's driver has added buffers for 16 frames
                self._kind.prepare(rig)
            self._kind.work(rig, number)
            self.done += 1


def connect(path: str, kind: Kind) -> Rig:
    """A front-end that has negotiated."""
    connection = FrontendConnection.connect(path, name=path, timeout=TIMEOUT)
    try:
        return Rig(connection, kind.rings)
    except VhostUserError:
        connection.close()
        raise


class Pair:
    """The program, and the paths of its devices."""

    def __init__(self, process: subprocess.Popen[bytes], kind: Kind, folder: Path) -> None:
        self.process = process
        self.kind = kind
        self.folder = folder
        self.victim = str(folder / f"{VICTIM}.sock")
        self.neighbour = Neighbour(kind, str(folder / f"{NEIGHBOUR}.sock"))

    def serves_the_next(self) -> None:
        """Another front-end of the victim's device is served."""
        rig = connect(self.victim, self.kind)
        try:
            rig.start()
            self.kind.prepare(rig)
            self.kind.work(rig)
        finally:
            rig.close()


class Orders:
    """The other end of `tests.backends.isolation.injector`."""

    def __init__(self, sock: socket.socket) -> None:
        self._lines = sock.makefile("rw")

    def __call__(self, **order: object) -> Any:
        print(json.dumps(order), file=self._lines, flush=True)
        return json.loads(self._lines.readline())

    def close(self) -> None:
        self._lines.close()


def command(kind: Kind, folder: Path) -> list[str]:
    """The program's module and arguments: two devices of that kind."""
    arguments = [kind.module, "--num-queues", str(kind.rings)]
    for name in (VICTIM, NEIGHBOUR):
        (folder / name).mkdir()
        arguments += ["--socket-path", str(folder / f"{name}.sock"), *kind.options(folder / name)]
    return arguments


@contextmanager
def running(kind: Kind, folder: Path, *options: str) -> Iterator[Pair]:
    """The program with two devices, and these options."""
    with program([sys.executable, "-m", *command(kind, folder)], *options) as process:
        pair = Pair(process, kind, folder)
        try:
            yield pair
        finally:
            pair.neighbour.close()


@contextmanager
def running_injected(kind: Kind, folder: Path) -> Iterator[tuple[Pair, Orders]]:
    """The same, with an injector."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT)
    module = "tests.backends.isolation.injector"
    arguments = [sys.executable, "-m", module, str(theirs.fileno()), *command(kind, folder)]
    with ours, theirs, program(arguments, pass_fds=[theirs.fileno()]) as process:
        pair = Pair(process, kind, folder)
        orders = Orders(ours)
        try:
            yield pair, orders
        finally:
            orders.close()
            pair.neighbour.close()
