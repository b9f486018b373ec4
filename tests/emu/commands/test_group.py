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
    """It is imported by that name."""
    command = emu.get_command(click.Context(emu), name)
    assert command is not None
    assert command.name == name


def test_a_name_that_is_no_subcommand() -> None:
    """The other modules of the package are no commands."""
    assert emu.get_command(click.Context(emu), "group") is None


def test_the_suite_starts_without_the_vm() -> None:
    """Those who test a back-end start it often."""
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
