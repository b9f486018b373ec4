"""Which values of a parametrised test `make test` runs; `make test-all` runs all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


def all_but(quick: Container[object], values: Iterable[object]) -> list[object]:
    """The values for ``parametrize``; those that are not in ``quick`` have the mark ``slow``."""
    return [
        value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values
    ]
