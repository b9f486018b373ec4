"""vCPUs of the soft accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.emu.machine.soft_vcpus import SoftVcpus

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[SoftVcpus]:
    """As many vCPUs as the parameter, or 4."""
    made = SoftVcpus(getattr(request, "param", 4))
    yield made
    made.close()
