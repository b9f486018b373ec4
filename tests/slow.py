"""Which values of a parametrised test `make test` runs; `make test-all` runs all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence


def all_but(quick: Container[object], values: Iterable[object]) -> list[object]:
    """The values for ``parametrize``; those that are not in ``quick`` have the mark ``slow``."""
    return [
        value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values
    ]


def after(count: int, values: Sequence[tuple[object, ...]]) -> list[object]:
    """The same for several arguments: those after the first ``count`` values are slow."""
    rest = (pytest.param(*value, marks=pytest.mark.slow) for value in values[count:])
    return [*values[:count], *rest]
