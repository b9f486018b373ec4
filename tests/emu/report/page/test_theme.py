"""Colours: every phase and verdict has one, and text can be read on its ground."""

from __future__ import annotations

import pytest

from devices.procedure import Phase
from emu.report.page.theme import PHASE_COLOURS, VERDICT_COLOURS, config, series_colours
from tests.emu.report.page.contrast import contrast
from vhost_user_conformance.model.verdict import Verdict

#: The cards of the style sheet.
GROUNDS = {"light": "#ffffff", "dark": "#1a2028"}


def test_each_phase_and_each_verdict_has_a_colour() -> None:
    """No two phases have the same."""
    assert PHASE_COLOURS.keys() == set(Phase)
    assert len(set(PHASE_COLOURS.values())) == len(PHASE_COLOURS)
    assert VERDICT_COLOURS.keys() == set(map(str, Verdict))


@pytest.mark.parametrize("theme", GROUNDS)
@pytest.mark.parametrize("part", ["axis", "legend", "title"])
def test_text_of_charts_has_contrast(theme: str, part: str) -> None:
    """At least 4.5 to 1 (WCAG 2.1, 1.4.3)."""
    settings = config(dark=theme == "dark")[part]
    colours = {value for name, value in settings.items() if "abel" in name or "itle" in name}
    for colour in filter(lambda value: str(value).startswith("#"), colours):
        assert contrast(str(colour), GROUNDS[theme]) >= 4.5, colour


def test_colours_begin_again() -> None:
    """There may be more strategies than colours."""
    colours = series_colours([str(number) for number in range(20)])
    assert len(colours) == 20
