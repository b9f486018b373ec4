"""Migration parameters, as QMP's migrate-set-parameters sets them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Self

from emu.errors import EmuError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

#: The actions when pre-copy does not reach the downtime limit.
ON_NO_CONVERGE = ("switch", "abort")
DEFAULT_TIMEOUT = 10.0
#: Seconds that a step may be given: what a system call can wait for.
MIN_TIMEOUT, MAX_TIMEOUT = 1e-3, 1e6
#: QMP's names of the fields that do not follow from the field's own.
_QMP_NAMES = {"timeout": "deadline"}
#: Sockets of one migration.
MAX_STREAMS = 16
#: Bytes that are sent at once, at the least: a page.
MIN_CHUNK = 4096


class Parameters(NamedTuple):
    """Settings of one migration, the same at source and destination.

    Attributes:
        downtime_limit: milliseconds that the blackout may be expected to take.
        max_bandwidth: bytes a second that memory may take before the switchover, 0 for no limit.
        auto_converge: slow the guest down when it writes faster than memory can be sent.
        on_no_converge: one of `ON_NO_CONVERGE`.
        timeout: seconds that one step of a device or of the peer may take; ``deadline`` in QMP.
        check_locks: check the lock order.
        streams: number of sockets over which memory is sent in parallel.
    """

    downtime_limit: int = 300
    max_bandwidth: int = 0
    auto_converge: bool = False
    on_no_converge: str = "switch"
    timeout: float = DEFAULT_TIMEOUT
    check_locks: bool = False
    streams: int = 1

    @classmethod
    def from_json(cls, values: JsonObject, base: Parameters | None = None) -> Self:
        """``base`` with what is named in ``values``, in QMP's spelling (``downtime-limit``).

        Raises:
            EmuError: a name is unknown, or a value is of another type or invalid.
        """
        current = (base or cls())._asdict()
        fields = {cls.qmp_name(field): field for field in current}
        for name, value in values.items():
            field = fields.get(name.replace("_", "-"), "")
            if not field:
                raise EmuError(f"Parameter '{name}' is unexpected")
            wanted = type(current[field])
            if wanted is float and type(value) is int:
                value = float(value)  # noqa: PLW2901  JSON has one type for both
            if type(value) is not wanted:
                raise EmuError(f"Invalid parameter type for '{name}', expected: {wanted.__name__}")
            current[field] = value
        result = cls(**current)
        if result.on_no_converge not in ON_NO_CONVERGE:
            raise EmuError(f"on-no-converge is one of {', '.join(ON_NO_CONVERGE)}")
        if min(result.downtime_limit, result.max_bandwidth) < 0:
            raise EmuError("a limit must not be negative")
        if not MIN_TIMEOUT <= result.timeout <= MAX_TIMEOUT:
            raise EmuError(f"a deadline must be {MIN_TIMEOUT:g} s to {MAX_TIMEOUT:g} s")
        if 0 < result.max_bandwidth < (least := result.least_bandwidth):
            raise EmuError(
                f"max-bandwidth {result.max_bandwidth}: with a deadline of {result.timeout:g} s "
                f"the least is {least}"
            )
        if not 1 <= result.streams <= MAX_STREAMS:
            raise EmuError(f"the number of streams must be 1 to {MAX_STREAMS}")
        return result

    @property
    def least_bandwidth(self) -> int:
        """Bytes a second; with a lower limit a page takes longer than the peer waits for it."""
        return math.ceil(2 * MIN_CHUNK / self.timeout)

    def to_json(self) -> JsonObject:
        """In QMP's spelling."""
        return {self.qmp_name(field): value for field, value in self._asdict().items()}

    @staticmethod
    def qmp_name(field: str) -> str:
        """A field's name in QMP's spelling."""
        return _QMP_NAMES.get(field, field.replace("_", "-"))
