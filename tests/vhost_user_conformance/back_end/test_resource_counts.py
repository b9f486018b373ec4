"""Counts of what a back-end holds: growth is a failure, a peak that goes is none."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.connected import connected
from tests.vhost_user_conformance.puppet import Puppet
from vhost_user.features import SPEC
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.back_end.resource_counts import (
    no_growth,
    no_more_descriptors,
    program_of,
    repeated,
    settled,
)
from vhost_user_conformance.model.verdict import Failed, Unsupported
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def be() -> Iterator[BackEnd]:
    """A back-end that the suite has not started."""
    with closing(BackEnd(Wire(Puppet(0, 0, {}).ours, {}, 0.1), "blk", SPEC)) as made:
        yield made


def test_what_grows_with_each_repetition_fails(be: BackEnd) -> None:
    """When it has not gone after the time of an answer."""
    held: list[int] = []
    with pytest.raises(Failed, match="about 1 things after 20 more times"):
        no_growth(be, "things", lambda: len(held), lambda: held.append(1))


def test_what_grows_once_or_goes_later_passes(be: BackEnd) -> None:
    """The first time is not counted, and the last is waited for."""
    done: list[int] = []
    counts = iter([1, 1, 1, 1, 1, 1, 30, 20, 2])
    no_growth(be, "things", lambda: next(counts), lambda: done.append(1))
    assert len(done) == 21
    assert list(counts) == []


def test_a_count_is_settled_when_it_stays() -> None:
    """Six times the same."""
    counts = iter([3, 4, 4, 5, 5, 5, 5, 5, 5, 9])
    assert settled(lambda: next(counts)) == 5
    assert list(counts) == [9]


def test_resources_are_counted_of_a_program_of_the_suite_only(be: BackEnd) -> None:
    """Of another one they are unknown."""
    with pytest.raises(Unsupported, match="--exec"):
        program_of(be)


def test_descriptors_of_a_real_program(tmp_path: Path) -> None:
    """A front-end that comes and goes leaves none in our NIC."""
    with connected(tmp_path, "net") as be:
        program = program_of(be)
        pid = program.pid
        assert program is be.program
        no_more_descriptors(be, repeated(be, BackEnd.barrier))
    assert pid
    assert not os.path.exists(f"/proc/{pid}/fd")  # noqa: PTH110
