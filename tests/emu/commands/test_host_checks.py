"""`emu doctor`: features and limits of the host, with advice."""

from __future__ import annotations

from emu.commands import host_checks
from emu.machine.accel.registry import ACCELERATORS, resolve
from tests.emu.test_cli import emu


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
