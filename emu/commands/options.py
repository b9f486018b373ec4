"""Options that `emu migrate` and `emu run` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import click

from backends.options import FilePath, option_group
from emu.commands import backend_options, validate
from emu.commands.backend_options import BackEndOptions, command_options
from emu.commands.json_output import json_option
from emu.commands.option_values import values_of
from emu.commands.ring_use_options import RingUseOptions, ring_use_options, ring_uses
from emu.config import vm_file
from emu.config.device_kinds import KINDS
from emu.config.plan import (
    CONTROLS,
    COSTS,
    LOADS,
    STOP_POLICIES,
    MachinePlan,
)
from emu.errors import OptionError
from emu.machine.accel import registry
from emu.orchestrator import host_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from backends.options import F

#: How help is laid out.
_FILE = FilePath()
_ACCELERATORS = ", ".join(f"{name} ({row.summary})" for name, row in registry.ACCELERATORS.items())
ACCEL_HELP = (
    "What runs the vCPUs and implements the notifiers. auto is the first of these that works here "
    f"and has room for the VM: {_ACCELERATORS}."
)

#: The options for the devices of each kind, and for a file that describes the whole VM.
_DEVICE_OPTIONS = (
    *(
        click.option(
            f"--{kind.name}",
            metavar="NxR",
            help=f"N {kind.plural} with R rings each, or 0. [default: {kind.default_text}]",
        )
        for kind in KINDS.values()
    ),
    click.option(
        "--vm",
        "vm_file",
        type=_FILE,
        metavar="FILE",
        help="A TOML file that describes the VM.",
    ),
)
_VM_OPTIONS = (
    click.option("--vcpus", type=int, metavar="N", help="Number of vCPUs. [default: 224]"),
    click.option("--memory", metavar="SIZE", help="Guest memory, such as 512M. [default: 180G]"),
    click.option(
        "--load",
        type=click.Choice(LOADS),
        default="heavy",
        show_default=True,
        help="I/O of the guest: none, a little, or all rings busy.",
    ),
    click.option(
        "--dirty-rate",
        default="0",
        metavar="SIZE",
        help="Memory that the guest writes per second besides its I/O, such as 200M.",
    ),
    click.option(
        "--costs",
        type=click.Choice(COSTS),
        default="native",
        show_default=True,
        help="Unit costs to inject: none, or those that the RFC of 2021 measured.",
    ),
    click.option(
        "--control",
        type=click.Choice(CONTROLS),
        default="per-device",
        show_default=True,
        help="The devices of one back-end program stop in parallel, or one after the other.",
    ),
    click.option(
        "--stop-policy",
        type=click.Choice(STOP_POLICIES),
        default="immediate",
        show_default=True,
        help="What a back-end completes before it answers GET_VRING_BASE: the requests that it has "
        "begun (immediate; tick checks each millisecond, as SPDK does), or all available ones "
        "(drain).",
    ),
    click.option(
        "--stop-time",
        default="0",
        show_default=True,
        metavar="TIME",
        help="How long each device's back-end takes to stop, such as 20ms.",
    ),
)
_ACCEL_OPTION = click.option(
    "--accel",
    type=click.Choice(registry.CHOICES),
    default=registry.AUTO,
    show_default=True,
    help=ACCEL_HELP,
)
_RUN_OPTIONS = (
    click.option(
        "--disk",
        "disk_file",
        type=_FILE,
        metavar="FILE",
        help="The first disk's image, ISO or block device; the guest reads all of it.",
    ),
    click.option(
        "--write",
        is_flag=True,
        help="The guest also writes each block of --disk back, unchanged.",
    ),
    json_option("the results"),
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
)


#: Decorator: the options that describe a VM's devices.
device_options = option_group(*_DEVICE_OPTIONS, ring_use_options)


#: Decorator: the options that describe the rest of a VM, and where the results go.
machine_options = option_group(command_options, *_VM_OPTIONS, _ACCEL_OPTION, *_RUN_OPTIONS)


def machine_options_with(accel_option: Callable[[Any], Any]) -> Callable[[F], F]:
    """Decorator: `machine_options` of a command whose option ``--accel`` is another one."""
    return option_group(command_options, *_VM_OPTIONS, accel_option, *_RUN_OPTIONS)


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """The values of `device_options` and `machine_options`, and of further options of the VM."""

    vcpus: int | None
    memory: str | None
    load: str
    dirty_rate: str
    costs: str
    control: str
    stop_policy: str
    stop_time: str
    accel: str
    disk_file: Path | None
    write: bool
    json_file: Path | None
    quiet: bool
    back_ends: BackEndOptions
    devices: Mapping[str, str | None] = field(default_factory=dict)
    ring_use: RingUseOptions = field(default_factory=RingUseOptions)
    vm_file: Path | None = None
    images: Path | None = None
    plugins: tuple[Path, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the options of a command; without `device_options` there are no devices yet."""
        devices = {name: options.get(name) for name in KINDS}
        back_ends = BackEndOptions.of(options)
        ring_use = values_of(RingUseOptions, options)
        groups = {"devices": devices, "back_ends": back_ends, "ring_use": ring_use}
        return values_of(cls, {**options, **groups})


