"""The guest of the suite's back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.front_end.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest with a ring."""
    made = Guest()
    yield made
    made.close()
