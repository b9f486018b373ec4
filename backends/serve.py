"""``vhost-emu-serve``: a vhost-user back-end whose device class comes from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from backends.options import (
    CONTEXT,
    PathText,
    Settings,
    backend_options,
    check_rings,
    rings_option,
    settings_from,
)
from backends.plugin import GROUP, PluginError, check, from_entry_point, from_file
from backends.program import Program, ProgramError, run_command
from backends.trace_options import trace_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.loop import Loop
    from backends.virtio_device import VirtioDevice

NAME = "vhost-emu-serve"


class PluginProgram(Program):
    """Devices of one class, one for each socket."""

    refreshes = True
    #: Its devices are the user's own code, which may open files whenever it likes.
    sandboxed = False

    def __init__(
        self,
        settings: Settings,
        device: type[VirtioDevice],
        options: Mapping[str, str],
        *,
        rings: int,
    ) -> None:
        super().__init__(settings)
        self._device = device
        self._options = options
        self._rings = rings

    def make_device(self, number: int, name: str, loop: Loop) -> VirtioDevice:
        """A device of the class."""
        counters = self.stats.device(number)
        try:
            return self._device(name, loop, self._rings, counters, **self._options)
        except (OSError, ValueError) as error:
            raise ProgramError(f"{self._device.__name__}: {error}") from error


def _pairs(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """The names and values of ``KEY=VALUE``."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{text}: write KEY=VALUE")
        pairs[key] = value
    return pairs


HELP = f"""Serve devices of a class of your own to vhost-user front-ends.

The class is a subclass of backends.virtio_device.VirtioDevice. It is in a Python file (--plugin),
or an installed distribution has an entry point for it in the group {GROUP} (--device).

At SIGHUP each device's refresh() is called. The program ends at SIGTERM, at SIGINT, and when the
terminal that it was started from closes.
"""


@click.command(help=HELP, context_settings=CONTEXT)
@backend_options
@click.option(
    "--plugin", type=PathText(), metavar="FILE", help="A Python file with the device class."
)
@click.option(
    "--device",
    metavar="NAME",
    help="The class in that file, if it has several; without a file the entry point.",
)
@click.option(
    "-o",
    "--option",
    "device_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_pairs,
    help="A keyword argument of the device class, as a string.",
)
@rings_option("Rings of each device.")
@trace_options
def command(
    plugin: str | None,
    device: str | None,
    device_options: dict[str, str],
    num_queues: int,
    **options: Any,
) -> None:
    """The command line."""
    try:
        chosen = _device_class(plugin, device)
        if options["print_capabilities"]:
            click.echo(json.dumps({"type": chosen.backend_type, "features": []}))
            return
        settings = settings_from(options)
        check(chosen, device_options)
        check_rings(num_queues, f"devices of {chosen.__name__}", chosen.ring_limits)
    except PluginError as error:
        raise ProgramError(str(error)) from error
    PluginProgram(settings, chosen, device_options, rings=num_queues).run()


def _device_class(plugin: str | None, device: str | None) -> type[VirtioDevice]:
    if plugin is not None:
        return from_file(plugin, device)
    if device is None:
        raise click.UsageError("use --plugin FILE or --device NAME")
    return from_entry_point(device)


def main() -> None:
    """``python -m backends.serve``, and ``vhost-emu-serve`` (`backends.cli`)."""
    run_command(command, NAME, None)


if __name__ == "__main__":
    main()
