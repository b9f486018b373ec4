"""``vhost-emu-blk``: a vhost-user-blk back-end on a file, or on several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backends.blk_device import BlkDevice
from backends.image import Image
from backends.io_pool import IoPool
from backends.options import (
    CONTEXT,
    PathText,
    Settings,
    backend_options,
    rings_option,
    settings_from,
)
from backends.program import Program, run_command
from backends.trace_options import trace_options

if TYPE_CHECKING:
    from backends.loop import Loop

NAME = "vhost-emu-blk"
CAPABILITIES: dict[str, object] = {
    "type": BlkDevice.backend_type,
    "features": ["read-only", "blk-file"],
}


class BlkProgram(Program):
    """Disks, each on a file of its own, with a few threads for calls that may block."""

    refreshes = True

    def __init__(
        self,
        settings: Settings,
        files: tuple[str, ...],
        serials: tuple[str, ...],
        *,
        rings: int,
        read_only: bool,
    ) -> None:
        super().__init__(settings)
        self._files = files
        self._serials = serials
        self._rings = rings
        self._read_only = read_only
        self._pools: list[IoPool] = []

    def make_device(self, number: int, name: str, loop: Loop) -> BlkDevice:
        """A disk on the file with this number."""
        pool = IoPool()
        self._pools.append(pool)
        return BlkDevice(
            name,
            loop,
            Image(self._files[number], read_only=self._read_only),
            self._rings,
            pool,
            serial=self._serials[number] if self._serials else f"vhost-emu-{number}",
            counters=self.stats.device(number),
        )

    def close_extras(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.close()


HELP = """Serve disks to vhost-user front-ends.

At SIGHUP the sizes of the files are read again, and front-ends are notified of a larger capacity.
The program ends at SIGTERM, at SIGINT, and when the terminal that it was started from closes.
"""


@click.command(help=HELP, context_settings=CONTEXT)
@backend_options
@click.option(
    "--blk-file",
    "files",
    multiple=True,
    type=PathText(),
    metavar="FILE",
    help="The disk's contents; once for each socket.",
)
@click.option("--read-only", is_flag=True, help="Refuse requests that would change the file.")
@rings_option("Request queues of each disk.", plural="disks", limits=BlkDevice.ring_limits)
@click.option(
    "--serial",
    "serials",
    multiple=True,
    metavar="TEXT",
    help="The disk's serial number, 20 bytes; once for each socket.",
)
@trace_options
def command(
    files: tuple[str, ...],
    serials: tuple[str, ...],
    num_queues: int,
    *,
    read_only: bool,
    **options: Any,
) -> None:
    """The command line."""
    settings = settings_from(options)
    if len(files) != settings.devices:
        raise click.UsageError(f"{settings.each} needs a --blk-file")
    if serials and len(serials) != settings.devices:
        raise click.UsageError(f"{settings.each} needs a --serial, or none")
    BlkProgram(settings, files, serials, rings=num_queues, read_only=read_only).run()


def main() -> None:
    """``python -m backends.blk``, and ``vhost-emu-blk`` (`backends.cli`)."""
    run_command(command, NAME, CAPABILITIES)


if __name__ == "__main__":
    main()
