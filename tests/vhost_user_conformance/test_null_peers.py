"""What programs that do nothing pass: the list of `tests/peers/null_peers.toml` is complete."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user_conformance.target import ROLES, cases_of

ROOT = Path(__file__).parents[2]
LISTED: dict[str, list[dict[str, Any]]] = tomllib.loads(
    (ROOT / "tests" / "peers" / "null_peers.toml").read_text()
)
FRONT_END = Path(__file__).parent / "front_end" / "null_front_end.py"
#: Seconds for all cases; each session with it is short.
LONGEST = 5 * PROGRAM_TIMEOUT


def listed(role: str) -> list[str]:
    """The cases of the list."""
    return [case for entry in LISTED[role] for case in entry["cases"]]


@pytest.mark.parametrize("role", LISTED)
def test_each_entry_has_cases_of_its_role_and_a_reason(role: str) -> None:
    """No case is listed twice."""
    assert role in ROLES
    assert [case for case, count in Counter(listed(role)).items() if count > 1] == []
    assert set(listed(role)) <= {case.id for case in cases_of(role)}
    assert all(entry["reason"].endswith(".") for entry in LISTED[role])


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
def test_a_null_front_end_passes_what_is_listed(tmp_path: Path) -> None:
    """And the run says that it proves nothing."""
    command = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(FRONT_END))} {{socket}} 2"
    argv = [sys.executable, "-m", "emu.cli", "conform", "front-end", "--device", "blk"]
    argv += ["--exec", command, "--patience", "0.3", "--json", str(tmp_path / "json")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert "this run proves nothing: the front-end does not pass VU-F-0001" in done.stdout
    whole = json.loads((tmp_path / "json").read_text())
    assert whole["not_sane"] == ["VU-F-0001", "VU-F-9901"]
    passed = {case["id"] for case in whole["cases"] if case["verdict"] == "PASS"}
    assert passed == set(listed("front-end"))


@pytest.mark.parametrize("messages", [0, 1])
def test_a_front_end_that_says_less_is_refused(messages: int) -> None:
    """No case runs on it."""
    words = [sys.executable, "-I", "-S", str(FRONT_END)]
    command = f"{shlex.join(words)} {{socket}} {messages}"
    argv = [sys.executable, "-m", "emu.cli", "conform", "front-end", "--exec", command]
    argv += ["--patience", "0.2"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "it sends nothing" in done.stderr or "stops after GET_FEATURES" in done.stderr
