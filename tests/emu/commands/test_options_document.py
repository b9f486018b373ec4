"""The options in ``docs/reference/``."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest

from emu.commands.options_document import commands, main, page_of, table, updated

FOLDER = Path(__file__).parents[3] / "docs" / "reference"
COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page_with_its_options(name: str) -> None:
    assert f"<!-- options of {name} -->\n" in (FOLDER / page_of(name)).read_text()


@pytest.mark.parametrize("page", sorted({page_of(name) for name in COMMANDS}))
def test_the_pages_are_up_to_date(page: str) -> None:
    """`make docs` writes them."""
    text = (FOLDER / page).read_text()
    assert text == updated(text)


def test_pages_are_written(tmp_path: Path) -> None:
    for page in {page_of(name) for name in COMMANDS}:
        shutil.copy(FOLDER / page, tmp_path)
    path = tmp_path / "emu-run.md"
    whole = path.read_text()
    path.write_text(whole.replace("| `--for` ", "| `--stale` "))
    main(tmp_path)
    assert path.read_text() == whole


def test_a_row_has_names_value_help_and_default() -> None:
    @click.command()
    @click.option("--one", "-o", type=click.Choice(["a", "b"]), default="a", show_default=True)
    @click.option("--many", multiple=True, metavar="A|B", help="Some <words>.")
    @click.option("--flag/--no-flag", help="A flag.")
    def command() -> None: ...

    assert table(command).splitlines()[3:-1] == [
        "| `--one`, `-o` `a\\|b` | [default: a] |",
        "| `--many` `A\\|B` | Some &lt;words>. May be given several times. |",
        "| `--flag`, `--no-flag` | A flag. |",
    ]


def test_a_comment_about_no_command_is_an_error() -> None:
    with pytest.raises(KeyError):
        updated("<!-- options of emu nothing -->\n<!-- end of options -->\n")
