"""The options of `emu conform`: common ones, and those of back-ends only."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from dataclasses import fields

import click
import pytest

from emu.commands.conform import conform
from emu.commands.conform_options import ConformOptions
from emu.commands.option_values import values_of
from vhost_user.features import DIALECTS
from vhost_user_conformance.model.device_class import DEVICE_CLASSES

ROLES = ("back-end", "front-end")


def options(role: str) -> dict[str, click.Option]:
    command = conform.get_command(click.Context(conform), role)
    assert command is not None
    return {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
    }


def parsed(role: str, *arguments: str) -> dict[str, object]:
    command = conform.get_command(click.Context(conform), role)
    assert command is not None
    return command.make_context(role, list(arguments)).params


def test_each_role_has_one_option_of_its_own() -> None:
    back, front = (set(options(role)) for role in ROLES)
    assert back - front == {"--scratch"}
    assert front - back == {"--destination"}


@pytest.mark.parametrize("role", ROLES)
def test_devices_and_dialects_are_those_that_the_suite_knows(role: str) -> None:
    found = options(role)
    for name, known in (("--device", DEVICE_CLASSES), ("--dialect", DIALECTS)):
        kind = found[name].type
        assert isinstance(kind, click.Choice)
        assert set(kind.choices) == set(known)


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_select_all_cases(role: str) -> None:
    values = parsed(role)
    assert (values["path"], values["command"], values["device"]) == (None, None, None)
    assert (values["only"], values["json_file"], values["junitxml"]) == ((), None, None)
    assert (values["strict"], values["listed"], values["quiet"]) == (False, False, False)


@pytest.mark.parametrize("text", ["0", "61", "nan", "soon"])
def test_the_time_for_an_answer_has_limits(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parsed("back-end", "--patience", text)
    assert parsed("back-end", "--patience", "0.5")["patience"] == 0.5


@pytest.mark.parametrize("role", ROLES)
def test_each_option_is_a_field_of_the_record(role: str) -> None:
    names = {field.name for field in fields(ConformOptions)}
    others = {"back-end": {"destination"}, "front-end": {"scratch"}}[role]
    exposed = {option.name for option in options(role).values() if option.expose_value}
    assert exposed == names - others
    assert not values_of(ConformOptions, parsed(role)).scratch


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "1/99999", "²/3"])
def test_a_part_is_a_number_of_a_number(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write K/N"):
        parsed("back-end", "--shard", text)
    assert parsed("back-end", "--shard", "2/3")["shard"] == (2, 3)
