"""What a back-end device reports to the object that serves it."""

from __future__ import annotations

from typing import Protocol


class DeviceObserver(Protocol):
    """Receives a device's events, in the thread of its loop. ``ring`` is a ring's index."""

    def ring_started(self, ring: int, /) -> None:
        """A ring was started by its first kick, or by a kick descriptor that is not there."""

    def ring_idle(self, ring: int, /) -> None:
        """A ring that is stopping has no request in flight any more."""

    def ring_failed(self, ring: int, error: Exception, /) -> None:
        """A ring is not served until it is set up again.

        The driver broke its rules (`FrontendError`), or serving it has raised another exception.
        """

    def device_failed(self, error: Exception, /) -> None:
        """An exception was raised while the device was served; it is no single ring's."""

    def config_changed(self) -> None:
        """The device's configuration space has changed."""
