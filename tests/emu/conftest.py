"""What holds for every test of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.locking.locks import enable_checking

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _checked_locks() -> Iterator[None]:
    """The order of locks is checked."""
    enable_checking(True)
    yield
    enable_checking(False)
