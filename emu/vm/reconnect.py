"""Keeps a VM's devices connected: one whose back-end has gone comes back when a new one listens.

A back-end that hangs up is noticed at once, and the device is *lost*: its rings rest, what the
guest asks of it stays in them. From then on the socket is tried until somebody listens there.
Whoever drives the devices himself (a migration, a stop) has the keeper rest meanwhile.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vhost_user.errors import DeadlineError, VhostUserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from devices.device import VhostDevice

#: Seconds between two looks whether somebody listens: a socket tells nobody that it is bound.
PERIOD = 0.05
#: Seconds that whoever wants the keeper to rest waits for it.
PATIENCE = 30.0

#: Told of ``DEVICE_LOST`` and ``DEVICE_BACK``, with ``{"device", "reason"}``.
Observer = Callable[[str, dict[str, object]], None]


class DeviceKeeper:
    """The keeper of one VM's devices. It rests until `watch`.

    Args:
        devices: all of them.
        bring_back: connects a lost device to whoever listens, and starts it. It raises a
            `VhostUserError` when that cannot be, and leaves the device disconnected.
        observe: told of each device that is lost, and that comes back.

    Attributes:
        lost: why each device that is without a back-end is, by its name.
    """

    def __init__(
        self,
        devices: Sequence[VhostDevice],
        bring_back: Callable[[VhostDevice], None],
        observe: Observer,
    ) -> None:
        self.lost: dict[str, VhostUserError] = {}
        self._devices = devices
        self._bring_back = bring_back
        self._observe = observe
        self._changed = threading.Condition()
        self._resting = 1
        self._busy = 0
        self._closed = False
        self._seekers: dict[str, threading.Thread] = {}
        self._watcher: threading.Thread | None = None
        self._poke_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- from whoever drives the VM

    def watch(self) -> None:
        """Begin, or go on after `rest`."""
        with self._changed:
            self._resting -= 1
            self._changed.notify_all()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="device-keeper", daemon=True)
            self._watcher.start()
        self._poke()

    def rest(self) -> None:
        """Return when no device is touched any more; none is until `watch`.

        Raises:
            DeadlineError: a device that is just being brought back does not answer.
        """
        with self._changed:
            self._resting += 1
            self._poke()
            if not self._changed.wait_for(lambda: not self._busy, PATIENCE):
                self._resting -= 1
                raise DeadlineError("a device to be brought back, or given up", PATIENCE)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """`rest` for the length of the block."""
        self.rest()
        try:
            yield
        finally:
            self.watch()

    def lose(self, device: VhostDevice, error: VhostUserError) -> None:
        """Whoever drives the device has found that its back-end has gone."""
        device.disconnect()
        with self._changed:
            self.lost[device.name] = error
        self._observe("DEVICE_LOST", {"device": device.name, "reason": str(error)})
        self._poke()

    def await_all(self, timeout: float) -> None:
        """Return when no device is lost, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self.lost, timeout)

    def close(self) -> None:
        """End. Again is harmless."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._poke()
        for thread in (self._watcher, *self._seekers.values()):
            if thread is not None:
                thread.join(PATIENCE)
        os.close(self._poke_fd)

    # -- the watcher

    def _poke(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._poke_fd, 1)

    def _watch(self) -> None:
        while self._begin():
            try:
                poll, watched = self._sockets()
                for device in self._devices:
                    if device.name in self.lost:
                        self._seek(device)
            finally:
                self._end()
            ready = poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._poke_fd)
            gone = [watched[fd] for fd, _ in ready if fd in watched]
            if gone and self._begin():
                try:
                    self._note_gone(gone)
                finally:
                    self._end()

    def _sockets(self) -> tuple[select.poll, dict[int, VhostDevice]]:
        poll = select.poll()
        poll.register(self._poke_fd, select.POLLIN)
        watched: dict[int, VhostDevice] = {}
        for device in self._devices:
            # One that is lost is its seeker's, whatever its connection looks like.
            if device.connected and device.name not in self.lost:
                fd = device.connection.fileno()
                watched[fd] = device
                poll.register(fd, select.POLLRDHUP)
        return poll, watched

    def _note_gone(self, devices: Sequence[VhostDevice]) -> None:
        """They hung up when they were looked at; since then somebody may have driven them."""
        for device in devices:
            if not device.connected or device.name in self.lost:
                continue
            poll = select.poll()
            poll.register(device.connection.fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self.lose(device, VhostUserError("its back-end has gone", device=device.name))

    def _begin(self) -> bool:
        """Wait until devices may be touched; False: it is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._resting)
            if self._closed:
                return False
            self._busy += 1
            return True

    def _end(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    # -- a thread for each device that is lost, so that none waits for another

    def _seek(self, device: VhostDevice) -> None:
        running = self._seekers.get(device.name)
        if running is None or not running.is_alive():
            thread = threading.Thread(
                target=self._seek_back_end, args=(device,), name=f"seek-{device.name}", daemon=True
            )
            self._seekers[device.name] = thread
            thread.start()

    def _seek_back_end(self, device: VhostDevice) -> None:
        while self._begin():
            try:
                if device.name not in self.lost:
                    return
                self._bring_back(device)
            except VhostUserError as error:
                with self._changed:
                    self.lost[device.name] = error
            else:
                with self._changed:
                    del self.lost[device.name]
                    self._changed.notify_all()
                self._observe("DEVICE_BACK", {"device": device.name})
                self._poke()
                return
            finally:
                self._end()
            end = time.monotonic() + PERIOD
            with self._changed:
                self._changed.wait_for(lambda: self._closed, max(0.0, end - time.monotonic()))
