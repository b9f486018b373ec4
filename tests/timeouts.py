"""How long a test waits for an event before it fails.

The limits are generous, so that a test does not fail because the machine is busy; none of them
asserts a speed. A test of a time-out that expires sets a short one of its own.
``TIMEOUT_SCALE=4`` in the environment multiplies all of them by four, for example for an emulated
machine or a sanitizer.
"""

from __future__ import annotations

import os

SCALE = float(os.environ.get("TIMEOUT_SCALE", "1"))

#: Seconds until an event in the test's own process, or a reply of another process.
TIMEOUT = 40.0 * SCALE
#: Seconds until a program that a test starts has done its work and has ended.
PROGRAM_TIMEOUT = 100.0 * SCALE
#: Seconds that one test may take, with its set-up and teardown.
TEST_TIMEOUT = 180.0 * SCALE
