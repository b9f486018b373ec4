"""Parameters and capabilities of migrations by QEMU's names (qapi/migration.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.config.migration_parameters import MAX_STREAMS, Parameters
from emu.errors import EmuError
from emu.json_input import JsonInputError, Members, check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.qmp.protocol import JsonObject
    from emu.vm_process.control import Control

#: QEMU's limit of downtime-limit, in milliseconds.
MAX_DOWNTIME_LIMIT = 2_000_000
#: QEMU's names of the parameters that it has as well, and ours of the others.
_NAMES = {
    "downtime-limit": "downtime_limit",
    "max-bandwidth": "max_bandwidth",
    "x-deadline": "timeout",
    "x-on-no-converge": "on_no_converge",
    "x-check-locks": "check_locks",
}
#: QEMU's capabilities; those that are not supported here cannot be set.
_OTHER_CAPABILITIES = {
    "xbzrle",
    "rdma-pin-all",
    "zero-blocks",
    "compress",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "block",
    "pause-before-switchover",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "background-snapshot",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    "mapped-ram",
}
_CAPABILITY = Members({"capability": str, "state": bool}, closed=True)


class MigrationSettings:
    """The settings of one VM.

    In QEMU the number of streams is a parameter, ``multifd-channels``, and has an effect with the
    capability ``multifd`` only; ``auto-converge`` is a capability.

    Args:
        control: of the VM; it has the parameters.

    Attributes:
        events: MIGRATION and MIGRATION_PASS are sent.
    """

    def __init__(self, control: Control) -> None:
        self.events = True
        self._control = control
        self._multifd = False
        self._channels = 2

    @property
    def _values(self) -> Mapping[str, object]:
        return self._control.parameters._asdict()

    def parameters(self) -> JsonObject:
        """All parameters."""
        values = self._values
        found: JsonObject = {name: values[field] for name, field in _NAMES.items()}
        return {**found, "multifd-channels": self._channels}

    def set_parameters(self, given: Mapping[str, object]) -> None:
        """Set parameters.

        Raises:
            EmuError: one is unknown or invalid; none is set then.
        """
        changes: JsonObject = {}
        channels = self._channels
        fields = {field.replace("-", "_"): name for field, name in _NAMES.items()}
        for name, value in given.items():
            key = name.replace("-", "_")
            if key == "multifd_channels":
                if type(value) is not int or not 1 <= value <= MAX_STREAMS:
                    raise EmuError(
                        f"Parameter '{name}' expects a value between 1 and {MAX_STREAMS}"
                    )
                channels = value
            elif key not in fields:
                raise EmuError(f"Parameter '{name}' is unexpected")
            else:
                changes[Parameters.qmp_name(fields[key])] = value
        limit = changes.get("downtime-limit", 0)
        if type(limit) is int and not 0 <= limit <= MAX_DOWNTIME_LIMIT:
            raise EmuError(
                f"Parameter 'downtime-limit' expects an integer from 0 to {MAX_DOWNTIME_LIMIT} ms"
            )
        self._apply(changes, multifd=self._multifd, channels=channels)

    def capabilities(self) -> list[JsonObject]:
        """All capabilities that have an effect."""
        states = {
            "auto-converge": self._control.parameters.auto_converge,
            "events": self.events,
            "multifd": self._multifd,
            "return-path": True,
        }
        return [{"capability": name, "state": state} for name, state in states.items()]

    def set_capabilities(self, given: list[JsonObject]) -> None:
        """Set capabilities.

        Raises:
            EmuError: one is unknown or not supported, or a migration runs; none is set then.
        """
        if self._control.sending:
            raise EmuError("There's a migration process in progress")
        states: dict[str, bool] = {}
        for index, entry in enumerate(given):
            try:
                found = check(entry, _CAPABILITY, f"capabilities[{index}]")
            except JsonInputError as error:
                raise EmuError(f"Invalid parameter: {error}") from None
            name, state = found["capability"], found["state"]
            _check_capability(name, state=state)
            states[name] = state
        changes: JsonObject = {}
        if "auto-converge" in states:
            changes["auto-converge"] = states["auto-converge"]
        multifd = states.get("multifd", self._multifd)
        self._apply(changes, multifd=multifd, channels=self._channels)
        self.events = states.get("events", self.events)

    def _apply(self, changes: JsonObject, *, multifd: bool, channels: int) -> None:
        streams = channels if multifd else 1
        self._control.set_parameters({**changes, "streams": streams})
        self._multifd, self._channels = multifd, channels


def _check_capability(name: str, *, state: bool) -> None:
    if name in _OTHER_CAPABILITIES:
        if state:
            raise EmuError(f"Capability '{name}' is not supported")
    elif name == "return-path":
        if not state:
            raise EmuError("Capability 'return-path' is always on")
    elif name not in ("auto-converge", "events", "multifd"):
        raise EmuError(f"Parameter 'capability' does not accept value '{name}'")
