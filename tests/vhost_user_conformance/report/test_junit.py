"""The verdicts as JUnit's XML."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.result import CaseResult, Known
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.report.junit import write_junit
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from pathlib import Path


def test_each_verdict(tmp_path: Path) -> None:
    """A failure, an error, or a skipped test, with what was expected and seen."""
    results = [
        CaseResult(case, verdict, "this", "that\n> GET_FEATURES", 1500.0)
        for verdict, case in zip(Verdict, cases_of(BACK_END), strict=False)
    ]
    path = tmp_path / "out.xml"
    write_junit(path, BACK_END, results)
    suite = ET.parse(path).getroot()  # noqa: S314  our own file
    assert suite.get("name") == "vhost-user back-end"
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2", "time": "7.500"}
    children = {
        result.verdict: [(child.tag, child.get("message")) for child in node]
        for result, node in zip(results, suite, strict=True)
    }
    assert children == {
        Verdict.PASS: [],
        Verdict.FAIL: [("failure", "FAIL: expected this; that")],
        Verdict.UNSUPPORTED: [("skipped", "UNSUPPORTED: expected this; that")],
        Verdict.OBSERVED: [("skipped", "OBSERVED: expected this; that")],
        Verdict.ERROR: [("error", "ERROR: expected this; that")],
    }
    assert suite[1][0].text == "that\n> GET_FEATURES"


def test_known_failures(tmp_path: Path) -> None:
    """They are skipped tests, with a property; one that is mended is a failure."""
    results = [
        CaseResult(case, verdict, "", "that", 1.0, Known(1, "<why>"))
        for verdict, case in zip(Verdict, cases_of(BACK_END), strict=False)
    ]
    path = tmp_path / "out.xml"
    write_junit(path, BACK_END, results)
    suite = ET.parse(path).getroot()  # noqa: S314  our own file
    assert [suite.get(name) for name in ("failures", "errors", "skipped")] == ["2", "0", "3"]
    found = {
        result.verdict: (node[-1].tag, node[-1].get("message"))
        for result, node in zip(results, suite, strict=True)
    }
    mended = ("failure", "known to fail, and does not fail")
    assert found == {
        Verdict.PASS: mended,
        Verdict.FAIL: ("skipped", "known failure: FAIL: that"),
        Verdict.UNSUPPORTED: ("skipped", "UNSUPPORTED: that"),
        Verdict.OBSERVED: mended,
        Verdict.ERROR: ("skipped", "known failure: ERROR: that"),
    }
    values = [node.get("value") for node in suite.iter("property") if node.get("name") == "known"]
    assert values == ["<why>"] * len(results)


def test_any_text_of_a_peer_is_xml(tmp_path: Path) -> None:
    """Such as a coloured line of its log: CI systems refuse a file with other characters."""
    case = cases_of(BACK_END)[0]
    seen = "\x1b[31mred\x1b[0m \udcff\n\0"
    path = tmp_path / "out.xml"
    write_junit(path, BACK_END, [CaseResult(case, Verdict.FAIL, "\x07", seen, 1.0, Known(1, "\b"))])
    (node,) = ET.parse(path).getroot()  # noqa: S314  our own file
    assert "[31mred" in (node[-1].text or "")
