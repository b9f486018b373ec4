"""The peer under test, as the options specify it."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost_user.channel import MAX_SOCKET_PATH
from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.target import LONGEST_NAME, ROLES, Target, cases_of, select, shard

NIC = f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}"


@pytest.mark.parametrize("length", [40, MAX_SOCKET_PATH - 25, MAX_SOCKET_PATH, 200])
def test_temporary_directories_of_any_length(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets have a path of 107 bytes at most; where TMPDIR is too long another one is used."""
    base = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    folder = base / ("x" * max(1, length - len(str(base)) - 1))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    target = Target(command=NIC)
    try:
        with target.opened() as runner:
            assert runner.probe().features
            path = Path(runner.describe()["socket"])
            assert len(os.fsencode(path)) <= MAX_SOCKET_PATH
            assert path.name == LONGEST_NAME
        assert not path.parent.exists()
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()
        base.rmdir()


@pytest.mark.parametrize("role", ROLES)
def test_a_socket_s_path_that_is_too_long(role: str) -> None:
    """It is an error before anything is started."""
    with pytest.raises(OptionError, match="--socket: a socket's path has at most 107 bytes"):
        Target(role=role, socket=Path("/" + "x" * MAX_SOCKET_PATH)).check()


def test_a_destination_is_for_front_ends() -> None:
    """Its command is checked as well."""
    with pytest.raises(OptionError, match="--destination is for front-ends"):
        Target(command=NIC, destination=NIC).check()
    with pytest.raises(OptionError, match=r"--destination: write \{socket\}"):
        Target(role=ROLES[1], command=NIC, destination="x").check()


@pytest.mark.parametrize("role", ROLES)
def test_selection(role: str) -> None:
    """By id and by area; an unknown word is an error that lists the areas."""
    cases = cases_of(role)
    assert select(cases, ()) == cases
    one = cases[3]
    assert select(cases, (one.id,)) == [one]
    assert select(cases, (one.area,)) == [case for case in cases if case.area == one.area]
    with pytest.raises(OptionError, match=r"--only nothing.*the areas are"):
        select(cases, ("nothing",))


@given(
    role=st.sampled_from(ROLES),
    only=st.sets(st.integers(0, 1000)),
    count=st.integers(1, 40),
    reverse=st.booleans(),
)
def test_shards(role: str, only: set[int], count: int, reverse: bool) -> None:
    """Together they are all cases, each once, in their order, in parts of the same size."""
    cases = [case for n, case in enumerate(cases_of(role)) if not only or n in only]
    cases = cases[::-1] if reverse else cases
    parts = [shard(cases, number, count) for number in range(1, count + 1)]
    assert sorted(case for part in parts for case in part) == sorted(cases)
    for part in parts:
        assert part == [case for case in cases if case in part]
    for area in {case.area for case in cases}:
        sizes = [sum(case.area == area for case in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert shard(cases, 1, 1) == cases
