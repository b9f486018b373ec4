"""Transactions, with a listener that records its calls."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.machine.accel.base import NotifierError
from emu.machine.address_space import AddressSpace

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bus:
    """A listener that fails for addresses in `failing`."""

    def __init__(self) -> None:
        self.assigned: set[Ioeventfd] = set()
        self.calls: list[tuple[list[int], list[int]]] = []
        self.failing: set[int] = set()

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        if any(entry.address in self.failing for entry in (*remove, *add)):
            raise NotifierError("no room on the bus")
        self.calls.append(([entry.fd for entry in remove], [entry.fd for entry in add]))
        self.assigned -= set(remove)
        self.assigned |= set(add)


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def space(bus: Bus) -> AddressSpace:
    return AddressSpace(bus)


def _add(space: AddressSpace, *fds: int) -> None:
    for fd in fds:
        space.add(Ioeventfd(0x1000 * (fd // 10) + 4 * (fd % 10), 4, ANY_VALUE, fd, f"ring {fd}"))


def _del(space: AddressSpace, *fds: int) -> None:
    for fd in fds:
        space.remove(Ioeventfd(0x1000 * (fd // 10) + 4 * (fd % 10), 4, ANY_VALUE, fd, f"ring {fd}"))


def test_a_change_outside_of_a_transaction_is_one(space: AddressSpace, bus: Bus) -> None:
    _add(space, 11, 12)
    _del(space, 11)
    assert bus.calls == [([], [11]), ([], [12]), ([11], [])]
    assert space.commits == 3


def test_a_transaction_is_one_commit_in_address_order(space: AddressSpace, bus: Bus) -> None:
    with space.transaction():
        _add(space, 31, 12, 11)
        assert not bus.calls
    assert bus.calls == [([], [11, 12, 31])]
    assert space.commits == 1
    assert [entry.fd for entry in space.ioeventfds()] == [11, 12, 31]


def test_only_the_outermost_commit_counts(space: AddressSpace, bus: Bus) -> None:
    space.begin()
    space.begin()
    _add(space, 11)
    space.commit()
    assert not bus.calls
    space.commit()
    assert space.commits == len(bus.calls) == 1


def test_an_empty_transaction_is_not_a_commit(space: AddressSpace, bus: Bus) -> None:
    with space.transaction():
        pass
    assert space.commits == len(bus.calls) == 0


def test_ioeventfds_are_removed_before_others_are_added(space: AddressSpace, bus: Bus) -> None:
    _add(space, 11)
    with space.transaction():
        _del(space, 11)
        space.add(Ioeventfd(0x1004, 4, ANY_VALUE, 99))
    assert bus.calls[-1] == ([11], [99])


def test_one_that_is_removed_and_added_again_is_no_difference(
    space: AddressSpace, bus: Bus
) -> None:
    _add(space, 11)
    with space.transaction():
        _del(space, 11)
        _add(space, 11)
    assert bus.calls[-1] == ([], [])


def test_list_work_is_quadratic_one_by_one_and_linear_together(bus: Bus) -> None:
    one_by_one, together = AddressSpace(bus), AddressSpace(Bus())
    fds = range(10, 210)
    for fd in fds:
        _add(one_by_one, fd)
    with together.transaction():
        _add(together, *fds)
    assert together.list_work == 200
    assert one_by_one.list_work == 200 * 200


def test_adding_twice_names_the_owner(space: AddressSpace) -> None:
    _add(space, 11)
    with pytest.raises(NotifierError, match=r"mine: the ioeventfd at 0x1004 is assigned already"):
        space.add(Ioeventfd(0x1004, 4, ANY_VALUE, 55, "mine"))


def test_removing_twice_names_the_owner(space: AddressSpace) -> None:
    _add(space, 11)
    _del(space, 11)
    with pytest.raises(NotifierError, match="ring 11: the ioeventfd at 0x1004 is not assigned"):
        _del(space, 11)


def test_removing_with_another_eventfd_is_an_error(space: AddressSpace) -> None:
    _add(space, 11)
    with pytest.raises(NotifierError, match="not assigned"):
        space.remove(Ioeventfd(0x1004, 4, ANY_VALUE, 12))


def test_two_values_of_datamatch_share_an_address(space: AddressSpace, bus: Bus) -> None:
    with space.transaction():
        space.add(Ioeventfd(0x1000, 2, 0, 5))
        space.add(Ioeventfd(0x1000, 2, 1, 6))
    assert {entry.datamatch for entry in bus.assigned} == {0, 1}


def test_an_edit_that_fails_undoes_its_transaction(space: AddressSpace, bus: Bus) -> None:
    _add(space, 11)
    before = space.ioeventfds()

    def edit() -> None:
        with space.transaction():
            _del(space, 11)
            _add(space, 12)
            _del(space, 13)

    with pytest.raises(NotifierError):
        edit()
    assert space.ioeventfds() == before
    _add(space, 12)
    _del(space, 11)
    assert [entry.fd for entry in space.ioeventfds()] == [12]


def test_a_listener_that_fails_undoes_the_transaction(space: AddressSpace, bus: Bus) -> None:
    _add(space, 11)
    bus.failing.add(0x2000)

    def edit() -> None:
        with space.transaction():
            _del(space, 11)
            _add(space, 20)

    with pytest.raises(NotifierError, match="no room"):
        edit()
    assert [entry.fd for entry in space.ioeventfds()] == [11]
    bus.failing.clear()
    _add(space, 20)
    assert [entry.fd for entry in bus.assigned]
    assert len(bus.assigned) == len(space) == 2


def test_a_failure_inside_of_nested_transactions_undoes_all(space: AddressSpace, bus: Bus) -> None:
    def edit() -> None:
        with space.transaction():
            _add(space, 11)
            with space.transaction():
                _del(space, 12)

    with pytest.raises(NotifierError):
        edit()
    assert len(space) == 0
    assert not bus.calls
    _add(space, 11)
    assert len(space) == 1


def test_commit_without_begin(space: AddressSpace) -> None:
    with pytest.raises(NotifierError, match="without a begin"):
        space.commit()


def test_the_guard_is_called_before_anything_changes(bus: Bus) -> None:
    def guard() -> None:
        raise PermissionError("not the holder")

    space = AddressSpace(bus, guard)
    for change in (space.begin, space.commit, space.rollback, lambda: _add(space, 11)):
        with pytest.raises(PermissionError):
            change()
    assert not bus.calls
