"""`emu doctor`: features and limits of the host, with advice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from emu.commands import host_checks
from emu.machine.accel.registry import ACCELERATORS, resolve
from tests.emu.test_cli import emu
from tests.timeouts import PROGRAM_TIMEOUT


def test_the_findings_on_this_host() -> None:
    """A missing feature has advice; needed features exist, as the other tests depend on them."""
    findings = {finding.what: finding for finding in host_checks.examine()}
    assert {
        "packages", "cores", "memory", "memfd", "open files", "user namespaces", "TAP",
        "userfaultfd", "hugepages", *(f"--accel {name}" for name in ACCELERATORS),
    } == findings.keys()  # fmt: skip
    for finding in findings.values():
        assert finding.here
        assert finding.good or finding.advice
        assert finding.good or not finding.needed
    assert findings[f"--accel {resolve('auto')}"].good
    result = emu("doctor")
    assert result.returncode == 0, result.stderr
    assert all(what in result.stdout for what in findings)


def test_too_few_descriptors_are_an_error() -> None:
    """With status 1 and advice."""
    program = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (512, 512)); "
    program += "import sys; sys.argv[1:] = ['doctor']; from emu.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
    )
    assert result.returncode == 1
    assert "emu: no VM can run here without open files" in result.stderr
    assert "MISSING" in result.stdout
    assert "ulimit -Hn" in result.stdout


def test_a_host_without_devices() -> None:
    """Without KVM and TAP: both are reported, and the status is 0."""
    hidden = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*hidden, "mount -t tmpfs none /dev"], check=False).returncode:
        pytest.skip("no user namespaces here")
    script = 'mount -t tmpfs none /dev && exec "$0" -m emu.cli doctor'
    result = subprocess.run(
        [*hidden, script, sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert "--accel auto is soft here" in result.stdout
    assert "--network netns needs it" in result.stdout
