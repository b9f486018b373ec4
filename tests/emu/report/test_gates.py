"""Conditions on the figures of migrations."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.procedure import Phase
from emu.report.gates import FIELDS, GateError, failures, parse
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    MigrationResult,
    PhaseRow,
    Precopy,
)

NAMES = ("qemu-2021", "prewired", "prewired.2")
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "json.md"


def run(strategy: str, downtime: float | None, **more: Any) -> dict[str, Any]:
    outcome = ROLLED_BACK if downtime is None else COMPLETED
    return MigrationResult(strategy, 1, outcome, downtime_ms=downtime, **more).to_json()


def failure(text: str, *runs: dict[str, Any]) -> list[str]:
    return failures([parse(text, NAMES)], [("", {"runs": runs})])


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("prewired.downtime_ms > 30", ("prewired", "downtime_ms", ">", 30)),
        ("  qemu-2021.commits>=1e3 ", ("qemu-2021", "commits", ">=", 1000)),
        ("prewired.2.stop_ms != -0.5", ("prewired.2", "stop_ms", "!=", -0.5)),
        ("prewired.precopy.rounds==3.", ("prewired", "precopy.rounds", "==", 3)),
        ("prewired.integrity.packets_lost < 7", ("prewired", "integrity.packets_lost", "<", 7)),
        (
            "prewired.dst.start_vrings.net.wall_ms <= 5",
            ("prewired", "dst.start_vrings.net.wall_ms", "<=", 5),
        ),
    ],
)
def test_a_gate_is_a_strategy_a_field_an_operator_and_a_number(text: str, gate: object) -> None:
    assert parse(text, NAMES) == (text, *gate)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write STRATEGY.FIELD OPERATOR NUMBER"),
        ("prewired.downtime_ms", "write STRATEGY.FIELD"),
        ("prewired.downtime_ms = 3", "write STRATEGY.FIELD"),
        ("prewired.downtime_ms > nan", "write STRATEGY.FIELD"),
        ("prewired.downtime_ms > 3 and 1", "write STRATEGY.FIELD"),
        ("__import__('os').abort() > 1", "the strategy has to be one of qemu-2021, prewired"),
        ("split.downtime_ms > 3", "the strategy has to be one of qemu-2021, prewired"),
        ("prewired > 3", "the strategy has to be one of"),
        ("prewired.phases > 3", "phases is not a field; these are: downtime_ms, guest_gap_ms"),
        ("prewired.repeat > 3", "repeat is not a field"),
        ("prewired.precopy.note > 3", "precopy.note is not a field"),
        ("prewired.src.nothing.net.wall_ms > 3", "src.nothing.net.wall_ms is not a field"),
        ("prewired.downtime_ms > 1e999", "1e999 is too large a number"),
    ],
)
def test_what_is_no_gate_is_refused_with_what_would_be_one(text: str, reason: str) -> None:
    with pytest.raises(GateError) as caught:
        parse(text, NAMES)
    assert str(caught.value).startswith(reason)


@given(st.text(max_size=60) | st.from_regex(r"prewired\.\S{0,9} [<>=]{1,2} \S{1,9}"))
def test_any_text_is_a_gate_or_an_error(text: str) -> None:
    with suppress(GateError):
        assert parse(text, NAMES).strategy in NAMES


def test_the_median_of_the_completed_runs_is_compared() -> None:
    runs = [run("prewired", value) for value in (10.0, None, 50.0, 31.5)]
    runs.append(run("qemu-2021", 900.0))
    text = "prewired.downtime_ms > 30"
    assert failure(text, *runs) == [f"{text!r}: it is 31.5, the median of 3 runs"]
    assert failure(text, run("prewired", 30.01)) == [f"{text!r}: it is 30.01"]
    assert failure(text, run("prewired", 30.0)) == []
    assert failure("qemu-2021.downtime_ms < 900", *runs) == []


def test_a_figure_that_was_not_measured_fails_the_run() -> None:
    """Such as the network's downtime of a VM without a NIC."""
    text = "prewired.network_gap_ms > 100"
    assert failure(text, run("prewired", 3.0)) == [f"{text!r}: it was not measured"]
    assert failure(text, run("prewired", None)) == [f"{text!r}: it was not measured"]
    text = "prewired.integrity.lost > 0"
    away = run("prewired", 3.0, checked_elsewhere=True)
    assert failure(text, away) == [f"{text!r}: it was not measured"]


def test_nested_members_and_phases() -> None:
    phases = (
        PhaseRow(Phase.START_VRINGS, "net", 6.0, 12.0, 4, in_blackout=True),
        PhaseRow(Phase.START_VRINGS, "net", 100.0, 200.0, 8, in_blackout=False),
    )
    one = run("prewired", 3.0, phases=phases, precopy=Precopy(rounds=4))
    assert failure("prewired.precopy.rounds >= 4", one) == [
        "'prewired.precopy.rounds >= 4': it is 4"
    ]
    text = "prewired.dst.start_vrings.net.wall_ms > 5"
    assert failure(text, one) == [f"{text!r}: it is 6"]
    # A phase that the strategy does not have takes no time.
    assert failure("prewired.src.get_vring_base.net.wall_ms > 0", one) == []


def test_the_vm_is_named_where_there_are_several() -> None:
    gate = parse("prewired.stop_ms > 1", NAMES)
    documents = [
        (f"with {n} devices", {"runs": [run("prewired", 1.0, stop_ms=n / 2)]}) for n in (2, 8)
    ]
    assert failures([gate], documents) == ["'prewired.stop_ms > 1' with 8 devices: it is 4"]


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_described(field: str) -> None:
    assert f"`{field.rpartition('.')[2]}`" in REFERENCE.read_text()
