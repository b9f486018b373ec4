"""Every relative link of every document leads to a file, and to a heading of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import ROOT, anchors, broken, documents

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Relative ones: other hosts are not asked."""
    assert broken(document) == []


def test_what_leads_nowhere_is_named(tmp_path: Path) -> None:
    """With its line; links in code, and to other hosts, are not looked at."""
    other = tmp_path / "other.md"
    other.write_text("# One `thing`: two\n\n# Again\n\n# Again\n\n```\n# no heading\n```\n")
    assert anchors(other) == {"one-thing-two", "again", "again-1"}
    document = tmp_path / "document.md"
    document.write_text(
        "[a](other.md) [b](other.md#one-thing-two) [c](other.md#again-1)\n"
        "[d](https://example.invalid/x) [e](#here) `[f](none.md)`\n\n"
        "    [g](none.md)\n\n"
        "[h](none.md) and [i](other.md#no-heading)\n\n"
        "# Here\n\n[j]: gone.md\n"
    )
    assert broken(document) == [
        f"{document}:6: none.md: no such file",
        f"{document}:6: other.md#no-heading: no such heading",
        f"{document}:10: gone.md: no such file",
    ]
