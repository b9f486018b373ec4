"""The verdicts as JUnit's XML, which CI systems read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from vhost_user import output_file
from vhost_user.xml_text import xml_text
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vhost_user_conformance.model.result import CaseResult

_SKIPPED = (Verdict.UNSUPPORTED, Verdict.OBSERVED)
_NODES = {Verdict.FAIL: "failure", Verdict.ERROR: "error"}


def write_junit(path: Path, role: str, results: Sequence[CaseResult]) -> None:
    """Write the file. UNSUPPORTED, OBSERVED and known failures are skipped tests in it.

    A known failure has the property ``known``, with the reason; one that is mended is a failure.

    Raises:
        OSError: the file cannot be written.
    """
    outcomes = [_outcome(result) for result in results]
    suite = ET.Element(
        "testsuite",
        name=f"vhost-user {role}",
        tests=str(len(results)),
        failures=str(outcomes.count("failure")),
        errors=str(outcomes.count("error")),
        skipped=str(outcomes.count("skipped")),
        time=f"{sum(result.ms for result in results) / 1e3:.3f}",
    )
    for result in results:
        node = ET.SubElement(
            suite,
            "testcase",
            classname=f"vhost-user.{role}.{result.case.area}",
            name=f"{result.case.id} {result.case.rule}",
            time=f"{result.ms / 1e3:.3f}",
        )
        _add_outcome(node, result)
    text = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    output_file.write(path, text.decode())


def _outcome(result: CaseResult) -> str:
    """The element for the outcome of a test; empty if it has passed."""
    if result.mended:
        return "failure"
    if result.known_failure or result.verdict in _SKIPPED:
        return "skipped"
    return _NODES.get(result.verdict, "")


def _add_outcome(node: ET.Element, result: CaseResult) -> None:
    if result.known is not None:
        properties = ET.SubElement(node, "properties")
        reason = xml_text(result.known.reason)
        ET.SubElement(properties, "property", name="known", value=reason)
    outcome = _outcome(result)
    if not outcome:
        return
    child = ET.SubElement(node, outcome)
    first = result.seen.splitlines()[0] if result.seen else ""
    text = f"expected {result.expected}; {first}" if result.expected else first
    known = "known failure: " if result.known_failure else ""
    message = f"{known}{result.verdict}: {text}"
    child.set("message", "known to fail, and does not fail" if result.mended else xml_text(message))
    child.text = xml_text(result.seen)
