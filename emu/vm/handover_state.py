"""The state of a VM that one process transfers to another on the same host.

A VM's guest memory and its devices' connections and eventfds are transferred as descriptors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from vhost_user.codec import close_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from devices.handover_state import DeviceHandoverState
    from emu.guest.config import GuestConfig


class VmHandoverState(NamedTuple):
    """The state that the destination's process needs.

    As a context manager, it closes the descriptors that were received.

    Attributes:
        config: the properties of the devices that the guest's drivers use.
        backends: socket path of each device's back-end, to reconnect.
        devices: the state of each device.
        memory: descriptors of guest memory, region by region.
        descriptors: those of all devices, in order.
    """

    config: GuestConfig
    backends: dict[str, str]
    devices: tuple[DeviceHandoverState, ...]
    memory: tuple[int, ...]
    descriptors: tuple[int, ...]

    def by_device(self) -> Iterator[tuple[DeviceHandoverState, tuple[int, ...]]]:
        """Each device, with its descriptors."""
        at = 0
        for device in self.devices:
            yield device, self.descriptors[at : at + device.descriptors]
            at += device.descriptors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        close_all((*self.memory, *self.descriptors))
