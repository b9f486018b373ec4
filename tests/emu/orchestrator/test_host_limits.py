"""Checks of the host's limits before a process is started."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import PreflightError
from emu.orchestrator import host_limits

if TYPE_CHECKING:
    from pathlib import Path

SMALL = VmSpec(2, 256 << 20, (DeviceGroup("blk", 1, 1),))


LIMITED = """
import resource, sys
from emu.orchestrator import host_limits
from emu.errors import PreflightError
from emu.config.device_kinds import KINDS
from emu.config.vm_spec import VmSpec
resource.setrlimit(resource.RLIMIT_{name}, {limits})
try:
    host_limits.check(VmSpec())
except PreflightError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def limited(name: str, limits: str) -> list[str]:
    """Lines of a process that checks the host under these limits."""
    code = LIMITED.format(name=name, limits=limits)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    """Which suffices for the RFC's VM."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert limited("NOFILE", f"(256, {hard})") == [str(hard)]


def test_a_descriptor_limit_that_is_too_low_is_one_line() -> None:
    """With the number of descriptors that the VM needs."""
    line, _limit = limited("NOFILE", "(256, 1024)")
    assert f"needs {host_limits.descriptors_needed(VmSpec())} open files" in line
    assert "the hard limit is 1024" in line


def test_an_address_space_that_is_too_small_is_one_line() -> None:
    """Guest memory is mapped as a whole."""
    assert "address space" in limited("AS", "(8 << 30, 8 << 30)")[0]


def test_too_many_rings_for_this_machines_memory_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ring uses memory on each side."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    with pytest.raises(PreflightError, match="1 MiB are available"):
        host_limits._check_memory(VmSpec(1, 1 << 40, (DeviceGroup("blk", 1000, 256),)))


def test_a_temporary_directory_with_too_long_a_name_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unix socket's path has 107 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(PreflightError, match="at most 107: set TMPDIR"):
        host_limits.check(SMALL)
