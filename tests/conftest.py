"""Options of the whole test suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fault-matrix``; an option must be known before the directory it is for is looked at."""
    parser.addoption(
        "--fault-matrix",
        action="store_true",
        help="Run all cells of tests/faults and print them as a table, not only a few.",
    )
