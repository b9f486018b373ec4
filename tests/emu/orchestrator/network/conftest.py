"""A network of namespaces."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.orchestrator.network.namespaces import NamespaceNetwork, NetworkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def network() -> Iterator[NamespaceNetwork]:
    try:
        made = NamespaceNetwork.build()
    except NetworkUnavailableError as error:
        pytest.skip(f"no network of namespaces: {error}")
    yield made
    made.close()
