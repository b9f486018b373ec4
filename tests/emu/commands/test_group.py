"""The group of subcommands."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from emu.commands.group import SUBCOMMANDS, emu
from tests import timeouts


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_has_the_name_of_its_module(name: str) -> None:
    """`emu` imports it by that name."""
    command = emu.get_command(click.Context(emu), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=100) == SUBCOMMANDS[name]


def test_a_shell_completes_subcommands_without_their_modules() -> None:
    """So that it does not wait for them."""
    program = """
import sys
from click import Context
from emu.commands.group import emu
print([item.value for item in emu.shell_complete(Context(emu), "co")])
print(sorted(name for name in sys.modules if name.startswith("emu.commands.co")))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=timeouts.PROGRAM_TIMEOUT,
    )
    completed, loaded = run.stdout.splitlines()
    assert completed == str(["compare", "completion", "conform"])
    assert loaded == str(["emu.commands.color_option", "emu.commands.command_group"])


def test_other_modules_are_not_subcommands() -> None:
    """Although they are in the same package."""
    assert emu.get_command(click.Context(emu), "group") is None


def test_the_suite_starts_without_the_vm() -> None:
    """So that `emu conform` starts quickly."""
    program = """
import sys
from emu.commands.group import emu
emu.main(["conform", "back-end", "--list"], standalone_mode=False)
loaded = {name.partition(".")[2] for name in sys.modules if name.startswith("emu.")}
print(sorted(loaded & {"vm", "migration", "guest", "vm_process", "strategies"}))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=timeouts.PROGRAM_TIMEOUT,
    )
    assert run.stdout.splitlines()[-1] == "[]"
