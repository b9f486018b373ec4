"""The document of strategies: its table is that of the classes."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emu.strategies import document, registry
from tests.timeouts import PROGRAM_TIMEOUT

DOCS = Path(__file__).parents[3] / "docs" / "explanation"


def test_the_document_has_the_table_of_the_classes() -> None:
    """``make docs`` generates it."""
    text = (DOCS / document.DOCUMENT).read_text()
    assert document.document(text) == text
    with pytest.raises(ValueError, match=r"there is no .*<!-- generated from"):
        document.document("# Strategies\n")


@pytest.mark.parametrize(
    "text", ["", f"{document.BEGIN}\n", f"{document.END}\n", f"{document.END}{document.BEGIN}"]
)
def test_a_document_without_both_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with an '<!-- end -->' after it"):
        document.document(text)


def test_what_is_around_the_table_stays(tmp_path: Path) -> None:
    """The command writes the document of a directory again."""
    path = tmp_path / document.DOCUMENT
    path.write_text(f"before {document.BEGIN} old {document.END} after")
    command = [sys.executable, "-m", "emu.strategies.document", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PROGRAM_TIMEOUT
    )
    assert done.stdout == f"{path}\n"
    table = registry.table()
    assert path.read_text() == f"before {document.BEGIN}\n{table}\n{document.END} after"
