"""A program with two devices: one to attack, and one that has to go on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.backends.served import program
from tests.timeouts import TIMEOUT
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends.contract.given import MakeRig
    from tests.backends.rig import Rig
    from tests.backends.served import Kind


class Neighbours:
    """A program with two devices, and a front-end that uses the second one.

    Attributes:
        second: that front-end.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], paths: list[str], make_rig: MakeRig, kind: Kind
    ) -> None:
        self._process = process
        self._paths = paths
        self._make_rig = make_rig
        self._kind = kind
        self._number = 0
        self.second = self.front_end(1).start()
        kind.prepare(self.second)

    def front_end(self, device: int) -> Rig:
        """A front-end of a device, with nothing set up."""
        return self._make_rig(FrontendConnection.connect(self._paths[device], name="program"))

    def check(self) -> None:
        """The second device serves a request."""
        self.second.free_all()
        self._kind.work(self.second, self._number)
        self._number += 1
        assert self._process.poll() is None

    def lines(self) -> list[str]:
        """End the program; what it has written."""
        self._process.terminate()
        assert self._process.wait(TIMEOUT) == 0
        assert self._process.stderr is not None
        return self._process.stderr.read().decode().splitlines()


@contextmanager
def neighbours(kind: Kind, folder: Path, make_rig: MakeRig, *more: str) -> Iterator[Neighbours]:
    """The program with a device of that kind at each of two sockets."""
    paths = [str(folder / "first.sock"), str(folder / "second.sock")]
    other = folder / "other"
    other.mkdir()
    arguments = [*kind.arguments(folder), *kind.options(other), *more]
    with program(arguments, "--socket-path", paths[0], "--socket-path", paths[1]) as process:
        yield Neighbours(process, paths, make_rig, kind)
