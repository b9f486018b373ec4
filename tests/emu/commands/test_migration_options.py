"""Options of a migration: parameters, and the options of strategies."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from pathlib import Path

import click
import pytest

from emu.commands.migrate import migrate
from emu.commands.migration_options import MigrationOptions, parameters, strategy_options
from emu.commands.option_values import values_of
from emu.config.migration_parameters import Parameters
from emu.errors import PreflightError
from emu.strategies.unsafe import EITHER


def options(*arguments: str) -> MigrationOptions:
    context = migrate.make_context("migrate", list(arguments))
    return values_of(MigrationOptions, context.params)


def test_the_defaults_are_those_of_the_parameters() -> None:
    assert parameters(options()) == Parameters()
    assert strategy_options(options()) == {}


def test_each_option_is_a_parameter() -> None:
    """Durations are in the units of QEMU: milliseconds, and seconds for the timeout."""
    own = options(
        *("--downtime-limit", "20ms", "--max-bandwidth", "100M", "--streams", "3"),
        *("--auto-converge", "--on-no-converge", "abort", "--check-locks"),
    )
    found = parameters(own)
    assert (found.downtime_limit, found.max_bandwidth, found.streams) == (20, 100 << 20, 3)
    assert (found.auto_converge, found.on_no_converge, found.check_locks) == (True, "abort", True)


def test_options_of_strategies_are_passed_on_if_the_user_sets_them() -> None:
    """--unsafe without a value is `either`."""
    own = options("--threads", "3", "--processes", "4", "--unsafe")
    assert strategy_options(own) == {"threads": 3, "processes": 4, "unsafe": EITHER}


def test_plugins_may_be_repeated() -> None:
    assert options("--plugin", "a", "--plugin", "b").plugins == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("name", "text"), [("--downtime-limit", "soon"), ("--max-bandwidth", "fast")]
)
def test_the_error_of_an_invalid_value_names_its_option(name: str, text: str) -> None:
    with pytest.raises(PreflightError, match=f"{name} '{text}' is not a"):
        parameters(options(name, text))


@pytest.mark.parametrize("name", ["--threads", "--processes", "--streams"])
def test_pools_have_a_size(name: str) -> None:
    with pytest.raises(click.BadParameter):
        options(name, "0")
