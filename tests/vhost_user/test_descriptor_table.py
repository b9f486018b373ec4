"""Room in the table of open files, as the kernel reports it (FDSize in /proc/PID/status)."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.descriptor_table import ROOM

CODE = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from vhost_user import descriptor_table
before = set(os.listdir("/proc/self/fd"))
descriptor_table.reserve()
assert set(os.listdir("/proc/self/fd")) == before
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("FDSize")))
print(descriptor_table.raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize("limit", [256, 1024, 32768])
def test_the_table_has_room_up_to_the_soft_limit(limit: int) -> None:
    """No descriptor is left open, and the limit is raised as far as it can be."""
    if HARD != resource.RLIM_INFINITY and limit > HARD:
        pytest.skip(f"the hard limit of descriptors is {HARD}")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(limit)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    size, raised = done.stdout.split()
    assert int(size) >= min(limit, ROOM)
    assert raised == "True"


def test_a_table_that_is_full() -> None:
    """There is no room to make, and that is no error."""
    code = (
        "import os, resource\n"
        "from vhost_user import descriptor_table\n"
        "null = os.open(os.devnull, os.O_RDONLY)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (null + 2, null + 2))\n"
        "os.dup(null)\n"
        "os.close(null)\n"
        "descriptor_table.reserve()\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=PROGRAM_TIMEOUT, check=True)
