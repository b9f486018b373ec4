"""The options of `emu sweep`: its matrix, and where its points run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import click

from backends.options import FilePath, option_group
from emu.commands import completion, validate
from emu.commands.option_values import values_of
from emu.commands.options import ACCEL_HELP, machine_options_with
from emu.commands.scheduler_options import scheduler_options
from emu.config.device_kinds import KINDS
from emu.config.vm_spec import ShapeError
from emu.errors import OptionError
from emu.machine.accel import registry
from emu.sweep import matrix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from emu.config.vm_spec import VmSpec

_DEVICES, _RINGS = "4,16,40,128", 8
_PATH = FilePath()

#: Decorator: the VMs, and how often each of them migrates.
matrix_options = option_group(
    click.option(
        "--devices",
        "numbers",
        metavar="N[,N...]",
        help="Numbers of devices, one for each VM: half of them NICs, half disks. "
        f"[default: {_DEVICES}]",
    ),
    click.option(
        "--rings",
        type=click.IntRange(2, 256),
        metavar="R",
        help=f"Rings of each device of --devices. [default: {_RINGS}]",
    ),
    *(
        click.option(
            f"--{kind.name}",
            metavar="SHAPES",
            help=f"Instead of --devices: shapes of the {kind.plural}, such as "
            f"1..4x{kind.rings_per_unit} or 0,2x{kind.rings_per_unit},8x{kind.rings_per_unit}; the "
            "VMs are all combinations with those of the other kinds. [default: "
            f"{kind.default_text}]",
        )
        for kind in KINDS.values()
    ),
    click.option(
        "--strategy",
        "-s",
        "strategies",
        default="qemu-2021,prewired",
        show_default=True,
        shell_complete=completion.strategies,
        metavar="NAME[,NAME...]",
        help=f"Schedulers that stop and start the devices, in turn; {validate.ALL_STRATEGIES} for "
        "all of them.",
    ),
    click.option(
        "--repeat",
        type=click.IntRange(1, validate.MAX_REPEAT),
        default=5,
        show_default=True,
        metavar="N",
        help="Migrations of each VM with each strategy.",
    ),
)

#: Decorator: where the points run, and where their results are kept.
cluster_options = option_group(
    click.option(
        "--results",
        "results_path",
        type=_PATH,
        metavar="DIR",
        help="Keep the results of each VM as a Parquet file in this directory, and do not migrate "
        "the VMs whose results it has.",
    ),
    *scheduler_options("migrate the VMs"),
)

#: Decorator: `machine_options`, with several accelerators.
sweep_machine_options = machine_options_with(
    click.option(
        "--accel",
        default=registry.AUTO,
        show_default=True,
        metavar="NAME[,NAME...]",
        help=f"{ACCEL_HELP} With several each VM migrates with each of them.",
    )
)


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The values of the options that only `emu sweep` has."""

    numbers: str | None
    rings: int | None
    accel: str
    strategies: str
    repeat: int
    results_path: Path | None
    scheduler: str | None
    workers: int | None
    fail_if: tuple[str, ...]
    openmetrics: Path | None
    shapes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the options of the command."""
        shapes = {name: options[name] for name in KINDS if options[name] is not None}
        return values_of(cls, {**options, "shapes": shapes})

    @property
    def first_devices(self) -> dict[str, str | None]:
        """The first shape of each kind of device that is not 0, as `emu migrate` has it."""
        found: dict[str, str | None] = dict.fromkeys(KINDS)
        for name, text in self.shapes.items():
            groups = [group for group in matrix.shapes(name, text) if group is not None]
            found[name] = f"{groups[0].count}x{groups[0].rings}" if groups else "0"
        return found

    def specs(self, base: VmSpec) -> list[VmSpec]:
        """The VMs.

        Args:
            base: the rest of each VM.

        Raises:
            OptionError: an option is invalid, or two contradict each other.
        """
        if self.shapes:
            for option, value in (("--devices", self.numbers), ("--rings", self.rings)):
                if value is not None:
                    raise OptionError(f"use {option} or --{next(iter(self.shapes))}, not both")
            return matrix.product(self.shapes, base)
        rings = _RINGS if self.rings is None else self.rings
        if rings % 2:
            raise OptionError(f"--rings {rings}: a NIC's rings come in pairs")
        numbers = matrix.sizes(_DEVICES if self.numbers is None else self.numbers)
        try:
            return [matrix.shape_of(number, rings, base) for number in numbers]
        except ShapeError as error:
            raise OptionError(str(error)) from None
