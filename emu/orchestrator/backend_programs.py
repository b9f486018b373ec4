"""Which back-end programs serve the devices of a VM."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from emu.config.backend_commands import DeviceFiles
from emu.config.device_kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.config.backend_commands import BackEndCommand
    from emu.config.plan import MachinePlan
    from emu.config.vm_spec import DeviceSpec
    from emu.orchestrator.run_directory import RunDirectory

#: The devices of a class are distributed to this many programs of ours.
PROGRAMS = 2


class ProgramSpec(NamedTuple):
    """One program to start.

    Attributes:
        name: in errors and file names.
        device_class: of all its devices.
        devices: that it serves.
        arguments: further options, such as the disk images.
        command: that starts it; None for the program of `DeviceKind.back_end`.
    """

    name: str
    device_class: str
    devices: tuple[DeviceSpec, ...]
    arguments: tuple[str, ...] = ()
    command: BackEndCommand | None = None


def program_specs(plan: MachinePlan, directory: RunDirectory) -> list[ProgramSpec]:
    """The programs that serve the devices of a VM.

    A class without a command of the user is served by up to two programs of ours. A disk that the
    guest may only read is served by a program of its own, because ``--read-only`` holds for a whole
    program.
    """
    specs: list[ProgramSpec] = []
    for name in KINDS:
        devices = [device for device in plan.spec.devices if device.device_class == name]
        if not devices or name in plan.listening:
            continue
        if name in plan.back_ends:
            specs += _of_command(plan.back_ends[name], devices)
        else:
            specs += _of_ours(name, plan, devices, directory)
    return specs


def _of_command(command: BackEndCommand, devices: Sequence[DeviceSpec]) -> Iterator[ProgramSpec]:
    if command.shared:
        yield ProgramSpec(
            command.device_class, command.device_class, tuple(devices), command=command
        )
        return
    for device in devices:
        yield ProgramSpec(device.name, device.device_class, (device,), command=command)


def _of_ours(
    name: str, plan: MachinePlan, devices: list[DeviceSpec], directory: RunDirectory
) -> Iterator[ProgramSpec]:
    kind = KINDS[name]
    if kind.has_image and plan.disk is not None and not plan.disk.writable:
        first = devices.pop(0)
        arguments = ("--read-only", "--blk-file", str(plan.disk.path))
        yield ProgramSpec(f"{name}-ro", name, (first,), arguments)
    for number, part in enumerate(_split(devices, PROGRAMS)):
        images: list[str] = []
        if kind.has_image:
            for device in part:
                images += ["--blk-file", image_of(plan, device, directory)]
        yield ProgramSpec(f"{name}-{number}", name, tuple(part), tuple(images))


def image_of(plan: MachinePlan, device: DeviceSpec, directory: RunDirectory) -> str:
    """The path of a disk's image: the user's file, or a scratch image."""
    if plan.disk is not None and device.number == 0:
        return str(plan.disk.path)
    return str(directory.image(device.name))


def device_files(
    plan: MachinePlan, side: str, devices: Sequence[DeviceSpec], directory: RunDirectory
) -> list[DeviceFiles]:
    """What the user's command serves these devices with."""
    return [
        DeviceFiles(
            device.number,
            device.rings,
            str(directory.socket(side, device.name)),
            image_of(plan, device, directory) if KINDS[device.device_class].has_image else "",
        )
        for device in devices
    ]


def _split(devices: list[DeviceSpec], parts: int) -> list[list[DeviceSpec]]:
    """The devices in up to ``parts`` groups of nearly the same size, none of them empty."""
    count = min(parts, len(devices))
    bounds = [len(devices) * n // count for n in range(count + 1)] if count else [0]
    return [devices[first:last] for first, last in itertools.pairwise(bounds)]
