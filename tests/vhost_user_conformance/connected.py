"""A back-end program of this project, as cases see it."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from tests.timeouts import TIMEOUT
from vhost_user.features import SPEC
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.peer.program import PeerProgram, connect
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def connected(folder: Path, device: str, *options: str) -> Iterator[BackEnd]:
    """Start the program for a class of devices, and connect to it.

    Args:
        folder: for its socket and its log.
        device: the class.
        options: further ones of the program.
    """
    path = folder / "s"
    words = shlex.join([sys.executable, "-m", f"backends.{device}", *options])
    program = PeerProgram(f"{words} --socket-path {{socket}}", path, folder / "log")
    program.start()

    def open_wire() -> Wire:
        return Wire(connect(path, timeout=TIMEOUT, gone=lambda: ""), {}, TIMEOUT)

    try:
        with closing(BackEnd(open_wire(), device, SPEC)) as made:
            made.program, made.open_wire = program, open_wire
            yield made
    finally:
        program.stop()
