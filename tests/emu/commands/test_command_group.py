"""Commands that consist of subcommands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from emu.commands.command_group import CommandGroup, need_subcommand


@click.group("tool", cls=CommandGroup, invoke_without_command=True)
@click.option("--level", type=int, default=0)
@click.pass_context
def tool(context: click.Context, level: int) -> None:
    """Have subcommands, one of which has subcommands itself."""
    need_subcommand(context)
    click.echo(f"level {level}")


@tool.command("copy")
@click.option("--force", "-f", is_flag=True)
def copy(*, force: bool) -> None:
    """Copy."""
    click.echo(f"copy {force}")


@tool.group("remote", cls=CommandGroup, invoke_without_command=True)
@click.pass_context
def remote(context: click.Context) -> None:
    """Have a subcommand."""
    need_subcommand(context)


@remote.command("push")
@click.option("--force", "-f", is_flag=True)
@click.option("--depth", type=int)
def push(*, force: bool, depth: int) -> None:
    """Push."""
    click.echo(f"push {force} {depth}")


def run(*arguments: str) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(tool, arguments, prog_name="tool")


def test_options_are_written_after_the_command_that_has_them() -> None:
    """The group's before the subcommand, which has its own."""
    assert run("--level", "2", "copy", "-f").output == "level 2\ncopy True\n"
    assert run("remote", "push", "--depth", "3").output == "level 0\npush False 3\n"


@pytest.mark.parametrize(
    ("arguments", "context", "option", "owners"),
    [
        (("--force", "copy"), "tool", "--force", "tool copy or tool remote push"),
        (("-f", "copy"), "tool", "-f", "tool copy or tool remote push"),
        (("--depth", "3"), "tool", "--depth", "tool remote push"),
        (("remote", "--depth", "3", "push"), "tool remote", "--depth", "tool remote push"),
    ],
)
def test_the_option_of_a_subcommand_is_reported_with_its_commands(
    arguments: tuple[str, ...], context: str, option: str, owners: str
) -> None:
    """All of them that are below the group, in the order of the help."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Usage: {context} [OPTIONS]")
    expected = f"Error: {option} is an option of a subcommand: write it after {owners}\n"
    assert result.stderr.endswith(expected)


def test_an_option_of_no_command_is_unknown() -> None:
    """As with any command."""
    result = run("--nonsense", "copy")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: No such option '--nonsense'.\n")


def test_an_option_of_another_group_is_unknown_in_a_group_below() -> None:
    """Only the commands below a group are searched."""
    assert "No such option '--level'" in run("remote", "--level", "3", "push").stderr


@pytest.mark.parametrize("arguments", [(), ("remote",)])
def test_without_a_subcommand_the_help_is_printed_on_stderr(arguments: tuple[str, ...]) -> None:
    """It is a usage error: nothing is printed that was asked for."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
    assert result.stderr.startswith(f"Usage: {' '.join(('tool', *arguments))} [OPTIONS]")
