"""``--vhost-user-known`` and ``--vhost-user-shard``, on back-ends that run."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests import slow
from tests.vhost_user_conformance.pytest_plugin.sessions import (
    NIC,
    OWN,
    WRONG_BASE,
    ids,
    patched,
    run,
)
from vhost_user_conformance.target import cases_of, select, shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytest_plugins = ("pytester",)

#: A case that the NIC with wrong bases fails.
FAILS = "VU-B-0602"
KNOWN = ("--vhost-user-known", "known.txt")


def known(pytester: pytest.Pytester, *lines: str) -> None:
    """Write the baseline."""
    (pytester.path / "known.txt").write_text("".join(f"{line}\n" for line in lines))


def judged(pytester: pytest.Pytester, command: str, *arguments: str) -> pytest.RunResult:
    """Run the case that fails, and one that passes."""
    only = [f"--vhost-user-only={name}" for name in (FAILS, "VU-B-0101")]
    peer = ("--vhost-user-exec", command, "--vhost-user-device", "net")
    return run(pytester, *peer, *only, *KNOWN, "-rx", *arguments)


def test_a_known_failure_is_expected(pytester: pytest.Pytester) -> None:
    """The status is 0; the reason is in the summary and in JUnit's XML."""
    known(pytester, "# of this NIC", f"{FAILS} bug 123")
    result = judged(pytester, patched(WRONG_BASE), "--junitxml", "out.xml")
    assert result.ret == 0
    result.assert_outcomes(xfailed=1, passed=1)
    result.stdout.fnmatch_lines([f"XFAIL*[[]{FAILS}[]] - FAIL: bug 123"])
    root = ET.parse(pytester.path / "out.xml").getroot()  # noqa: S314
    (reason,) = root.iterfind(".//property[@name='known']")
    assert reason.get("value") == "bug 123"


@pytest.mark.parametrize(("mark", "passes"), [("", False), ("?", True)])
def test_a_known_failure_that_is_mended(
    pytester: pytest.Pytester, mark: str, *, passes: bool
) -> None:
    """It is a failure, which names the line, unless the case does not fail in each run."""
    known(pytester, f"{FAILS}{mark}")
    result = judged(pytester, NIC)
    assert result.ret == (0 if passes else 1)
    result.assert_outcomes(failed=0 if passes else 1, passed=2 if passes else 1)
    line = (
        f"--vhost-user-known known.txt: {FAILS} (line 1): known to fail, and does not fail any "
        "more; remove the line"
    )
    assert (line in result.stdout.str()) is not passes


@pytest.mark.slow
def test_another_failure_is_one(pytester: pytest.Pytester) -> None:
    """The baseline is about its own cases."""
    known(pytester, "VU-B-0103?")
    result = judged(pytester, patched(WRONG_BASE))
    assert result.ret == 1
    result.assert_outcomes(failed=1, passed=1)


def test_each_case_is_in_one_part(pytester: pytest.Pytester) -> None:
    """As with `emu conform --shard`, after the selection by name."""
    options = ("--vhost-user-socket", "/no/such", "--collect-only", "-q")
    parts = [
        ids(run(pytester, *options, "--vhost-user-only=rings", f"--vhost-user-shard={number}/3"))
        for number in (1, 2, 3)
    ]
    cases = select(cases_of("back-end"), ["rings"])
    assert parts == [{case.id for case in shard(cases, number, 3)} for number in (1, 2, 3)]
    assert set.union(*parts) == {case.id for case in cases}


def test_a_suite_of_the_users_own(pytester: pytest.Pytester) -> None:
    """The options hold there, too: for the cases that its mark selects."""
    known(pytester, FAILS, "VU-F-0101")
    own = OWN.format(command=patched(WRONG_BASE)).replace('"rings"', f'"{FAILS}"')
    pytester.makepyfile(own)
    result = run(pytester, *KNOWN, "-v")
    result.assert_outcomes(xfailed=1, passed=2)
    both = [run(pytester, *KNOWN, "-v", f"--vhost-user-shard={part}/2") for part in (1, 2)]
    assert [ids(each) for each in both] == [{"VU-B-0101"}, {FAILS}]


@pytest.mark.parametrize(
    ("arguments", "text"),
    slow.after(
        2,
        [
            (("--vhost-user-shard", "3/2"), "--vhost-user-shard '3/2': write K/N, such as 2/3"),
            (KNOWN, "--vhost-user-known known.txt, line 2: VU-F-0101 is no id of a case (VU-B-..."),
            (("--vhost-user-shard", "x"), "--vhost-user-shard 'x': write K/N"),
            (("--vhost-user-known", "none"), "--vhost-user-known none: No such file"),
        ],
    ),
)
def test_bad_input_is_one_line(
    pytester: pytest.Pytester, arguments: Sequence[str | Path], text: str
) -> None:
    """The status is that of a usage error."""
    known(pytester, FAILS, "VU-F-0101")
    role = ("--vhost-user-role", "back-end", "--vhost-user-socket", "s")
    result = run(pytester, *role, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.stderr.lines if line)
    assert text in line


def test_a_bad_value_fails_the_tests_of_a_suite_of_the_users_own(
    pytester: pytest.Pytester,
) -> None:
    """In one line: there is no peer in the options that would be checked before."""
    pytester.makepyfile(OWN.format(command=NIC))
    result = run(pytester, "--vhost-user-shard", "0/2")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["--vhost-user-shard '0/2': write K/N, such as 2/3*"])
    assert "Traceback" not in result.stdout.str()
