"""Gates: conditions on the figures of a migration, such as ``prewired.downtime_ms > 30``.

A gate is a strategy, a field of an entry of ``runs`` in the JSON report (docs/reference/json.md),
an operator and a number. It holds, and fails the run, if the median of the strategy's completed
migrations compares so. The text is matched, and never evaluated as code.
"""

from __future__ import annotations

import math
import operator
import re
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from devices.procedure import Phase
from emu.config.device_kinds import KINDS
from emu.report.results import COMPLETED, Integrity, MigrationResult, Precopy
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from emu.qmp.protocol import JsonObject

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TEXT = re.compile(
    rf"\s*(?P<left>[^\s<>=!]+)\s*(?P<operator>{'|'.join(_OPERATORS)})\s*"
    r"(?P<limit>[-+]?[0-9]{1,20}(\.[0-9]{0,20})?(e[-+]?[0-9]{1,3})?)\s*",
    re.IGNORECASE,
)
#: Members of an entry of ``runs`` that are no numbers to be compared.
_OTHERS = {"strategy", "repeat", "outcome", "phases", "precopy", "integrity"}
_PHASE_FIELDS = ("wall_ms", "busy_ms", "count")
_CLASSES = ("vm", *KINDS)
#: Characters of a text that an error repeats.
_SHOWN = 80


def _fields() -> tuple[str, ...]:
    run = MigrationResult("", 1, COMPLETED, downtime_error_ms=0.0).to_json()
    return (
        *(name for name in run if name not in _OTHERS),
        *(f"precopy.{name}" for name in Precopy.__dataclass_fields__ if name not in _TEXTS),
        *(f"integrity.{name}" for name in Integrity().to_json()),
    )


#: Members of ``precopy`` that are texts.
_TEXTS = {"reason", "note"}
#: Names of fields, besides those of the phases in the blackout.
FIELDS = _fields()


class GateError(ValueError):
    """A text is no gate."""


class Gate(NamedTuple):
    """One condition.

    Attributes:
        text: as it was written.
        strategy: its name.
        field: one of `FIELDS`, or a phase, a class and a field of it, joined by dots.
        operator: one of ``> >= < <= == !=``.
        limit: in the unit of the field.
    """

    text: str
    strategy: str
    field: str
    operator: str
    limit: float

    def failure(self, runs: Iterable[JsonObject], where: str = "") -> str:
        """Why the condition fails the run, or nothing if it does not hold.

        Args:
            runs: as in the JSON report.
            where: which VM, such as ``with 40 devices``.
        """
        mine = [
            run for run in runs if run["strategy"] == self.strategy and run["outcome"] == COMPLETED
        ]
        values = [value for run in mine if (value := self._value(run)) is not None]
        if not values:
            return f"{self._head(where)} it was not measured"
        median = statistics.median(values)
        if not _OPERATORS[self.operator](median, self.limit):
            return ""
        several = f", the median of {len(values)} runs" if len(values) > 1 else ""
        return f"{self._head(where)} it is {median:g}{several}"

    def _head(self, where: str) -> str:
        return f"{one_line(self.text.strip(), _SHOWN)!r}{f' {where}' if where else ''}:"

    def _value(self, run: JsonObject) -> float | None:
        if self.field not in FIELDS:
            phase, device_class, name = self.field.rsplit(".", 2)
            rows = [
                row
                for row in run["phases"]
                if (row["phase"], row["class"], row["in_blackout"]) == (phase, device_class, True)
            ]
            return float(sum(row[name] for row in rows))  # 0 where the phase did not occur
        value: Any = run
        for name in self.field.split("."):
            value = None if value is None else value.get(name)
        return None if value is None else float(value)


def parse(text: str, strategies: Collection[str]) -> Gate:
    """A gate from its text.

    Args:
        text: ``STRATEGY.FIELD OPERATOR NUMBER``.
        strategies: names of the strategies that will run.

    Raises:
        GateError: it is no gate, or the strategy or the field is unknown; the text lists them.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise GateError("write STRATEGY.FIELD OPERATOR NUMBER, such as prewired.downtime_ms > 30")
    left, limit = match["left"], float(match["limit"])
    names = [name for name in strategies if left.startswith(f"{name}.")]
    if not names:
        raise GateError(f"the strategy has to be one of {', '.join(strategies)}")
    strategy = max(names, key=len)
    field = left.removeprefix(f"{strategy}.")
    if field not in FIELDS and not _is_of_phase(field):
        raise GateError(
            f"{one_line(field, _SHOWN)} is not a field; these are: {', '.join(FIELDS)}, and of a "
            f"phase in the blackout, such as {_EXAMPLE}"
        )
    if not math.isfinite(limit):
        raise GateError(f"{match['limit']} is too large a number")
    return Gate(text, strategy, field, match["operator"], limit)


_EXAMPLE = f"{Phase.GET_VRING_BASE.value}.{_CLASSES[1]}.{_PHASE_FIELDS[0]}"


def phase_fields() -> list[str]:
    """The fields of all phases; a run has a part of these phases."""
    return [
        f"{phase.value}.{device_class}.{name}"
        for phase in Phase
        for device_class in _CLASSES
        for name in _PHASE_FIELDS
    ]


def _is_of_phase(field: str) -> bool:
    return field in phase_fields()


def failures(gates: Sequence[Gate], documents: Iterable[tuple[str, JsonObject]]) -> list[str]:
    """Why conditions fail the run, one text for each that does.

    Args:
        gates: the conditions.
        documents: JSON reports of migrations, each with a text that says of which VM.
    """
    kept = list(documents)
    found = [gate.failure(whole["runs"], where) for gate in gates for where, whole in kept]
    return [text for text in found if text]
