"""Errors of the machine's own side; those of the protocol are in `vhost_user.errors`."""

from __future__ import annotations

from enum import StrEnum

from vhost_user.one_line import one_line

#: Characters of the reason why a migration failed.
MAX_REASON = 800


class EmuError(Exception):
    """Base of what the emulator raises on purpose: its text is the line that a user reads.

    Attributes:
        error_class: QMP's class (QEMU: qapi/error.json), such as ``GenericError``.
    """

    error_class = "GenericError"


class PreflightError(EmuError):
    """What was asked for cannot be done here. Raised before anything has been started."""


class OptionError(PreflightError):
    """An option says what makes no sense, here or anywhere: the status is that of a usage error."""


class PluginError(PreflightError):
    """A strategy of another distribution, or of a file, cannot be used."""


class MonitorError(EmuError):
    """A monitor's peer broke the protocol, refused a command, or did not answer in time."""


class CommandError(MonitorError):
    """A command was answered with an error.

    Attributes:
        description: what the peer says.
    """

    def __init__(self, peer: str, error_class: str, description: str) -> None:
        super().__init__(f"{peer}: {description}")
        self.error_class = error_class
        self.description = description


class DeviceNotFoundError(EmuError):
    """The VM has no device of that name."""

    error_class = "DeviceNotFound"


class HangUpError(MonitorError):
    """The other end of a monitor has disconnected."""


class ProgramError(EmuError):
    """A program that a run needs ended by itself, or never became ready."""


class Operation(StrEnum):
    """What a migration was doing when it failed; the error's text begins with the value."""

    CONNECT = "connect"
    LISTEN = "listen"
    TLS = "tls"
    HANDSHAKE = "handshake"
    #: The migration stream: it broke, or a section of it is invalid.
    STREAM = "stream"
    PRE_COPY = "pre-copy"
    HANDOVER = "handover"
    SWITCHOVER = "switchover"
    #: The value is that of `devices.procedure.Phase.LOAD_STATE`.
    LOAD_STATE = "dst.load_state"
    COMPLETION = "completion"
    #: The destination failed, and sent the reason.
    DESTINATION = "destination"
    #: The source failed, or a limit of this side expired: the VM has not arrived.
    INCOMING = "incoming"
    #: The VM's process reported nothing for too long.
    WAIT = "wait"
    CANCEL = "migrate_cancel"


class MigrationError(EmuError):
    """A migration failed.

    The text may have parts that the other side has sent: it is made one line that prints, of at
    most `MAX_REASON` characters.

    Attributes:
        operation: what failed.
    """

    def __init__(self, operation: Operation, text: str) -> None:
        super().__init__(f"{operation}: {one_line(text, MAX_REASON)}")
        self.operation = operation


class CancelledError(MigrationError):
    """A migration was cancelled; the VM runs on where it was."""

    def __init__(self) -> None:
        super().__init__(Operation.CANCEL, "cancelled")


class SignalError(EmuError):
    """The user ended the run.

    Attributes:
        signum: the signal that said so.
    """

    def __init__(self, signum: int, name: str) -> None:
        super().__init__(f"ended by {name}")
        self.signum = signum
