"""Errors by fault.

    VhostUserError            base class
     +- UsageError            the caller of this library requested an invalid operation
     +- ProtocolError         a peer broke the protocol (never raised as such)
     |   +- FrontendError     ... the front-end did (or the guest's driver behind it)
     |   +- BackendError      ... the back-end did
     |       +- Refused       ... it answered a request with a non-zero acknowledgement
     +- Disconnected          the peer closed the connection, or its process has ended
     +- DeadlineError         a wait took longer than its timeout

Every error names the device, and the ring and the message where there is one.
"""

from __future__ import annotations


class VhostUserError(Exception):
    """Base of all errors of the protocol library.

    Attributes:
        device: name of the device (its socket) that the error is about, or None.
        ring: index of the vring, or None.
        message: wire name of the vhost-user message, such as ``GET_VRING_BASE``, or None.
    """

    def __init__(
        self,
        text: str,
        *,
        device: str | None = None,
        ring: int | None = None,
        message: str | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.device = device
        self.ring = ring
        self.message = message

    def __str__(self) -> str:
        where = [
            part
            for part in (
                self.device,
                None if self.ring is None else f"ring {self.ring}",
                self.message,
            )
            if part is not None
        ]
        return f"{', '.join(where)}: {self.text}" if where else self.text


class UsageError(VhostUserError):
    """The caller asked for what the protocol or this session does not allow."""


class ProtocolError(VhostUserError):
    """The peer broke the protocol. Raised as `FrontendError` or `BackendError`, by fault."""


class FrontendError(ProtocolError):
    """The front-end, or the guest's driver behind it, broke the protocol."""


class BackendError(ProtocolError):
    """The back-end broke the protocol."""


class Refused(BackendError):
    """The back-end acknowledged a request with a non-zero code.

    Attributes:
        code: the value of the acknowledgement (u64, never 0).
    """

    def __init__(self, code: int, *, device: str, message: str) -> None:
        super().__init__(f"refused with code {code}", device=device, message=message)
        self.code = code


class Disconnected(VhostUserError):
    """The peer closed the connection, or its process has ended."""


class DeadlineError(VhostUserError):
    """A wait took longer than its timeout.

    Attributes:
        waited: seconds that were waited.
    """

    def __init__(
        self,
        waiting_for: str,
        waited: float,
        *,
        device: str | None = None,
        ring: int | None = None,
        message: str | None = None,
    ) -> None:
        super().__init__(
            f"waited {waited:.3g} s for {waiting_for}", device=device, ring=ring, message=message
        )
        self.waited = waited
