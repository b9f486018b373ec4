"""A command that consists of subcommands, such as `emu` and `emu conform`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


class CommandGroup(click.Group):
    """Names the subcommands that have an option which the group itself does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the subcommand.

        Raises:
            click.UsageError: one of them is not the group's.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            owners = list(_owners(self, ctx, error.option_name))
            if not owners:
                raise
            raise click.UsageError(
                f"{error.option_name} is an option of a subcommand: write it after "
                f"{' or '.join(owners)}",
                ctx,
            ) from None


def need_subcommand(context: click.Context) -> None:
    """Without a subcommand print the help of the group; that is a usage error.

    Raises:
        click.exceptions.Exit: no subcommand is given.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def _owners(group: click.Group, context: click.Context, option: str) -> Iterator[str]:
    """The commands below a group that have an option."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        below = click.Context(command, context, info_name=name)
        if any(option in parameter.opts for parameter in command.params):
            yield below.command_path
        if isinstance(command, click.Group):
            yield from _owners(command, below, option)
