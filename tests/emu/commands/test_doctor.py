"""`emu doctor`: its table, its advice and its status."""

from __future__ import annotations

import subprocess
import sys

import pytest

from emu.commands import host_checks
from emu.commands.doctor import doctor
from tests.timeouts import PROGRAM_TIMEOUT


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


def test_each_finding_is_a_line_with_its_mark(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing feature that is not needed has a dash, and advice below it."""
    doctor.main([], standalone_mode=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    findings = host_checks.examine()
    for finding in findings:
        words = finding.what.split()
        mark = "ok" if finding.good else "MISSING" if finding.needed else "-"
        assert [mark, *words] in [line[: len(words) + 1] for line in lines]
