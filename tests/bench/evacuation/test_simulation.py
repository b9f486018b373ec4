"""The simulation, against sums that can be done by hand."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.evacuation.simulation import Host, Phase, simulate

COPY, DOWN = Phase(10.0, 0.0, link=0.5), Phase(1.0, 1.0, blackout=True)


def test_one_after_the_other() -> None:
    found = simulate([(COPY, DOWN)] * 3, Host(8, 1))
    assert [each.end for each in found] == pytest.approx([11.0, 22.0, 33.0])
    assert [each.downtime for each in found] == pytest.approx([1.0, 1.0, 1.0])


def test_migrations_that_do_not_want_the_same_do_not_delay_each_other() -> None:
    found = simulate([(COPY, DOWN)] * 2, Host(8, 2))
    assert [each.end for each in found] == pytest.approx([11.0, 11.0])


def test_the_link_is_shared() -> None:
    """Four halves of the link take twice the time; the blackouts need no link."""
    found = simulate([(COPY, DOWN)] * 4, Host(8, 4))
    assert [each.end for each in found] == pytest.approx([21.0] * 4)
    assert [each.downtime for each in found] == pytest.approx([1.0] * 4)


def test_the_cores_are_shared() -> None:
    """Four blackouts on two cores take twice the time."""
    found = simulate([(DOWN,)] * 4, Host(2, 4))
    assert [each.downtime for each in found] == pytest.approx([2.0] * 4)


def test_other_work_of_the_host_has_its_share() -> None:
    """A blackout that wants the one core, beside work that wants half of it, has two thirds."""
    (found,) = simulate([(DOWN,)], Host(1, 1, others=0.5))
    assert found.downtime == pytest.approx(1.5)


def test_a_blackout_is_delayed_by_the_phases_beside_it() -> None:
    """Half of its second passes in one second beside another migration, then it is alone."""
    busy = Phase(0.5, 1.0)
    found = simulate([(DOWN,), (busy,)], Host(1, 2))
    assert found[0].downtime == pytest.approx(1.5)
    assert found[1].end == pytest.approx(1.0)


def test_a_phase_without_a_duration_ends_at_once() -> None:
    (found,) = simulate([(Phase(0.0, 1.0), DOWN)], Host(1, 1))
    assert found.end == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 10), st.floats(0, 4), st.floats(0, 1)), min_size=1, max_size=12
    ),
    st.floats(0.5, 8),
    st.integers(1, 5),
)
def test_no_core_is_used_twice(
    phases: list[tuple[float, float, float]], cores: float, parallel: int
) -> None:
    """All work takes at least its share of the cores, and no migration is faster than alone."""
    found = simulate([(Phase(*phase),) for phase in phases], Host(cores, parallel))
    work = sum(seconds * used for seconds, used, _ in phases)
    end = max(each.end for each in found)
    assert end * cores >= work * (1 - 1e-6)
    for each, (seconds, _, _) in zip(found, phases, strict=True):
        assert each.end - each.begin >= seconds * (1 - 1e-6)
    assert end <= sum(s * max(1, u / cores) for s, u, _ in phases) * (1 + 1e-6)
