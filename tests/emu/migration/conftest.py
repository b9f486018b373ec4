"""Fixtures of the migration's tests."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from emu.migration.stream import MigrationStream
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[MigrationStream, MigrationStream]]:
    """Both ends of a stream: the source's, and the destination's."""
    source, destination = (MigrationStream(sock, timeout=TIMEOUT) for sock in socket.socketpair())
    yield source, destination
    source.close()
    destination.close()
