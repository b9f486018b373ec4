"""A back-end program of this project, whose device has one fault on request.

``faulty_backend.py blk|net --fault-file FILE ...`` takes all options of ``vhost-emu-blk`` or
``vhost-emu-net``. The fault and the message it strikes at come through the file
(`tests.faults.switch`), while the program runs; until then, and after it, the device is as good
as any.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[2]))

from backends import blk, net, server
from backends.control import Control
from backends.program import run_command
from tests.faults.switch import FaultSwitch
from vhost_user.errors import FrontendError
from vhost_user.messages import wire_name

if TYPE_CHECKING:
    from vhost_user.messages import Request, RequestRun

PROGRAMS = {"blk": blk, "net": net}
#: A reply by its flags, to a message that was not sent, and shorter than its size field.
WRONG_REPLY = struct.pack("<III", 39, 5, 4096) + b"?!?"
NO_MESSAGE = bytes(range(255, 191, -1))


class FaultyControl(Control):
    """A connection that is served correctly, except for one message."""

    switch: FaultSwitch

    def _serve_run(self, run: RequestRun) -> bool:
        del run
        return False  # the fault is at a single message

    def _serve(self, request: Request) -> None:
        fault = self.switch.passes(wire_name(request.id))
        if fault is None:
            super()._serve(request)
            return
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            # The loop's thread: neither the control socket nor the rings are polled again.
            threading.Event().wait()
        self._device.close_later(request.fds)
        if fault == "refuse":
            self._refuse(request, FrontendError("is refused, as the test wants it"))
        elif fault == "garbage":
            self._send_garbage(request)
        elif fault == "close":
            self._disconnect()

    def _send_garbage(self, request: Request) -> None:
        """Send bytes that are not a message, or, in place of a reply, that of another request."""
        noise = WRONG_REPLY if not self._connection.session.can_refuse(request) else NO_MESSAGE
        self._connection._channel.queue(noise, ())
        self._flush()


def main() -> None:
    """Entry point."""
    kind, option, path, *arguments = sys.argv[1:]
    if option != "--fault-file":
        raise SystemExit("usage: faulty_backend.py blk|net --fault-file FILE ...")
    FaultyControl.switch = FaultSwitch(path)
    setattr(server, "Control", FaultyControl)  # noqa: B010  it is no name that the module exports
    program = PROGRAMS[kind]
    run_command(program.command, program.NAME, program.CAPABILITIES, arguments)


if __name__ == "__main__":
    main()
