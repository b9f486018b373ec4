"""The matrix of a sweep: the shapes of its VMs, and the points, each a VM with an accelerator."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS
from emu.config.vm_spec import DeviceGroup, ShapeError, VmSpec, default_groups, parse_group
from emu.errors import OptionError
from emu.machine.accel import registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The most devices of a VM of `sizes`: the limit of open files does not allow for more.
MAX_DEVICES = 1000
#: The most points of a sweep: more would take weeks.
MAX_POINTS = 10_000
_RANGE = re.compile(r"([0-9]{1,4})\.\.([0-9]{1,4})x([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One VM that migrates with every strategy of the sweep.

    Attributes:
        spec: the VM.
        accel: a name of `registry.CHOICES`.
    """

    spec: VmSpec
    accel: str

    @property
    def label(self) -> str:
        """Its name in messages: ``net 4x8, blk 2x4, soft``."""
        groups = (f"{g.device_class} {g.count}x{g.rings}" for g in self.spec.groups)
        return ", ".join((*groups, self.accel))

    @property
    def key(self) -> str:
        """Its name within the sweep, which a file can have: ``net-4x8_blk-2x4_soft``."""
        groups = (f"{g.device_class}-{g.count}x{g.rings}" for g in self.spec.groups)
        return "_".join((*groups, self.accel))


def sizes(text: str) -> tuple[int, ...]:
    """Numbers of devices, as ``4,16,40,128``.

    Raises:
        OptionError: the text is invalid.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= MAX_DEVICES for number in numbers):
        raise OptionError(
            f"--devices {text!r}: write numbers from 1 to {MAX_DEVICES}, such as 4,16,40,128"
        )
    if len(set(numbers)) < len(numbers):
        raise OptionError(f"--devices {text}: a number is there twice; see --repeat")
    return numbers


def shape_of(devices: int, rings: int, base: VmSpec) -> VmSpec:
    """A VM with that many devices, the default VM's kinds in equal parts, with ``rings`` each.

    Raises:
        ShapeError: a kind does not support that number of rings.
    """
    kinds = [group.device_class for group in default_groups()]
    bounds = [devices * part // len(kinds) for part in range(len(kinds) + 1)]
    parts = zip(kinds, itertools.pairwise(bounds), strict=True)
    groups = tuple(
        DeviceGroup(kind, end - start, rings) for kind, (start, end) in parts if end > start
    )
    return dataclasses.replace(base, groups=groups)


def shapes(device_class: str, text: str) -> tuple[DeviceGroup | None, ...]:
    """Groups of devices of one kind, as ``4x8``, ``1..16x32`` or ``0,2x4,8x4``.

    Args:
        device_class: the kind's name.
        text: ``NxR`` is N devices with R rings each, ``0`` no device, and ``A..BxR`` is each
            number of devices from A to B; several are separated by commas.

    Raises:
        OptionError: the text is invalid, or has a group twice.
    """
    found: list[DeviceGroup | None] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            counts, suffix = [part.strip()], ""
        else:
            first, last = int(match[1]), int(match[2])
            if last < first:
                raise OptionError(f"--{device_class} {part.strip()}: it ends before it begins")
            counts, suffix = [str(count) for count in range(first, last + 1)], f"x{match[3]}"
        try:
            found += [parse_group(device_class, f"{count}{suffix}") for count in counts]
        except ShapeError as error:
            raise OptionError(str(error)) from None
    if len(set(found)) < len(found):
        raise OptionError(f"--{device_class} {text}: a shape is there twice; see --repeat")
    return tuple(found)


def product(given: Mapping[str, str], base: VmSpec) -> list[VmSpec]:
    """A VM for each combination of the shapes.

    Args:
        given: the texts of `shapes` by kind; of the other kinds a VM has the default VM's devices.
        base: the rest of each VM.

    Raises:
        OptionError: a text is invalid, or a VM has no device, or these are too many VMs.
    """
    default: dict[str, tuple[DeviceGroup | None, ...]] = {
        group.device_class: (group,) for group in default_groups()
    }
    columns = [
        shapes(name, given[name]) if name in given else default.get(name, (None,)) for name in KINDS
    ]
    _check_number(math.prod(map(len, columns)))
    found = []
    for groups in itertools.product(*columns):
        present = tuple(group for group in groups if group is not None)
        if not present:
            raise OptionError("one of the VMs would have no device, as all kinds have a shape of 0")
        found.append(dataclasses.replace(base, groups=present))
    return found


def accelerators(text: str) -> tuple[str, ...]:
    """The accelerators of ``NAME[,NAME...]``.

    Raises:
        OptionError: one is unknown, or there twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in registry.CHOICES:
            known = ", ".join(registry.CHOICES)
            raise OptionError(f"--accel {text}: {name!r} is not one of {known}")
        if names.count(name) > 1:
            raise OptionError(f"--accel {text}: {name} is there twice; see --repeat")
    return tuple(names)


def points(specs: Sequence[VmSpec], accels: Sequence[str]) -> tuple[SweepPoint, ...]:
    """The points of a matrix: each VM with each accelerator.

    Raises:
        OptionError: these are too many.
    """
    _check_number(len(specs) * len(accels))
    return tuple(SweepPoint(spec, accel) for spec in specs for accel in accels)


def _check_number(count: int) -> None:
    if count > MAX_POINTS:
        raise OptionError(f"the sweep has more than {MAX_POINTS} points: ask for fewer shapes")
