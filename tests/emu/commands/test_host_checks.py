"""`emu doctor`: features and limits of the host, with advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends import sandbox
from emu.commands import host_checks
from emu.machine.accel.registry import ACCELERATORS, resolve
from tests.emu.test_cli import emu

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_findings_on_this_host() -> None:
    """A missing feature has advice; needed features exist, as the other tests depend on them."""
    findings = {finding.what: finding for finding in host_checks.examine()}
    assert {
        "packages", "cores", "memory", "memfd", "open files", "user namespaces", "TAP",
        "userfaultfd", "sandbox", "hugepages", *(f"--accel {name}" for name in ACCELERATORS),
    } == findings.keys()  # fmt: skip
    for finding in findings.values():
        assert finding.here
        assert finding.good or finding.advice
        assert finding.good or not finding.needed
    assert findings[f"--accel {resolve('auto')}"].good
    result = emu("doctor")
    assert result.returncode == 0, result.stderr
    assert all(what in result.stdout for what in findings)


def test_a_sandbox_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The row has the reason, and what to install; the modules of libseccomp cannot be imported."""
    for name in sandbox.BINDINGS:
        (tmp_path / f"{name}.py").write_text("raise ImportError('it is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = next(each for each in host_checks.examine() if each.what == "sandbox")
    assert not finding.good
    assert not finding.needed
    assert finding.here == f"{sandbox.BINDINGS[0]}: it is broken"
    assert "vhost-emu[sandbox]" in finding.advice
