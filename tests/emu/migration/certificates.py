"""Certificates for tests: authorities, and certificates that they have signed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import trustme

from emu.migration.tls import Credentials

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Authority:
    """Signs certificates, and writes them to files.

    Args:
        folder: where the files go.
        name: of the authority.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._name = name
        self.pem = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))

    def credentials(
        self, name: str, *identities: str, expired: bool = False, trusts: Authority | None = None
    ) -> Credentials:
        """A certificate for these addresses, or for 127.0.0.1, with the authority it trusts."""
        issued = self._ca.issue_cert(
            *(identities or ("127.0.0.1",)), not_after=LONG_AGO if expired else None
        )
        cert = self._folder / f"{self._name}-{name}.crt"
        key = self._folder / f"{self._name}-{name}.key"
        cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return Credentials(str(cert), str(key), str((trusts or self).pem))
