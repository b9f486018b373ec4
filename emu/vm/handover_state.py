"""A VM as it is handed over within a host: what is known of it, and its descriptors.

On the stream it is a section of JSON, and the descriptors follow by SCM_RIGHTS: guest memory's
memfds, then those of each device.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, Self

from devices.heritage import DeviceHeritage, descriptors_of
from emu.errors import MigrationError
from emu.guest.blk_driver import BlkFeatures
from emu.guest.program import GuestConfig, ReaderConfig
from emu.migration.stream import Kind
from vhost_user.codec import close_all
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

    from emu.migration.stream import MigrationStream
    from emu.vm.vm import Vm


class VmHeritage(NamedTuple):
    """What one process leaves to another; a context manager that closes what was received.

    Attributes:
        config: what the guest's drivers know of the devices.
        backends: socket path of each device's back-end, for one that comes back.
        devices: what is known of each device.
        memory: descriptors of guest memory, region by region.
        descriptors: those of all devices, in order.
    """

    config: GuestConfig
    backends: dict[str, str]
    devices: tuple[DeviceHeritage, ...]
    memory: tuple[int, ...]
    descriptors: tuple[int, ...]

    @classmethod
    def of(cls, vm: Vm) -> Self:
        """What a VM is now; the descriptors stay its own.

        Raises:
            MigrationError: a device cannot be handed over.
        """
        try:
            with vm.driving:
                return cls(
                    vm.guest.config,
                    dict(vm.backends),
                    tuple(DeviceHeritage.of(device) for device in vm.devices),
                    tuple(region.fd for region in vm.machine.ram.regions),
                    tuple(fd for device in vm.devices for fd in descriptors_of(device)),
                )
        except UsageError as error:
            raise MigrationError("handover", str(error)) from error

    def send(self, stream: MigrationStream) -> None:
        """Hand it over.

        Raises:
            MigrationError: the other side has gone, or is on another host.
        """
        known = json.dumps(
            [self.config, self.backends, self.devices, len(self.memory)], separators=(",", ":")
        )
        stream.send(Kind.HANDOVER, known.encode())
        stream.send_descriptors((*self.memory, *self.descriptors))

    @classmethod
    def receive(cls, payload: bytes, stream: MigrationStream) -> Self:
        """What `send` sent: the section's bytes, and what follows them on the stream.

        Raises:
            MigrationError: it makes no sense, or the other side has gone.
        """
        try:
            config, backends, known, regions = json.loads(payload)
            devices = tuple(DeviceHeritage.from_json(fields) for fields in known)
            guest = _guest_config(config)
            paths = {str(name): str(path) for name, path in backends.items()}
            count = sum(device.descriptors for device in devices)
        except (ValueError, TypeError, AttributeError):
            raise MigrationError("stream", "what was handed over makes no sense") from None
        fds = stream.receive_descriptors(int(regions) + count)
        return cls(guest, paths, devices, tuple(fds[:regions]), tuple(fds[regions:]))

    def by_device(self) -> Iterator[tuple[DeviceHeritage, tuple[int, ...]]]:
        """Each device, with its descriptors."""
        at = 0
        for device in self.devices:
            yield device, self.descriptors[at : at + device.descriptors]
            at += device.descriptors

    def still_holds(self, vm: Vm) -> bool:
        """Whether the guest has let all of its devices be since."""
        with vm.driving:
            return all(
                known.still_holds(device)
                for known, device in zip(self.devices, vm.devices, strict=True)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        close_all((*self.memory, *self.descriptors))


def _guest_config(fields: list[Any]) -> GuestConfig:
    event_idx, indirect, disks, reader, switched = fields
    return GuestConfig(
        event_idx=event_idx,
        indirect=indirect,
        disks=[BlkFeatures(*disk) for disk in disks],
        reader=None if reader is None else ReaderConfig(*reader),
        switched=switched,
    )
