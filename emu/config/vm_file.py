"""A VM's shape as a TOML file, and as JSON on a monitor.

A file has the settings of ``--vcpus``, ``--memory`` and the options of the device kinds:

    vcpus = 224
    memory = "180G"      # or a number of bytes

    [net]
    count = 16
    rings = 32

    [blk]
    count = 24
    rings = 4
    rings_used = [1, 3]  # or pairs_used = 2, of a NIC; all rings without it
    backend = "qemu-storage-daemon"      # as --blk-backend; may be missing

``net = "16x32"`` is the short form, and ``net = "0"`` means no NIC. A setting that the file lacks
is that of the default VM, as with the options.
"""

from __future__ import annotations

import dataclasses
import errno
import tomllib
from typing import TYPE_CHECKING, Any

from emu.config.device_kinds import KINDS
from emu.config.ring_use import ALL_RINGS, RingUse, first_units, these_rings
from emu.config.vm_spec import (
    DeviceGroup,
    ShapeError,
    VmSpec,
    groups_of,
    parse_group,
    parse_size,
    with_use,
)
from emu.errors import OptionError, PreflightError
from emu.json_input import INTEGERS, Each, JsonInputError, Maybe, Members, Whole, check
from vhost_user import input_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from emu.config.device_kinds import DeviceKind
    from emu.qmp.protocol import JsonObject

_GROUP = Members(
    {"class": str, "count": int, "rings": int},
    {"rings_used": Maybe(Each(Whole())), "others_disabled": bool},
)
_SPEC = Members({"vcpus": int, "memory_bytes": int, "ring_size": int, "groups": Each(_GROUP)})
_REQUIRED, _USES = {"count", "rings"}, {"rings_used", "pairs_used"}
_OPTIONAL = {"backend", *_USES}
_KEYS = {"vcpus", "memory", *KINDS}
#: Bytes of the largest file that is read; a shape takes a few hundred.
MAX_BYTES = 1 << 20


def read(path: Path) -> VmSpec:
    """The VM that a file describes.

    Raises:
        PreflightError: the file cannot be read, is not TOML, or its VM is invalid.
    """
    try:
        return _spec(_table(path))
    except ShapeError as error:
        raise OptionError(f"--vm {path}: {error}") from None


def read_back_ends(path: Path) -> dict[str, str]:
    """The commands of other back-end programs in a file that `read` accepts, by class of devices.

    Raises:
        PreflightError: the file cannot be read, or a command is not a string.
    """
    found = {}
    table = _table(path)
    for name in KINDS:
        group = table.get(name)
        if isinstance(group, dict) and "backend" in group:
            if not isinstance(group["backend"], str):
                raise OptionError(f"--vm {path}: [{name}]: backend is a command, a string")
            found[name] = group["backend"]
    return found


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(input_file.read(path, MAX_BYTES).decode())
        _check_numbers(table)
    except OSError as error:
        kind = OptionError if error.errno == errno.EFBIG else PreflightError
        raise kind(f"--vm {path}: {error.strerror}") from None
    except RecursionError:
        raise OptionError(f"--vm {path} is nested too deeply") from None
    except ValueError as error:  # of TOML, of UTF-8, or a number of more digits than Python reads
        raise OptionError(f"--vm {path} is not TOML: {error}") from None
    return table


def _check_numbers(value: object) -> None:
    """Raise an error if a number has more than 64 bits: no error could even print it."""
    if isinstance(value, int) and value not in INTEGERS:
        raise ValueError("a whole number of more than 64 bits")
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            _check_numbers(member)


def _spec(table: dict[str, Any]) -> VmSpec:
    unknown = sorted(table.keys() - _KEYS)
    if unknown:
        raise ShapeError(f"{unknown[0]!r} is not a key: use {', '.join(sorted(_KEYS))}")
    default = VmSpec()
    vcpus = table.get("vcpus", default.vcpus)
    if not isinstance(vcpus, int) or isinstance(vcpus, bool):
        raise ShapeError(f"vcpus = {vcpus!r} is not a whole number")
    given = {name: _group(name, table[name]) for name in KINDS if name in table}
    return VmSpec(
        vcpus,
        _memory(table.get("memory", default.memory_bytes)),
        groups_of(given),
    )


