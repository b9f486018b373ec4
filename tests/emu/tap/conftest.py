"""The ends of a tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.tap import fast_path as module
from tests.emu.tap.taps import Sides
from vhost_user import native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    """A pair of sockets, and the listener of its far side."""
    made = Sides(tmp_path)
    yield made
    made.listener.close()


@pytest.fixture(params=["compiled", "python"])
def fast_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled way of the usual pieces, and without it."""
    if request.param == "compiled" and not native.available:
        pytest.skip("the extension was not built")
    monkeypatch.setattr(module, "enabled", request.param == "compiled")
