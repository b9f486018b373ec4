"""Writes the options of each command into its page, ``docs/reference/emu-NAME.md``: ``make docs``.

A page has the table of a command between two comments::

    <!-- options of emu run -->
    <!-- end of options -->
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emu.commands.group import emu

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION = re.compile(
    r"(<!-- options of (emu[a-z -]*) -->\n).*?(<!-- end of options -->\n)", re.DOTALL
)
_HEAD = "\n| option | effect |\n|---|---|\n"
#: A help text with one of these already has how often the option may be given.
_REPEATED = ("several times", "once for each", "Once for each")


def commands() -> Iterator[tuple[str, click.Command]]:
    """The full name of each command that has options of its own, and the command."""
    context = click.Context(emu)
    for name in emu.list_commands(context):
        command = emu.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"emu {name} {child}", each) for child, each in command.commands.items())
        elif command is not None:
            yield f"emu {name}", command


def page_of(name: str) -> str:
    """The file name of the page with a command's options."""
    return f"emu-{name.split()[1]}.md"


def table(command: click.Command) -> str:
    """The options of a command as a table."""
    rows = [_row(option) for option in command.params if isinstance(option, click.Option)]
    return _HEAD + "".join(rows) + "\n"


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = _value(option)
    help_text = (option.help or "").replace("\b\n", "").strip()
    if option.show_default and option.default is not None and not option.is_flag:
        help_text += f" [default: {option.default}]"
    if option.multiple and not any(words in help_text for words in _REPEATED):
        help_text += " May be given several times."
    return f"| {names}{f' `{_escaped(value)}`' if value else ''} | {_escaped(help_text)} |\n"


def _value(option: click.Option) -> str:
    """The word for the option's value; empty for a flag."""
    if option.metavar:
        return option.metavar
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.type.name.split()[0].upper()


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def updated(text: str) -> str:
    """A page with the tables as they are now.

    Raises:
        KeyError: a comment names a command that is not there.
    """
    found = dict(commands())
    return _SECTION.sub(lambda match: match[1] + table(found[match[2]]) + match[3], text)


def main(directory: Path) -> None:
    """Write the tables of all pages in this directory again."""
    for name in sorted({page_of(name) for name, _ in commands()}):
        path = directory / name
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
