"""The help texts of all commands, in a terminal of 80 columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest

from backends.blk import command as blk
from backends.net import command as net
from backends.rng import command as rng
from backends.serve import command as serve
from emu.commands.group import emu

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = 80


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for child_name, child in command.commands.items():
            yield from _commands(child, f"{name} {child_name}")


ALL = [
    found
    for name, command in [
        ("emu", emu),
        ("vhost-emu-blk", blk),
        ("vhost-emu-net", net),
        ("vhost-emu-rng", rng),
        ("vhost-emu-serve", serve),
    ]
    for found in _commands(command, name)
]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_the_help_text_fits_and_is_not_cut(name: str, command: click.Command) -> None:
    """No line is longer than the terminal is wide, and no summary ends in an ellipsis."""
    context = click.Context(command, info_name=name, terminal_width=COLUMNS)
    lines = command.get_help(context).splitlines()
    assert [line for line in lines if len(line) > COLUMNS] == []
    listed = lines[lines.index("Commands:") :] if "Commands:" in lines else []
    assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_articles_fit_the_words_that_are_put_in(name: str, command: click.Command) -> None:
    """Names of device kinds are inserted into texts: "a entropy device" is not English."""
    text = command.get_help(click.Context(command, info_name=name))
    assert re.findall(r"\b[Aa] [aeio]\w*", text) == []
