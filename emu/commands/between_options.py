"""Options of a migration between two runs, which both ends of it share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emu import between
from emu.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.between import Passage
    from emu.config.plan import MachinePlan

_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--images",
        type=_FILE,
        metavar="DIR",
        help="Keep the disks' scratch images there (blk0.img and so on), for both ends to see.",
    ),
    click.option(
        "--tls-cert", type=_FILE, metavar="FILE", help="This side's certificate and chain, PEM."
    ),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, PEM."),
    click.option(
        "--tls-ca",
        type=_FILE,
        metavar="FILE",
        help="Who may have signed the other side's certificate, PEM; both sides verify.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Let the VM's memory cross a network without TLS.",
    ),
)


def between_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the options that `passage_plan` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def passage_plan(option: str, options: dict[str, Any], *, listens: bool) -> Passage | None:
    """Where the migration comes from or goes to; None when neither was asked for.

    Args:
        option: ``--to`` or ``--incoming``.
        options: of the command.
        listens: this is the destination.

    Raises:
        PreflightError: it cannot be.
    """
    uri = options[option.removeprefix("--")]
    cert, key, ca = (options[name] for name in ("tls_cert", "tls_key", "tls_ca"))
    files = (cert, key, ca)
    hostname = options.get("tls_hostname") or ""
    if uri is None:
        given = ("tls_cert", "tls_key", "tls_ca", "tls_hostname", "insecure")
        for name in given:
            if options.get(name):
                raise OptionError(
                    f"--{name.replace('_', '-')} goes with {option}, which is missing"
                )
        return None
    if any(files) and not all(files):
        raise OptionError("TLS needs all three of --tls-cert, --tls-key and --tls-ca")
    if hostname and not all(files):
        raise OptionError("--tls-hostname needs --tls-cert, --tls-key and --tls-ca")
    credentials = None
    if all(files):
        from emu.migration.tls import Credentials

        credentials = Credentials(str(cert), str(key), str(ca), hostname)
    return between.passage(option, uri, credentials, insecure=options["insecure"], listens=listens)


def check_machine(option: str, machine: MachinePlan, passage: Passage | None) -> None:
    """Check what both ends must have in common.

    Raises:
        PreflightError: they cannot have it.
    """
    if passage is not None:
        between.check_images(option, machine.images, machine.spec, machine.disk)
    elif machine.images is not None and not machine.images.is_dir():
        raise OptionError(f"--images {machine.images}: there is no such directory")
