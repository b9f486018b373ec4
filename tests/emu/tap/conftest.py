"""The ends of a tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.emu.tap.taps import Sides

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    """A pair of sockets, and the listener of its far side."""
    made = Sides(tmp_path)
    yield made
    made.listener.close()
