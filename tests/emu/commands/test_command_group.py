"""Options that are written before the subcommand that has them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from emu.commands.command_group import CommandGroup, need_subcommand


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.option("--own", is_flag=True)
@click.pass_context
def group(context: click.Context, *, own: bool) -> None:
    """A group with an option of its own."""
    need_subcommand(context)


@group.command()
@click.option("--deep", "-d", is_flag=True)
def first(*, deep: bool) -> None:
    """A command."""


@group.group(cls=CommandGroup)
def nested() -> None:
    """A group in a group."""


@nested.command()
@click.option("--deep", is_flag=True)
@click.option("--deeper", is_flag=True)
def second(*, deep: bool, deeper: bool) -> None:
    """Another command."""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--deep",), "after group first or group nested second"),
        (("-d", "first"), "after group first"),
        (("nested", "--deeper"), "after group nested second"),
        (("--none",), "No such option"),
        (("first", "--own"), "No such option"),
    ],
)
def test_the_subcommands_that_have_an_option_are_named(
    arguments: tuple[str, ...], text: str
) -> None:
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 2
    assert text in result.output.replace("\n", " ")


def test_without_a_subcommand_the_help_is_a_usage_error() -> None:
    result = CliRunner().invoke(group, ["--own"])
    assert result.exit_code == 2
    assert "Usage: group" in result.output
    assert CliRunner().invoke(group, ["--own", "first"]).exit_code == 0
