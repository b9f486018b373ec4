"""The verdicts as JUnit's XML, which CI systems read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from vhost_user import output_file
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vhost_user_conformance.model.result import CaseResult

_SKIPPED = (Verdict.UNSUPPORTED, Verdict.OBSERVED)
_NODES = {Verdict.FAIL: "failure", Verdict.ERROR: "error"}


def write_junit(path: Path, role: str, results: Sequence[CaseResult]) -> None:
    """Write the file. UNSUPPORTED and OBSERVED are skipped tests in it.

    Raises:
        OSError: the file cannot be written.
    """
    verdicts = [result.verdict for result in results]
    suite = ET.Element(
        "testsuite",
        name=f"vhost-user {role}",
        tests=str(len(results)),
        failures=str(verdicts.count(Verdict.FAIL)),
        errors=str(verdicts.count(Verdict.ERROR)),
        skipped=str(sum(verdict in _SKIPPED for verdict in verdicts)),
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


def _add_outcome(node: ET.Element, result: CaseResult) -> None:
    if result.verdict is Verdict.PASS:
        return
    child = ET.SubElement(node, _NODES.get(result.verdict, "skipped"))
    first = result.seen.splitlines()[0] if result.seen else ""
    text = f"expected {result.expected}; {first}" if result.expected else first
    child.set("message", f"{result.verdict}: {text}")
    child.text = result.seen
