"""Options for back-ends of others: commands that start them, or sockets on which they listen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Self

import click

from backends.options import PathText, option_group
from emu.commands import completion, validate
from emu.config.backend_commands import BackEndCommand, names
from emu.config.device_kinds import KINDS
from emu.errors import OptionError, PreflightError
from emu.report.cells import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from emu.config.vm_spec import VmSpec

#: The side of a run that the options of each prefix are about.
_SIDES = {"src": "A", "dst": "B"}


def _command_help(device_class: str) -> str:
    kind = KINDS[device_class]
    known = names(device_class)
    ready = f", or {' or '.join(known)}" if known else ""
    image = "{image}, and " if kind.has_image else ""
    return (
        f"Command that starts the back-ends of the {kind.plural}, with {image}{{socket}} or "
        f"{{sockets}} in it{ready} (docs/how-to/own-back-ends.md)."
    )


#: Decorator: ``--blk-backend`` and so on.
command_options = option_group(
    *(
        click.option(
            f"--{name}-backend",
            metavar="COMMAND",
            shell_complete=completion.back_ends(name),
            help=_command_help(name),
        )
        for name in KINDS
    )
)

#: Decorator: ``--src-blk``, ``--dst-blk`` and so on.
socket_options = option_group(
    *(
        click.option(
            f"--{prefix}-{name}",
            multiple=True,
            type=PathText(),
            metavar="PATH",
            help=f"Socket of a back-end that you have started at the {where}; once for each "
            f"{kind.title}.",
        )
        for name, kind in KINDS.items()
        for prefix, where in (("src", "source"), ("dst", "destination"))
    ),
    click.option(
        "--scratch",
        is_flag=True,
        help="Permit the guest to overwrite the disks of --src-* and --dst-*.",
    ),
)


class BackEndOptions(NamedTuple):
    """The values of `command_options` and `socket_options`.

    Attributes:
        commands: by class of devices, as given.
        sockets: by side, then by class of devices.
        scratch: the disks of the sockets may be overwritten.
    """

    commands: Mapping[str, str]
    sockets: Mapping[str, Mapping[str, tuple[str, ...]]]
    scratch: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the options of a command, which need not have all of them."""
        commands = {name: options.get(f"{name}_backend") for name in KINDS}
        sockets = {
            prefix: {
                name: paths for name in KINDS if (paths := options.get(f"{prefix}_{name}") or ())
            }
            for prefix in _SIDES
        }
        return cls(
            {name: text for name, text in commands.items() if text is not None},
            sockets,
            bool(options.get("scratch")),
        )


def commands(texts: Mapping[str, str], spec: VmSpec) -> dict[str, BackEndCommand]:
    """The commands of the options, or of a file.

    Raises:
        OptionError: one is invalid, or the VM has no such device.
    """
    for name in texts:
        _check_present(f"--{name}-backend", name, spec)
    return {name: BackEndCommand.parse(name, text) for name, text in texts.items()}


def listening(
    options: BackEndOptions, spec: VmSpec, sides: Sequence[str] = ("src", "dst")
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The sockets of the options, by class of devices and name of the side.

    Args:
        options: the values.
        spec: the VM.
        sides: of this run: ``src``, ``dst`` or both.

    Raises:
        OptionError: an option contradicts another one, or the VM.
        PreflightError: the guest would overwrite a disk, and ``--scratch`` is missing.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for prefix, by_class in options.sockets.items():
        for name, paths in by_class.items():
            option = f"--{prefix}-{name}"
            if prefix not in sides:
                raise OptionError(f"{option}: this run has no such side")
            _check_present(option, name, spec)
            if name in options.commands:
                raise OptionError(f"use {option} or --{name}-backend, not both")
            _check_paths(option, paths, name, spec)
            for other in sides:
                if not options.sockets[other].get(name):
                    raise OptionError(f"{option} needs --{other}-{name}, for the other side")
            if KINDS[name].has_image and not options.scratch:
                raise PreflightError(
                    f"{option}: the guest OVERWRITES THE DISKS behind these sockets; permit it "
                    "with --scratch"
                )
            absolute = tuple(map(os.path.abspath, paths))
            found.setdefault(name, {})[_SIDES[prefix]] = absolute
    validate.different_sockets(
        [path for by_side in found.values() for paths in by_side.values() for path in paths]
    )
    if options.scratch and not found:
        raise OptionError("--scratch goes with --src-blk and --dst-blk, which are missing")
    return found


def _check_present(option: str, device_class: str, spec: VmSpec) -> None:
    if not any(device.device_class == device_class for device in spec.devices):
        raise OptionError(f"{option}: the VM has no such device; see --{device_class}")


def _check_paths(option: str, paths: Sequence[str], device_class: str, spec: VmSpec) -> None:
    count = sum(device.device_class == device_class for device in spec.devices)
    if len(paths) != count:
        plural = KINDS[device_class].plural
        raise OptionError(
            f"{option} is given {counted(len(paths), 'time')}, and the VM has {count} {plural}; "
            f"see --{device_class}"
        )
