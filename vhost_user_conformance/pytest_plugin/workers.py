"""pytest-xdist: one peer is tested by one worker at a time.

Two workers at once would disturb each other, and both would report wrong verdicts. So the
scheduler assigns all cases to one worker. If only a fixture names the peer, the scheduler does not
know it, and the second worker reports an error instead of testing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user.temporary_directory import parent_directory
from vhost_user_conformance.errors import ConformanceError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from vhost_user_conformance.target import Target

#: A case's id among a test's parameters.
_CASE = re.compile(r"\[.*\bVU-[BF]-\d{4}\b.*\]$")
_TOGETHER = "vhost-user"
#: Values of ``--dist``, and the class of pytest-xdist that schedules all other tests. There a test
#: without a group is a group of its own, as with ``load``.
_SCHEDULERS = {
    "load": "LoadGroupScheduling",
    "worksteal": "LoadGroupScheduling",
    "loadgroup": "LoadGroupScheduling",
    "loadscope": "LoadScopeScheduling",
    "loadfile": "LoadFileScheduling",
}


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def check_mode(config: pytest.Config) -> None:
    """Check that the cases can be assigned to one worker.

    Raises:
        pytest.UsageError: not with this ``--dist``.
    """
    mode = getattr(config.option, "dist", "no")
    if mode != "no" and mode not in _SCHEDULERS:
        raise pytest.UsageError(f"--dist {mode}: only one worker at a time can test a peer")


def scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler that assigns all cases to one worker, and other tests as ``--dist`` has it."""
    from xdist import scheduler as xdist_scheduler

    base: Any = getattr(xdist_scheduler, _SCHEDULERS[config.getvalue("dist")])

    class OneWorkerForCases(base):  # type: ignore[misc]  # which one it is depends on --dist
        def _split_scope(self, nodeid: str) -> str:
            if _CASE.search(nodeid):
                return _TOGETHER
            scope: str = super()._split_scope(nodeid)
            return scope

    return OneWorkerForCases(config, log)


def claim(target: Target, config: pytest.Config, owned: ExitStack) -> None:
    """Test this peer in this worker, and in no other one of this run.

    Raises:
        ConformanceError: another one does already.
    """
    if not is_worker(config):
        return
    uid = config.workerinput["testrunuid"]  # type: ignore[attr-defined]  # pytest-xdist's
    name = hashlib.sha256(repr(target).encode()).hexdigest()[:16]
    path = parent_directory() / f"vhost-user-{uid}-{name}.lock"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = owned.enter_context(os.fdopen(os.open(path, flags, 0o600), "w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConformanceError(
            "another worker is testing this peer: put its cases into one file, "
            "and use --dist loadfile"
        ) from None
    owned.callback(path.unlink, missing_ok=True)
