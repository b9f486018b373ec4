"""``--color`` and ``--no-color`` of all commands."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click
import pytest

from emu.commands.group import emu
from tests.emu.report.comparable import migration
from tests.emu.test_cli import emu as run_emu
from tests.emu.test_terminal import on_a_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*3[1-7]")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for child in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), child)
            assert below is not None
            yield from commands(below, f"{name} {child}")


ALL = dict(commands(emu, "emu"))


@pytest.mark.parametrize("name", ALL)
def test_each_command_has_it(name: str) -> None:
    assert [option.opts for option in ALL[name].params if option.name == "color"] == [["--color"]]


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """A command that prints a table with a green cell."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, times in zip(paths, ((20.0, 21, 22, 23), (10.0, 11, 12, 13)), strict=True):
        path.write_text(json.dumps(migration({"split": times})))
    return ("compare", *map(str, paths))


def test_a_pipe_has_the_same_text_with_colours(words: tuple[str, ...]) -> None:
    plain, coloured, before = (
        run_emu(*arguments).stdout
        for arguments in (words, (*words, "--color"), ("--color", *words))
    )
    assert COLOUR.search(coloured)
    assert "\x1b" not in plain
    assert _ESCAPE.sub("", coloured) == plain
    assert before == coloured
    assert run_emu(*words, "--no-color").stdout == plain


def test_a_terminal_has_colours_unless_they_are_not_wanted(words: tuple[str, ...]) -> None:
    shown = {
        option: on_a_terminal((*words, *option), term="xterm")[1]
        for option in ((), ("--no-color",))
    }
    assert COLOUR.search(shown[()])
    assert not COLOUR.search(shown["--no-color",])
