"""Which tests one worker of pytest-xdist runs together, as they share something or have an order.

All other tests go one by one to the worker that has time. The marks of xdist (``xdist_group``) are
not used: they have no effect with the node ids of pytest 9.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: Patterns of node ids, and the group of those that match.
GROUPS = (
    (r"tests/docs/test_blocks\.py::test_a_block_runs\[(?P<document>.+\.md):\d+\]", r"\g<document>"),
    (r"tests/bench/test_bench\.py::test_the_cheapest_case_.*", "bench"),
    (r"tests/faults/test_fault_matrix\.py::test_cell\[.*", "fault matrix"),
    (
        r"tests/vhost_user_conformance/test_front_end\.py::test_(our_front_end_keeps|unsupported_cases_are).*",
        "our front-end",
    ),
)


def group_of(node_id: str) -> str:
    """The name of its group, or its own id."""
    for pattern, group in GROUPS:
        match = re.fullmatch(pattern, node_id, re.DOTALL)
        if match is not None:
            return match.expand(group)
    return node_id


def scheduler(config: pytest.Config, log: object) -> object:
    """A scheduler of xdist that keeps groups together."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # no types
        """A group is what xdist calls a scope."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)
