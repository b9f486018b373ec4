"""Options of a migration between two runs, which source and destination share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from backends.options import FilePath, option_group
from emu.config.device_kinds import KINDS
from emu.errors import MigrationError, OptionError, PreflightError
from emu.migration import endpoint
from emu.migration.endpoint import MigrationEndpoint, StreamSecurity

if TYPE_CHECKING:
    from pathlib import Path

    from emu.config.plan import MachinePlan

_FILE = FilePath()
_OPTIONS = (
    click.option(
        "--images",
        type=_FILE,
        metavar="DIR",
        help="Directory of the disks' images (blk0.img and so on), which both sides use; they "
        "are kept.",
    ),
    click.option(
        "--tls-cert", type=_FILE, metavar="FILE", help="This side's certificate and chain, PEM."
    ),
    click.option(
        "--tls-key", type=_FILE, metavar="FILE", help="The private key of --tls-cert, PEM."
    ),
    click.option(
        "--tls-ca",
        type=_FILE,
        metavar="FILE",
        help="Authorities, one of which has signed the other side's certificate, PEM.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Permit the VM's memory to be sent over a network without TLS.",
    ),
)


#: Decorator: the options of `BetweenOptions`.
between_options = option_group(*_OPTIONS)


@dataclass(frozen=True, slots=True)
class BetweenOptions:
    """The values of `between_options`, and of ``--tls-hostname``, which only the source has."""

    images: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    insecure: bool
    tls_hostname: str | None = None


def endpoint_of(
    option: str, uri: str | None, options: BetweenOptions, *, listens: bool
) -> MigrationEndpoint | None:
    """The address of the migration, from the options; None without ``--to`` or ``--incoming``.

    Args:
        option: ``--to`` or ``--incoming``.
        uri: its value.
        options: the other values.
        listens: this is the destination.

    Raises:
        PreflightError: an option is missing or invalid.
    """
    if uri is None:
        given = ("tls_cert", "tls_key", "tls_ca", "tls_hostname", "insecure")
        for name in given:
            if getattr(options, name):
                raise OptionError(
                    f"--{name.replace('_', '-')} goes with {option}, which is missing"
                )
        return None
    security = security_of(option, options, listens=listens)
    return _endpoint(option, uri, security, listens=listens)


def security_of(option: str, options: BetweenOptions, *, listens: bool) -> StreamSecurity:
    """How the stream is protected, from the options.

    Args:
        option: ``--to``, ``--incoming`` or ``--qmp``, for errors.
        options: the values.
        listens: this is the destination.

    Raises:
        OptionError: an option is missing, or a certificate cannot be used.
    """
    cert, key, ca = files = (options.tls_cert, options.tls_key, options.tls_ca)
    hostname = options.tls_hostname or ""
    if any(files) and not all(files):
        raise OptionError("TLS needs all three of --tls-cert, --tls-key and --tls-ca")
    if hostname and not all(files):
        raise OptionError("--tls-hostname needs --tls-cert, --tls-key and --tls-ca")
    if not all(files):
        return StreamSecurity(None, options.insecure)
    from emu.migration.tls import Credentials

    credentials = Credentials(str(cert), str(key), str(ca), hostname)
    try:
        credentials.context(server=listens)
    except MigrationError as error:
        raise OptionError(f"{option} {error}") from None
    return StreamSecurity(credentials, options.insecure)


def check_machine(option: str, machine: MachinePlan, endpoint: MigrationEndpoint | None) -> None:
    """Check the directory of the images, which source and destination share.

    Raises:
        PreflightError: it is missing or does not exist.
    """
    if endpoint is not None:
        _check_images(option, machine)
    elif machine.images is not None and not machine.images.is_dir():
        raise OptionError(f"--images {machine.images}: there is no such directory")


def _endpoint(
    option: str, uri: str, security: StreamSecurity, *, listens: bool
) -> MigrationEndpoint:
    """Check the address of a migration, before a process is started.

    Raises:
        PreflightError: the address is invalid, or the VM's memory would cross a network in the
            clear.
    """
    if listens and uri == endpoint.DEFER:
        return MigrationEndpoint(uri, security)
    try:
        plain_is_safe = endpoint.is_local(uri)
    except MigrationError as error:
        # The option already names the operation.
        text = str(error).removeprefix(f"{error.operation}: ")
        raise OptionError(f"{option} {text}") from None
    if security.credentials is None and not plain_is_safe and not security.insecure:
        raise PreflightError(
            f"{option} {uri} is not loopback, and the VM's memory would go over the network in the "
            "clear: give --tls-cert, --tls-key and --tls-ca, or --insecure"
        )
    return MigrationEndpoint(uri, security)


def _check_images(option: str, machine: MachinePlan) -> None:
    """Check that source and destination can use the same disk images.

    The images behind back-ends that the user has started are the user's.

    Raises:
        PreflightError: they cannot.
    """
    images, disk = machine.images, machine.disk
    if disk is not None and disk.writable:
        raise OptionError(f"--write is not possible with {option}: the disk is only read")
    disks = sum(
        KINDS[device.device_class].has_image and device.device_class not in machine.listening
        for device in machine.spec.devices
    )
    if disks > (disk is not None) and images is None:
        raise OptionError(
            f"{option} needs --images DIR, a directory that both sides see: the disks' images are "
            "kept there"
        )
    if images is not None and not images.is_dir():
        raise PreflightError(f"--images {images}: there is no such directory")
