"""Which runs may use one directory of images at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from emu.errors import PreflightError
from emu.orchestrator.images_lock import LOCK_NAME, ImagesLock, Role
from emu.orchestrator.run_directory import RunDirectory
from tests import slow
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

ENDS = {Role.SOURCE, Role.DESTINATION}
ALL_PAIRS = [
    pytest.param(first, second, id=f"{first.value}-{second.value}")
    for first in Role
    for second in Role
]


@pytest.mark.parametrize(("first", "second"), ALL_PAIRS)
def test_only_both_ends_of_a_migration_share_images(
    first: Role, second: Role, tmp_path: Path
) -> None:
    """From the first moment; and when the first run has ended, the second one may."""
    with RunDirectory(tmp_path, role=first), ExitStack() as stack:
        if {first, second} == ENDS:
            stack.enter_context(RunDirectory(tmp_path, role=second))
        else:
            with pytest.raises(PreflightError, match="another run uses these images"):
                RunDirectory(tmp_path, role=second)
    with RunDirectory(tmp_path, role=second):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_third_run_is_refused_whatever_its_role(tmp_path: Path) -> None:
    """Both ends of a migration are there."""
    with ImagesLock(tmp_path, Role.SOURCE), ImagesLock(tmp_path, Role.DESTINATION):
        for role in Role:
            with pytest.raises(PreflightError, match="another run uses"):
                ImagesLock(tmp_path, role)


def test_the_destination_owns_the_images_when_the_source_has_ended(tmp_path: Path) -> None:
    """And no other source begins."""
    with ImagesLock(tmp_path, Role.DESTINATION) as destination:
        with ImagesLock(tmp_path, Role.SOURCE):
            assert not destination.own()
        assert destination.own()
        with pytest.raises(PreflightError, match="another run uses"):
            ImagesLock(tmp_path, Role.SOURCE)


@pytest.mark.parametrize("role", Role)
def test_a_run_that_was_killed_holds_nothing(role: Role, tmp_path: Path) -> None:
    """The file that it has left is no lock."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from emu.orchestrator.images_lock import ImagesLock, Role\n"
        "lock = ImagesLock(Path(sys.argv[1]), Role(sys.argv[2]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path), role.value]
    assert subprocess.run(argv, timeout=PROGRAM_TIMEOUT, check=False).returncode < 0
    with ImagesLock(tmp_path, Role.ALONE):
        pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_without_images_there_is_nothing_to_lock() -> None:
    """Each run has images of its own."""
    with ImagesLock(None, Role.ALONE) as first, ImagesLock(None, Role.ALONE):
        assert first.own()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_reported_elsewhere(tmp_path: Path) -> None:
    """By what makes the images."""
    tmp_path.chmod(0o500)
    with ImagesLock(tmp_path, Role.ALONE):
        pass


#: Commands that use a directory of images, and their role.
COMMANDS = {
    "run": (("run", "--for", "1s"), Role.ALONE),
    "migrate": (("migrate",), Role.ALONE),
    "migrate --to": (("migrate", "--to", "unix:/none"), Role.SOURCE),
    "run --incoming": (("run", "--incoming", "tcp:127.0.0.1:0"), Role.DESTINATION),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("other", slow.all_but({Role.ALONE}, Role))
def test_every_command_is_refused_before_it_starts_anything(
    command: str, other: Role, tmp_path: Path
) -> None:
    """Beside another run that excludes it."""
    arguments, role = COMMANDS[command]
    if {other, role} == ENDS:
        pytest.skip("they may be the ends of a migration")
    with ImagesLock(tmp_path, other):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "emu", *arguments, "--images", str(tmp_path)),
                *("--net", "1x2", "--blk", "1x1", "--vcpus", "1", "--memory", "256M"),
                *("--accel", "soft"),
            ],
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"emu: --images {tmp_path}: another run uses these images\n"