def _back_ends(options: MachineOptions) -> Mapping[str, str]:
    """The commands of other back-ends, from the options or from the VM's file.

    Raises:
        PreflightError: both have one, or the file cannot be read.
    """
    given = options.back_ends.commands
    if options.vm_file is None:
        return given
    found = vm_file.read_back_ends(options.vm_file)
    for name in given.keys() & found.keys():
        raise OptionError(f"--{name}-backend: the file of --vm has a backend for [{name}], too")
    return {**found, **given}


def _check_own_options(options: MachineOptions, others: Iterable[str]) -> None:
    """Check that no option is given that other back-ends than this project's do not have.

    Args:
        options: the values.
        others: the classes of devices that others serve.

    Raises:
        OptionError: one is.
    """
    defaults = {
        "control": CONTROLS[0],
        "stop_policy": STOP_POLICIES[0],
        "stop_time": "0",
        "costs": COSTS[0],
    }
    for device_class in others:
        for name, default in defaults.items():
            if getattr(options, name) != default:
                raise OptionError(
                    f"--{name.replace('_', '-')} is about this project's back-ends, and other "
                    f"programs serve the {KINDS[device_class].plural}"
                )


def machine_plan(
    options: MachineOptions, sides: Sequence[str] = ("src", "dst"), *, check_host: bool = True
) -> MachinePlan:
    """The VM that the options describe, after all checks.

    Args:
        options: the values.
        sides: of a migration that the run has: ``src``, ``dst`` or both.
        check_host: check that this host can run the VM.

    Raises:
        PreflightError: an option is invalid, or the host's limits are too low.
    """
    spec = validate.shape(
        options.devices,
        vcpus=options.vcpus,
        memory=options.memory,
        file=options.vm_file,
        uses=ring_uses(options.ring_use),
    )
    back_ends = backend_options.commands(_back_ends(options), spec)
    listening = backend_options.listening(options.back_ends, spec, sides)
    _check_own_options(options, [*back_ends, *listening])
    if options.disk_file is not None and "blk" in listening:
        raise OptionError("use --disk or --src-blk and --dst-blk, not both")
    disk = validate.disk(options.disk_file, spec, write=options.write)
    stop_time = validate.duration("--stop-time", options.stop_time)
    validate.output_file("--json", options.json_file, takes_stdout=True)
    if check_host:
        host_limits.check_accelerator(options.accel, spec)
        host_limits.check(spec)
    return MachinePlan(
        spec=spec,
        accel=options.accel,
        costs=options.costs,
        control=options.control,
        stop_time=stop_time,
        stop_policy=options.stop_policy,
        load=options.load,
        dirty_rate=validate.dirty_rate(options.dirty_rate),
        disk=disk,
        images=None if options.images is None else options.images.absolute(),
        plugins=tuple(path.absolute() for path in options.plugins),
        back_ends=back_ends,
        listening=listening,
    )
