"""With pytest-xdist one worker at a time tests a peer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.pytest_plugin.sessions import (
    NIC,
    OWN,
    run,
)
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from pathlib import Path


pytest_plugins = ("pytester",)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["load", "worksteal", "loadscope", "loadfile"])
def test_workers(pytester: pytest.Pytester, mode: str, nic: Path) -> None:
    """With pytest-xdist one worker tests the peer; other tests are distributed freely."""
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_x(n): 0")
    options = ("--vhost-user-socket", nic, "--vhost-user-only", "framing")
    result = run(pytester, *options, "-n2", "--dist", mode, "-v")
    ran = re.findall(r"\[(gw\d)\].* (?:PASSED|SKIPPED) .*\[VU-B", result.stdout.str())
    assert result.ret == 0
    assert len(set(ran)) == 1
    assert len(ran) == len([case for case in cases_of("back-end") if case.area == "framing"])


@pytest.mark.slow
def test_workers_without_a_group(pytester: pytest.Pytester) -> None:
    """With a peer from a fixture the second worker reports an error and runs no case."""
    pytester.makepyfile(OWN.format(command=NIC))
    spread = run(pytester, "-n2")
    assert spread.parseoutcomes()["errors"] >= 1
    assert "failed" not in spread.parseoutcomes()
    assert "another worker is testing this peer" in spread.stdout.str()
    assert run(pytester, "-n2", "--dist", "loadfile").ret == 0
