"""``vhost-emu-rng``: a vhost-user-rng back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backends.options import (
    CONTEXT,
    PathText,
    Settings,
    backend_options,
    rings_option,
    settings_from,
)
from backends.program import Program, ProgramError, run_command
from backends.rng_device import RandomSource, RngDevice, SourceError
from backends.trace_options import trace_options

if TYPE_CHECKING:
    from backends.loop import Loop

NAME = "vhost-emu-rng"
CAPABILITIES: dict[str, object] = {"type": RngDevice.backend_type, "features": []}


class RngProgram(Program):
    """Entropy devices that share one source."""

    def __init__(self, settings: Settings, source: str, *, rings: int) -> None:
        super().__init__(settings)
        self._rings = rings
        try:
            self._source = RandomSource(source)
        except SourceError as error:
            raise ProgramError(f"--rng-source {error}") from error

    def make_device(self, number: int, name: str, loop: Loop) -> RngDevice:
        """An entropy device."""
        return RngDevice(name, loop, self._source, self._rings, self.stats.device(number))

    def close_extras(self) -> None:
        """Close the source."""
        self._source.close()


HELP = """Serve entropy devices (virtio-rng) to vhost-user front-ends."""


@click.command(help=HELP, context_settings=CONTEXT)
@backend_options
@click.option(
    "--rng-source",
    "source",
    type=PathText(),
    metavar="FILE",
    default="/dev/urandom",
    show_default=True,
    help="Where the random bytes come from; a regular file is read again when it ends.",
)
@rings_option(
    "Request queues of each device.", plural="entropy devices", limits=RngDevice.ring_limits
)
@trace_options
def command(source: str, num_queues: int, **options: Any) -> None:
    """The command line."""
    RngProgram(settings_from(options), source, rings=num_queues).run()


def main() -> None:
    """``python -m backends.rng``, and ``vhost-emu-rng`` (`backends.cli`)."""
    run_command(command, NAME, CAPABILITIES)


if __name__ == "__main__":
    main()
