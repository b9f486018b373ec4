"""The cases as pytest's items: ``pytest --vhost-user-socket PATH``, as users run it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests import slow
from tests.vhost_user_conformance.pytest_plugin.sessions import (
    DIES,
    NIC,
    OWN,
    PYTHON,
    WRONG_BASE,
    ids,
    listening,
    patched,
    run,
)
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vhost_user_conformance.model.case import Case

pytest_plugins = ("pytester",)


@pytest.mark.slow
def test_a_socket_in_an_empty_directory(pytester: pytest.Pytester, nic: Path) -> None:
    """There is an item for each case; cases about absent features are skipped with the reason."""
    result = run(pytester, "--vhost-user-socket", nic, "--vhost-user-device", "net", "-rs")
    counts = result.parseoutcomes()
    assert result.ret == 0
    assert set(counts) <= {"passed", "skipped"}
    assert sum(counts.values()) == len(cases_of("back-end"))
    assert counts["passed"] >= 150
    result.stdout.fnmatch_lines(["SKIPPED*: UNSUPPORTED: * is not offered"])
    result.stdout.fnmatch_lines(["SKIPPED*: OBSERVED: VU-B-????*"])


def _chosen(case: Case) -> bool:
    return case.area == "rings" or case.id == "VU-B-0101"


@pytest.mark.parametrize(
    ("words", "of"),
    slow.after(
        1,
        [
            (("-k", "VU-B-040"), lambda case: case.id.startswith("VU-B-040")),
            (("-k", "rings"), lambda case: case.area == "rings"),
            (
                ("-k", "rings and not 0401"),
                lambda case: case.area == "rings" and "0401" not in case.id,
            ),
            (("-m", "vhost_user(severity='should')"), lambda case: case.severity == "should"),
            (("--vhost-user-only=rings", "--vhost-user-only=VU-B-0101"), _chosen),
        ],
    ),
)
def test_selection(
    pytester: pytest.Pytester, words: Sequence[str], of: Callable[[Case], bool]
) -> None:
    """By id, area and mark; a list needs no connection."""
    result = run(pytester, "--vhost-user-socket", "/no/such", "--collect-only", "-q", *words)
    assert ids(result) == {case.id for case in cases_of("back-end") if of(case)} != set()


@pytest.mark.slow
def test_front_end(pytester: pytest.Pytester, nic: Path) -> None:
    """The other role: `emu attach` connects to the suite."""
    command = f"{PYTHON} -m emu.cli attach --net {{socket}} --rings 2 --qmp {{qmp}} -q"
    result = run(
        pytester,
        *("--vhost-user-role", "front-end", "--vhost-user-device", "net"),
        *("--vhost-user-exec", command, "-k", "VU-F-010", "-v"),
    )
    assert ids(result) == {c.id for c in cases_of("front-end") if c.id.startswith("VU-F-010")}
    result.assert_outcomes(passed=len(ids(result)), deselected=None)
    result.stdout.fnmatch_lines([f"*collected {len(cases_of('front-end'))} items / *"])


def test_a_failure_is_a_report(pytester: pytest.Pytester) -> None:
    """It has the rule, the expectation, the observation and the messages, and no traceback."""
    result = run(
        pytester,
        *("--vhost-user-exec", patched(WRONG_BASE), "--vhost-user-device", "net"),
        *("--vhost-user-only", "bases", "--tb=long"),
    )
    text = result.stdout.str()
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] >= 1
    result.stdout.re_match_lines(
        [
            r"VU-B-06\d\d FAIL \(\w+\) .*GET_VRING_BASE.*",
            *(r"    source: .+", r"    expected: .+", r"    seen: .+"),
        ],
        consecutive=True,
    )
    assert re.search(r"^ +> GET_VRING_BASE ring", text, re.MULTILINE)
    assert "Traceback" not in text
    assert ".py:" not in text


@pytest.mark.slow
def test_junit(pytester: pytest.Pytester, nic: Path) -> None:
    """The properties describe the case."""
    run(pytester, "--vhost-user-socket", nic, "-k", "VU-B-0101", "--junitxml", "out.xml")
    case = ET.parse(pytester.path / "out.xml").getroot().find("testsuite/testcase")  # noqa: S314
    assert case is not None
    assert case.get("name") == "test_conformance[VU-B-0101]"
    assert case.get("classname") == "vhost-user-back-end.framing"
    properties = {
        node.get("name"): node.get("value") for node in case.findall("properties/property")
    }
    assert (properties["severity"], properties["area"], properties["verdict"]) == (
        "must",
        "framing",
        "PASS",
    )
    assert properties["spec"]
    assert properties["rule"]


@pytest.mark.slow
def test_a_peer_that_ends(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """One failure reports it; no other case waits for the peer."""
    for path in listening(patched(DIES), tmp_path / "s"):
        options = ("--vhost-user-socket", path, "--vhost-user-device", "net")
        result = run(pytester, *options, "--vhost-user-only", "rings", "-rs")
        counts = result.parseoutcomes()
        assert counts["failed"] <= 2
        assert counts["skipped"] > 10
        assert "it does not answer front-ends any more" in result.stdout.str()
        result.stdout.fnmatch_lines(["SKIPPED*not run*the peer is gone: after VU-B-04*"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    slow.after(
        2,
        [
            (
                ("--vhost-user-device", "blk"),
                "--vhost-user-socket PATH or --vhost-user-exec COMMAND",
            ),
            (("--vhost-user-socket", "s", "--vhost-user-device", "tape"), "tape: not one of blk"),
            (("--vhost-user-socket", "s", "--vhost-user-role", "x"), "x: not one of back-end"),
            (
                ("--vhost-user-socket", "s", "--vhost-user-patience", "0"),
                "not in the range of 0.1 to 60 seconds",
            ),
            (
                ("--vhost-user-socket", "s", "--vhost-user-patience", "x"),
                "not in the range of 0.1 to 60 seconds",
            ),
            (
                ("--vhost-user-socket", "s", "--vhost-user-only", "x"),
                "--vhost-user-only x: no such",
            ),
            (("--vhost-user-exec", "true"), "--vhost-user-exec: write {socket} where"),
            (("--vhost-user-exec", "false {socket}"), "the program ended with status 1"),
            (
                ("--vhost-user-exec", "/no/such {socket}"),
                "--vhost-user-exec /no/such: No such file",
            ),
            (("--vhost-user-socket", "s", "-n2", "--dist=each"), "--dist each: only one worker"),
        ],
    ),
)
def test_bad_input_is_one_line(
    pytester: pytest.Pytester, arguments: Sequence[str], text: str
) -> None:
    """It has the option names of the plugin, and the status is that of a usage error."""
    result = run(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.stderr.lines if line]
    assert len(lines) == 1
    assert text in lines[0]


def test_a_custom_suite(pytester: pytest.Pytester) -> None:
    """The fixture runs a test for each case that its mark selects, on the peer that it defines."""
    pytester.makepyfile(OWN.format(command=NIC))
    result = run(pytester, "-v")
    wanted = {case.id for case in cases_of("back-end") if _chosen(case)}
    assert ids(result) == wanted
    counts = result.parseoutcomes()
    assert counts.pop("passed") + counts.pop("skipped", 0) == len(wanted) + 1
    assert not counts


@pytest.mark.slow
def test_a_custom_suite_uses_the_peer_of_the_options(pytester: pytest.Pytester, nic: Path) -> None:
    """The cases are not run a second time."""
    pytester.makepyfile("def test_mine(vhost_user_case): vhost_user_case.check()")
    result = run(pytester, "--vhost-user-socket", nic, "--vhost-user-only", "framing", "-v")
    assert "test_mine[VU-B-0101]" in result.stdout.str()
    assert "test_conformance" not in result.stdout.str()
    assert result.ret == 0


@pytest.mark.slow
def test_a_custom_suite_without_a_peer(pytester: pytest.Pytester) -> None:
    """It is skipped, and the reason names the options."""
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.vhost_user_cases('VU-B-0101')\n"
        "def test_mine(vhost_user_case): vhost_user_case.check()"
    )
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no peer to test: give --vhost-user-socket PATH or*"])


@pytest.mark.slow
def test_a_mark_that_names_no_case(pytester: pytest.Pytester) -> None:
    """The error lists the areas."""
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.vhost_user_cases('nothing')\n"
        "def test_mine(vhost_user_case): vhost_user_case.check()"
    )
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["vhost_user_cases of *::test_mine: nothing: no such case; the*"])
    assert "Traceback" not in result.stdout.str()
    assert "pytest_suite.py" not in result.stdout.str()
