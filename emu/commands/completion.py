"""`emu completion`: completes commands, options and their values in a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from emu.commands.color_option import color_option
from emu.commands.validate import ALL_STRATEGIES
from emu.config.backend_commands import names

if TYPE_CHECKING:
    from collections.abc import Callable

SHELLS = ("bash", "zsh", "fish")

HELP = """Print a script with which a shell completes commands, options and their values.

\b
Examples:
  eval "$(emu completion bash)"           in ~/.bashrc
  eval "$(emu completion zsh)"            in ~/.zshrc, after compinit
  emu completion fish > ~/.config/fish/completions/emu.fish
"""


@click.command(help=HELP, short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
@color_option
def completion(context: click.Context, shell: str) -> None:
    """Print the script."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  click has them all
    root = context.find_root()
    name = root.info_name or "emu"
    script = kind(root.command, {}, name, f"_{name}_COMPLETE".upper())
    # Not the class's own `source`, which starts bash to ask for its version.
    click.echo(ShellComplete.source(script))


def strategies(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    """The names of strategies that may follow in a list such as ``split,pre``."""
    from emu.strategies import registry

    head, comma, last = incomplete.rpartition(",")
    used = head.split(",")
    return [
        f"{head}{comma}{name}"
        for name in registry.STRATEGIES
        if name.startswith(last) and name not in used
    ]


def conditions(context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    """The strategy and the field of a condition such as ``prewired.downtime_ms > 30``.

    The strategies are those of ``--strategy`` on the same line, or all. Fields of phases are many:
    they follow once a part of the field has been written.
    """
    from emu.report import gates
    from emu.strategies import registry

    given = context.params.get("strategies")
    named = given if given != ALL_STRATEGIES else None
    strategies = named.split(",") if named else registry.STRATEGIES
    found = []
    for name in strategies:
        written = incomplete.removeprefix(f"{name}.") if incomplete.startswith(f"{name}.") else ""
        fields = [*gates.FIELDS, *(gates.phase_fields() if written else ())]
        found += [f"{name}.{field}" for field in fields]
    return [text for text in found if text.startswith(incomplete)]


def back_ends(
    device_class: str,
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the names of commands that start back-ends.

    Args:
        device_class: of their devices.
    """

    def complete(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in names(device_class) if name.startswith(incomplete)]

    return complete


def sockets(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files, as the path alone is an address, too; a shell does not complete ``unix:PATH``."""
    return [CompletionItem(incomplete, type="file")]


def cases(role: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes areas, and ids of cases once ``VU-`` has been written.

    Args:
        role: of the cases.
    """

    def complete(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
        from vhost_user_conformance.target import cases_of

        found = cases_of(role)
        names = [case.id for case in found] if incomplete.startswith("VU-") else []
        names += dict.fromkeys(case.area for case in found)
        return [name for name in names if name.startswith(incomplete)]

    return complete
