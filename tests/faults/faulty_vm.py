"""The process of a VM, which has one fault on request when it is a destination.

``faulty_vm.py --fault-file FILE --monitor-fd N``. A point is passed when a section of the stream
has come (``after HELLO``), is about to be sent (``before PREPARED``), or has been
(``after RUNNING``), and just before the vCPUs go on (``before resume``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[2]))

from emu.errors import MigrationError, Operation
from emu.migration.stream import Kind, MigrationStream
from emu.vm.vm import Vm
from emu.vm_process import __main__ as vm_process
from tests.faults.switch import FaultSwitch

if TYPE_CHECKING:
    from collections.abc import Callable

NOISE = bytes(range(255, 191, -1))


class FaultInjector:
    """Called at each point; injects the fault that is due there."""

    def __init__(self, switch: FaultSwitch) -> None:
        self._switch = switch
        self._stream: MigrationStream | None = None

    def pass_by(self, point: str, stream: MigrationStream | None = None) -> None:
        """Do nothing, do not return, raise, or corrupt the stream, as the switch selects."""
        if stream is not None:
            self._stream = stream
        fault = self._switch.passes(point)
        if fault is None:
            return
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
            # The signal may stop another thread first; this one does not continue.
            threading.Event().wait()
        elif fault == "refuse":
            raise MigrationError(Operation.DESTINATION, f"{point}: an error that the test injects")
        elif self._stream is not None:
            # The source may have disconnected already, which is not a failure of this side.
            with contextlib.suppress(OSError):
                self._corrupt(self._stream._sock, fault)

    def _corrupt(self, sock: socket.socket, fault: str) -> None:
        if fault == "garbage":
            sock.send(NOISE)
        elif fault == "close":
            sock.shutdown(socket.SHUT_RDWR)

    def install(self) -> None:
        """Insert the points into the code of a destination."""
        receive, send = MigrationStream.receive, MigrationStream.send
        resume_incoming = Vm.resume_incoming

        def received(stream: MigrationStream) -> tuple[Kind, int, bytes]:
            section = receive(stream)
            self.pass_by(f"after {section[0].name}", stream)
            return section

        def sent(stream: MigrationStream, kind: Kind, *payload: Any) -> None:
            self.pass_by(f"before {kind.name}", stream)
            send(stream, kind, *payload)
            self.pass_by(f"after {kind.name}", stream)

        def taken_off(vm: Vm, *deadline: Any) -> int:
            self.pass_by("before resume")
            return resume_incoming(vm, *deadline)

        _replace(MigrationStream, receive=received, send=sent)
        _replace(Vm, resume_incoming=taken_off)


def _replace(where: type, **methods: Callable[..., Any]) -> None:
    for name, method in methods.items():
        setattr(where, name, method)


def main() -> None:
    """Entry point."""
    option, path, *arguments = sys.argv[1:]
    if option != "--fault-file":
        raise SystemExit("usage: faulty_vm.py --fault-file FILE --monitor-fd N")
    FaultInjector(FaultSwitch(path)).install()
    vm_process.main(arguments)


if __name__ == "__main__":
    main()
