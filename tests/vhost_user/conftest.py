"""Settings of hypothesis for all tests of the protocol library."""

from __future__ import annotations

from hypothesis import settings

# The time of an example depends on the load of the machine; pytest-timeout ends one that hangs.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
