"""Migration parameters as JSON: names, types and ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.migration_parameters import MAX_STREAMS, ON_NO_CONVERGE, Parameters
from emu.errors import EmuError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject


def test_json_round_trips_and_has_the_names_of_qmp() -> None:
    """Names have hyphens, as in migrate-set-parameters."""
    made = Parameters(downtime_limit=50, on_no_converge="abort", streams=4)
    assert made.to_json()["downtime-limit"] == 50
    assert all("_" not in name for name in made.to_json())
    assert Parameters.from_json(made.to_json()) == made


@pytest.mark.parametrize("name", Parameters().to_json())
def test_a_parameter_that_is_not_set_keeps_the_value_of_the_base(name: str) -> None:
    """Each parameter is set alone."""
    base = Parameters(20, 1 << 20, True, "abort", 3.5, True, 2)
    value = Parameters().to_json()[name]
    changed = Parameters.from_json({name: value}, base)
    assert changed.to_json() == {**base.to_json(), name: value}


def test_a_whole_number_is_a_float_in_json() -> None:
    """JSON does not distinguish 5 from 5.0."""
    assert Parameters.from_json({"deadline": 5}).timeout == 5.0


@pytest.mark.parametrize("choice", ON_NO_CONVERGE)
def test_actions_without_convergence(choice: str) -> None:
    """All of them are accepted."""
    assert Parameters.from_json({"on-no-converge": choice}).on_no_converge == choice


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"speed": 1}, "Parameter 'speed' is unexpected"),
        ({"streams": "2"}, "Invalid parameter type for 'streams', expected: int"),
        ({"streams": True}, "Invalid parameter type for 'streams', expected: int"),
        ({"auto-converge": 1}, "Invalid parameter type for 'auto-converge', expected: bool"),
        ({"on-no-converge": "wait"}, "on-no-converge is one of switch, abort"),
        ({"downtime-limit": -1}, "must not be negative"),
        ({"max-bandwidth": -1}, "must not be negative"),
        ({"deadline": 0}, "a deadline must be 0.001 s to 1e\\+06 s"),
        ({"deadline": 1e-320}, "a deadline must be"),
        ({"deadline": 1e300}, "a deadline must be"),
        ({"streams": 0}, f"1 to {MAX_STREAMS}"),
        ({"streams": MAX_STREAMS + 1}, f"1 to {MAX_STREAMS}"),
    ],
)
def test_an_invalid_parameter_is_named(values: JsonObject, text: str) -> None:
    """Unknown, of another type, or out of range."""
    with pytest.raises(EmuError, match=text):
        Parameters.from_json(values)
