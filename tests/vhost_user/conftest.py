"""Settings of hypothesis for all tests of the protocol library."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else the machine does; a hang meets pytest-timeout.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
