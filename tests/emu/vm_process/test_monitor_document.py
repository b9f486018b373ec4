"""docs/reference/qmp.md is as the tables of the monitor."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.vm_process import monitor_document
from emu.vm_process.monitor import COMMANDS, EVENTS

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / monitor_document.DOCUMENT


def test_the_document_is_fresh() -> None:
    """Otherwise: `make docs`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert monitor_document.document(text) == text
    for row in COMMANDS:
        assert f"| `{row.name}` |" in text
    assert all(row.help in text for row in EVENTS)


def test_a_document_without_the_marks_is_an_error() -> None:
    """Nothing is written then."""
    with pytest.raises(ValueError, match="there is no"):
        monitor_document.document("# QMP\n")
