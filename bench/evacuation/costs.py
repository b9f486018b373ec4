"""What a blackout costs, from the results of a sweep: a base, and so much a device and a ring.

Of the migrations of a VM with a strategy the fastest one counts: other work of the host can only
make a blackout longer.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from emu.report.results import COMPLETED, totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.qmp.protocol import JsonObject


class CostError(ValueError):
    """The points do not tell the costs apart."""


class Costs(NamedTuple):
    """Milliseconds of a blackout: ``base + device * devices + ring * rings``.

    Attributes:
        base, device, ring: milliseconds.
        error_percent: median of the deviation of the points from this line.
    """

    base: float
    device: float
    ring: float
    error_percent: float = 0.0

    def downtime(self, devices: int, rings: int) -> float:
        """Milliseconds of a VM with so many devices and rings in total; not negative."""
        return max(0.0, self.base + self.device * devices + self.ring * rings)


class Point(NamedTuple):
    """The fastest blackout of a VM, in milliseconds; its devices and rings in total."""

    devices: int
    rings: int
    downtime_ms: float


def by_strategy(migrations: Iterable[JsonObject]) -> dict[str, Costs]:
    """The costs of each strategy.

    Args:
        migrations: of the document of ``emu sweep``.

    Raises:
        CostError: devices and rings do not vary independently.
    """
    groups: dict[str, list[Point]] = {}
    for each in migrations:
        size = totals(each["vm"]["devices"])
        fastest: dict[str, float] = {}
        for run in each["runs"]:
            if run["outcome"] == COMPLETED:
                name, downtime = run["strategy"], run["downtime_ms"]
                fastest[name] = min(fastest.get(name, downtime), downtime)
        for name, downtime in fastest.items():
            groups.setdefault(name, []).append(Point(*size, downtime))
    return {name: fit(points) for name, points in groups.items()}


def fit(points: Sequence[Point]) -> Costs:
    """The line with the least squares of the relative deviations, of one strategy.

    The deviations are relative, as the downtimes of a large VM would outweigh all others.

    Raises:
        CostError: devices and rings do not vary independently.
    """
    rows = [[1 / p.downtime_ms, p.devices / p.downtime_ms, p.rings / p.downtime_ms] for p in points]
    columns = range(3)
    matrix = [[sum(row[i] * row[j] for row in rows) for j in columns] for i in columns]
    found = Costs(*_solve(matrix, [sum(row[i] for row in rows) for i in columns]))
    errors = [abs(found.downtime(p.devices, p.rings) / p.downtime_ms - 1) * 100 for p in points]
    return found._replace(error_percent=statistics.median(errors))


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of linear equations, by elimination with the largest pivot."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        scale = max(abs(value) for value in matrix[at])
        if abs(rows[at][at]) <= 1e-12 * scale:
            raise CostError("the VMs of the sweep have to vary in devices and rings independently")
        for other in range(size):
            if other != at:
                factor = rows[other][at] / rows[at][at]
                rows[other] = [
                    value - factor * own for value, own in zip(rows[other], rows[at], strict=True)
                ]
    return [rows[at][size] / rows[at][at] for at in range(size)]
