"""Which tests one worker of pytest-xdist runs together, as they share something or have an order.

All other tests go one by one to the worker that has time. The marks of xdist (``xdist_group``) are
not used: they have no effect with the node ids of pytest 9.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

#: The group of tests that wait for programs that do not answer, and of the longest test.
WAITS = "long waits"

#: Patterns of node ids, and the group of those that match.
GROUPS = (
    (r"tests/docs/test_blocks\.py::test_a_block_runs\[(?P<document>.+\.md):\d+\]", r"\g<document>"),
    (r"tests/bench/test_bench\.py::test_the_cheapest_case_.*", "bench"),
    (r"tests/faults/test_fault_matrix\.py::test_cell\[.*", "fault matrix"),
    (
        r"tests/vhost_user_conformance/test_front_end\.py::test_(our_front_end_keeps|unsupported_cases_are).*",
        "our front-end",
    ),
    # What the first of them makes is costly: a migration with its trace; the renderer of charts.
    (r"tests/emu/commands/test_trace_option\.py::test_.*", "trace"),
    (r"tests/emu/report/page/test_charts\.py::test_.*", "charts"),
    (r"tests/emu/report/page/test_render\.py::test_.*", "charts"),
    # These wait for most of their time. One worker waits, from the start, while the others work.
    (
        r"tests/vhost_user_conformance/test_back_end\.py::test_our_back_ends_keep_every_rule\[.*",
        WAITS,
    ),
    (
        (
            r"tests/vhost_user_conformance/test_front_end\.py"
            r"::test_(a_program_that_is_not|a_front_end_that|no_front_end_connects).*"
        ),
        WAITS,
    ),
    (
        r"tests/vhost_user_conformance/back_end/cases/test_program\.py::test_a_program_that_does_not_end.*",
        WAITS,
    ),
    (
        (
            r"tests/vhost_user_conformance/back_end/cases/test_optional\.py"
            r"::test_a_mistake_is_found\[no end.*"
        ),
        WAITS,
    ),
    (r"tests/emu/vm/test_vm\.py::test_a_vm_whose_back_end_is_missing_is_not_built.*", WAITS),
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
        """A group is what xdist calls a scope.

        Without the other two methods a test that ends its worker runs again, on the next worker,
        and ends that, too; and the worker that replaces one gets no work (pytest-xdist 3.8), so
        that the session waits for ever once all first workers have ended.
        """

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """The test that ended the worker is complete: it has failed."""
            for tests in self.assigned_work[node].values():
                for test, completed in tests.items():
                    if not completed:
                        tests[test] = True
                        super().remove_node(node)
                        return str(test)
            removed: str | None = super().remove_node(node)
            return removed

        def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
            """A worker that replaces another one takes over what waits."""
            late = self.collection_is_completed
            super().add_node_collection(node, collection)
            if late and node in self.registered_collections:
                # Two groups: a worker runs its last test when it knows what comes next.
                self._reschedule(node)
                self._reschedule(node)

    return GroupScheduling(config, log)
