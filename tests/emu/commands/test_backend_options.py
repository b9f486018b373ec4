"""Options for back-ends of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.commands.migrate import migrate
from emu.commands.options import MachineOptions, machine_plan
from emu.errors import PreflightError

if TYPE_CHECKING:
    from pathlib import Path

    from emu.config.plan import MachinePlan

SHAPE = ("--net", "0", "--blk", "2x2", "--vcpus", "2", "--memory", "256M", "--accel", "soft")
SOURCE = ("--src-blk", "/run/a0", "--src-blk", "/run/a1")
DESTINATION = ("--dst-blk", "/run/b0", "--dst-blk", "/run/b1")


def plan(*arguments: str, sides: tuple[str, ...] = ("src", "dst")) -> MachinePlan:
    """The plan of `emu migrate` with these options."""
    context = migrate.make_context("migrate", [*SHAPE, *arguments])
    return machine_plan(MachineOptions.of(context.params), sides)


def test_a_command() -> None:
    """Of one class; the others have none."""
    found = plan("--blk-backend", "serve {socket} {image}")
    assert found.back_ends["blk"].words == ("serve", "{socket}", "{image}")
    assert found.other_back_ends == {"blk": "serve {socket} {image}"}
    assert found.others_serve("blk")
    assert not found.others_serve("net")


def test_sockets_of_both_sides() -> None:
    """In the order of the devices."""
    found = plan(*SOURCE, *DESTINATION, "--scratch")
    assert found.listening == {"blk": {"A": ("/run/a0", "/run/a1"), "B": ("/run/b0", "/run/b1")}}
    assert found.other_back_ends == {"blk": "sockets"}


def test_sockets_of_the_source_alone() -> None:
    """With --to the destination is another run."""
    found = plan(*SOURCE, "--scratch", sides=("src",))
    assert found.listening == {"blk": {"A": ("/run/a0", "/run/a1")}}


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The VM's process may have another directory."""
    monkeypatch.chdir(tmp_path)
    found = plan("--src-blk", "a", "--src-blk", "b", "--scratch", sides=("src",))
    assert found.listening["blk"]["A"] == (str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--net-backend", "testpmd"), "--net-backend: the VM has no such device; see --net"),
        ((*SOURCE, "--scratch"), "--src-blk needs --dst-blk, for the other side"),
        ((*DESTINATION, "--scratch"), "--dst-blk needs --src-blk, for the other side"),
        ((*SOURCE[:2], *DESTINATION, "--scratch"), "--src-blk is given 1 time, and the VM has 2"),
        ((*SOURCE, *DESTINATION), "OVERWRITES THE DISKS"),
        (
            (*SOURCE, "--dst-blk", "/run/a0", "--dst-blk", "/run/b1", "--scratch"),
            "/run/a0 is given twice",
        ),
        (
            (*SOURCE, *DESTINATION, "--scratch", "--blk-backend", "serve {socket} {image}"),
            "use --src-blk or --blk-backend, not both",
        ),
        (
            (*SOURCE, *DESTINATION, "--scratch", "--disk", __file__),
            "use --disk or --src-blk and --dst-blk, not both",
        ),
        (("--scratch",), "--scratch goes with --src-blk and --dst-blk, which are missing"),
        *(
            (
                ("--blk-backend", "serve {socket} {image}", *other),
                f"{other[0]} is about this project's back-ends, and other programs serve the disks",
            )
            for other in (
                ("--stop-time", "20ms"),
                ("--stop-policy", "drain"),
                ("--control", "shared"),
                ("--costs", "rfc2021"),
            )
        ),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], expected: str) -> None:
    """Before anything is started, in one line."""
    with pytest.raises(PreflightError) as refused:
        plan(*arguments)
    assert expected in str(refused.value)


def test_a_side_that_the_run_does_not_have() -> None:
    """--dst-blk is for the other run."""
    with pytest.raises(PreflightError, match="--dst-blk: this run has no such side"):
        plan(*SOURCE, *DESTINATION, "--scratch", sides=("src",))


def test_a_command_in_the_file_of_the_vm(tmp_path: Path) -> None:
    """As the option; not both."""
    file = tmp_path / "vm.toml"
    file.write_text(
        'net = "0"\nvcpus = 2\nmemory = "256M"\n'
        '[blk]\ncount = 1\nrings = 2\nbackend = "serve {socket} {image}"\n'
    )
    arguments = ("--vm", str(file), "--accel", "soft")
    context = migrate.make_context("migrate", [*arguments])
    found = machine_plan(MachineOptions.of(context.params))
    assert found.back_ends["blk"].words == ("serve", "{socket}", "{image}")
    both = migrate.make_context("migrate", [*arguments, "--blk-backend", "other {socket} {image}"])
    with pytest.raises(PreflightError, match="--blk-backend: the file of --vm has a backend"):
        machine_plan(MachineOptions.of(both.params))
    file.write_text("[blk]\ncount = 1\nrings = 2\nbackend = 3\n")
    with pytest.raises(PreflightError, match="backend is a command"):
        machine_plan(MachineOptions.of(migrate.make_context("migrate", [*arguments]).params))
