"""Each field of a group of values is an option of the commands that have the group."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest

from backends import blk, net, rng, serve
from backends.options import NonEmptyPath
from emu.commands.between_options import BetweenOptions
from emu.commands.group import emu
from emu.commands.migrate import MigrateOptions
from emu.commands.migration_options import MigrationOptions
from emu.commands.option_values import values_of
from emu.commands.options import MachineOptions
from emu.commands.ring_use_options import RingUseOptions
from emu.commands.run import RunOptions
from emu.commands.sweep_options import SweepOptions
from emu.config.device_kinds import KINDS
from tests.emu.commands.test_color_option import ALL
from tests.emu.test_cli import SMALL
from tests.emu.test_cli import emu as run_emu

GROUPS: dict[str, tuple[type, ...]] = {
    "migrate": (
        MachineOptions,
        RingUseOptions,
        MigrationOptions,
        BetweenOptions,
        MigrateOptions,
    ),
    "run": (MachineOptions, RingUseOptions, BetweenOptions, RunOptions),
    "sweep": (MachineOptions, MigrationOptions, SweepOptions),
}
#: Options that decorators of a command read, before it reads its values.
ELSEWHERE = {"help", "trace_events", "trace_file", "report_file", "png_file"}


def parameters(name: str) -> dict[str, object]:
    """The default values of a command's options, by parameter."""
    command = emu.get_command(click.Context(emu), name)
    assert command is not None
    return command.make_context(name, []).params


@pytest.mark.parametrize("name", GROUPS)
def test_values_come_from_the_options(name: str) -> None:
    """Every option is in a group."""
    given = parameters(name)
    known = {field.name for group in GROUPS[name] for field in fields(group)} | {*KINDS}
    # The fields of `BackEndOptions` have the options of all kinds.
    known |= {f"{kind}_backend" for kind in KINDS} | {"scratch"}
    known |= {f"{side}_{kind}" for side in ("src", "dst") for kind in KINDS}
    assert given.keys() - ELSEWHERE <= known
    for group in GROUPS[name]:
        value = MachineOptions.of(given) if group is MachineOptions else values_of(group, given)
        for field in fields(group):
            if field.name in given and field.name != "devices":
                assert getattr(value, field.name) == given[field.name]


def test_an_option_that_a_command_lacks_is_an_error() -> None:
    """Unless its field has a default."""
    given = parameters("run")
    assert values_of(BetweenOptions, given).tls_hostname is None
    with pytest.raises(TypeError, match="downtime_limit"):
        values_of(MigrationOptions, given)


@pytest.mark.parametrize("name", ALL)
def test_all_paths_refuse_to_be_empty(name: str) -> None:
    """It would be the current directory."""
    check_paths(ALL[name])


@pytest.mark.parametrize("command", [each.command for each in (blk, net, rng, serve)])
def test_all_paths_of_the_back_end_programs_refuse_to_be_empty(command: click.Command) -> None:
    """The error names the option."""
    check_paths(command)


def check_paths(command: click.Command) -> None:
    """Its options and arguments that are paths have a type that refuses an empty one."""
    for parameter in command.params:
        if parameter.metavar in ("PATH", "FILE", "DIR") or isinstance(parameter.type, click.Path):
            assert isinstance(parameter.type, NonEmptyPath), parameter.name


def test_a_variable_that_is_not_set_makes_no_images_in_the_current_directory() -> None:
    """The error names the option."""
    done = run_emu("run", *SMALL, "--images", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "emu: Invalid value for '--images': the path is empty\n"
