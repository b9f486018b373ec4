"""Costs from the points of a sweep."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import Any

import pytest

from bench.evacuation.costs import CostError, Costs, Point, by_strategy, fit


def migration(devices: int, rings: int, **downtimes_ms: list[float]) -> dict[str, Any]:
    """The document of a VM with disks only: the downtimes of each strategy."""
    runs = [
        {"strategy": name, "outcome": "completed", "downtime_ms": downtime}
        for name, found in downtimes_ms.items()
        for downtime in found
    ]
    runs.append({"strategy": "split", "outcome": "rolled-back", "downtime_ms": None})
    groups = [{"class": "blk", "count": 1, "rings": rings - devices + 1}]
    groups += [{"class": "blk", "count": devices - 1, "rings": 1}]
    return {"vm": {"devices": groups}, "runs": runs}


def test_points_on_a_line_have_its_costs() -> None:
    true = Costs(2.0, 0.5, 0.25)
    points = [Point(n, r, true.downtime(n, r)) for n, r in ((1, 1), (1, 9), (8, 16), (30, 300))]
    found = fit(points)
    assert tuple(found) == pytest.approx((2.0, 0.5, 0.25, 0.0), abs=1e-6)


def test_deviations_are_relative() -> None:
    """A large VM that deviates by a tenth does not change the small ones' costs by much."""
    true = Costs(2.0, 0.5, 0.25)
    points = [Point(n, r, true.downtime(n, r)) for n, r in ((1, 1), (1, 9), (8, 16), (30, 300))]
    points[-1] = points[-1]._replace(downtime_ms=1.1 * points[-1].downtime_ms)
    found = fit(points)
    assert found.downtime(1, 1) == pytest.approx(true.downtime(1, 1), rel=0.05)
    assert 0 < found.error_percent < 10


def test_each_strategy_has_costs_of_its_own_fastest_migrations() -> None:
    migrations = [
        migration(n, r, split=[9e9, 1.0 + n + r, 50.0], threads=[2.0 * (1 + n + r)])
        for n, r in ((1, 1), (1, 9), (8, 16))
    ]
    found = by_strategy(migrations)
    assert found["split"][:3] == pytest.approx((1.0, 1.0, 1.0))
    assert found["threads"].ring == pytest.approx(2 * found["split"].ring)


@pytest.mark.parametrize("shapes", [[(1, 2), (2, 4), (4, 8)], [(1, 1)]])
def test_devices_and_rings_have_to_vary_independently(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(CostError, match="independently"):
        fit([Point(devices, rings, 1.0 + rings) for devices, rings in shapes])


def test_a_downtime_is_not_negative() -> None:
    assert Costs(-5.0, 1.0, 1.0).downtime(1, 1) == 0.0
