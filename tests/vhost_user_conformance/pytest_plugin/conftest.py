"""A back-end that listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

# A session within this process forgets the modules that it was the first to import, and a trace
# event is defined once in a process.
import vhost_user_conformance.trace_events  # noqa: F401
from tests.vhost_user_conformance.pytest_plugin.sessions import NIC, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def nic(tmp_path: Path) -> Iterator[Path]:
    """The socket of a NIC that listens."""
    yield from listening(NIC, tmp_path / "nic.sock")
