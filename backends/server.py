"""The socket of a device: accepts one front-end at a time, and the next when it disconnects."""

from __future__ import annotations

import gc
import logging
import socket
import time
from typing import TYPE_CHECKING

from backends.control import Control, ControlOptions
from backends.device import BackendDevice
from backends.isolation import describe
from backends.limits import BACKLOG
from vhost_user import channel, unix_socket
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.virtio_device import VirtioDevice

#: Nanoseconds until a front-end that could not be accepted is tried again.
ACCEPT_RETRY_NS = 100_000_000
log = logging.getLogger("backends")


class ServerError(ValueError):
    """A socket cannot be made or used; the text is for the user."""


def listen(path: str) -> unix_socket.BoundSocket:
    """A listening unix socket with mode 0600; see `vhost_user.unix_socket.bind`.

    Raises:
        ServerError: the path is too long, in use, not a socket, or cannot be created.
    """
    listener = bind(path, socket.SOCK_STREAM)
    listener.listen(BACKLOG)
    return listener


def check_path(path: str) -> None:
    """Raises `ServerError` when the path is too long for a socket."""
    try:
        channel.check_path(path, path)
    except UsageError as error:
        raise ServerError(error.text) from error


def bind(path: str, kind: socket.SocketKind) -> unix_socket.BoundSocket:
    """A unix socket at a path; see `vhost_user.unix_socket.bind`.

    Raises:
        ServerError: the path is too long, in use, not a socket, or cannot be created.
    """
    check_path(path)
    try:
        return unix_socket.bind(path, kind)
    except unix_socket.PathTakenError as error:
        raise ServerError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ServerError(f"{path}: cannot be made: {error.strerror}") from error


def inherit(fd: int) -> socket.socket:
    """The socket that the program inherited; connected or listening.

    Raises:
        ServerError: it is not a unix stream socket, or neither listening nor connected.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ServerError(f"--fd {fd}: {error.strerror}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise ServerError(f"--fd {fd}: is not a unix stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        try:
            sock.getpeername()
        except OSError as error:
            sock.detach()
            raise ServerError(
                f"--fd {fd}: is neither listening nor connected: {error.strerror}"
            ) from error
    return sock


class DeviceServer:
    """Serves a device on a socket.

    Args:
        virtio: the device.
        sock: a listening socket, or one that is connected to a front-end.
        options: how the control plane behaves.
        on_end: called when the front-end has disconnected of a socket that was connected: no other
            can come.

    Attributes:
        device: the back-end device that is served; this server observes it.
    """

    def __init__(
        self,
        virtio: VirtioDevice,
        sock: socket.socket,
        options: ControlOptions,
        *,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.device = BackendDevice(virtio, self)
        self._loop = self.device.loop
        self._options = options
        self._on_end = on_end
        self._control: Control | None = None
        self._listener: socket.socket | None = None
        self._short = False  # of descriptors or memory, since a front-end was accepted
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.settimeout(0)
            self._listener = sock
            self._wait()
        else:
            self._control = Control(self.device, sock, options, self._disconnected)

    # What the device reports (`DeviceObserver`)

    def ring_started(self, ring: int) -> None:
        """See `DeviceObserver.ring_started`."""
        del ring
        if self._control is not None:
            self._control.ring_started()

    def ring_idle(self, ring: int) -> None:
        """See `DeviceObserver.ring_idle`."""
        del ring
        if self._control is not None:
            self._control.ring_idle()

    def ring_failed(self, ring: int, error: Exception) -> None:
        """See `DeviceObserver.ring_failed`."""
        log.error("%s: ring %d: %s", self.device.name, ring, describe(error))

    def device_failed(self, error: Exception) -> None:
        """See `DeviceObserver.device_failed`: the connection is closed, if there is one."""
        if self._control is None:
            log.error("%s: %s", self.device.name, describe(error))
        else:
            self._control.fail(error)

    def config_changed(self) -> None:
        """See `DeviceObserver.config_changed`."""
        if self._control is not None:
            self._control.config_changed()

    # Connections

    def stop_waiting(self) -> None:
        """From any thread: the loop is to end, so it does not wait for pages any more."""
        control = self._control
        if control is not None:
            control.stop_waiting()

    def close(self) -> None:
        """Close the connection and the socket, which removes its path; the loop has ended."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.device.close()

    def _wait(self) -> None:
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), self._on_connection)

    def _on_connection(self, _events: int) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has disconnected already
        except OSError as error:
            self._accept_later(listener, error)
            return
        # The next front-end waits in the backlog until this one has disconnected.
        self._loop.unwatch(listener.fileno())
        self._short = False
        try:
            self._control = Control(self.device, sock, self._options, self._disconnected)
        except Exception:
            sock.close()
            self._wait()
            raise

    def _accept_later(self, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: the front-end waits in the backlog until there are some.

        No event reports that, so the socket is tried again after a while.
        """
        if not self._short:
            self._short = True
            name, why = self.device.name, error.strerror
            log.error("%s: a front-end waits: it cannot be accepted: %s", name, why)
        self._loop.unwatch(listener.fileno())
        self._loop.at(time.monotonic_ns() + ACCEPT_RETRY_NS, self._wait)

    def _disconnected(self) -> None:
        self._control = None
        self._wait()
        if self._on_end is not None and self._listener is None:
            self._on_end()
        # The programs run without automatic collection; no front-end waits now.
        gc.collect()
