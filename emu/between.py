"""A migration between two runs: where it goes, and what the two show each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.errors import MigrationError, OptionError, PreflightError
from emu.migration import endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from emu.config.plan import DiskFile
    from emu.config.vm_spec import VmSpec
    from emu.migration.tls import Credentials


@dataclass(frozen=True, slots=True)
class Passage:
    """Between two runs.

    Attributes:
        uri: where the destination listens.
        credentials: for TLS; None for a plain stream.
    """

    uri: str
    credentials: Credentials | None = None

    @property
    def transport(self) -> str:
        """``unix`` or ``tcp``."""
        return self.uri.partition(":")[0]

    @property
    def tls(self) -> list[str] | None:
        """The credentials as a monitor takes them."""
        return None if self.credentials is None else list(self.credentials)


def passage(
    option: str, uri: str, credentials: Credentials | None, *, insecure: bool, listens: bool
) -> Passage:
    """Check where a migration is to go, before anything is started.

    Raises:
        PreflightError: it is no address, a certificate cannot be used, or the VM's memory would
            cross a network in the clear.
    """
    try:
        if credentials is not None:
            credentials.context(server=listens)
        plain_is_safe = endpoint.stays_here(uri)
    except MigrationError as error:
        raise OptionError(f"{option} {error}") from None
    if credentials is None and not plain_is_safe and not insecure:
        raise PreflightError(
            f"{option} {uri} is not loopback, and the VM's memory would go over the network in the "
            "clear: give --tls-cert, --tls-key and --tls-ca, or --insecure"
        )
    return Passage(uri, credentials)


def check_images(option: str, images: Path | None, spec: VmSpec, disk: DiskFile | None) -> None:
    """Check that both sides can have the same disks.

    Raises:
        PreflightError: they cannot.
    """
    if disk is not None and disk.writable:
        raise OptionError(f"--write is not possible with {option}: the disk is only read")
    disks = sum(device.device_class == "blk" for device in spec.devices)
    if disks > (disk is not None) and images is None:
        raise OptionError(
            f"{option} needs --images DIR, a directory that both sides see: the disks' images are "
            "kept there"
        )
    if images is not None and not images.is_dir():
        raise PreflightError(f"--images {images}: there is no such directory")
