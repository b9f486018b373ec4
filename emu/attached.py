"""A VM on back-ends that somebody else has started, in this process: `emu attach`.

Its monitor listens at a path, and serves one client after the other, as QEMU's does.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from emu import vmfile
from emu.errors import MonitorError, PreflightError
from emu.monitor.server import MonitorServer
from emu.vm_control import make_control
from emu.vm_process import commands

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from emu.monitor.protocol import JsonObject
    from emu.shape import VmSpec

#: What a VM process is told by the run that it belongs to, and nobody else has to say.
_INTERNAL = {"x-create", "x-start", "x-release", "migrate-incoming"}


class AttachPlan(NamedTuple):
    """What `emu attach` is asked for.

    Attributes:
        spec: shape of the VM.
        backends: socket path of each device's back-end, by the device's name.
        accel: ``auto``, ``soft`` or ``kvm``.
        load: ``none``, ``light`` or ``heavy``.
    """

    spec: VmSpec
    backends: Mapping[str, str]
    accel: str
    load: str


class AttachedVm:
    """The VM and its monitor. A context manager: at its end the devices are stopped, too.

    Args:
        plan: which VM.
        monitor: where its monitor listens, or None for none.

    Attributes:
        over: an event that is set when a client of the monitor said ``quit``.

    Raises:
        EmuError, VhostUserError, OSError: there can be no such VM, or a back-end is not there.
    """

    def __init__(self, plan: AttachPlan, monitor: Path | None) -> None:
        self.over = threading.Event()
        self._path = monitor
        self._listener: socket.socket | None = None
        self._server: MonitorServer | None = None
        self._control = make_control(self._emit)
        self._thread = threading.Thread(target=self._serve, name="monitors", daemon=True)
        # The monitor comes first: who connects to it finds a VM that is about to start.
        if monitor is not None:
            self._listener = _listen(monitor)
        self._created = self._control.create(
            name="A",
            spec=vmfile.spec_to_json(plan.spec),
            accel=plan.accel,
            costs="native",
            load=plan.load,
            backends=dict(plan.backends),
        )

    @property
    def accel(self) -> str:
        """``soft`` or ``kvm``."""
        return str(self._created["accel"])

    def __enter__(self) -> Self:
        try:
            self._control.start()
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()

    def stats(self) -> JsonObject:
        """See `VmControl.stats`."""
        return self._control.stats()

    def _close(self) -> None:
        if self._listener is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        server = self._server
        if server is not None:
            server.close()
        if self._thread.ident is not None:
            self._thread.join()
        with contextlib.suppress(Exception):  # the user wants this to end, whatever a device says
            self._control.stop()
        self._control.close()

    def _emit(self, name: str, data: JsonObject) -> None:
        server = self._server
        if server is not None:
            server.emit(name, data)

    def _serve(self) -> None:
        """One client after the other, until there is no listener any more."""
        offered = {
            name: handler
            for name, handler in commands(self._control).items()
            if name not in _INTERNAL
        }
        while self._listener is not None and not self.over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = MonitorServer(client, offered)
            self._server = server
            with contextlib.suppress(MonitorError):
                server.serve()
            server.close()
            self._server = None
            if server.told_to_quit:
                self.over.set()


def _listen(path: Path) -> socket.socket:
    """A listening socket.

    Raises:
        PreflightError: there can be none; the text says why.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            path.unlink()
        listener.bind(str(path))
        listener.listen(4)
    except OSError as error:
        listener.close()
        raise PreflightError(f"--qmp {path}: {error.strerror or error}") from None
    return listener
