"""Reconnects devices: a device that has lost its back-end is started on the next one.

When a back-end closes its socket the device is *lost*: its rings are not served, and the guest's
requests stay in them. The manager then tries the socket path until a back-end listens there. A
migration or a stop uses the devices itself, and pauses the manager for that time.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vhost_user.errors import DeadlineError, VhostUserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from devices.device import VhostDevice

#: Seconds between two attempts to connect: there is no event when a socket is bound.
PERIOD = 0.05
#: Seconds that `pause` waits for a device that is being reconnected.
TIMEOUT = 30.0

#: Called with the events ``DEVICE_LOST`` (``{"device", "reason"}``), ``DEVICE_BACK``
#: (``{"device"}``) and, between these two, perhaps ``DEVICE_NEEDS_RESET`` (``{"device",
#: "requests"}``: how many the driver submits again).
Observer = Callable[[str, dict[str, object]], None]


class ReconnectManager:
    """Reconnects the devices of one VM. It is paused until `resume`.

    Args:
        devices: all devices of the VM; it may change while the manager is paused.
        reconnect_device: connects a lost device to the back-end that listens, and starts it. If
            that fails it raises a `VhostUserError` and leaves the device disconnected.
        observe: called for each device that is lost or reconnected.

    Attributes:
        lost: the devices without a back-end, by name, each with the reason. It is replaced, never
            changed: any thread may iterate over it.
    """

    def __init__(
        self,
        devices: Sequence[VhostDevice],
        reconnect_device: Callable[[VhostDevice], None],
        observe: Observer,
    ) -> None:
        self.lost: Mapping[str, VhostUserError] = {}
        self._devices = devices
        self._reconnect_device = reconnect_device
        self._observe = observe
        self._changed = threading.Condition()
        self._paused = 1
        self._busy = 0
        self._closed = False
        self._connectors: list[threading.Thread] = []
        # Lost devices that a connector tries to reconnect; it changes together with `lost`.
        self._connecting: set[str] = set()
        self._watcher: threading.Thread | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- for the thread that drives the VM

    def resume(self) -> None:
        """Start reconnecting, or continue after `pause`."""
        with self._changed:
            self._paused -= 1
            self._changed.notify_all()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="reconnect", daemon=True)
            self._watcher.start()
        self._wake()

    def pause(self) -> None:
        """Return when the manager uses no device; from then on it uses none until `resume`.

        Raises:
            DeadlineError: reconnecting a device takes longer than `TIMEOUT`.
        """
        with self._changed:
            self._paused += 1
            self._wake()
            if not self._changed.wait_for(lambda: not self._busy, TIMEOUT):
                self._paused -= 1
                raise DeadlineError("the attempt to reconnect a device", TIMEOUT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the manager during the ``with`` block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def mark_lost(self, device: VhostDevice, error: VhostUserError) -> None:
        """Disconnect a device that has lost its back-end, and start to reconnect it."""
        device.disconnect()
        with self._changed:
            self.lost = {**self.lost, device.name: error}
        self._observe("DEVICE_LOST", {"device": device.name, "reason": str(error)})
        self._wake()

    def forget(self, device: VhostDevice) -> None:
        """Stop to watch a device that was removed from ``devices`` while the manager is paused."""
        with self._changed:
            self._found(device)
        self._wake()

    def _found(self, device: VhostDevice) -> None:
        """The device is not lost, or not any more; the caller holds the lock."""
        self.lost = {name: error for name, error in self.lost.items() if name != device.name}
        self._connecting.discard(device.name)
        self._changed.notify_all()

    def await_all(self, timeout: float) -> None:
        """Return when no device is lost, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self.lost, timeout)

    def close(self) -> None:
        """End the manager's threads; idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._wake()
        for thread in (self._watcher, *self._connectors):
            if thread is not None:
                thread.join(TIMEOUT)
        os.close(self._wake_fd)

    # -- the watcher

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake_fd, 1)

    def _watch(self) -> None:
        while self._begin():
            try:
                poll, watched = self._sockets()
                for device in self._devices:
                    if device.name in self.lost:
                        self._start_connector(device)
            finally:
                self._end()
            ready = poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            disconnected = [watched[fd] for fd, _ in ready if fd in watched]
            if disconnected and self._begin():
                try:
                    self._mark_disconnected(disconnected)
                finally:
                    self._end()

    def _sockets(self) -> tuple[select.poll, dict[int, VhostDevice]]:
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        watched: dict[int, VhostDevice] = {}
        for device in self._devices:
            # A lost device belongs to its connector thread.
            if device.connected and device.name not in self.lost:
                fd = device.connection.fileno()
                watched[fd] = device
                poll.register(fd, select.POLLRDHUP)
        return poll, watched

    def _mark_disconnected(self, devices: Sequence[VhostDevice]) -> None:
        """Mark these devices as lost, unless they have been reconnected since they were polled."""
        for device in devices:
            if not device.connected or device.name in self.lost:
                continue
            poll = select.poll()
            poll.register(device.connection.fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self.mark_lost(
                    device, VhostUserError("its back-end has disconnected", device=device.name)
                )

    def _begin(self) -> bool:
        """Wait until devices may be used; False when the manager has been closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._paused)
            if self._closed:
                return False
            self._busy += 1
            return True

    def _end(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    # -- a connector thread for each lost device, so that no device waits for another

    def _start_connector(self, device: VhostDevice) -> None:
        with self._changed:
            if device.name in self._connecting:
                return
            self._connecting.add(device.name)
        # The thread of an earlier loss may still report that the device is back.
        self._connectors = [thread for thread in self._connectors if thread.is_alive()]
        thread = threading.Thread(
            target=self._reconnect, args=(device,), name=f"reconnect-{device.name}", daemon=True
        )
        self._connectors.append(thread)
        thread.start()

    def _reconnect(self, device: VhostDevice) -> None:
        while self._begin():
            try:
                with self._changed:
                    # Another device of that name may have come after an unplug.
                    if device not in self._devices:
                        return
                    if device.name not in self.lost:
                        self._connecting.discard(device.name)
                        return
                self._reconnect_device(device)
            except VhostUserError as error:
                with self._changed:
                    self.lost = {**self.lost, device.name: error}
            else:
                with self._changed:
                    self._found(device)
                self._observe("DEVICE_BACK", {"device": device.name})
                self._wake()
                return
            finally:
                self._end()
            with self._changed:
                self._changed.wait_for(lambda: self._closed, PERIOD)