def _memory(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ShapeError(f'memory = {value!r} is not a size: write it like "512M" or "180G"')


def _group(device_class: str, value: object) -> DeviceGroup | None:
    if isinstance(value, str):
        return parse_group(device_class, value)
    if value == 0 and _whole(value):
        return None
    if not isinstance(value, dict):
        raise ShapeError(
            f'{device_class} = {value!r} is not a shape: write "COUNTxRINGS", such as "16x32", or 0'
        )
    if unknown := sorted(value.keys() - _REQUIRED - _OPTIONAL):
        known = ", ".join((*sorted(_REQUIRED), *sorted(_OPTIONAL)))
        raise ShapeError(f"[{device_class}]: {unknown[0]!r} is not a key: use {known}")
    if missing := sorted(_REQUIRED - value.keys()):
        raise ShapeError(f"[{device_class}]: {' and '.join(missing)} must be given")
    count, rings = value["count"], value["rings"]
    if not _whole(count, rings):
        raise ShapeError(f"[{device_class}]: count and rings are whole numbers")
    group = parse_group(device_class, f"{count}x{rings}" if count else "0")
    if group is None or not value.keys() & _USES:
        return group
    try:
        use = _use(KINDS[device_class], value)
    except ValueError as error:
        raise ShapeError(f"[{device_class}]: {error}") from None
    return with_use([group], {device_class: use})[0]


def _whole(*values: object) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _use(kind: DeviceKind, value: Mapping[str, object]) -> RingUse:
    """The rings that a group of a file uses.

    Raises:
        ValueError: they are invalid.
    """
    if value.keys() >= _USES:
        raise ValueError("rings_used and pairs_used exclude each other")
    if "pairs_used" in value:
        units = value["pairs_used"]
        if not kind.enables_units:
            raise ValueError(f"pairs_used: {kind.plural} have no pairs of rings")
        if not isinstance(units, int) or not _whole(units):
            raise ValueError(f"pairs_used = {units!r} is not a whole number")
        return first_units(units, kind.rings_per_unit)
    rings = value["rings_used"]
    if not isinstance(rings, list) or not _whole(*rings):
        raise ValueError(f"rings_used = {rings!r} is not a list of rings, such as [1, 3]")
    return these_rings(rings)


def spec_to_json(spec: VmSpec) -> JsonObject:
    """A shape as JSON for a monitor; `spec_from_json` is the inverse."""
    return {
        "vcpus": spec.vcpus,
        "memory_bytes": spec.memory_bytes,
        "ring_size": spec.ring_size,
        "groups": [
            {
                "class": group.device_class,
                "count": group.count,
                "rings": group.rings,
                "rings_used": None if group.use.rings is None else list(group.use.rings),
                "others_disabled": group.use.disable_others,
            }
            for group in spec.groups
        ],
    }


def spec_from_json(value: JsonObject) -> VmSpec:
    """The shape of JSON from a monitor.

    Raises:
        ShapeError: the value is not a shape.
    """
    try:
        found = check(value, _SPEC)
    except JsonInputError as error:
        raise ShapeError(f"this is not a shape of a VM: {error}") from None
    try:
        groups = tuple(map(_group_from_json, found["groups"]))
    except ValueError as error:
        raise ShapeError(f"this is not a shape of a VM: {error}") from None
    return VmSpec(found["vcpus"], found["memory_bytes"], groups, found["ring_size"])


def _group_from_json(group: JsonObject) -> DeviceGroup:
    rings = group.get("rings_used")
    use = ALL_RINGS
    if rings is not None:
        disable_others = group.get("others_disabled", False)
        use = dataclasses.replace(these_rings(rings), disable_others=disable_others)
    return DeviceGroup(group["class"], group["count"], group["rings"], use)
