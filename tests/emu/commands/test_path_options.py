"""Options whose values are paths, of all commands."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from backends.options import FilePath
from tests.emu.commands.test_color_option import ALL
from tests.emu.test_cli import SMALL, emu


@pytest.mark.parametrize("name", ALL)
def test_all_of_them_refuse_an_empty_path(name: str) -> None:
    """It would be the current directory."""
    for parameter in ALL[name].params:
        if isinstance(parameter.type, click.Path):
            assert isinstance(parameter.type, FilePath), parameter.name


def test_a_path_is_one_unless_it_is_empty() -> None:
    """The current directory has a name."""
    assert FilePath().convert(".", None, None) == Path()
    with pytest.raises(click.BadParameter, match="the path is empty"):
        FilePath().convert("", None, None)


def test_a_variable_that_is_not_set_makes_no_images_in_the_current_directory() -> None:
    """The error names the option."""
    done = emu("run", *SMALL, "--images", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "emu: Invalid value for '--images': the path is empty\n"
