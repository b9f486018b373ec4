"""TLS with mutual certificates for the migration stream."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.errors import MigrationError, Operation
from vhost_user import input_file

if TYPE_CHECKING:
    from collections.abc import Sequence

#: One call of `TlsSocket.sendmsg` encrypts no more than this: its timeout is for a bounded amount.
CHUNK = 1 << 20
#: Bytes of a certificate file; that of all authorities of a system has some 200 KiB.
LARGEST_FILE = 16 << 20
#: Parts below this are joined first: each would make a TLS record of its own.
RECORD = 16 << 10

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")
#: The other side's alerts about this side's certificate (RFC 8446, section 6.2).
_ALERTS = {
    "CERTIFICATE_EXPIRED": "it has expired",
    "UNKNOWN_CA": "its --tls-ca did not sign it",
    "CERTIFICATE_REQUIRED": "there is none",
    "BAD_CERTIFICATE": "it is not valid for this address",
    "CERTIFICATE_UNKNOWN": "it is not accepted",
    "CERTIFICATE_REVOKED": "it has been revoked",
    "UNSUPPORTED_CERTIFICATE": "it is not meant for this use",
    "DECRYPT_ERROR": "its signature is wrong",
}


class TlsSocket(ssl.SSLSocket):
    """A TLS connection with the methods of a plain socket that the migration stream uses."""

    def sendmsg(self, parts: Sequence[bytes | memoryview], *_: Any) -> int:  # type: ignore[override]
        """Send some of the parts; return the number of bytes."""
        if len(parts[0]) >= RECORD:
            return self.send(memoryview(parts[0])[:CHUNK])
        gathered = bytearray()
        for part in parts:
            gathered += memoryview(part)[: CHUNK - len(gathered)]
            if len(gathered) >= CHUNK:
                break
        return self.send(gathered)

    def recvmsg_into(  # type: ignore[override]
        self, views: Sequence[memoryview], *_: Any
    ) -> tuple[int, list[Any], int, None]:
        """Fill the beginning of the first view; return the number of bytes first."""
        # `recv_into` is this with checks, which take long: a call returns one record of 16 KiB.
        received: Any = self.read(len(views[0]), views[0])
        return received, [], 0, None

    def shutdown(self, how: int) -> None:
        """Shut the connection down, but still decrypt the bytes that are received afterwards.

        Python's own `shutdown` would return the encrypted bytes.
        """
        socket.socket.shutdown(self, how)


class Credentials(NamedTuple):
    """The certificate of a side, and the authorities that it trusts.

    Attributes:
        cert, key: PEM files of this side's certificate, with its chain, and of its private key.
        ca: PEM file of the authorities that may have signed the other side's certificate.
        hostname: that the destination's certificate must be valid for; the address if empty.
    """

    cert: str
    key: str
    ca: str
    hostname: str = ""

    def context(self, *, server: bool) -> ssl.SSLContext:
        """TLS 1.3 as a destination (``server``) or a source; both verify the peer.

        Raises:
            MigrationError: a file is missing or invalid.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if server:
            context.num_tickets = 0  # no session is resumed, and the source reads no tickets
        for option, path in zip(("cert", "key", "ca"), self[:3], strict=True):
            _check_readable(f"--tls-{option}", path)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ValueError):
            raise MigrationError(
                Operation.TLS, f"--tls-ca {self.ca} holds no certificate"
            ) from None
        passphrase_requests = []

        def no_passphrase() -> str:
            passphrase_requests.append(True)
            return ""

        try:
            context.load_cert_chain(self.cert, self.key, no_passphrase)
        except (OSError, ValueError) as error:
            encrypted = bool(passphrase_requests)
            raise MigrationError(Operation.TLS, self._reason(error, encrypted=encrypted)) from None

    def _reason(self, error: Exception, *, encrypted: bool) -> str:
        if encrypted:
            return f"--tls-key {self.key} is encrypted: use one without a passphrase"
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return f"--tls-key {self.key} is not the key of --tls-cert {self.cert}"
        return f"--tls-cert {self.cert} and --tls-key {self.key} are not a PEM certificate and key"


def _check_readable(option: str, path: str) -> None:
    try:
        input_file.read(Path(path), LARGEST_FILE)  # OpenSSL would wait for the end of a FIFO
    except OSError as error:
        raise MigrationError(Operation.TLS, f"{option} {path}: {error.strerror}") from None


def secure(
    sock: socket.socket, credentials: Credentials, *, server: bool, host: str, timeout: float
) -> ssl.SSLSocket:
    """Begin TLS on a connected socket, which is closed when that fails.

    Args:
        sock: the socket; it must not be used afterwards.
        credentials: this side's.
        server: this is the destination.
        host: the address that was connected to; empty for a unix socket, which has no name.
        timeout: seconds for each message of the handshake.

    Raises:
        MigrationError: the other side does not use TLS, or one side does not accept the other.
    """
    try:
        context = credentials.context(server=server)
        name = credentials.hostname or host
        if not server and not name:
            context.check_hostname = False
        sock.settimeout(timeout)
        encrypted = context.wrap_socket(
            sock,
            server_side=server,
            server_hostname=None if server else name or None,
            do_handshake_on_connect=False,
        )
    except MigrationError:
        sock.close()
        raise
    try:
        encrypted.do_handshake()
    except OSError as error:
        _close_after_alert(encrypted)
        raise MigrationError(Operation.TLS, explain(error)) from None
    return encrypted


def _close_after_alert(sock: ssl.SSLSocket) -> None:
    """Close so that the other side reads the alert first: unread bytes would cause a reset."""
    with suppress(OSError):
        sock.settimeout(1.0)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        while socket.socket.recv(sock, 1 << 16):
            pass
    sock.close()


def explain(error: OSError) -> str:
    """A TLS error in terms of the --tls options."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other side's certificate is refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the other side does not answer: does it use TLS?"
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str):
        return "the other side closed the connection in the handshake: does it use TLS?"
    if reason in _NO_TLS:
        return "the other side does not use TLS: both sides need certificates, or neither"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the other side has sent no certificate"
    _, alert, name = reason.partition("ALERT_")
    if alert and name in _ALERTS:
        return f"the other side refuses this side's certificate: {_ALERTS[name]}"
    return reason.replace("_", " ").lower()
