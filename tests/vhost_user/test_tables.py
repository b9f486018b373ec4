"""The documents that are made from data are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES
from vhost_user.tables import DOCUMENTS, main

DOCS = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_not_stale(name: str) -> None:
    """Run ``make docs`` when this fails."""
    assert (DOCS / name).read_text(encoding="utf-8") == DOCUMENTS[name]()


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes what the test above compares."""
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "messages.md").read_text(encoding="utf-8")
    for row in [*FRONTEND_MESSAGES.values(), *BACKEND_MESSAGES.values()]:
        assert f"`{row.name}`" in text
    assert "stateDiagram-v2" in (tmp_path / "ring-states.md").read_text(encoding="utf-8")
    assert "messages.md" in capsys.readouterr().out


def test_usage_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing directory is not a traceback."""
    assert main(["/nonexistent"]) == 2
    assert "usage" in capsys.readouterr().err
