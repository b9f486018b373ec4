"""A back-end program of this project that keeps all rules, at times that are unusual.

    python -m tests.vhost_user_conformance.untimely_back_end BEHAVIOUR MODULE [OPTION ...]

MODULE is a back-end program, such as ``backends.blk``. BEHAVIOUR is ``polls``: it looks at its
active rings in each turn of its loop, and so serves a request as soon as it is available, without a
kick. Or it is ``late``: what follows the update of the used index (marks in the dirty log and in
the inflight region, the call) comes a while after it, as where the thread of the device waits for a
processor.
"""

from __future__ import annotations

import runpy
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from backends.ring import Ring
from vhost_user.dirty_log import DirtyLog
from vhost_user.inflight import InflightRing

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
#: Seconds: a driver that reads at once is much faster.
DELAY = 0.002


def poll_always() -> None:
    """Have each ring that is active polled in each turn of the loop."""
    usual = Ring.poll
    waiting: set[Ring] = set()

    def poll(ring: Ring) -> None:
        usual(ring)
        if ring.active and ring not in waiting:
            waiting.add(ring)
            ring._loop.again(partial(again, ring))

    def again(ring: Ring) -> None:
        waiting.remove(ring)
        ring.poll()

    setattr(Ring, "poll", poll)  # noqa: B010  mypy takes an assignment for that of a method


def after_a_while(usual: Callable[P, T]) -> Callable[P, T]:
    """The same function, later."""

    def late(*args: P.args, **kwargs: P.kwargs) -> T:
        time.sleep(DELAY)
        return usual(*args, **kwargs)

    return late


def be_late() -> None:
    """Delay what a device does after it has updated the used index."""
    DirtyLog.mark = after_a_while(DirtyLog.mark)  # type: ignore[method-assign]
    InflightRing.published = after_a_while(InflightRing.published)  # type: ignore[method-assign]
    Ring.interrupt = after_a_while(Ring.interrupt)  # type: ignore[method-assign]


BEHAVIOURS = {"polls": poll_always, "late": be_late}


def main() -> None:
    """Run the program of the command line."""
    del sys.argv[0]
    BEHAVIOURS[sys.argv.pop(0)]()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
