"""The documents that are made from the cases and from the scripts of front-ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.report.cases_document import DOCUMENTS, front_ends, listing
from vhost_user_conformance.target import ROLES, cases_of

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_up_to_date(name: str) -> None:
    """`make docs` writes it."""
    assert (DOCS / name).read_text() == DOCUMENTS[name]()


def test_the_command_writes_all_documents(tmp_path: Path) -> None:
    """Into a folder that need not exist."""
    module = "vhost_user_conformance.report.cases_document"
    command = [sys.executable, "-m", module, str(tmp_path / "docs")]
    subprocess.run(command, check=True, timeout=PROGRAM_TIMEOUT)
    written = {path for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    assert written == {tmp_path / "docs" / name for name in DOCUMENTS}


def test_each_case_has_a_row_and_each_front_end_a_chapter() -> None:
    """A `|` of a rule does not end its cell."""
    rows = [line for line in listing().splitlines() if line.startswith("| VU-")]
    assert len(rows) == sum(len(cases_of(role)) for role in ROLES)
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    chapters = [line for line in front_ends().splitlines() if line.startswith("## ")]
    assert chapters == [f"## {script.name}" for script in SCRIPTS]
