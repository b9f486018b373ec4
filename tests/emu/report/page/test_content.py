"""The parts of a page."""

from __future__ import annotations

from emu.report.page.conformance_page import page
from emu.report.page.content import Figure
from tests.emu.report.page.samples import conformance


def test_figures_are_those_of_all_sections() -> None:
    """In order, each of its own name."""
    made = page(conformance())
    names = [
        block.name for part in made.sections for block in part.blocks if isinstance(block, Figure)
    ]
    assert [figure.name for figure in made.figures] == names == ["areas"]
